"""The loop of a run that is kept: trains, validates, logs and saves."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bess_jax.ask.ranks import Metrics, Ranks
from bess_jax.data.files import DataError, DataWarning
from bess_jax.run.about import About, Point
from bess_jax.run.callbacks import Callback
from bess_jax.run.checkpoint import BEST, Checkpoint
from bess_jax.run.config import Cadence
from bess_jax.run.experiment import Experiment, Meter
from bess_jax.run.folder import RunFolder
from bess_jax.run.log import Record
from bess_jax.run.metric import Metric, Validation, n_in_vain
from bess_jax.run.optimizer import plateau_of
from bess_jax.run.saver import Saver
from bess_jax.run.state import Reader, kinds_of_state
from bess_jax.run.team import ALONE, Team
from bess_jax.step.bess import Params
from bess_jax.update.scale import plateau, set_scale
from bess_jax.update.train import TrainState

_STOP, _SAVE = 1, 2


class Start(NamedTuple):
    """Where a run starts, or goes on."""

    state: TrainState  # on the devices
    n_call: int = 0
    losses: tuple[float, ...] = ()  # of the calls of the epoch that were done
    history: tuple[Validation, ...] = ()  # of the validation split
    is_new: bool = True
    note: str = ""  # where that is, for the user


class _StoppedError(Exception):
    """A ranking was broken off."""


class Run:
    """A training run in its folder, as `fit` makes and returns it. The best state is in the folder: see `best_params`.

    Args:
        experiment: what is trained.
        folder: where it is kept.
        start: where it goes on.
        callbacks: what is called while it is under way.
        team: the processes.

    Attributes:
        state: the last state, on the devices.
        n_call: calls of the compiled steps that were done.
        calls_per_epoch: calls of an epoch.
        epoch: epochs that were begun.
        loss: mean per positive over the calls of this epoch, or of the one that has just ended; None before the first.
        meter: losses and speed of the calls since the start.
        metric: what the best state is the best by.
        history: all validations.
        valid: the last validation metrics, or None.
        stopped: why it was stopped, or None.
        error: what ended it, or None.
        is_new: whether it starts, and does not go on.
        note: what there is to say about where it starts or goes on, or "".
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        start: Start,
        callbacks: Sequence[Callback] = (),
        team: Team = ALONE,
    ) -> None:
        self.experiment, self.folder, self.callbacks, self.team = experiment, folder, tuple(callbacks), team
        self.state, self.n_call, self.is_new, self.note = start.state, start.n_call, start.is_new, start.note
        self.calls_per_epoch = experiment.sampler.calls_per_epoch
        self.meter = Meter(experiment.positives_per_call)
        self.metric = Metric.parse(experiment.config.metric)
        self.history = list(start.history)
        self.stopped: str | None = None
        self.error: BaseException | None = None
        self._losses_before = list(start.losses)
        self._graph = experiment.dataset.digest()
        self._cadence = Cadence.parse(experiment.config.save_every)
        self._saved_call, self._saved_at, self._has_failed = start.n_call, time.monotonic(), False
        self._has_told, self._scale = False, 1.0
        self._log = folder.log(start.n_call // self.calls_per_epoch, writes=team.is_first)
        self._best: float | None = None  # of what is saved
        if folder.checkpoints.points():
            self._best = folder.checkpoints.pick(BEST, self.metric).about.value(self.metric)

    def __repr__(self) -> str:
        at = f"epoch {self.epoch} of {self.experiment.config.n_epoch}" + (f", {self.stopped}" if self.stopped else "")
        return f"Run({str(self.folder.path)!r}: {self.experiment.config.model}, {at})"

    def train(self) -> None:
        """Trains to the last epoch, or until it is stopped. The state is saved in both cases.

        Raises:
            NonFiniteLossError: if training diverged; that state is not saved.
            NonFiniteStateError: likewise.
            DataError: if another process could not save the last state.
            OSError: if the last state could not be saved, or the folder has gone. Of earlier failures it warns, and
                tries again.
        """
        with contextlib.ExitStack() as at_end:
            try:
                for callback in self.callbacks:
                    at_end.callback(callback.end, self)  # the first one last
                    callback.start(self)
                self._train()
            except BaseException as error:
                self.error = error
                raise

    def stop(self, reason: str) -> None:
        """Has the run end after the call of the compiled steps that is under way; a ranking is broken off."""
        self.stopped = self.stopped or reason

    @property
    def is_stopped(self) -> bool:
        """Whether something has stopped it."""
        return self.stopped is not None

    @property
    def epoch(self) -> int:
        """Epochs that were begun."""
        return -(-self.n_call // self.calls_per_epoch)

    @property
    def loss(self) -> float | None:
        """Mean loss per positive, over the calls of this epoch that have ended."""
        return float(np.mean(self._losses)) if self._losses else None

    @property
    def records(self) -> list[Record]:
        """The lines of metrics, as the folder has them."""
        return self._log.records

    @property
    def valid(self) -> Metrics | None:
        """The last validation metrics."""
        return self.history[-1].metrics if self.history else None

    def ranks(
        self, split: str, params: Params | None = None, progress: Callable[[int], None] = lambda n_done: None
    ) -> Ranks:
        """Exact ranks of a split.

        Args:
            split: its name.
            params: of which parameters; default: those of the last state.
            progress: called with the number of queries done.
        """
        params = self.state.inference_params if params is None else params
        triples, known = self.experiment.dataset.triples[split], self.experiment.known
        return self.experiment.ranker.ranks(params, triples, known, progress)

    def best(self) -> Checkpoint:
        """The checkpoint of the best validation; of the last state, if none was validated."""
        return self.folder.checkpoints.pick(BEST, self.metric)

    def best_params(self) -> Params:
        """The parameters of `best`, as `Ranker` takes them, on the devices."""
        reader = Reader.of_run(self.best(), self.experiment.sharding, self.experiment.placement)
        return reader.params(self.experiment.model.score_fn)

    def log(self, split: str | None = None, **values: Any) -> None:
        """Logs values of this epoch, and what could not be logged before; warns if it fails."""
        record = self._log.add(self.n_call // self.calls_per_epoch, split, **values) if values else None
        try:
            self._log.flush()
            self._has_told = False
        except OSError as error:
            if not self._has_told:
                _warn(f"metrics could not be written ({error}); it is tried again")
            self._has_told = True
        if record is not None:
            for callback in self.callbacks:
                callback.record(self, record)

    def _train(self) -> None:
        experiment, keep = self.experiment, self.experiment.config.keep
        kinds = kinds_of_state(experiment.rule, experiment.shapes)
        self.meter = Meter(experiment.positives_per_call)
        with Saver(self.folder.checkpoints, experiment.placement, kinds, keep, self.team) as saver:
            self._follow_plateau()
            is_stopped = self._is_epoch_end and self._after(saver)  # what a stop broke off
            if not is_stopped:
                with contextlib.closing(experiment.calls(self.state, self.n_call)) as calls:
                    for at in calls:
                        self.n_call, self.state = at.n_call, at.state
                        self.meter.add(at)
                        is_stopped = self._after(saver)
                        if is_stopped:
                            break
                        at.state = self.state
            self.meter.read_last()
            self._settle(saver.wait)
            if self.team.agree(self.n_call > self._saved_call or self._has_failed):
                self._save(saver)
                saver.wait()
        self.log()
        if self.team.is_first:
            self.folder.check_there()

    @property
    def _losses(self) -> list[float]:
        """Of the calls of this epoch, or of the one that has just ended."""
        n = self.n_call % self.calls_per_epoch or self.calls_per_epoch
        return (self._losses_before + self.meter.losses)[-n:]

    @property
    def _is_epoch_end(self) -> bool:
        return self.n_call > 0 and self.n_call % self.calls_per_epoch == 0

    @property
    def _value(self) -> float | None:
        """The metric of this state, if it was ranked."""
        is_ranked = self._is_epoch_end and self.history and self.history[-1].epoch == self.epoch
        return self.metric.value(self.history[-1].metrics) if is_ranked else None

    def _after(self, saver: Saver) -> bool:
        """What follows a call: the end of an epoch, and a checkpoint if one is due. Whether to stop."""
        if self._is_epoch_end:
            self._end_epoch()
        for callback in self.callbacks:
            callback.call(self)
        self._settle(saver.check)
        is_due = self._is_due() or self.metric.is_better(self._value, self._best)
        flags = self.team.agree(_STOP * self.is_stopped | _SAVE * is_due)
        if flags & _SAVE:
            self._settle(saver.wait)
            self._save(saver)
        if flags & _STOP:
            self.stop("stopped by another process")
        return bool(flags & _STOP)

    def _end_epoch(self) -> None:
        """Logs the loss; ranks and logs the validation split, if it is time to. Does neither again."""
        config = self.experiment.config
        self.meter.read_last()
        speed: dict[str, Any] = self.meter.lap()
        self.log(loss=self.loss, learning_rate=self._learning_rate(), **speed)
        if not config.eval_every or (self.epoch % config.eval_every and self.epoch < config.n_epoch):
            return
        if self._value is None or self._log.find(self.epoch, "valid") is None:
            start = time.perf_counter()
            try:
                with self.meter.pause():
                    metrics = self.ranks("valid", progress=self._break_off).metrics()
            except _StoppedError:
                return
            self.history = [old for old in self.history if old.epoch < self.epoch] + [Validation(self.epoch, metrics)]
            self.log("valid", seconds=time.perf_counter() - start, **metrics)
        self._follow_plateau()
        n = n_in_vain(self.metric.of(self.history), config.min_improvement)
        if config.patience and n >= config.patience and self.epoch < config.n_epoch:
            found = f"{n} validation{'s' if n > 1 else ''}"
            self.stop(f"stopped early after epoch {self.epoch}: no better valid {self.metric} in {found}")

    def _follow_plateau(self) -> None:
        """Sets the scale of the updates that follows from the validations so far."""
        config = self.experiment.config
        if config.schedule == "plateau":
            self._scale = plateau(self.metric.of(self.history), *plateau_of(config))
            self.state = self.state._replace(opt_state=set_scale(self.state.opt_state, self._scale))

    def _learning_rate(self) -> float:
        """Of the last update."""
        return self._scale * self.experiment.learning_rate(self.n_call)

    def _break_off(self, n_done: int) -> None:
        if self.team.n_process == 1 and self.is_stopped:  # several would have to agree first
            raise _StoppedError

    def _is_due(self) -> bool:
        steps = (self.n_call - self._saved_call) * self.experiment.sampler.batches_per_step
        return time.monotonic() - self._saved_at >= self._cadence.seconds or steps >= self._cadence.steps

    def _save(self, saver: Saver) -> None:
        self.meter.read_last()  # raises if training diverged
        point, value = Point.of(self.n_call, self.calls_per_epoch), self._value
        about = About(point, self.experiment.config.to_dict(), self._graph, value, tuple(self.history))
        with self.meter.pause(is_save=True):
            saver.save(about, self.state, self._losses)
        self._saved_call, self._saved_at, self._has_failed = self.n_call, time.monotonic(), False
        if self.metric.is_better(value, self._best):
            self._best = value

    def _settle(self, wait: Callable[[], None]) -> None:
        """Warns if what was begun to be saved has failed."""
        try:
            wait()
        except (OSError, DataError) as error:
            self._has_failed, self._best = True, None  # it may have been the best
            _warn(f"the state could not be saved ({error}); it is tried again")


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=2)


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
    losses = tuple(checkpoint.array("losses").tolist())
    n_old = about.settings["n_shard"]
    others = "" if n_old == config.n_shard else f", which has {n_old} shards: from here on the batches are others"
    note = f"goes on from {checkpoint.path.name}{others}"
    return Start(state, n_call, losses, tuple(about.history), is_new=False, note=note)
