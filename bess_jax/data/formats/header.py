"""Which columns of a table are head, relation and tail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bess_jax._compat import TypeAlias, zip
from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError
from bess_jax.data.names import near_spellings
from bess_jax.data.text import shorten

Places: TypeAlias = "tuple[int, int, int]"
"""Numbers of the columns of head, relation and tail, from 0."""

SIDES = ("head", "relation", "tail")

_WORDS = (
    r"h|heads?|s|subj|subjects?|src|sources?|from|start|(?:entity|node|e)1",
    r"r|rels?|relations?|relationship|p|preds?|predicates?|property|edges?|links?|types?|interactions?",
    r"t|tails?|o|obj|objects?|dst|targets?|to|end|(?:entity|node|e)2",
)
"""What the three columns are called in a header: letters and digits alone, lower case."""

_ENDINGS = r"(?:entity|type|id|name|label|uri|iri)*"
_PLAIN = tuple(re.compile(words) for words in _WORDS)
_LONGER = tuple(re.compile(f"(?:{words}){_ENDINGS}") for words in _WORDS)

_MOST_SHOWN = 20

_MANY = 10
"""Triples, at least, among which one that has nothing in common with the others is doubtful."""


def find_columns(
    names: Sequence[str], columns: Sequence[str | int] | None, file: Path, line: int | None = None
) -> Places:
    """Where head, relation and tail stand in a table whose columns have these names.

    Args:
        names: of all columns.
        columns: three of them by name, or by number from 0; None: those that are called like head, relation and tail,
            else the three that there are.
        file: the file, for messages.
        line: the line with the names, for messages.

    Raises:
        DataError: if there is no such column, or it is not clear which are meant.
    """
    if columns is None:
        places = guess_columns(names)
        if places is None and len(names) != len(SIDES):
            raise DataError(
                f"has {_listed(names)}, and it is not clear which are head, relation and tail: name them, as in "
                "--columns a,b,c or columns=('a', 'b', 'c'), or number them from 0",
                file,
                line,
            )
        return places or (0, 1, 2)
    if by_number(columns):
        places = (int(columns[0]), int(columns[1]), int(columns[2]))
        if max(places) >= len(names):
            raise DataError(f"has no column {max(places)}, counted from 0: it has {_listed(names)}", file, line)
        return places
    try:
        h, r, t = (find_column(name, names) for name in columns)
    except ValueError as error:
        raise DataError(str(error), file, line) from None
    return h, r, t


def guess_columns(names: Sequence[str]) -> Places | None:
    """The columns that are called like head, relation and tail; None unless it is one for each.

    A word as such ("head") is preferred to one with an ending ("head_type").
    """
    words = [re.sub(r"[\W_]", "", name).lower() for name in names]
    found = []
    for plain, longer in zip(_PLAIN, _LONGER, strict=True):
        places = [i for i, word in enumerate(words) if plain.fullmatch(word)]
        places = places or [i for i, word in enumerate(words) if longer.fullmatch(word)]
        if len(places) != 1:
            return None
        found += places
    return (found[0], found[1], found[2]) if len({*found}) == len(SIDES) else None


def check_columns(columns: Sequence[str | int] | None) -> None:
    """Raises ValueError unless `columns` are three names or three numbers, all different, or None."""
    if columns is None:
        return
    given = [*columns] if isinstance(columns, Sequence) and not isinstance(columns, str) else []
    different = {int(column) if is_number(column) else column for column in given}
    if len(given) != len(SIDES) or len(different) != len(SIDES):
        raise ValueError(f"columns must be three different names or numbers, as in ('h', 'r', 't'), got {columns!r}")
    if not all(map(is_number, given)) and (any(map(is_number, given)) or not all(isinstance(x, str) for x in given)):
        raise ValueError(f"columns must be three names or three numbers from 0, got {columns!r}")


def by_number(columns: Sequence[str | int]) -> bool:
    """Whether columns are given by number: 1 or "1"."""
    return all(map(is_number, columns))


def is_number(column: str | int) -> bool:
    """Whether a column is given by number."""
    if isinstance(column, str):
        return column.isascii() and column.isdecimal() and len(column) < 10
    return isinstance(column, (int, np.integer)) and not isinstance(column, bool) and column >= 0


def looks_like_header(words: Sequence[str]) -> bool:
    """Whether three words are what the columns of a table of triples are called, in any order."""
    return guess_columns(words) is not None


def may_be_header(triples: Int32Array, n_entity: int, n_relation: int) -> bool:
    """Whether nothing of the first of many triples (n, 3) stands in another one, or was among the names before.

    Args:
        triples: ids.
        n_entity: number of entities before.
        n_relation: number of relations before.
    """
    if len(triples) < _MANY or (triples[0] < (n_entity, n_relation, n_entity)).any():
        return False
    head, relation, tail = triples[0]
    others = triples[1:]
    if head == tail or (others[:, 1] == relation).any():
        return False
    entities = others[:, ::2]
    return not ((entities == head) | (entities == tail)).any()


def find_column(name: object, names: Sequence[object]) -> int:
    """Place of the one column with this name.

    Raises:
        ValueError: if there is none or several, in words that follow "the table".
    """
    places = [i for i, other in enumerate(names) if other == name]
    if len(places) > 1:
        raise ValueError(f"has {len(places)} columns called {shorten(name)}: rename all but one")
    if not places:
        near = near_spellings(str(name), [*map(str, names)], n=1)
        meant = next((other for other in names if str(other) in near), None)
        hint = "" if meant is None else f" (did you mean {meant!r}?)"
        raise ValueError(f"has no column {shorten(name)}{hint}: it has {_listed(names)}")
    return places[0]


def _listed(names: Sequence[object]) -> str:
    """Number and names of columns."""
    more = ", ..." if len(names) > _MOST_SHOWN else ""
    number = f"{len(names)} column" + ("" if len(names) == 1 else "s")
    return f"{number}: {', '.join(shorten(name, 30) for name in names[:_MOST_SHOWN])}{more}"
