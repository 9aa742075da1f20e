"""The processes of a run: how they start, meet and agree, and the watch that ends all of them when one is lost."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from typing import Any, NoReturn

import jax
from jax.errors import JaxRuntimeError

from bess_jax import _checks
from bess_jax.run.team import ALONE, Team

PATIENCE_S = 25.0
"""How long a process may show no sign of life before the others end."""

_FOREVER_MS = 10**9
_ENDED, _ALIVE = "bess_jax/ended", "bess_jax/alive/"


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that train or answer together, one on every host or several: the same command is started for each.

    Without arguments `jax.distributed.initialize` finds them under SLURM (`srun`), Open MPI (`mpirun`) and Kubernetes
    (an indexed job, with the package kubernetes); elsewhere there is one.
    """

    coordinator: str | None = None
    """HOST:PORT of process 0, with a free port (default: the environment variable JAX_COORDINATOR_ADDRESS)."""
    n_process: int | None = None
    """Number of processes."""
    process: int | None = None
    """Number of this process, from 0."""

    @property
    def _are_given(self) -> bool:
        return self != Processes() or "JAX_COORDINATOR_ADDRESS" in os.environ

    @property
    def _are_launched(self) -> bool:
        """Whether a launcher that JAX knows has started several."""
        sizes = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
        is_indexed_job = "JOB_COMPLETION_INDEX" in os.environ and importlib.util.find_spec("kubernetes") is not None
        return any(size != "1" for size in sizes) or is_indexed_job

    @contextlib.contextmanager
    def joined(self, patience_s: float = PATIENCE_S) -> Iterator[Team]:
        """All processes of the run, from the point where all are there. To be entered before JAX is used.

        If one is lost, hangs or leaves the context by an error, the others end with exit code 1 and a line that names
        it. Without an error, none leaves before all do.

        Args:
            patience_s: how long a process may show no sign of life.

        Raises:
            ValueError: if process, number of processes or coordinator are missing or do not fit each other.
        """
        if not (self._are_given or self._are_launched):
            yield ALONE
            return
        watch = _Watch(self._start(patience_s), patience_s)
        try:
            yield Team(watch.process, watch.n_process, watch.meet, watch.agree, watch.share)
        except BaseException as error:
            watch.leave(error)
            raise
        watch.close()

    def _start(self, patience_s: float) -> Any:
        """Starts JAX's service (in process 0) and this process's client of it."""
        for name in ("n_process", "process"):
            if (value := getattr(self, name)) is not None:
                _checks.at_least(name, value, name == "n_process")
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"coordinator must be HOST:PORT, got {self.coordinator!r}")
        jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM
        is_whole = None not in (self.coordinator, self.n_process, self.process)
        try:
            jax.distributed.initialize(
                self.coordinator,
                self.n_process,
                self.process,
                cluster_detection_method="deactivate" if is_whole else None,
                heartbeat_timeout_seconds=int(2 * patience_s),  # the watch is first, and names who is lost
                shutdown_timeout_seconds=int(patience_s),
            )
        except ValueError as error:
            raise ValueError(f"{error} Give --coordinator HOST:PORT, --n-process and --process") from error
        from jax._src import distributed  # the one way to the key-value store and barriers of the service

        return distributed.global_state


