"""Which columns of a table are head, relation and tail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from bess_jax.data.files import DataError
from bess_jax.data.names import near_spellings
from bess_jax.data.text import shorten

Places: TypeAlias = tuple[int, int, int]
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
    if isinstance(columns, str) or len(columns) != len(SIDES) or len({*map(str, columns)}) != len(SIDES):
        raise ValueError(f"columns must be three different names or numbers, as in ('h', 'r', 't'), got {columns!r}")
    n_number = sum(map(is_number, columns))
    if n_number not in (0, len(SIDES)):
        raise ValueError(f"columns must be three names or three numbers from 0, got {columns!r}")


def by_number(columns: Sequence[str | int]) -> bool:
    """Whether columns are given by number: 1 or "1"."""
    return all(map(is_number, columns))


def is_number(column: str | int) -> bool:
    """Whether a column is given by number."""
    return not isinstance(column, str) or (column.isascii() and column.isdecimal() and len(column) < 10)


def looks_like_header(words: Sequence[str]) -> bool:
    """Whether three words are what the columns of a table of triples are called, in this order."""
    return guess_columns(words) == (0, 1, 2)


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
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"has no column {shorten(name)}{hint}: it has {_listed(names)}")
    return places[0]


def _listed(names: Sequence[object]) -> str:
    """Number and names of columns."""
    more = ", ..." if len(names) > _MOST_SHOWN else ""
    number = f"{len(names)} column" + ("" if len(names) == 1 else "s")
    return f"{number}: {', '.join(shorten(name, 30) for name in names[:_MOST_SHOWN])}{more}"
