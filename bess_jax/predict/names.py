"""What users ask about, by name, label or number, as ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array, Side
from bess_jax.ask.known import COLUMNS
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataError
from bess_jax.data.text import read_columns, shorten

ASKED = "?"
"""Stands in a query for what is asked."""

Name: TypeAlias = str | int
"""Name, label or number of an entity or a relation; as int, an id."""
Names: TypeAlias = Name | Iterable[Name]
Triples: TypeAlias = str | Path | NDArray[Any] | Iterable[Iterable[Any]]
"""The name of a split, a file with three columns separated by tabs, ids (n, 3), or rows or a frame of three names."""
_Find: TypeAlias = Callable[[KGDataset, Iterable[Any]], tuple[int, int, int]]


class Query(NamedTuple):
    """Queries of any side."""

    triples: Int32Array  # (Q, 3) in global ids; the requested column means nothing
    asked: NDArray[np.intp]  # (Q,) requested column: 0 for heads, 1 for relations, 2 for tails

    @property
    def sides(self) -> list[Side]:
        """The requested sides."""
        return [side for side, column in COLUMNS.items() if column in self.asked]

    def rows(self, rows: slice) -> Query:
        """Some of the queries."""
        return Query(self.triples[rows], self.asked[rows])


def name_ids(dataset: KGDataset, what: Literal["entity", "relation"], names: Names) -> Int32Array:
    """Ids (n,) int32 of one entity or relation, or of several.

    Raises:
        ValueError: on an unknown name.
    """
    items = [names] if isinstance(names, str | int | np.integer) else list(names)
    find = dataset.find_entity if what == "entity" else dataset.find_relation
    return np.array([find(item) for item in items], dtype=np.int32)


def make_query(dataset: KGDataset, head: Names | None, relation: Names | None, tail: Names | None) -> Query:
    """Queries for the one that is None; lists are of one length, and what is given once stands for all.

    Raises:
        ValueError: unless exactly one is None; on an unknown name, or lists of different lengths.
    """
    given = {"head": head, "relation": relation, "tail": tail}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise ValueError(
            "exactly one of head, relation and tail must be missing, the one that is asked for; missing: "
            f"{', '.join(missing) or 'none'}"
        )
    found = [
        np.zeros(1, np.int32)
        if value is None
        else name_ids(dataset, "relation" if name == "relation" else "entity", value)
        for name, value in given.items()
    ]
    n = next((len(ids) for ids in found if len(ids) != 1), 1)
    if any(len(ids) not in (1, n) for ids in found):
        lengths = ", ".join(f"{len(ids)} of {name}" for name, ids in zip(given, found, strict=True))
        raise ValueError(f"lists of names must be of one length, got {lengths}")
    triples = np.stack([np.broadcast_to(ids, n) for ids in found], axis=1)
    return Query(triples, np.full(n, list(given).index(missing[0])))


def read_queries(dataset: KGDataset, rows: str | Path | Iterable[Iterable[Name | None]]) -> Query:
    """Queries (head, relation, tail) with None or "?" for what is asked, or a file of them.

    Raises:
        ValueError: on a malformed row or an unknown name, named by the number of the row from 0; a DataError, with file
            and line, where they are in a file.
    """
    ids = _rows_as_ids(dataset, Path(rows) if isinstance(rows, str) else rows, _find_query)
    return Query(np.maximum(ids, 0), np.argmin(ids, axis=1))  # what is asked is -1


def triple_ids(dataset: KGDataset, triples: Triples) -> Int32Array:
    """Ids (n, 3) int32 of triples.

    Raises:
        ValueError: on an unknown name or split, an id out of range, or a malformed row, named by the number of the row
            from 0; a DataError, with file and line, where they are in a file.
    """
    if isinstance(triples, str):
        _checks.one_of("split", triples, tuple(dataset.triples))
        return dataset.triples[triples]
    array = triples.to_numpy() if hasattr(triples, "to_numpy") else triples
    if isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.integer):
        _checks.shape("triples", array, (None, 3), "(n, 3)")
        _checks.ids("triples", array, dataset.n_entity, "entity", columns=(0, 2))
        _checks.ids("triples", array, dataset.n_relation_type, "relation", columns=(1,))
        return array.astype(np.int32)
    return _rows_as_ids(dataset, array, _find_triple)


def candidate_lists(
    dataset: KGDataset, split: Triples, sides: Sequence[Side], filter: Iterable[str] | None = None
) -> dict[Side, Int32Array]:
    """Side -> the candidates (1 or n, c) that the graph lists for the n triples of a split.

    Raises:
        ValueError: if `split` names no split, a side has no lists, or splits are given to leave out.
    """
    if not (isinstance(split, str) and split in dataset.triples):
        raise ValueError("listed candidates are those of a split: give its name as triples")
    if filter is not None and tuple(filter):
        raise ValueError("listed candidates are ranked as they are: leave filter out, or give ()")
    of_side = {"head": ("neg_heads", dataset.neg_heads), "tail": ("neg_tails", dataset.neg_tails)}
    lists: dict[Side, Int32Array] = {}
    for side in sides:
        attribute, by_split = of_side.get(side, ("", None))
        if by_split is None or split not in by_split:
            held = [other for other, (_, found) in of_side.items() if found is not None and split in found]
            raise ValueError(
                f"the graph lists no candidates for the {side}s of split {split!r}"
                f"{f' (KGDataset.{attribute})' if attribute else ''}; sides that have some: {', '.join(held) or 'none'}"
            )
        lists[side] = by_split[split]
    return lists


def read_entities(dataset: KGDataset, file: Path) -> Int32Array:
    """Ids (n,) int32 of the entities in a file, one a line by name, label or number.

    Raises:
        DataError: on an unknown name or a malformed line, or if there is no entity.
    """
    found = []
    for number, (name,) in read_columns(file, 1):
        try:
            found.append(dataset.find_entity(name))
        except ValueError as error:
            raise DataError(str(error), file, number) from None
    if not found:
        raise DataError("names no entity; candidates must be at least one", file)
    return np.array(found, dtype=np.int32)


def _rows_as_ids(dataset: KGDataset, rows: Path | Iterable[Iterable[Any]], find: _Find) -> Int32Array:
    """Ids (n, 3) of rows of three names, or of a file of them, as `read_columns` reads it."""
    numbered = read_columns(rows, len(COLUMNS)) if isinstance(rows, Path) else enumerate(rows)
    found = []
    for number, row in numbered:
        try:
            found.append(find(dataset, row))
        except ValueError as error:
            if isinstance(rows, Path):
                raise DataError(str(error), rows, number) from None
            raise ValueError(f"row {number}: {error}") from None
    return np.array(found, dtype=np.int32).reshape(-1, len(COLUMNS))


def _find_query(dataset: KGDataset, row: Iterable[Name | None]) -> tuple[int, int, int]:
    items = [None if isinstance(item, str) and item == ASKED else item for item in row]
    if len(items) != len(COLUMNS) or sum(item is None for item in items) != 1:
        shown = ", ".join(ASKED if item is None else shorten(str(item)) for item in items)
        raise ValueError(f"a query is (head, relation, tail) with {ASKED!r} for one of them, got ({shown})")
    head, relation, tail = items
    return (
        -1 if head is None else dataset.find_entity(head),
        -1 if relation is None else dataset.find_relation(relation),
        -1 if tail is None else dataset.find_entity(tail),
    )


def _find_triple(dataset: KGDataset, row: Iterable[Name]) -> tuple[int, int, int]:
    items = list(row)
    if len(items) != len(COLUMNS):
        raise ValueError(f"a triple is (head, relation, tail), got {items}")
    return dataset.find_entity(items[0]), dataset.find_relation(items[1]), dataset.find_entity(items[2])
