"""Text files: lines of names, tables of names, settings.

All are read by `read_lines`, by the rules in docs/data.md.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import gzip
import itertools
import os
import re
import tomllib
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError, open_file

LONGEST_LINE = 1 << 20
"""Characters of a line, at most."""

LONGEST_SETTING, MOST_SETTINGS = 1 << 12, 1 << 16
"""Characters of a line and of all lines of a file of settings, at most: `tomllib` needs the square of the former."""

SPLITS = ("train", "valid", "test")

_SUFFIXES = (".txt", ".tsv", ".txt.gz", ".tsv.gz")

_BLOCK = 1 << 16
"""Bytes that are read at a time, at most."""

_MARK = "\ufeff"

_STARTS = {
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "gzip, whose name must end in .gz",
}
"""First bytes of files that are not UTF-8, and what such a file looks like."""

_ENDINGS = r"(entity|type|id|name|label|uri|iri)*"
_HEADER = (
    re.compile(r"(h|heads?|s|subj|subjects?|src|sources?|from|start|(entity|node|e)1)" + _ENDINGS),
    re.compile(
        r"(r|rels?|relations?|relationship|p|preds?|predicates?|property|edges?|links?|types?|interactions?)" + _ENDINGS
    ),
    re.compile(r"(t|tails?|o|obj|objects?|dst|targets?|to|end|(entity|node|e)2)" + _ENDINGS),
)
"""What the three columns are called in the header of a table of triples: letters and digits alone, lower case."""


def read_lines(file: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, list[str]]]:
    """Lines of a UTF-8 file, plain or `.gz`, without their ends: the number of one, and it and some that follow.

    A byte-order mark is dropped. Memory is bounded by the longest line that is allowed, not by the file.

    Raises:
        DataError: if the file cannot be read, is damaged or not UTF-8, or has a NUL or a line of more than `longest`
            characters.
    """
    number, rest = 1, ""
    for text in _decoded(file, min(_BLOCK, longest)):  # so that only the first line of a block can be too long
        if "\0" in text:
            place = text.index("\0")
            looks = "; looks like UTF-16 or UTF-32" if number == 1 and not rest and place < 4 else ""
            raise DataError(f"a NUL, which is not text{looks}", file, number + text.count("\n", 0, place))
        lines = text.replace(_MARK, "").split("\n")
        lines[0] = rest + lines[0]
        if len(lines[0]) > longest:
            raise DataError(f"longer than {longest:,} characters, the most that a line may have", file, number)
        rest = lines.pop()
        first, number = number, number + len(lines)
        yield first, lines
        del lines  # or a long line were in memory while the next one is read
    yield number, [rest]


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


def read_folder(folder: Path) -> dict[str, Any]:
    """Attributes of the `KGDataset` in a folder; see `KGDataset.from_folder`.

    Raises:
        DataError: as `read_columns`, on a missing, doubled or empty file, and on a header.
    """
    entities: dict[str, int] = defaultdict(itertools.count().__next__)
    relations: dict[str, int] = defaultdict(itertools.count().__next__)
    triples: dict[str, Int32Array] = {}
    starts: dict[str, tuple[Path, int]] = {}
    for split in SPLITS:
        file = _find(folder, split)
        if file is None:
            raise DataError(f"has no file {split}.txt or {split}.tsv (plain or .gz)", folder)
        ids: list[int] = []
        for number, (h, r, t) in read_columns(file, 3):
            if not ids:
                starts[split] = file, number
            ids += (entities[h], relations[r], entities[t])
        if not ids:
            raise DataError("holds no triple; a split must hold at least one", file)
        triples[split] = np.array(ids, dtype=np.int32).reshape(-1, 3)
    _refuse_headers(triples, tuple(entities), tuple(relations), starts)
    return {
        "n_entity": len(entities),
        "n_relation_type": len(relations),
        "triples": triples,
        "entity_dict": tuple(entities),
        "relation_dict": tuple(relations),
        "entity_labels": _read_labels(folder, "labels"),
        "relation_labels": _read_labels(folder, "relation_labels"),
    }


def _columns(file: Path, n_column: int, first: int, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """What `read_columns` gives for some lines, of which the first has the number `first`."""
    if not any(map(str.strip, lines)):
        return  # quickly over many blank lines
    bare = _is_bare("".join(lines))
    for number, line in enumerate(lines, first):
        columns = line.split("\t", n_column)
        if not bare:
            columns = [*map(str.strip, columns)]
        if len(columns) == n_column and "" not in columns:
            yield number, columns
        elif line.strip():
            expected = f"expected {n_column} non-empty columns separated by tabs"
            raise DataError(f"{expected}, got {shorten(line)}", file, number)


def _is_bare(text: str) -> bool:
    """Whether a text surely has no white space but tabs, so that nothing needs to be stripped: a fast test."""
    return text.isascii() and not any(map(text.__contains__, " \r\v\f\x1c\x1d\x1e\x1f"))


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
        with open_file(file) as raw, _unpacked(file, raw) as stream:
            while block:
                block = stream.read(size)
                text = decoder.decode(block, final=not block)
                yield text
                line += text.count("\n")
    except UnicodeDecodeError as error:
        here = line + error.object.count(b"\n", 0, error.start)
        looks = next((f"; looks like {what}" for start, what in _STARTS.items() if error.object.startswith(start)), "")
        raise DataError(f"not UTF-8 ({error.reason}){looks if line == 1 else ''}", file, here) from None
    except (EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {reason}", file, line) from None


def _unpacked(file: Path, raw: BinaryIO) -> contextlib.AbstractContextManager[BinaryIO | gzip.GzipFile]:
    return gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else contextlib.nullcontext(raw)


def _find(folder: Path, stem: str) -> Path | None:
    """The one file of a folder with this name, whatever its ending."""
    try:
        present = set(os.listdir(folder))
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise DataError(f"cannot be read: {getattr(error, 'strerror', error)}", folder) from None
    names = [name for name in (f"{stem}{ending}" for ending in _SUFFIXES) if name in present]
    if len(names) > 1:
        raise DataError(f"has {' and '.join(names)}, of which only one may be: remove or rename the other", folder)
    return folder / names[0] if names else None


def _read_labels(folder: Path, stem: str) -> dict[str, str]:
    file = _find(folder, stem)
    return {} if file is None else {name: label for _, (name, label) in read_columns(file, 2)}


def _refuse_headers(
    triples: Mapping[str, Int32Array],
    entities: Sequence[str],
    relations: Sequence[str],
    starts: Mapping[str, tuple[Path, int]],
) -> None:
    """Raises DataError if a file starts with words of a header, and no other line has its relation."""
    firsts = {}
    for split, ids in triples.items():
        h, r, t = ids[0].tolist()
        words = (entities[h], relations[r], entities[t])
        if all(of.fullmatch(re.sub(r"[\W_]", "", word).lower()) for of, word in zip(_HEADER, words, strict=True)):
            firsts[split] = r
    for split, r in firsts.items():
        uses = sum(int(np.count_nonzero(ids[:, 1] == r)) for ids in triples.values())
        if uses == list(firsts.values()).count(r):
            file, number = starts[split]
            raise DataError(
                f"looks like a header, not like a triple: no other line has the relation {relations[r]!r}; remove the "
                "line",
                file,
                number,
            )
