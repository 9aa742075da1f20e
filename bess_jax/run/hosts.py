"""The processes of a run: how they are found and start."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
from collections.abc import Iterator
from typing import Any

import jax

from bess_jax import _checks
from bess_jax.run.team import ALONE, Team
from bess_jax.run.watch import Obituary, Watch


@dataclasses.dataclass(frozen=True)
class Processes:
    """One command on several hosts: it is started on each, once or several times, with the same options.

    Under SLURM (srun), Open MPI (mpirun) and Kubernetes (an indexed job, with the package kubernetes) they find each
    other; elsewhere the options below tell them.
    """

    coordinator: str | None = None
    """HOST:PORT of process 0, with a free port. Default: the environment variable JAX_COORDINATOR_ADDRESS."""
    n_process: int | None = None
    """Number of processes, of all hosts together."""
    process: int | None = None
    """Number of this process, from 0."""
    lost_after: float = 25.0
    """Seconds without a sign of life after which a process is taken for lost, and the others end."""

    @property
    def _are_given(self) -> bool:
        return {self.coordinator, self.n_process, self.process} != {None} or "JAX_COORDINATOR_ADDRESS" in os.environ

    @property
    def _are_launched(self) -> bool:
        """Whether a launcher that JAX knows has started several."""
        sizes = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
        is_indexed_job = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes") is not None
        return any(size != "1" for size in sizes) or is_indexed_job

    @contextlib.contextmanager
    def joined(self) -> Iterator[Team]:
        """All processes of the run, from the point where all are there. To be entered before JAX is used.

        If one is lost, hangs or leaves the context by an error, the others end with exit code 1 and a line that names
        it. Without an error, none leaves before all do.

        Raises:
            ValueError: if process, number of processes or coordinator are missing or do not fit each other.
        """
        if not (self._are_given or self._are_launched):
            yield ALONE
            return
        watch = Watch(self._start(), self.lost_after)
        try:
            yield Team(watch.process, watch.n_process, watch.meet, watch.agree, watch.share)
        except BaseException as error:
            watch.leave(error)
            raise
        watch.close()

    def _start(self) -> Any:
        """Starts JAX's service (in process 0) and this process's client of it."""
        _checks.at_least("lost_after", self.lost_after, 1)
        address = self.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
        if address is not None and not address.rpartition(":")[2].isdigit():
            raise ValueError(f"coordinator must be HOST:PORT, got {address!r}")
        if not self._are_launched and None in (address, self.n_process, self.process):
            raise ValueError("give coordinator, n_process and process together: no launcher is found that knows them")
        patience = math.ceil(self.lost_after)
        jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM
        place = "" if address is None else f", {address},"
        obituary = Obituary(
            "the processes did not find each other: "
            f"is one missing, or the port of process 0{place} taken or out of reach?"
        )
        jax.distributed.initialize(
            self.coordinator,
            self.n_process,
            self.process,
            cluster_detection_method=None if self._are_launched else "deactivate",
            heartbeat_timeout_seconds=4 * patience,  # the watch is first, and names who is lost
            shutdown_timeout_seconds=patience,
        )
        obituary.withdraw()
        from jax._src import distributed  # the one way to the key-value store and barriers of the service

        return distributed.global_state
