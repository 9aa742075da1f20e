"""Ids of names in the order in which they appear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Dict  # noqa: UP035

import numpy as np
from numpy.typing import NDArray

from bess_jax._typing import Int32Array
from bess_jax.data.formats.cells import Cells
from bess_jax.data.text import MARK, is_bare

_MOST_GAPS = 100
"""New ids for each triple, at most, where ids are kept: an id that no triple has takes as much memory as others."""


class Vocabulary:
    """Ids of the names in all triples that are read with it, in order of first appearance: head before tail.

    Attributes:
        entities: name -> `entity_global` id.
        relations: name -> relation id.
        entity_labels: name -> label for people to read, of entities and relations, where a file of triples has labels.
    """

    def __init__(self) -> None:
        self.entities: dict[str, int] = _Ids()
        self.relations: dict[str, int] = _Ids()
        self.entity_labels: dict[str, str] = {}
        self._cells = Cells(self.entities), Cells(self.relations)

    def ids(self, head: Sequence[str], relation: Sequence[str], tail: Sequence[str]) -> Int32Array:
        """Ids (n, 3) int32 of triples in three columns of n names; new names get the next ids."""
        n = len(head)
        both = [""] * (2 * n)
        both[::2], both[1::2] = head, tail
        found = np.empty((n, 3), dtype=np.int32)
        found[:, [0, 2]] = np.fromiter(map(self.entities.__getitem__, both), np.int32, 2 * n).reshape(n, 2)
        found[:, 1] = np.fromiter(map(self.relations.__getitem__, relation), np.int32, n)
        return found

    def ids_of_cells(
        self, raw: NDArray[np.uint8], starts: Sequence[NDArray[np.intp]], ends: Sequence[NDArray[np.intp]]
    ) -> Int32Array:
        """Ids (n, 3) int32 of triples whose names stand in the bytes of a text.

        Args:
            raw: as `Cells.ids` takes it.
            starts: places (n,) of the first bytes of heads, relations and tails.
            ends: places after the last ones.
        """
        of_entities, of_relations = self._cells
        both = [np.stack([column[0], column[2]], axis=1).ravel() for column in (starts, ends)]
        found = np.empty((len(starts[0]), 3), dtype=np.int32)
        found[:, [0, 2]] = of_entities.ids(raw, *both).reshape(-1, 2)
        found[:, 1] = of_relations.ids(raw, starts[1], ends[1])
        return found

    def numbered(self, triples: NDArray[Any]) -> Int32Array:
        """Triples (n, 3) that are ids already: they are kept, and the name of an id is its number.

        Raises:
            ValueError: if an id is negative or not int32, nearly all ids below the highest are of nothing, or other
                names were read before.
        """
        if len(triples) and (triples.min() < 0 or triples.max() > np.iinfo(np.int32).max):
            raise ValueError(f"ids must be from 0 to 2,147,483,647, got {triples.min()} to {triples.max()}")
        for known, ids in ((self.entities, triples[:, [0, 2]]), (self.relations, triples[:, 1])):
            if known and known.get(str(len(known) - 1)) != len(known) - 1:
                raise ValueError("holds ids, but the triples before it have names: all must be of one kind")
            for i in range(len(known), highest_id(ids, len(known)) + 1):
                known[str(i)] = i
        return triples.astype(np.int32)

    def attributes(self) -> dict[str, Any]:
        """Attributes of a `KGDataset` with these names: numbers, names and labels."""
        return {
            "n_entity": len(self.entities),
            "n_relation_type": len(self.relations),
            "entity_dict": tuple(self.entities),
            "relation_dict": tuple(self.relations),
            "entity_labels": {name: label for name, label in self.entity_labels.items() if name in self.entities},
            "relation_labels": {name: label for name, label in self.entity_labels.items() if name in self.relations},
        }

    def forget(self, n_entity: int, n_relation: int) -> None:
        """Forgets all names but the first ones."""
        for known, n in ((self.entities, n_entity), (self.relations, n_relation)):
            while len(known) > n:
                known.popitem()
        for cells in self._cells:
            cells.clear()


def highest_id(ids: NDArray[Any], n_known: int = 0) -> int:
    """The highest of ids in triples, (n, 1) or (n, 2) or (n,), that are kept; -1 without any.

    Raises:
        ValueError: if nearly all ids below it are of nothing, and it is beyond those that are known.
    """
    highest = int(ids.max()) if ids.size else -1
    if highest > n_known + _MOST_GAPS * len(ids):
        raise ValueError(
            f"holds ids up to {highest:,} in {len(ids):,} triples, so that nearly all ids are of nothing: "
            "write them as strings, which are names, or number what there is from 0"
        )
    return highest


class _Ids(Dict[str, int]):  # noqa: UP006 - as Python 3.8 has it
    """The next number for a key that is new."""

    def __missing__(self, name: str) -> int:
        n = self[name] = len(self)
        return n


class BadNameError(ValueError):
    """A name that none may have; `row` of the column, and why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(row, reason)
        self.row, self.reason = row, reason


def clean_names(names: list[str]) -> list[str]:
    """Names by the rules of docs/data.md: without byte-order marks and the white space around them.

    Raises:
        BadNameError: if one is empty, has a NUL, or is no Unicode text.
    """
    text = "".join(names)
    if "\0" in text:
        row = next(i for i, name in enumerate(names) if "\0" in name)
        raise BadNameError(row, f"a NUL, which is not text, in {names[row][:80]!r}")
    if not is_bare(text) or "\t" in text:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            row = next(i for i, name in enumerate(names) if error.object[error.start] in name)
            raise BadNameError(row, f"not Unicode text (a surrogate): {names[row][:80]!r}") from None
        names = [name.replace(MARK, "").strip() for name in names]
    if "" in names:
        raise BadNameError(names.index(""), "an empty name")
    return names
