"""How the processes of a run meet and agree, and the watch that ends all of them when one is lost."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from typing import Any, NoReturn

from jax.errors import JaxRuntimeError

_FOREVER_MS = 10**11  # three years
_ENDED, _ALIVE = "bess_jax/ended", "bess_jax/alive/"


class Watch:
    """Says that this process lives, and ends it when another one does not.

    Every process writes a growing number to the key-value store of JAX's coordination service, which process 0 hosts,
    and looks at those of the others. JAX's own heartbeats would end the processes too, but tell not whose were missing.
    """

    def __init__(self, state: Any, patience_s: float) -> None:
        self.process, self.n_process = int(state.process_id), int(state.num_processes)
        self._client, self._patience_s, self._n_agreed = state.client, patience_s, 0
        self._is_closed = threading.Event()
        self._obituary = Obituary(
            f"process {self.process} was ended: it was killed, or process 0, the coordinator, is lost"
        )
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
            self._client.key_value_set(f"{place}{self.process}", str(int(flags)))
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
        self._obituary.withdraw()

    def leave(self, error: BaseException) -> None:
        """Tells the others that this process ends by an error. One that came of the loss of another is left unsaid."""
        if isinstance(error, JaxRuntimeError) or self._is_closed.is_set():
            time.sleep(self._patience_s + 5)  # the watch ends the process
        self._is_closed.set()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self._tell(f"process {self.process} ended ({reason})")
        self._obituary.withdraw()
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
            for count in itertools.count():
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
        self._is_closed.set()
        print(f"error: {reason}", file=sys.stderr, flush=True)
        self._obituary.withdraw()
        if self.process == 0:
            self._tell(reason)
        _exit()

    def _tell(self, reason: str) -> None:
        """Ends the other processes."""
        with contextlib.suppress(JaxRuntimeError):  # another one has said it, or nobody is there to be told
            self._client.key_value_set(_ENDED, reason)
        if self.process == 0:
            time.sleep(2)  # with it the service ends


class Obituary:
    """A line that a shell prints if this process ends before the line is withdrawn.

    JAX aborts a process that does not find process 0, or has lost it, and no code of ours runs any more.
    """

    def __init__(self, text: str) -> None:
        command = ["sh", "-c", 'read -r line || echo "$0" >&2', f"error: {text}"]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def withdraw(self) -> None:
        """Has nothing printed."""
        if self._shell.stdin is not None and not self._shell.stdin.closed:
            self._shell.communicate(b"\n")


def _exit() -> NoReturn:
    """Ends this process without JAX's shutdown, which waits for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
