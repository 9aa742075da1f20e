"""Files that are read, which may be anything, and files that are written, which must be whole."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, cast

from bess_jax import _optional
from bess_jax._compat import TypeAlias

PACKED = (".gz", ".bz2", ".zst")
"""Endings of packed files."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


_LONGEST_REASON = 1000


class DataWarning(UserWarning):
    """Something about a file that is read or written is likely not what its owner wants. It ended nothing."""


class DataError(ValueError):
    """Something is wrong with a file that is read.

    Attributes:
        reason: what is wrong, cut if it cites a lot.
        file: the file.
        line: number of the line, from 1, or None where it is not one line that is wrong.
    """

    def __init__(self, reason: str, file: Path, line: int | None = None) -> None:
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
        super().__init__(reason, file, line)
        self.reason, self.file, self.line = reason, file, line

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.line is None else f"{self.file}, line {self.line}: {self.reason}"


Opened: TypeAlias = "Callable[[Path, int], Callable[[int], object] | None]"
"""Is called with a file that is opened and its size; what it gives is called with the bytes of each read."""

_WATCHER: ContextVar[Opened | None] = ContextVar("watcher", default=None)


@contextlib.contextmanager
def watch_reading(opened: Opened) -> Iterator[None]:
    """Calls `opened` for every file that `open_file` opens in the context: the reading of a large one takes a while."""
    token = _WATCHER.set(opened)
    try:
        yield
    finally:
        _WATCHER.reset(token)


class _WatchedFile(io.FileIO):
    """A file that tells how much of it is read; also what is read twice."""

    def __init__(self, file: Path, advance: Callable[[int], object]) -> None:
        super().__init__(file)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        n = super().readinto(buffer)
        self._advance(n)
        return n


def open_file(file: Path) -> BinaryIO:
    """Opens a regular file to read its bytes; never waits for a pipe or a device.

    Raises:
        DataError: if it cannot be opened or is not a regular file.
    """
    try:
        status = file.stat()
        mode, watcher = status.st_mode, _WATCHER.get()
        if stat.S_ISREG(mode):
            advance = None if watcher is None else watcher(file, status.st_size)
            return file.open("rb") if advance is None else io.BufferedReader(_WatchedFile(file, advance))
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise DataError(f"cannot be read: {getattr(error, 'strerror', error)}", file) from None
    raise DataError(f"expected a file, got {_KINDS.get(stat.S_IFMT(mode), 'something else')}", file)


@contextlib.contextmanager
def open_unpacked(file: Path) -> Iterator[BinaryIO]:
    """Opens a file like `open_file`, and unpacks one whose name ends in `.gz`, `.bz2` or `.zst`.

    Raises:
        DataError: as `open_file`.
        OSError: (or EOFError) where what is packed is damaged.
    """
    packed = file.suffix.lower()
    with open_file(file) as raw, contextlib.ExitStack() as stack:
        if packed == ".gz":
            stack.enter_context(_as_os_error(zlib.error))
            yield cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))
        elif packed == ".bz2":
            unpacked: Any = stack.enter_context(bz2.BZ2File(raw))
            unpacked._buffer.raw._trailing_error = ()  # or it took a damaged later stream for the end of the file
            yield unpacked
        elif packed == ".zst":
            module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
            zstd = _optional.require(module, "zst", file.name)
            stack.enter_context(_as_os_error(zstd.ZstdError))
            yield stack.enter_context(zstd.ZstdFile(raw))
        else:
            yield raw


@contextlib.contextmanager
def _as_os_error(other: type[Exception]) -> Iterator[None]:
    try:
        yield
    except other as error:
        raise OSError(str(error)) from None


@contextlib.contextmanager
def replace_file(file: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become the content of `file`, all of them or, if anything fails, none.

    Raises:
        OSError: if it cannot be written; what was there before is then untouched.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(file)  # a full disk tells none
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in a folder last, also if the machine loses power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checked(file: Path) -> dict[str, Any]:
    """What `write_checked` wrote.

    Raises:
        DataError: if there is no such file, or it is not as it was written.
    """
    with open_file(file) as stream:
        text = stream.read()
    try:
        document = json.loads(text)
        content: dict[str, Any] = document["content"]
        is_whole = zlib.crc32(canonical_json(content)) == document["crc32"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"damaged, or not written by bess_jax ({error})", file) from None
    if not is_whole:
        raise DataError("damaged, or edited: its checksum is another one", file)
    return content


def write_checked(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON document with its checksum, all of it or nothing.

    Raises:
        OSError: if it cannot be written.
    """
    with replace_file(file) as stream:
        stream.write(b'{"crc32": %d, "content": %s}\n' % (zlib.crc32(canonical_json(content)), canonical_json(content)))


def canonical_json(content: Mapping[str, Any]) -> bytes:
    """The one text that stands for a JSON document."""
    return json.dumps(content, sort_keys=True).encode()
