"""The folder of a search: what its trials drew and gave, and which of them is under way where."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from bess_jax._optional import require
from bess_jax.data.files import DataError
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder
from bess_jax.run.metric import Metric
from bess_jax.tune.space import Space

_JOURNAL, _LOCK, _TRIALS, _CLAIM = "journal.log", "lock", "trials", ".claim"
_NAME, _SEARCH, _GRAPH, _MESSAGE = "bess_jax", "search", "graph", "message"
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""What Optuna raises on a journal that is none of its own."""

State: TypeAlias = Literal["running", "complete", "pruned", "failed"]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial of a search.

    Attributes:
        number: from 0, in the order in which they began.
        state: running (also one that was interrupted), complete, pruned (ended early, as worse than others), or
            failed: its settings do not fit together, or it diverged.
        value: the best validation metric, of a pruned one the last; None if there is none.
        epoch: after which it was last validated; None if it never was.
        drawn: the searched settings, by name.
        message: why it failed.
    """

    number: int
    state: State
    value: float | None
    epoch: int | None
    drawn: Mapping[str, Any]
    message: str | None = None

    @classmethod
    def of(cls, frozen: Any) -> Self:
        """What Optuna's record of a trial says."""
        message = frozen.user_attrs.get(_MESSAGE)
        state: State = "failed" if message is not None else _STATES.get(frozen.state.name, "running")
        return cls(frozen.number, state, frozen.value, frozen.last_step, frozen.params, message)


_STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A trial that this process, and no other, trains.

    Attributes:
        number: of the trial.
        drawn: the searched settings, by name.
        folder: of its run, which may have begun before.
        reported: epochs after which a validation was reported before.
        optuna_trial: what reports go to.
    """

    number: int
    drawn: Mapping[str, Any]
    folder: RunFolder
    reported: frozenset[int]
    optuna_trial: Any = dataclasses.field(repr=False)


class _Lock:
    """Keeps other processes from the journal, as Optuna's backend wants it.

    Optuna's own locks stay when a process is killed. This one goes with its process, and what a killed process has
    written of a line is dropped before the next one is.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = require("filelock", "tune", "a study").FileLock(folder / _LOCK)
        self._journal = folder / _JOURNAL

    def acquire(self) -> bool:
        """Waits for it; may be called within itself."""
        self._lock.acquire()
        with contextlib.suppress(FileNotFoundError), self._journal.open("rb+") as stream:
            if stream.seek(0, 2):
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    stream.seek(0)
                    stream.truncate(stream.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Leaves it to others."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class Study:
    """The folder of a search, shared by all processes that train its trials.

    Args:
        path: the folder; made if there is none.
        space: what is searched; when a search goes on, only n_trial and timeout may be others than before.
        graph: `KGDataset.digest` of the graph, which must stay as well.

    Attributes:
        optuna: Optuna's study, as its visualizations take it.
        metric: what tells which trial is best.

    Raises:
        DataError: if the folder holds something else, or another search.
        OSError: if it cannot be written.
        MissingExtraError: if Optuna is not installed.
    """

    def __init__(self, path: Path, space: Space, graph: Mapping[str, str]) -> None:
        optuna = self._library = require("optuna", "tune", "a search")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.path, self.space = path, space
        self.metric = Metric.parse(space.fixed.get("metric", TrainConfig.metric))
        _check_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _Lock(path)
        journal = optuna.storages.journal.JournalFileBackend
        with self._lock:
            try:
                self.optuna = optuna.create_study(
                    storage=optuna.storages.JournalStorage(journal(str(path / _JOURNAL), lock_obj=self._lock)),
                    study_name=_NAME,
                    load_if_exists=True,
                    direction="maximize" if self.metric.higher_is_better else "minimize",
                    pruner=self._pruner(),
                )
            except _DAMAGE as error:
                raise DataError(f"not the journal of a study, or damaged ({error})", path / _JOURNAL) from None
            self._check_same(_SEARCH, space.search_only(), "begin another --study, or put it back")
            self._check_same(_GRAPH, dict(graph), "the graph has changed since the search began")

    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        return [Trial.of(frozen) for frozen in self.optuna.get_trials(deepcopy=False)]

    def best(self) -> Trial | None:
        """The best of those that are complete; the first of equal ones."""
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        sign = 1 if self.metric.higher_is_better else -1
        return max(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def run_folder(self, number: int) -> RunFolder:
        """The run of a trial."""
        return RunFolder(self.path / _TRIALS / str(number))

    @contextlib.contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """A trial to train: one that was interrupted, else a new one; None if all are done or in other processes."""
        with contextlib.ExitStack() as stack:
            with self._lock:
                claim = self._interrupted(stack) or self._new(stack)
            yield claim

    def _interrupted(self, stack: contextlib.ExitStack) -> Claim | None:
        """A trial that no process trains any more."""
        running = [self._library.trial.TrialState.RUNNING]
        for frozen in self.optuna.get_trials(deepcopy=False, states=running):
            if self._hold(frozen.number, stack):
                self.optuna.sampler = self._sampler(frozen.number)
                trial = self._library.trial.Trial(self.optuna, frozen._trial_id)  # a record takes no reports
                return self._claim(trial, frozenset(frozen.intermediate_values))
        return None

    def _new(self, stack: contextlib.ExitStack) -> Claim | None:
        n = len(self.optuna.get_trials(deepcopy=False))
        if n >= self.space.plan.n_trial:
            return None
        self.optuna.sampler = self._sampler(n)
        trial = self.optuna.ask()
        self._hold(trial.number, stack)
        return self._claim(trial)

    def _claim(self, trial: Any, reported: frozenset[int] = frozenset()) -> Claim:
        return Claim(trial.number, self.space.suggest(trial), self.run_folder(trial.number), reported, trial)

    def _hold(self, number: int, stack: contextlib.ExitStack) -> bool:
        """Whether a trial is this process's, until the stack is left; the lock goes with the process."""
        filelock = require("filelock", "tune", "a study")
        folder = self.run_folder(number).path
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / _CLAIM, timeout=0)
        try:
            stack.enter_context(lock)
        except filelock.Timeout:
            return False
        return True

    def tell(self, claim: Claim, value: float | None, message: str | None = None) -> tuple[Trial, bool]:
        """Ends a trial, and removes checkpoints and graphs of all runs but the best.

        Args:
            claim: the trial.
            value: its metric; None if it was pruned or failed.
            message: why it failed.

        Returns:
            The trial, and whether it is the best one so far.
        """
        if message is not None:
            claim.optuna_trial.set_user_attr(_MESSAGE, message)
        states = self._library.trial.TrialState
        with self._lock:
            told = self.optuna.tell(claim.number, value, states.PRUNED if value is None else states.COMPLETE)
            best = self.best()
            for trial in self.trials():
                if trial.state != "running" and (best is None or trial.number != best.number):
                    folder = self.run_folder(trial.number)
                    shutil.rmtree(folder.checkpoints.folder, ignore_errors=True)
                    folder.graph_file.unlink(missing_ok=True)
        return Trial.of(told), best is not None and best.number == claim.number

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps the other processes of the search waiting."""
        with self._lock:
            yield

    def _sampler(self, number: int) -> Any:
        """The sampler of one trial: what it draws depends on the trials before alone, not on who draws it."""
        seed = int(np.random.SeedSequence([self.space.plan.seed, number]).generate_state(1)[0])
        samplers = self._library.samplers
        kind = samplers.TPESampler if self.space.plan.sampler == "tpe" else samplers.RandomSampler
        return kind(seed=seed)

    def _pruner(self) -> Any:
        """The pruner, whose steps are epochs."""
        pruners, fixed = self._library.pruners, self.space.fixed
        if self.space.plan.pruner == "median":
            return pruners.MedianPruner()
        if self.space.plan.pruner == "none":
            return pruners.NopPruner()
        searched = self.space.searched.get("n_epoch")
        most = fixed.get("n_epoch", TrainConfig.n_epoch) if searched is None else max(searched.ends)
        least = min(fixed.get("eval_every", TrainConfig.eval_every), most)
        return pruners.HyperbandPruner(min_resource=least, max_resource=most)

    def _check_same(self, what: str, now: Mapping[str, Any], hint: str) -> None:
        """Raises DataError where the search that began here was another; notes it if none did."""
        before = self.optuna.user_attrs.get(what)
        if before is None:
            self.optuna.set_user_attr(what, now)
            return
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                was, now_is = before.get(name), now.get(name)
                told = "" if what == _GRAPH else f": it was {was!r}, now it is {now_is!r}"
                raise DataError(f"{name} differs from that of this study{told}; {hint}", self.path)


def _check_folder(path: Path) -> None:
    """Raises DataError if there is something else than a study."""
    if path.exists() and not path.is_dir():
        raise DataError("expected a folder for the study, got a file", path)
    if path.is_dir() and not (path / _JOURNAL).exists() and {child.name for child in path.iterdir()} - {_LOCK}:
        raise DataError(f"exists already, and is not a study: it has no {_JOURNAL}; give another --study", path)
