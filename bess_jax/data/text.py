"""Text files: lines of names, tables of names, settings.

All are read by `read_lines`, by the rules in docs/data.md.
"""

from __future__ import annotations

import codecs
import functools
import itertools
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from bess_jax._compat import tomllib
from bess_jax.data.files import DataError, open_unpacked

LONGEST_LINE = 1 << 20
"""Characters of a line, at most."""

LONGEST_SETTING, MOST_SETTINGS = 1 << 12, 1 << 16
"""Characters of a line and of all lines of a file of settings, at most: `tomllib` needs the square of the former."""

_BLOCK = 1 << 16
"""Bytes that are read at a time, at most."""

MARK = "\ufeff"

_ODD_SPACES = (*"\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B)))
"""White space beyond ASCII."""

_STARTS = {
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "gzip, whose name must end in .gz",
    b"BZh": "bzip2, whose name must end in .bz2",
    b"\x28\xb5\x2f\xfd": "zstandard, whose name must end in .zst",
    b"PAR1": "parquet, whose name must end in .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
}
"""First bytes of files that are not UTF-8, and what such a file looks like."""


def _looks_like(start: bytes, otherwise: str = "") -> str:
    looks = next((what for first, what in _STARTS.items() if start.startswith(first)), otherwise)
    return f"; looks like {looks}" if looks else ""


def read_lines(file: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, list[str]]]:
    """Lines of a UTF-8 file, plain or packed, without their ends: the number of one, and it and some that follow.

    A byte-order mark is dropped. Memory is bounded by the longest line that is allowed, not by the file.

    Raises:
        DataError: if the file cannot be read, is damaged or not UTF-8, or has a NUL or a line of more than `longest`
            characters.
    """
    for number, text in read_blocks(file, longest):
        lines = text.split("\n")
        del text  # or a long line were in memory twice
        yield number, lines
        del lines


def read_blocks(file: Path, longest: int = LONGEST_LINE) -> Generator[tuple[int, str]]:
    """Whole lines like `read_lines`, in one text without the last end of line."""
    number, rest = 1, ""
    for text in _decoded(file, min(_BLOCK, longest)):  # so that only the first line of a block can be too long
        if "\0" in text:
            place = text.index("\0")
            at_start = number == 1 and not rest
            looks = _looks_like(text[:8].encode(), "UTF-16 or UTF-32" if place < 4 else "") if at_start else ""
            raise DataError(f"a NUL, which is not text{looks}", file, number + text.count("\n", 0, place))
        text = text.replace(MARK, "")
        first, last = text.find("\n"), text.rfind("\n")
        if len(rest) + (len(text) if first < 0 else first) > longest:
            raise DataError(f"longer than {longest:,} characters, the most that a line may have", file, number)
        if last < 0:
            rest += text
            continue
        n_line, whole, rest = text.count("\n"), [rest + text[:last]], text[last + 1 :]
        del text  # and the whole lines are those of the reader alone
        yield number, whole.pop()
        number += n_line
    yield number, rest


def read_columns(file: Path, n_column: int) -> Iterator[tuple[int, list[str]]]:
    """Lines of a tab-separated file, read by `read_lines`: number, and `n_column` strings.

    White space around each is dropped, and none may be empty. Lines of white space alone are skipped.

    Raises:
        DataError: as `read_lines`, and on a line with other columns.
    """
    of_lines = functools.partial(_columns, file, n_column)
    return itertools.chain.from_iterable(itertools.starmap(of_lines, read_lines(file)))  # keeps no line it is done with


def read_toml(file: Path) -> dict[str, Any]:
    """The tables and values of a TOML file, read by `read_lines`.

    Raises:
        DataError: as `read_lines`, on what is not TOML, and on a file or a line longer than settings ever are.
    """
    found: list[str] = []
    size = 0
    for number, lines in read_lines(file, LONGEST_SETTING):
        found += lines
        size += sum(map(len, lines)) + len(lines)
        if size > MOST_SETTINGS:
            raise DataError(f"longer than {MOST_SETTINGS:,} characters, the most that settings may have", file, number)
    try:
        return tomllib.loads("\n".join(found))
    except RecursionError:
        raise DataError("not a TOML file of settings: nested too deep", file) from None
    except ValueError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise DataError(f"not a TOML file ({error})", file, int(line[1]) if line else None) from None


def _columns(file: Path, n_column: int, first: int, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """What `read_columns` gives for some lines, of which the first has the number `first`."""
    if not any(map(str.strip, lines)):
        return  # quickly over many blank lines
    bare = is_bare("".join(lines))
    for number, line in enumerate(lines, first):
        columns = line.split("\t", n_column)
        if not bare:
            columns = [*map(str.strip, columns)]
        if len(columns) == n_column and "" not in columns:
            yield number, columns
        elif line.strip():
            expected = f"expected {n_column} non-empty columns separated by tabs"
            raise DataError(f"{expected}, got {shorten(line)}", file, number)


def shorten(value: object, most: int = 80) -> str:
    """A value as Python writes it; of a long text the start."""
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]!r}... ({len(value):,} characters)"
    return repr(value)


def _decoded(file: Path, size: int) -> Iterator[str]:
    """The text of a file, in blocks of `size` bytes at most."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, block = 1, b"-"
    try:
        with open_unpacked(file) as stream:
            while block:
                block = stream.read(size)
                text = decoder.decode(block, final=not block)
                yield text
                line += text.count("\n")
    except UnicodeDecodeError as error:
        here = line + error.object.count(b"\n", 0, error.start)
        looks = _looks_like(error.object[:8]) if line == 1 else ""
        raise DataError(f"not UTF-8 ({error.reason}){looks}", file, here) from None
    except (EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {reason}", file, line) from None


def is_bare(text: str) -> bool:
    """Whether a text surely has no white space but tabs and ends of lines, so that nothing needs to be stripped."""
    return text.isascii() and not any(map(text.__contains__, " \r\v\f\x1c\x1d\x1e\x1f"))


def has_odd_space(text: str) -> bool:
    """Whether a text has white space beyond ASCII, such as a no-break space, or a carriage return."""
    return "\r" in text or (not text.isascii() and any(map(text.__contains__, _ODD_SPACES)))
