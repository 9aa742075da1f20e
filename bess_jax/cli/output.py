"""What the commands print reaches a terminal, a pipe or a file, or does not: that never ends a command half way."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from bess_jax.data.files import DataWarning

CONTROL = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""What moves the cursor of a terminal, changes its colours or turns its lines: C0, DEL, C1, bidirectional overrides."""

_ESCAPES = {number: chr(number).encode("unicode_escape").decode() for number in CONTROL}


def visible(text: object) -> str:
    r"""`text` on one line, its control characters as escapes: a label that ends in a newline ends in \n."""
    return str(text).translate(_ESCAPES)


_JSON_ESCAPES = {number: f"\\u{number:04x}" for number in CONTROL}


def print_json(document: Mapping[str, Any]) -> None:
    """Prints one JSON document; numbers that JSON does not have become null, control characters are escaped."""
    text = json.dumps(_plain(document), ensure_ascii="utf" not in sys.stdout.encoding.lower(), allow_nan=False)
    print(text.translate(_JSON_ESCAPES))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shell_word(path: object) -> str:
    """`path` as a shell takes it for one word, that is no option."""
    text = str(path)
    return visible(shlex.quote(f"./{text}" if text.startswith("-") else text))


class Output(io.TextIOBase):
    """A stream to print to, which drops what cannot be written.

    Attributes:
        stream: where to; None if it was closed before the process began.
        error: the first error, or None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.error = None if stream is not None else OSError(errno.EBADF, os.strerror(errno.EBADF))

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream is not None and self.stream.isatty()

    def fileno(self) -> int:
        """Of the stream."""
        return super().fileno() if self.stream is None else self.stream.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Writes, or drops."""
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes, or drops."""
        self._attempt(lambda stream: stream.flush())

    def keep_to_python(self) -> None:
        """Sends to standard error what libraries print from now on, as CPU collectives do when they connect."""
        if isinstance(self.stream, io.TextIOWrapper):
            self.stream.flush()
            encoding, errors = self.stream.encoding, self.stream.errors
            self.stream = os.fdopen(os.dup(1), "w", encoding=encoding, errors=errors)
            os.dup2(2, 1)

    def _attempt(self, do: Callable[[TextIO], Any]) -> None:
        if self.stream is None or self.stream.closed:
            return
        try:
            do(self.stream)
        except OSError as error:
            self.error = self.error or error


@contextlib.contextmanager
def unfailing_output() -> Iterator[Output]:
    """Prints go on when standard output or standard error are closed or full; gives the former.

    What their encoding lacks, also bytes of a path that are no text, is printed as escapes.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    output = Output(before[0])
    sys.stdout, sys.stderr = output, Output(before[1])
    try:
        yield output
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Shows what is doubtful about files as one line each on standard error, every time."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, DataWarning):
                print(f"warning: {visible(message)}", file=sys.stderr)
            else:
                show_other(message, category, *where, **more)

        warnings.showwarning = show
        yield


def open_standard_streams() -> None:
    """Opens those that are closed on nothing: else the next file would take their place, and be printed into."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def drop_unwritten() -> None:
    """Drops what standard output and standard error could not write, for Python to write it as it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
