"""Knowledge graphs as arrays of ids, with the names of what the ids stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array
from bess_jax.data.archive import digest_of, load_graph, save_graph
from bess_jax.data.files import DataError
from bess_jax.data.names import Names
from bess_jax.data.text import read_folder

_MOST_IDS = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KGDataset:
    """A knowledge graph: triples (head, relation, tail) by split, in ids.

    Attributes:
        n_entity: number of entities; `entity_global` ids go from 0 to `n_entity - 1`.
        n_relation_type: number of relation types.
        triples: split name -> (n_triple, 3) int32, `entity_global` head, relation, `entity_global` tail.
        entity_dict: name of each entity, in the order of the ids, or None.
        relation_dict: name of each relation, or None.
        entity_labels: entity name -> label for people to read; entities without one are shown by name.
        relation_labels: the same for relations.
        type_offsets: entity type -> first id of the type, where entities are ordered by type, or None.
        neg_heads: split name -> (1 or n_triple, n) int32 `entity_global` candidates to replace heads, or None.
        neg_tails: the same for tails.
        negatives: split name -> (n, 3) int32 triples that are known to be false, for classification, or None.
        original_triple_ids: split name -> (n_triple,) int64 row of each triple in the data that a split was drawn from,
            or None. Not a part of the graph: `digest` leaves it out.

    Raises:
        ValueError: if a split is empty or not of shape (n, 3), an id is out of range, or a list of names has another
            length than the ids.

    BESS-KGE: `KGDataset`.
    """

    n_entity: int
    n_relation_type: int
    triples: Mapping[str, Int32Array]
    entity_dict: Sequence[str] | None = None
    relation_dict: Sequence[str] | None = None
    entity_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    relation_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    type_offsets: Mapping[str, int] | None = None
    neg_heads: Mapping[str, Int32Array] | None = None
    neg_tails: Mapping[str, Int32Array] | None = None
    negatives: Mapping[str, Int32Array] | None = None
    original_triple_ids: Mapping[str, NDArray[np.int64]] | None = None

    def __post_init__(self) -> None:
        _checks.at_least("n_entity", self.n_entity, 1)
        _checks.at_least("n_relation_type", self.n_relation_type, 1)
        for name, n in (("n_entity", self.n_entity), ("n_relation_type", self.n_relation_type)):
            if n > _MOST_IDS:
                raise ValueError(f"{name} must be at most {_MOST_IDS:,}, since ids are int32, got {n:,}")
        held = {f"triples[{split!r}]": triples for split, triples in self.triples.items()}
        held |= {f"negatives[{split!r}]": triples for split, triples in (self.negatives or {}).items()}
        for name, triples in held.items():
            if len(triples) == 0:
                raise ValueError(f"{name} must hold at least one triple, got none")
            _checks.shape(name, triples, (None, 3), "(n_triple, 3)")
            _checks.ids(name, triples, self.n_entity, "entity", columns=(0, 2))
            _checks.ids(name, triples, self.n_relation_type, "relation", columns=(1,))
        for name, names, n in (
            ("entity_dict", self.entity_dict, self.n_entity),
            ("relation_dict", self.relation_dict, self.n_relation_type),
        ):
            if names is not None and len(names) != n:
                raise ValueError(f"{name} must have one name for each of the {n} ids, got {len(names)} names")

    def __repr__(self) -> str:
        splits = ", ".join(f"{split} {len(triples):,}" for split, triples in self.triples.items())
        return f"KGDataset({self.n_entity:,} entities, {self.n_relation_type:,} relations; triples: {splits})"

    @classmethod
    def from_folder(cls, path: str | Path) -> KGDataset:
        """Reads `train`, `valid` and `test` (`.txt` or `.tsv`, plain or `.gz`) from a folder.

        One triple a line: head, relation, tail, separated by tabs, UTF-8. Ids follow the order of first appearance over
        the three files. `labels` and `relation_labels` (name, tab, label), where present, give names to read. What else
        a line may hold, and what is refused, is in docs/data.md.

        Raises:
            DataError: on a missing, doubled or unreadable file, an empty split, a malformed line or a header.
        """
        return cls(**read_folder(Path(path)))

    @classmethod
    def load(cls, path: str | Path) -> KGDataset:
        """Reads the graph that `save` wrote.

        Raises:
            DataError: if the file cannot be read, is damaged, or is another one.
        """
        attributes = load_graph(Path(path))
        try:
            return cls(**attributes)
        except ValueError as error:
            raise DataError(str(error), Path(path)) from None

    def save(self, path: str | Path) -> None:
        """Writes the graph into one `.npz` file, with checksums, all of it or nothing.

        Raises:
            ValueError: if a name is not Unicode text (it has a surrogate).
            OSError: if the file cannot be written.
        """
        save_graph(self, Path(path))

    def digest(self) -> dict[str, str]:
        """SHA-256, hexadecimal, of each part of the graph: graphs with equal digests are equal, and so are their ids.

        Returns:
            "entities" and "relations" (number and names), "labels" (of both), "triples/train" and so on for each split,
            and, where there are any, "types", "candidates" (`neg_heads`, `neg_tails`) and "negatives".
        """
        return digest_of(self)

    @cached_property
    def ht_types(self) -> dict[str, Int32Array] | None:
        """Split name -> (n_triple, 2) int32 types of head and tail, or None without `type_offsets`."""
        if self.type_offsets is None:
            return None
        offsets = np.fromiter(self.type_offsets.values(), dtype=np.int64)
        return {
            split: (np.searchsorted(offsets, triples[:, [0, 2]], side="right") - 1).astype(np.int32)
            for split, triples in self.triples.items()
        }

    def all_triples(self) -> Int32Array:
        """The triples of all splits, (n_triple, 3) int32: what a filtered rank leaves out."""
        return np.concatenate(list(self.triples.values()))

    def entity_label(self, entity: int) -> str:
        """Label of an `entity_global` id: the readable one, else the name, else the id itself."""
        return _label(entity, self.entity_dict, self.entity_labels)

    def relation_label(self, relation: int) -> str:
        """Label of a relation id, as `entity_label`."""
        return _label(relation, self.relation_dict, self.relation_labels)

    def find_entity(self, what: str | int) -> int:
        """Id of the entity with this name, this label or this number, looked up in that order; an int is an id.

        Raises:
            ValueError: if there is none, telling the nearest spellings, or if the label is that of several entities.
        """
        return self._entities.find(what)

    def find_relation(self, what: str | int) -> int:
        """Id of the relation with this name, label or number, as `find_entity`."""
        return self._relations.find(what)

    def find_entities(self, what: Iterable[str | int]) -> Int32Array:
        """Ids (n,) int32 of several entities, each as in `find_entity`."""
        return np.array([self._entities.find(item) for item in what], dtype=np.int32)

    @cached_property
    def _entities(self) -> Names:
        return Names("entity", self.n_entity, self.entity_dict, self.entity_labels)

    @cached_property
    def _relations(self) -> Names:
        return Names("relation", self.n_relation_type, self.relation_dict, self.relation_labels)


def _label(index: int, names: Sequence[str] | None, labels: Mapping[str, str]) -> str:
    if names is None:
        return str(index)
    return labels.get(names[index], names[index])