class _Watch:
    """Says that this process lives, and ends it when another one does not.

    Every process writes a growing number to the key-value store of JAX's coordination service, which process 0 hosts,
    and looks at those of the others. JAX's own heartbeats would end the processes too, but tell not whose were missing.
    """

    def __init__(self, state: Any, patience_s: float) -> None:
        self.process, self.n_process = int(state.process_id), int(state.num_processes)
        self._client, self._patience_s, self._n_agreed = state.client, patience_s, 0
        self._is_closed = threading.Event()
        self._obituary = _obituary(self.process)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._listen, self._look)]
        for thread in self._threads:
            thread.start()

    def meet(self, name: str) -> None:
        """Waits until all processes have called it with this name."""
        self._client.wait_at_barrier(f"bess_jax/{name}", _FOREVER_MS)

    def agree(self, flags: int) -> int:
        """The flags that any process gives. All must call it."""
        self._n_agreed += 1
        place = f"bess_jax/flags/{self._n_agreed}/"
        if flags:
            self._client.key_value_set(f"{place}{self.process}", str(flags))
        self.meet("flags")
        for _, given in self._client.key_value_dir_get(place):
            flags |= int(given)
        return flags

    def share(self, text: str) -> str:
        """The text that process 0 gives. All must call it."""
        self._n_agreed += 1
        place = f"bess_jax/text/{self._n_agreed}"
        if self.process == 0:
            self._client.key_value_set(place, text)
        return str(self._client.blocking_key_value_get(place, _FOREVER_MS))

    def close(self) -> None:
        """Waits for all processes, and ends the watch."""
        self.meet("end")
        self._is_closed.set()
        if self.process == 0:
            self._client.key_value_set(_ENDED, "")
        for thread in self._threads:
            thread.join()
        self._say_nothing()

    def leave(self, error: BaseException) -> None:
        """Tells the others that this process ends by an error. If another was lost, which it is may soon be known."""
        if isinstance(error, JaxRuntimeError):
            time.sleep(self._patience_s + 5)
        self._is_closed.set()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self._tell(f"process {self.process} ended ({reason})")
        self._say_nothing()
        atexit.register(_exit)  # before JAX's own handler, which waits for the others

    def _listen(self) -> None:
        """Waits for word that a process has ended."""
        try:
            reason = self._client.blocking_key_value_get(_ENDED, _FOREVER_MS)
        except JaxRuntimeError:
            reason = "process 0, the coordinator, is lost"
        if reason and not self._is_closed.is_set():
            self._end(reason)

    def _look(self) -> None:
        """Looks every second who shows signs of life."""
        seen: dict[str, tuple[str, float]] = {}
        with ThreadPoolExecutor(1) as pool:
            for count in range(_FOREVER_MS):
                if self._is_closed.wait(1):
                    return
                try:
                    found = pool.submit(self._beat, count).result(self._patience_s)
                except (JaxRuntimeError, LateError):
                    self._end(f"process 0, the coordinator, is lost or hangs: no answer for {self._patience_s:g} s")
                now = time.monotonic()
                for name, beat in found:
                    if name not in seen or seen[name][0] != beat:
                        seen[name] = beat, now
                    elif now - seen[name][1] > self._patience_s:
                        process = name.rpartition("/")[2]
                        self._end(f"process {process} is lost or hangs: no sign of life for {self._patience_s:g} s")

    def _beat(self, count: int) -> list[tuple[str, str]]:
        self._client.key_value_set(f"{_ALIVE}{self.process}", str(count), allow_overwrite=True)
        return self._client.key_value_dir_get(_ALIVE)  # type: ignore[no-any-return]

    def _end(self, reason: str) -> NoReturn:
        """Ends this process, whatever its other threads wait for."""
        print(f"error: {reason}", file=sys.stderr, flush=True)
        self._say_nothing()
        if self.process == 0:
            self._tell(reason)
        _exit()

    def _tell(self, reason: str) -> None:
        """Ends the other processes."""
        with contextlib.suppress(JaxRuntimeError):  # another one has said it, or nobody is there to be told
            self._client.key_value_set(_ENDED, reason)
        if self.process == 0:
            time.sleep(2)  # with it the service ends

    def _say_nothing(self) -> None:
        self._obituary.communicate(b"\n")


def _obituary(process: int) -> subprocess.Popen[bytes]:
    """A shell that writes a line if this process ends before it has written one to the shell.

    JAX aborts a process at once that has lost process 0, and no code of ours runs any more.
    """
    text = f"error: process {process} was ended: it was killed, or process 0, the coordinator, is lost"
    command = ["sh", "-c", 'read -r line || echo "$0" >&2', text]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _exit() -> NoReturn:
    """Ends this process without JAX's shutdown, which waits for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
