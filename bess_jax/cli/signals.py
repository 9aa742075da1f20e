"""Signals that end a run: the first one lets it save, the second one does not wait."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator
from typing import Any

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""Ctrl-C, what asks a process to end, a closed terminal, and what batch systems send before the time is up."""


_TOGETHER_S = 1.0
"""Seconds in which signals count as one: `timeout` and Ctrl-C under some launchers signal a process twice at once."""


class StoppedError(KeyboardInterrupt):
    """A signal ended the command.

    Attributes:
        exit_code: 128 and the number of the signal, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@dataclasses.dataclass
class Stop:
    """What signals do: raise `StoppedError` at once, or, while the command looks, be noted first.

    After one was noted, others are ignored for a second.

    Attributes:
        is_looked_at: whether the first signal is only noted.
        number: of the signal that was noted.
    """

    is_looked_at: bool = False
    number: int | None = None
    _noted_at: float = 0.0

    @property
    def is_requested(self) -> bool:
        """Whether a signal was noted."""
        return self.number is not None

    def handle(self, number: int, frame: Any) -> None:
        """The handler."""
        if self.is_looked_at and self.number is None:
            self.number, self._noted_at = number, time.monotonic()
        elif self.number is None or time.monotonic() - self._noted_at > _TOGETHER_S:
            raise StoppedError(number)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handles `SIGNALS` within the context; one that is ignored, as SIGHUP is under nohup, stays so."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, old in handled.items():
            signal.signal(number, old or signal.SIG_DFL)
