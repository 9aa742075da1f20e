"""Signals that end a run: the first one lets it save, the second one does not wait."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bess_jax.run.callbacks import Callback

if TYPE_CHECKING:
    from bess_jax.run.loop import Run

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""Ctrl-C, what asks a process to end, a closed terminal, and what batch systems send before the time is up."""


_TOGETHER_S = 1.0
"""Seconds in which signals count as one: `timeout` and Ctrl-C under some launchers signal a process twice at once."""


class StoppedError(KeyboardInterrupt):
    """A signal ended a command or a run.

    Attributes:
        exit_code: 128 and the number of the signal, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop(Callback):
    """What signals do: raise `StoppedError` at once, or, while a run trains that this is a callback of, stop it first.

    After one has stopped it, others are ignored for a second.

    Attributes:
        number: of the signal that has stopped a run, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._run: Run | None = None
        self._noted_at = 0.0

    def start(self, run: Run) -> None:
        """From now on the first signal stops the run."""
        self._run = run

    def end(self, run: Run) -> None:
        """From now on signals raise."""
        self._run = None

    def handle(self, number: int, frame: Any) -> None:
        """The handler."""
        if self._run is not None and self.number is None:
            self.number, self._noted_at = number, time.monotonic()
            self._run.stop(str(StoppedError(number)))
        elif self.number is None or time.monotonic() - self._noted_at > _TOGETHER_S:
            raise StoppedError(number)


@contextlib.contextmanager
def stop_on_signals(numbers: Sequence[signal.Signals] = SIGNALS) -> Iterator[Stop]:
    """Handles signals within the context; one that is ignored, as SIGHUP is under nohup, stays so."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, stop.handle)
    unraisable, sys.unraisablehook = sys.unraisablehook, partial(_unraisable, sys.unraisablehook)
    try:
        yield stop
    finally:
        sys.unraisablehook = unraisable
        for number, old in handled.items():
            signal.signal(number, old or signal.SIG_DFL)


def _unraisable(otherwise: Callable[[Any], object], found: Any) -> None:
    """Sends a signal again whose handler raised where errors are ignored: JAX calls Python as garbage is collected."""
    if not isinstance(found.exc_value, StoppedError):
        otherwise(found)
        return
    again = threading.Timer(0.05, os.kill, (os.getpid(), found.exc_value.exit_code - 128))
    again.daemon = True
    again.start()


@contextlib.contextmanager
def ctrl_c_saves() -> Iterator[list[Callback]]:
    """Callbacks for a run, by which Ctrl-C saves it before it raises; none where Ctrl-C is handled already.

    Raises:
        StoppedError: at the end of the context, if Ctrl-C has stopped the run.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield []
        return
    with stop_on_signals((signal.SIGINT,)) as stop:
        yield [stop]
    if stop.number is not None:
        raise StoppedError(stop.number)
