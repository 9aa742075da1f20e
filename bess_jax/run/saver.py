"""Saves states of a run in the background."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from bess_jax.run.about import About
from bess_jax.run.checkpoint import Checkpoints, Part
from bess_jax.run.state import parts_of
from bess_jax.run.team import ALONE, Team
from bess_jax.step.spmd import Placement
from bess_jax.update.train import TrainState


class Saver:
    """Copies a state and writes the copy while training goes on, one at a time. A context, which ends with the last.

    Args:
        checkpoints: where they are written.
        placement: where the states are.
        kinds: kind of each array of a state.
        keep: how many of the latest checkpoints to keep.
        team: the processes.
    """

    def __init__(
        self, checkpoints: Checkpoints, placement: Placement, kinds: TrainState, keep: int, team: Team = ALONE
    ) -> None:
        self.checkpoints, self.placement, self.kinds, self.keep, self.team = checkpoints, placement, kinds, keep, team
        self._thread = ThreadPoolExecutor(1, "bess_jax-saver", _give_way)
        self._writing: Future[None] | None = None
        self._copy: Any = None  # the memory of the last one, which the next one is copied into

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def save(self, about: About, state: TrainState, losses: Sequence[float]) -> None:
        """Begins to save, after what was begun before has ended.

        Args:
            about: what the checkpoint is of.
            state: the state on the devices; may be donated when this returns.
            losses: of the calls of the epoch.
        """
        self.wait()
        self._copy = self.placement.get_local(state, out=self._copy)
        parts = parts_of(self._copy, self.kinds) | {"losses": Part(np.array([losses], np.float64), per_shard=False)}
        shards = self.placement.local_shards
        self._writing = self._thread.submit(self.checkpoints.write, about, parts, shards, self.keep, self.team)

    def wait(self) -> None:
        """Waits for the end of what was begun.

        Raises:
            NonFiniteStateError: if the state was not finite.
            DataError: if another process failed.
            OSError: if it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @property
    def is_idle(self) -> bool:
        """Whether what was begun has ended."""
        return self._writing is None or self._writing.done()

    def check(self) -> None:
        """Raises what `wait` would, if what was begun has ended; waits for nothing."""
        if self.is_idle:
            self.wait()


def _give_way() -> None:
    """Lets this thread run where others leave room: while training waits for a device, a core is idle."""
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
