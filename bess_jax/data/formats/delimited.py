"""Triples in text tables: TSV without quotes, CSV with them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bess_jax._compat import zip
from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError, DataWarning
from bess_jax.data.formats.cells import LONGEST, are_bare
from bess_jax.data.formats.header import (
    SIDES,
    Places,
    by_number,
    find_columns,
    guess_columns,
    is_number,
    looks_like_header,
    may_be_header,
)
from bess_jax.data.formats.vocabulary import Vocabulary
from bess_jax.data.text import LONGEST_LINE, has_odd_space, read_blocks, shorten

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may separate the columns of a CSV file, and what it is called."""

_SAMPLE = 20
"""Lines by which the delimiter of a CSV file is told."""

_LONGEST_FAST = 1 << 18
"""Characters of a block that is checked as a whole, at most: the check needs several times its memory."""

_DIALECT: dict[str, Any] = {"skipinitialspace": True, "strict": True}

_OPEN = "unexpected end of data"
"""What `csv` says where a quote is open at the end."""

_BAD_CSV = {
    "expected after": "a quote closes within a value: one is left open, here or before, or a quote is not doubled",
    "new-line": "a carriage return in a value without quotes",
    "field larger": "a value of more than 131,072 characters: is a quote left open?",
}
"""Part of a message of `csv` -> what is said."""


def read_delimited(file: Path, vocabulary: Vocabulary, columns: Sequence[str | int] | None, is_csv: bool) -> Int32Array:
    """Triples (n, 3) int32 of a text table; see docs/data.md for the rules.

    Raises:
        DataError: if something is wrong with the file.
    """
    table = _open(file, columns, is_csv)
    if table is None:
        return np.empty((0, 3), dtype=np.int32)
    counts = len(vocabulary.entities), len(vocabulary.relations)
    triples = table.read(vocabulary)
    words = [table.first[place] for place in table.places]
    doubt = ""
    if table.may_be_triple and words[1] in vocabulary.relations:
        vocabulary.forget(*counts)
        places = (0, 1, 2) if columns is None else table.places
        triples = dataclasses.replace(table, header=0, places=places).read(vocabulary)
        doubt = (
            f"looks like a header, but is read as a triple, since others have the relation {shorten(words[1], 40)}, "
            f"too: {', '.join(words)}; if it is a header, --columns {','.join(words)} says so"
        )
    elif table.header:
        if len(triples) and (columns is None or by_number(columns)):
            doubt = (
                f"taken for a header, not for a triple: {', '.join(words)} are read as head, relation, tail; "
                f"--columns {','.join(words)} says so without a warning"
            )
        _doubt_repeated_header(table, triples, words, vocabulary)
    elif may_be_header(triples, *counts):
        doubt = (
            "read as a triple, but nothing of it stands in another one, so that it may be a header: "
            f"{', '.join(words)}; if it is, "
            + ("remove the line" if any(map(is_number, words)) else f"--columns {','.join(words)} says so")
        )
    if doubt:
        warnings.warn(f"{file}, line {table.line}: {doubt}", DataWarning, stacklevel=2)
    return triples


