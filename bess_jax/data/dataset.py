"""Knowledge graphs as arrays of ids, with the names of what the ids stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array
from bess_jax.data.archive import digest_of, load_graph, save_graph
from bess_jax.data.files import DataError
from bess_jax.data.formats.columnar import ids_of_arrays, ids_of_frame
from bess_jax.data.formats.folder import ordered_by_type, read_folder
from bess_jax.data.formats.sources import read_triples
from bess_jax.data.formats.vocabulary import Vocabulary, highest_id
from bess_jax.data.names import Names
from bess_jax.data.split import SPLIT, split_triples
from bess_jax.data.types import check_offsets, type_names

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
        ValueError: if a split is empty or not of shape (n, 3), candidates are not of a shape above, an id is out of
            range, names are not one string for each id, or first ids of types not as `check_offsets` wants them.

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
        held.update({f"negatives[{split!r}]": triples for split, triples in (self.negatives or {}).items()})
        for name, triples in held.items():
            if len(triples) == 0:
                raise ValueError(f"{name} must hold at least one triple, got none")
            _checks.shape(name, triples, (None, 3), "(n_triple, 3)")
            _checks.ids(name, triples, self.n_entity, "entity", columns=(0, 2))
            _checks.ids(name, triples, self.n_relation_type, "relation", columns=(1,))
        self._check_candidates()
        _checks.names("entity_dict", self.entity_dict, self.n_entity)
        _checks.names("relation_dict", self.relation_dict, self.n_relation_type)
        if self.type_offsets is not None:
            check_offsets(self.type_offsets, self.n_entity)

    def _check_candidates(self) -> None:
        for attribute, by_split in (("neg_heads", self.neg_heads), ("neg_tails", self.neg_tails)):
            for split, listed in (by_split or {}).items():
                name, n = f"{attribute}[{split!r}]", len(self.triples.get(split, ()))
                _checks.shape(name, listed, (None, None), "(1 or n_triple, n)")
                if len(listed) not in (1, n):
                    raise ValueError(
                        f"{name} must have 1 row for all or one for each of {n:,} triples, got {len(listed):,}"
                    )
                _checks.ids(name, listed, self.n_entity, "entity")

    def __repr__(self) -> str:
        splits = ", ".join(f"{split} {len(triples):,}" for split, triples in self.triples.items())
        return f"KGDataset({self.n_entity:,} entities, {self.n_relation_type:,} relations; triples: {splits})"

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        columns: Sequence[str | int] | None = None,
        split: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 1234,
    ) -> KGDataset:
        """Reads `train`, `valid` and `test` from a folder, in any format of `from_file`, and what lies beside them.

        Ids follow the order of first appearance over the three files; with `types` (entity, type), entities stand by
        type. `labels`, `relation_labels`, false triples and candidates are read where there are such files. What each
        holds, and what is refused, is in docs/data.md. Valid or test without a file are drawn from train.

        Args:
            path: the folder.
            columns: where head, relation and tail stand in tables, by name or number.
            split: parts of train, valid and test, where they are drawn.
            seed: of the draw.

        Raises:
            DataError: on a missing, doubled or unreadable file, an empty split, a malformed line or a header.
            ValueError: if no split can be drawn.
        """
        return cls(**read_folder(Path(path), columns, split, seed))

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        columns: Sequence[str | int] | None = None,
        split: Sequence[float] = SPLIT,
        seed: int = 1234,
        entity_types: Mapping[str, str] | None = None,
    ) -> KGDataset:
        """Reads triples from one file, and draws train, valid and test from them.

        The ending of its name tells the format: text tables, parquet, NumPy, RDF, see docs/data.md. Ids follow the
        order of first appearance, by type with `entity_types`; a matrix of ids keeps them.

        Args:
            path: the file.
            columns: which columns of a table are head, relation and tail: three names of its header, or three numbers
                from 0. None: those that are called so, else the three that there are.
            split: parts of train, valid and test, as `split_triples` takes them.
            seed: of the draw.
            entity_types: entity name -> type.

        Raises:
            DataError: if something is wrong with the file.
            ValueError: if `columns` or `split` are not as above, or no split can be drawn.
            MissingExtraError: (an ImportError) if the format needs a library that is not installed.
        """
        vocabulary = Vocabulary()
        triples = read_triples(Path(path), vocabulary, columns)
        return cls(**_drawn(vocabulary.attributes(), triples, split, seed, entity_types))

    @classmethod
    def from_dataframe(
        cls,
        df: Any,
        head_column: Hashable,
        relation_column: Hashable,
        tail_column: Hashable,
        entity_types: Mapping[str, str] | None = None,
        split: Sequence[float] = SPLIT,
        seed: int = 1234,
    ) -> KGDataset:
        """Takes triples from a data frame of pandas, polars or pyarrow; whole numbers are names, too.

        Args:
            df: the frame, from which train, valid and test are drawn; or split name -> frame.
            head_column: its column with the names of heads.
            relation_column: that with the names of relations.
            tail_column: that with the names of tails.
            entity_types: entity name -> type, a mapping or a pandas series.
            split: parts of train, valid and test, as `split_triples` takes them.
            seed: of the draw.

        Raises:
            ValueError: if there is no such column, a name is missing or no name, or no split can be drawn.

        BESS-KGE: `KGDataset.from_dataframe`.
        """
        columns = (head_column, relation_column, tail_column)
        vocabulary = Vocabulary()
        if not isinstance(df, Mapping):
            triples = ids_of_frame(df, columns, vocabulary, "df")
            return cls(**_drawn(vocabulary.attributes(), triples, split, seed, entity_types))
        if not df:
            raise ValueError("df holds no split: expected a frame, or split name -> frame")
        by_split = {name: ids_of_frame(frame, columns, vocabulary, f"df[{name!r}]") for name, frame in df.items()}
        attributes = {**vocabulary.attributes(), "triples": by_split}
        return cls(**(attributes if entity_types is None else ordered_by_type(attributes, type_names(entity_types))))

    @classmethod
    def from_triples(
        cls,
        data: NDArray[Any] | Sequence[Sequence[str]],
        split: Sequence[float] = SPLIT,
        seed: int = 1234,
        entity_dict: Sequence[str] | None = None,
        relation_dict: Sequence[str] | None = None,
        type_offsets: Mapping[str, int] | None = None,
    ) -> KGDataset:
        """Draws train, valid and test from triples in memory.

        Args:
            data: (n_triple, 3) ids, which are kept, or n rows of three names.
            split: parts of train, valid and test, as `split_triples` takes them.
            seed: of the draw.
            entity_dict: name of each entity, where `data` are ids.
            relation_dict: name of each relation, where `data` are ids.
            type_offsets: entity type -> first id of the type, where `data` are ids ordered by type.

        Raises:
            ValueError: if `data` are neither, nearly all ids are of nothing, names come with names, or no split can be
                drawn.

        BESS-KGE: `KGDataset.from_triples`.
        """
        rows = _rows(data)
        _checks.shape("data", rows, (None, 3), "(n_triple, 3)")
        if rows.dtype.kind in "iu":
            try:
                n = {
                    "n_entity": highest_id(rows[:, ::2]) + 1 if entity_dict is None else len(entity_dict),
                    "n_relation_type": highest_id(rows[:, 1]) + 1 if relation_dict is None else len(relation_dict),
                }
            except ValueError as error:
                raise ValueError(f"data {error}") from None
            _checks.ids("data", rows, n["n_entity"], "entity", columns=(0, 2))
            _checks.ids("data", rows, n["n_relation_type"], "relation", columns=(1,))
            names = {"entity_dict": entity_dict, "relation_dict": relation_dict, "type_offsets": type_offsets}
            return cls(**_drawn({**n, **names}, rows, split, seed))
        given = {"entity_dict": entity_dict, "relation_dict": relation_dict, "type_offsets": type_offsets}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} is for data of ids, but data does not hold whole numbers; leave it out")
        vocabulary = Vocabulary()
        triples = ids_of_arrays([*rows.T], ("head", "relation", "tail"), vocabulary, "data")
        return cls(**_drawn(vocabulary.attributes(), triples, split, seed))

    @classmethod
    def build_ogbl_biokg(cls, root: str | Path) -> KGDataset:
        """ogbl-biokg, with entity types and candidates, as OGB left it in a folder or else downloaded there.

        BESS-KGE: `KGDataset.build_ogbl_biokg`, where names of entities do not begin with their type.
        """
        return _public("ogbl-biokg", root)

    @classmethod
    def build_ogbl_wikikg2(cls, root: str | Path) -> KGDataset:
        """ogbl-wikikg2, with candidates, as OGB left it in a folder or else downloaded there.

        BESS-KGE: `KGDataset.build_ogbl_wikikg2`.
        """
        return _public("ogbl-wikikg2", root)

    @classmethod
    def build_yago310(cls, root: str | Path) -> KGDataset:
        """YAGO3-10, from the text files in a folder or else downloaded there.

        BESS-KGE: `KGDataset.build_yago310`.
        """
        return _public("yago3-10", root)

    @classmethod
    def build_openbiolink(cls, root: str | Path) -> KGDataset:
        """OpenBioLink2020, high quality, with entity types, from `HQ_DIR` in a folder or else downloaded there.

        BESS-KGE: `KGDataset.build_openbiolink`.
        """
        return _public("openbiolink", root)

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

    def save(self, out_file: str | Path) -> None:
        """Writes the graph into one `.npz` file, with checksums, all of it or nothing.

        Raises:
            ValueError: if a name is not Unicode text (it has a surrogate).
            OSError: if the file cannot be written.
        """
        save_graph(self, Path(out_file))

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


def _rows(data: Any) -> NDArray[Any]:
    """Rows in memory as an array: of ids, or of what stands in them, which NumPy would make strings of."""
    if isinstance(data, np.ndarray):
        return data
    try:
        rows = np.asarray(data)
    except ValueError:
        raise ValueError("data must have rows of three, got rows of different lengths") from None
    return rows if rows.dtype.kind in "iu" else np.asarray(data, dtype=object)


def _public(name: str, root: str | Path) -> KGDataset:
    """A public graph in a folder."""
    from bess_jax.data.graphs.public import load_public  # which makes a `KGDataset`

    return load_public(name, root=Path(root))


def _label(index: int, names: Sequence[str] | None, labels: Mapping[str, str]) -> str:
    if names is None:
        return str(index)
    return labels.get(names[index], names[index])


def _drawn(
    attributes: Mapping[str, Any],
    triples: NDArray[Any],
    split: Sequence[float],
    seed: int,
    entity_types: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Attributes with splits that are drawn from triples (n, 3)."""
    rows = split_triples(triples, split, seed)
    by_split = {name: triples[of_split].astype(np.int32) for name, of_split in rows.items()}
    drawn = {**attributes, "triples": by_split, "original_triple_ids": rows}
    return drawn if entity_types is None else ordered_by_type(drawn, type_names(entity_types))
