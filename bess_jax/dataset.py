"""Knowledge graphs as arrays of ids, with the names of what the ids stand for."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from bess_jax import _checks
from bess_jax._typing import Int32Array

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
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

    def __post_init__(self) -> None:
        _checks.at_least("n_entity", self.n_entity, 1)
        _checks.at_least("n_relation_type", self.n_relation_type, 1)
        for split, triples in self.triples.items():
            name = f"triples[{split!r}]"
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

    @classmethod
    def from_folder(cls, path: str | Path) -> KGDataset:
        """Reads `train`, `valid` and `test` (`.txt` or `.tsv`, plain or `.gz`) from a folder.

        One triple a line: head, relation, tail, separated by tabs, UTF-8. Ids follow the order of first appearance over
        the three files. `labels` and `relation_labels` (name, tab, label), where present, give names to read.

        Raises:
            ValueError: on a missing folder or file, an empty split, or a malformed line (named by file and number).
        """
        folder = Path(path)
        if not folder.is_dir():
            raise ValueError(f"dataset {str(path)!r} is neither a shipped graph nor a folder with {', '.join(SPLITS)}")
        entities: dict[str, int] = {}
        relations: dict[str, int] = {}
        triples: dict[str, Int32Array] = {}
        for split in SPLITS:
            file = _find(folder, split)
            if file is None:
                raise ValueError(f"{folder} has no file {split}.txt or {split}.tsv (plain or .gz)")
            rows = [
                (
                    entities.setdefault(h, len(entities)),
                    relations.setdefault(r, len(relations)),
                    entities.setdefault(t, len(entities)),
                )
                for h, r, t in _read_columns(file, 3)
            ]
            if not rows:
                raise ValueError(f"{file} holds no triple; a split must hold at least one")
            triples[split] = np.array(rows, dtype=np.int32)
        return cls(
            n_entity=len(entities),
            n_relation_type=len(relations),
            triples=triples,
            entity_dict=tuple(entities),
            relation_dict=tuple(relations),
            entity_labels=_read_labels(folder, "labels"),
            relation_labels=_read_labels(folder, "relation_labels"),
        )

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

    def find_entity(self, text: str) -> int:
        """Id of the entity with this name, this label or this number, looked up in that order.

        Raises:
            ValueError: if there is none, or if the label is that of several entities.
        """
        return _find_id("entity", text, self.n_entity, self.entity_dict, self.entity_labels)

    def find_relation(self, text: str) -> int:
        """Id of the relation with this name, label or number, as `find_entity`."""
        return _find_id("relation", text, self.n_relation_type, self.relation_dict, self.relation_labels)

    def fingerprint(self) -> str:
        """Hash of names and sizes: two graphs with the same one give every id the same meaning."""
        digest = hashlib.sha256(f"{self.n_entity} {self.n_relation_type}".encode())
        for names in (self.entity_dict, self.relation_dict):
            digest.update("\n".join(names or ()).encode() + b"\0")
        return digest.hexdigest()[:16]


def _find(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{suffix}" for suffix in (".txt", ".tsv", ".txt.gz", ".tsv.gz"))
    return next((file for file in files if file.is_file()), None)


def _read_columns(file: Path, n_column: int) -> Iterator[list[str]]:
    """Lines of a tab-separated UTF-8 file as lists of `n_column` non-empty strings; blank lines are skipped."""
    number = 0
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                line = line.rstrip("\r\n")
                if not line:
                    continue
                columns = line.split("\t")
                if len(columns) != n_column or not all(columns):
                    raise ValueError(
                        f"{file}, line {number}: expected {n_column} non-empty columns separated by tabs, got {line!r}"
                    )
                yield columns
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{file}, after line {number}: not readable as UTF-8 text ({error})") from error


def _read_labels(folder: Path, stem: str) -> dict[str, str]:
    file = _find(folder, stem)
    return {} if file is None else dict(_read_columns(file, 2))


def _label(index: int, names: Sequence[str] | None, labels: Mapping[str, str]) -> str:
    if names is None:
        return str(index)
    return labels.get(names[index], names[index])


def _find_id(what: str, text: str, n: int, names: Sequence[str] | None, labels: Mapping[str, str]) -> int:
    if names is not None:
        if text in names:
            return names.index(text)
        same = [name for name, label in labels.items() if label == text]
        if len(same) == 1:
            return names.index(same[0])
        if same:
            shown = ", ".join(same[:10])
            raise ValueError(f"{what} label {text!r} is not unique: give one of the names {shown}")
    if text.isdecimal():
        if int(text) < n:
            return int(text)
        raise ValueError(f"{what} {text} is out of range: no {what} has this name, and ids go from 0 to {n - 1}")
    raise ValueError(f"no {what} is named or labelled {text!r}")