@dataclasses.dataclass(frozen=True)
class _Table:
    """A text table.

    Attributes:
        file: the file.
        is_csv: whether quotes are those of CSV.
        delimiter: the character between columns.
        first: the first row.
        line: its number.
        places: of head, relation and tail.
        header: number of the line of the header, 0 without one.
        may_be_triple: whether the header is a triple if another row has its relation.
    """

    file: Path
    is_csv: bool
    delimiter: str
    first: Sequence[str]
    line: int = 1
    places: Places = (0, 1, 2)
    header: int = 0
    may_be_triple: bool = False

    def read(self, vocabulary: Vocabulary) -> Int32Array:
        """The triples, block by block."""
        doubts = _Doubts(self.file, self.is_csv)
        triples = np.concatenate([np.empty((0, 3), dtype=np.int32), *self._blocks(vocabulary, doubts)])
        doubts.tell()
        return triples

    def _blocks(self, vocabulary: Vocabulary, doubts: _Doubts) -> Iterator[Int32Array]:
        """Ids of some rows at a time."""
        number, rest = 1, ""
        for start, block in read_blocks(self.file):
            number, text = (number, f"{rest}\n{block}") if rest else (start, block)
            ids, rest = (None if number <= self.header else self._quickly(text, vocabulary)), ""
            if ids is None:
                rows, rest = _rows(text, number, self.delimiter, self.is_csv, self.file, len(self.first))
                columns = self._columns(rows, number)
                number += sum(map(_n_line, rows))
                if '"' in text:
                    doubts.look(columns)
                ids = vocabulary.ids(*columns)
            yield ids
            if len(rest) > LONGEST_LINE:
                break
        if rest:
            raise DataError("a quote that opens here is never closed", self.file, number)

    def _quickly(self, text: str, vocabulary: Vocabulary) -> Int32Array | None:
        """Ids of the triples in a text whose lines are all as they should be; None if they may not be."""
        if len(text) > _LONGEST_FAST or '"' in text or has_odd_space(text):
            return None
        n = len(self.first)
        raw = np.frombuffer(f"{text}\n".encode() + bytes(LONGEST), dtype=np.uint8)
        wanted = np.frombuffer((self.delimiter * (n - 1) + "\n").encode(), dtype=np.uint8)
        marks = np.flatnonzero((raw == wanted[0]) | (raw == wanted[-1]))
        if len(marks) % n or not (raw[marks].reshape(-1, n) == wanted).all():
            return None
        begins = np.append(0, marks[:-1] + 1).reshape(-1, n)
        starts, ends = ([of[:, place] for place in self.places] for of in (begins, marks.reshape(-1, n)))
        if not are_bare(raw, np.concatenate(starts), np.concatenate(ends)):
            return None
        return vocabulary.ids_of_cells(raw, starts, ends)

    def _columns(self, rows: list[list[str]], number: int) -> list[list[str]]:
        """The columns of rows, of which the first is in line `number`; raises DataError on the first bad one."""
        if number > self.header and {*map(len, rows)} == {len(self.first)}:
            columns = [[row[place].strip() for row in rows] for place in self.places]
            if not any("" in column for column in columns):
                return columns
        found: list[list[str]] = [[], [], []]
        for row in rows:
            if number != self.header and any(map(str.strip, row)):
                values = [row[place].strip() for place in self.places] if len(row) == len(self.first) else [""]
                if "" in values:
                    raise self.ragged(row, number)
                for column, value in zip(found, values, strict=True):
                    column.append(value)
            number += _n_line(row)
        return found

    def ragged(self, row: Sequence[str], number: int) -> DataError:
        """What is said of a row that is not as it should be."""
        text, by = self.delimiter.join(row), DELIMITERS[self.delimiter]
        expected = f"expected 3 non-empty columns separated by {by}"
        if len(self.first) > len(SIDES):
            h, r, t = self.places
            expected = f"expected {len(self.first)} columns separated by {by}, with values in {h}, {r} and {t} (from 0)"
        hint = ""
        if not self.is_csv and len(row) == 1:
            hint = next((f"; with {DELIMITERS[x]}, it must be called .csv" for x in ",;|" if text.count(x) > 1), "")
        return DataError(f"{expected}, got {shorten(text)}{hint}", self.file, number)


class _Doubts:
    """Names with a quote that may not be meant: their number, and the first ones."""

    def __init__(self, file: Path, is_csv: bool) -> None:
        self._file, self._is_csv = file, is_csv
        self._n = 0
        self._examples: list[str] = []

    def look(self, columns: list[list[str]]) -> None:
        """Counts those of some rows."""
        names = itertools.chain.from_iterable(columns)
        found = [name for name in names if ("\n" in name if self._is_csv else name.startswith('"'))]
        self._n += len(found)
        self._examples += found[: 3 - len(self._examples)]

    def tell(self) -> None:
        """Warns, if there are any."""
        if not self._n:
            return
        what = (
            "with an end of line, since it stands in quotes (is a quote left open?)"
            if self._is_csv
            else "with a quote at the start, which belongs to the name in a tab-separated file (not in one called .csv)"
        )
        shown = ", ".join(shorten(name, 40) for name in self._examples)
        warnings.warn(f"{self._file}: {self._n:,} names {what}: {shown}", DataWarning, stacklevel=2)


def _doubt_repeated_header(table: _Table, triples: Int32Array, words: Sequence[str], vocabulary: Vocabulary) -> None:
    """Warns if the header stands among the rows again, as where files were joined."""
    known = (vocabulary.entities, vocabulary.relations, vocabulary.entities)
    header = [ids.get(word, -1) for ids, word in zip(known, words, strict=True)]
    n = int((triples == header).all(axis=1).sum())
    if n:
        rows = "1 row is" if n == 1 else f"{n:,} rows are"
        text = f"{rows} the header once more, and read as a triple: {', '.join(words)}; remove what repeats it"
        warnings.warn(f"{table.file}: {text}", DataWarning, stacklevel=3)


