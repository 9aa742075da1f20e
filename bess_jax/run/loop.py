"""The loop of a run that is kept: trains, validates, logs and saves."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bess_jax.ask.ranks import Metrics
from bess_jax.data.files import DataError
from bess_jax.run.checkpoint import BEST, About, Checkpoint, Point
from bess_jax.run.config import Cadence
from bess_jax.run.experiment import Experiment, Meter
from bess_jax.run.folder import RunFolder
from bess_jax.run.saver import Saver
from bess_jax.run.state import Reader, kinds_of_state
from bess_jax.run.team import ALONE, Team
from bess_jax.update.train import TrainState

_STOP, _SAVE = 1, 2


class Start(NamedTuple):
    """Where a run goes on."""

    state: TrainState  # on the devices
    n_call: int = 0
    losses: tuple[float, ...] = ()  # of the calls of the epoch that were done
    metric: float | None = None  # validation MRR of this state, or None if it was not ranked


class _StoppedError(Exception):
    """A ranking was broken off."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What is around a loop.

    Attributes:
        show: is called after every call, with the calls done, the meter and the last validation.
        warn: takes a sentence for the user.
        is_stopped: whether to save and end.
    """

    show: Callable[[int, Meter, Metrics | None], None] = lambda n_call, meter, valid: None
    warn: Callable[[str], None] = lambda text: None
    is_stopped: Callable[[], bool] = lambda: False


class Run:
    """A run under way: `run` trains it, and leaves what came of it in `state`.

    Args:
        experiment: what is trained.
        folder: where it is kept.
        start: where it goes on.
        team: the processes.

    Attributes:
        state: the last state, on the devices.
        n_call: calls done.
        calls_per_epoch: calls of an epoch.
        valid: the last validation metrics, if any.
        meter: losses and speed.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, start: Start, team: Team = ALONE) -> None:
        self.experiment, self.folder, self.team, self.hooks = experiment, folder, team, Hooks()
        self.state, self.n_call = start.state, start.n_call
        self._known = start.n_call, start.metric  # a validation MRR that is known already, and after which calls
        self._metric: float | None = None  # of the state, if it was ranked
        self.valid: Metrics | None = None
        self.meter = Meter(experiment.positives_per_call)
        self._has_told = False
        self.calls_per_epoch = experiment.sampler.calls_per_epoch
        self._losses_before = list(start.losses)
        self._graph = experiment.dataset.digest()
        self._cadence = Cadence.parse(experiment.config.save_every)
        self._saved_call, self._saved_at, self._has_failed = start.n_call, time.monotonic(), False
        self._log = folder.log(start.n_call // self.calls_per_epoch, writes=team.is_first)
        best = folder.checkpoints.pick(BEST).about.metric if folder.checkpoints.points() else None
        self._best = -1.0 if best is None else best  # of what is saved

    def run(self, hooks: Hooks) -> None:
        """Trains to the last epoch, or until it is stopped. The state is saved in both cases.

        Raises:
            NonFiniteLossError: if training diverged; that state is not saved.
            NonFiniteStateError: likewise.
            DataError: if another process could not save the last state.
            OSError: if the last state could not be saved, or the folder has gone. Of earlier failures it warns, and
                tries again.
        """
        self.hooks = hooks
        experiment, keep = self.experiment, self.experiment.config.keep
        kinds = kinds_of_state(experiment.rule, experiment.shapes)
        with Saver(self.folder.checkpoints, experiment.placement, kinds, keep, self.team) as saver:
            is_stopped = self._is_epoch_end and self._after(saver)  # what a stop broke off
            if not is_stopped:
                with contextlib.closing(experiment.fit(self.state, self.n_call)) as calls:
                    for at in calls:
                        self.n_call, self.state = at.n_call, at.state
                        self.meter.add(at)
                        if self._after(saver):
                            break
            self.meter.read_last()
            self._settle(saver.wait)
            if self.team.agree(self.n_call > self._saved_call or self._has_failed):
                self._save(saver, self._metric if self._has_failed else None)
                saver.wait()
        self.log()
        if self.team.is_first:
            self.folder.check_there()

    def log(self, split: str | None = None, **values: Any) -> None:
        """Logs values of this epoch, and what could not be logged before; warns if it fails."""
        try:
            if values:
                self._log.write(self.n_call // self.calls_per_epoch, split, **values)
            self._log.flush()
            self._has_told = False
        except OSError as error:
            if not self._has_told:
                self.hooks.warn(f"metrics could not be written ({error}); it is tried again")
            self._has_told = True

    @property
    def _is_epoch_end(self) -> bool:
        return self.n_call > 0 and self.n_call % self.calls_per_epoch == 0

    def _after(self, saver: Saver) -> bool:
        """What follows a call: the end of an epoch, and a checkpoint if one is due. Whether to stop."""
        metric = self._metric = self._end_epoch() if self._is_epoch_end else None
        self.hooks.show(self.n_call, self.meter, self.valid)
        self._settle(saver.check)
        is_due = self._is_due() or (metric is not None and metric > self._best)
        flags = self.team.agree(_STOP * self.hooks.is_stopped() | _SAVE * is_due)
        if flags & _SAVE:
            self._settle(saver.wait)
            self._save(saver, metric)
            self._best = max(self._best, -1.0 if metric is None else metric)
        return bool(flags & _STOP)

    def _end_epoch(self) -> float | None:
        """Logs the loss; ranks and logs the validation split, if it is time to. Does neither again. Its MRR."""
        config, epoch = self.experiment.config, self.n_call // self.calls_per_epoch
        self.meter.read_last()
        loss = float(np.mean(self._losses))
        self.log(loss=loss, positives_per_second=self.meter.speed, waiting=self.meter.waiting)
        if not config.eval_every or (epoch % config.eval_every and epoch < config.n_epoch):
            return None
        metric = self._known[1] if self.n_call == self._known[0] else None
        if metric is None or self._log.find(epoch, "valid") is None:
            try:
                with self.meter.pause():
                    self.valid = self.rank("valid")
            except _StoppedError:
                return None
            self.log("valid", **self.valid)
            metric = float(self.valid["both"]["mrr"])
        return metric

    def rank(self, split: str) -> Metrics:
        """Metrics of a split by the last state."""
        triples, known = self.experiment.dataset.triples[split], self.experiment.known
        params = self.state.inference_params
        return self.experiment.ranker.ranks(params, triples, known, self._break_off).metrics()

    def _break_off(self, n_done: int) -> None:
        if self.team.n_process == 1 and self.hooks.is_stopped():  # several would have to agree first
            raise _StoppedError

    @property
    def _losses(self) -> list[float]:
        """Of the calls of this epoch, or of the one that has just ended."""
        n = self.n_call % self.calls_per_epoch or self.calls_per_epoch
        return (self._losses_before + self.meter.losses)[-n:]

    def _is_due(self) -> bool:
        steps = (self.n_call - self._saved_call) * self.experiment.sampler.batches_per_step
        return time.monotonic() - self._saved_at >= self._cadence.seconds or steps >= self._cadence.steps

    def _save(self, saver: Saver, metric: float | None) -> None:
        self.meter.read_last()  # raises if training diverged
        point = Point.of(self.n_call, self.calls_per_epoch)
        about = About(point, self.experiment.config.to_dict(), self._graph, metric)
        saver.save(about, self.state, self._losses)
        self._saved_call, self._saved_at, self._has_failed = self.n_call, time.monotonic(), False

    def _settle(self, wait: Callable[[], None]) -> None:
        """Warns if what was begun to be saved has failed."""
        try:
            wait()
        except (OSError, DataError) as error:
            self._has_failed, self._best = True, -1.0  # it may have been the best
            self.hooks.warn(f"the state could not be saved ({error}); it is tried again")


def restored(experiment: Experiment, checkpoint: Checkpoint) -> Start:
    """A start from a checkpoint of the run, on the shards of the experiment.

    Raises:
        DataError: if the checkpoint is damaged, or of another model.
        ValueError: if it has done more epochs than the experiment wants.
    """
    about, config = checkpoint.about, experiment.config
    if about.point.progress > config.n_epoch:
        raise ValueError(
            f"n_epoch must be at least {math.ceil(about.point.progress)}, got {config.n_epoch}: the checkpoint "
            f"{checkpoint.path.name} has done that much"
        )
    reader = Reader.of_run(checkpoint, experiment.sharding, experiment.placement)
    state = reader.restore(experiment.shapes, kinds_of_state(experiment.rule, experiment.shapes))
    n_call = about.point.n_call(experiment.sampler.calls_per_epoch)
    return Start(state, n_call, tuple(checkpoint.array("losses").tolist()), about.metric)
