"""The search: trials are drawn, trained and told until there are enough of them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jax.errors import JaxRuntimeError

from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.data.batch_sampler import ShardedBatchSampler
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataError
from bess_jax.data.split import SPLIT_NAMES
from bess_jax.run.build import read_graph
from bess_jax.run.callbacks import Callback
from bess_jax.run.checkpoint import NonFiniteStateError
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment, NonFiniteLossError
from bess_jax.run.fit import fit
from bess_jax.run.log import Record
from bess_jax.run.loop import Run
from bess_jax.run.settings import GROUP_OF
from bess_jax.run.signals import Stop, StoppedError, ctrl_c_saves
from bess_jax.step.spmd import request_devices
from bess_jax.tune.page import write_page
from bess_jax.tune.results import line_of, write_best, write_table
from bess_jax.tune.space import Space
from bess_jax.tune.study import Claim, Study

_MOST_FAILING = 5
"""Trials that may fail before one has been ranked."""

_PAGE_EVERY_S = 60.0

_OF_BATCHES = {"answers", "batch_size", "accumulate", "seed"}
NOT_OF_BATCHES = {
    name
    for name, group in GROUP_OF.items()
    if group in ("model", "loss", "optimizer", "run") and name not in _OF_BATCHES
}
"""Settings that do not change the training batches."""


class _Reports(Callback):
    """Tells Optuna each validation of a trial, and stops a trial that is worse than others."""

    def __init__(self, claim: Claim) -> None:
        self._trial, self._told = claim.optuna_trial, set(claim.reported)
        self.is_pruned = False

    def start(self, run: Run) -> None:
        """Tells what a run had before it was killed, where it came to no more than to save it."""
        self._tell(run)

    def record(self, run: Run, record: Record) -> None:
        """Tells a validation."""
        if record.get("split") == "valid":
            self._tell(run)

    def _tell(self, run: Run) -> None:
        for validation in run.history:
            if validation.epoch not in self._told:
                self._told.add(validation.epoch)
                self._trial.report(run.metric.value(validation.metrics), validation.epoch)
        if run.history and self._trial.should_prune():
            self.is_pruned = True
            run.stop("worse than other trials")


class _Result(NamedTuple):
    """How a trial ended: with neither, it was pruned."""

    value: float | None = None
    message: str | None = None


def search(
    space: str | Path,
    study: str | Path,
    *,
    show: Callable[[str], object] = print,
    stop: Stop | None = None,
) -> Study:
    """Searches for settings: trains trials in a folder until there are as many as the file says.

    A search that was stopped or killed goes on when this is called again; several processes that call it share one.

    Args:
        space: TOML file with settings, what is searched of them, and how; see docs/tune.md.
        study: folder of the search, new or to go on with.
        show: takes a line about each trial that has ended.
        stop: what signals do. Default: Ctrl-C, or a notebook's stop button, saves the trial under way before it raises.

    Returns:
        The study: its trials, and the best of them.

    Raises:
        DataError: if the file is not as it must be, or the folder holds another search.
        ValueError: if the graph cannot be read, or the first trials all failed.
        OSError: if the folder cannot be written.
        MissingExtraError: if Optuna is not installed.
        KeyboardInterrupt: after Ctrl-C.
    """
    what = Space.read(Path(space))
    with ctrl_c_saves() as interrupt:
        config = what.any_config()
        dataset = read_graph(config)
        if missing := [split for split in SPLIT_NAMES if split not in dataset.triples]:
            raise ValueError(f"dataset {config.dataset} has no {' and no '.join(missing)}, which tune needs")
        found = Study(Path(study), what, dataset.digest())
        _Worker(found, dataset, [*interrupt, *([] if stop is None else [stop])], show).work()
    if stop is not None and stop.number is not None:
        raise StoppedError(stop.number)
    return found


class _Worker:
    """Trains trials of a study, one after the other."""

    def __init__(
        self, study: Study, dataset: KGDataset, callbacks: Sequence[Callback], show: Callable[[str], object]
    ) -> None:
        self._study, self._dataset, self._callbacks, self._show = study, dataset, callbacks, show
        self._sampler: ShardedBatchSampler | None = None  # of the trial before, where all have the same batches
        self._written_at = -math.inf

    def work(self) -> None:
        """Trains until there is nothing to train, time is up, or a signal has stopped it."""
        end = time.monotonic() + self._study.space.plan.timeout_s
        while time.monotonic() < end:
            with self._study.claim() as claim:
                if claim is None:
                    break
                result = self._train(claim)
                if result is None:  # a signal
                    break
                trial, is_best = self._study.tell(claim, result.value, result.message)
            self._show(line_of(self._study, trial, is_best))
            self._write()
            self._check_failures()
        self._write(at_end=True)

    def _train(self, claim: Claim) -> _Result | None:
        """How the trial ended; None if a signal has stopped it."""
        reports = _Reports(claim)
        try:
            experiment = self._experiment(self._study.space.config(claim.drawn))
            path, callbacks = claim.folder.path, [reports, *self._callbacks]
            if claim.folder.has_begun:
                run = fit(experiment, resume=path, callbacks=callbacks)
            else:
                run = fit(experiment, run=path, callbacks=callbacks)
        except DataError:  # of a folder, not of these settings
            raise
        except (ValueError, NonFiniteLossError, NonFiniteStateError, NonFiniteScoreError) as error:
            return _Result(message=str(error))
        except JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return _Result(message=f"out of memory: {str(error).splitlines()[0]}")
        if reports.is_pruned:
            return _Result()
        if any(isinstance(callback, Stop) and callback.number is not None for callback in self._callbacks):
            return None
        best = max(run.history, key=lambda validation: run.metric.goodness(validation.metrics))
        return _Result(run.metric.value(best.metrics))

    def _experiment(self, config: TrainConfig) -> Experiment:
        with contextlib.suppress(RuntimeError):  # JAX has made its devices already: those there are will do
            request_devices(config.n_device or config.n_shard)
        experiment = Experiment.create(config, self._dataset, self._sampler)
        if {name.partition(".")[0] for name in self._study.space.searched} <= NOT_OF_BATCHES:
            self._sampler = experiment.sampler
        return experiment

    def _write(self, at_end: bool = False) -> None:
        """Writes what the search has found; the page, which takes a moment, now and then and at the end."""
        with self._study.alone():
            write_best(self._study)
            write_table(self._study)
            if at_end or time.monotonic() - self._written_at > _PAGE_EVERY_S:
                write_page(self._study)
                self._written_at = time.monotonic()

    def _check_failures(self) -> None:
        """Raises ValueError if so many trials failed that no other end is in sight."""
        ended = [trial for trial in self._study.trials() if trial.state != "running"]
        enough = min(_MOST_FAILING, self._study.space.plan.n_trial)
        if len(ended) >= enough and all(trial.state == "failed" for trial in ended):
            raise ValueError(f"the first {len(ended)} trials all failed, the last with: {ended[-1].message}")