def _open(file: Path, columns: Sequence[str | int] | None, is_csv: bool) -> _Table | None:
    """The table in a file, by its first lines; None if all are blank."""
    with contextlib.closing(read_blocks(file)) as blocks:
        number, text = next(((number, text) for number, text in blocks if text.strip()), (0, ""))
    if not number:
        return None
    delimiter = _delimiter(text, number, file, columns) if is_csv else "\t"
    first: list[str] = []
    rows, _ = _rows(text, number, delimiter, is_csv, file)
    for row in rows:
        first = [*map(str.strip, row)]
        if any(first):
            break
        number += _n_line(row)
    table = _Table(file, is_csv, delimiter, first, number)
    if len(first) < len(SIDES):
        raise table.ragged(first, number)
    places = find_columns(first, columns, file, number)
    named = columns is not None and not by_number(columns)
    if not named and not looks_like_header([first[place] for place in places]):
        return dataclasses.replace(table, places=places)
    may_be_triple = not named and (columns is not None or len(first) == len(SIDES))
    return dataclasses.replace(table, places=places, header=number, may_be_triple=may_be_triple)


def _delimiter(text: str, number: int, file: Path, columns: Sequence[str | int] | None) -> str:
    """The delimiter by which the first lines of a CSV file have equally many columns, three or more.

    Of several, that by which the wanted columns are there; then that by which there are three.
    """
    lines = [*itertools.islice(filter(str.strip, text.split("\n")), _SAMPLE)]
    found: dict[str, list[list[str]]] = {}
    for delimiter in DELIMITERS:
        rows: list[list[str]] = []
        with contextlib.suppress(csv.Error):  # a line that is wrong, or a quote that closes later
            rows.extend(csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, **_DIALECT))
        found[delimiter] = [[*map(str.strip, row)] for row in rows] or [[]]
    fits = {x: rows[0] for x, rows in found.items() if len(rows[0]) >= len(SIDES)}
    even = {x: row for x, row in fits.items() if {*map(len, found[x])} == {len(row)}}
    fits = even or fits
    if len(fits) > 1 and (columns is None or by_number(columns)):
        fits = {x: row for x, row in fits.items() if guess_columns(row)} or fits
    elif len(fits) > 1 and columns is not None:
        fits = {x: row for x, row in fits.items() if {*columns} <= {*row}} or fits
    if columns is not None and by_number(columns):
        fits = {x: row for x, row in fits.items() if len(row) > max(map(int, columns))} or fits
    if len(fits) > 1:
        three = {x: row for x, row in fits.items() if len(row) == len(SIDES)} or fits
        if len(three) == 1 < len(lines):
            taken, *others = sorted(fits, key=lambda x: x not in three)
            warnings.warn(
                f"{file}: columns are read as separated by {DELIMITERS[taken]}, since these make three, though "
                f"{' and '.join(DELIMITERS[x] for x in others)} stand equally often in each line, too; if they are "
                "meant, --columns with numbers or names says so",
                DataWarning,
                stacklevel=4,
            )
        fits = three
    if not fits:
        raise DataError(
            f"expected 3 columns or more, separated by {', '.join(DELIMITERS.values())}, got {shorten(lines[0])}"
            + ("; is a quote left open?" if '"' in lines[0] else ""),
            file,
            number + text[: text.index(lines[0])].count("\n"),
        )
    if len(fits) > 1:
        raise DataError(
            f"columns may be separated by {' or by '.join(DELIMITERS[x] for x in fits)}: put values that have both in "
            "quotes, or give names of a header by --columns",
            file,
        )
    return next(iter(fits))


def _rows(
    text: str, number: int, delimiter: str, is_csv: bool, file: Path, most: int = -1
) -> tuple[list[list[str]], str]:
    """Rows of a text whose first line has this number, and what follows a quote that is open at its end.

    A row of a TSV file with more than `most` columns has one more.
    """
    lines = text.split("\n")
    if not is_csv:
        return [line.split(delimiter, most) for line in lines], ""
    rows: list[list[str]] = []
    try:
        rows.extend(
            csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=True, strict=True)
        )
    except csv.Error as error:
        n_line = sum(map(_n_line, rows))
        if str(error) == _OPEN:
            return rows, "\n".join(lines[n_line:])
        reason = next((said for part, said in _BAD_CSV.items() if part in str(error)), str(error))
        raise DataError(reason, file, number + n_line) from None
    return rows, ""


def _n_line(row: list[str]) -> int:
    """Lines that a row takes."""
    return 1 + sum(value.count("\n") for value in row)
