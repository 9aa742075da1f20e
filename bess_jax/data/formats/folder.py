"""A graph in a folder: splits, and what lies beside them: types, labels, false triples, candidates."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import zip
from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError, DataWarning
from bess_jax.data.formats.sources import ENDINGS, is_triples_file, read_triples
from bess_jax.data.formats.vocabulary import Vocabulary
from bess_jax.data.split import split_triples
from bess_jax.data.text import read_columns, read_lines, shorten
from bess_jax.data.types import order_by_type

SPLITS: Mapping[str, Sequence[str]] = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}
"""Split -> what its files may be called, before their ending."""

_BESIDE = (".txt", ".tsv", ".txt.gz", ".tsv.gz")
"""Endings of the files beside the splits."""

CANDIDATES = {"neg_heads": "head_candidates", "neg_tails": "tail_candidates"}
"""Attribute of `KGDataset` -> what its files are called, after the split."""


def read_folder(folder: Path, columns: Sequence[str | int] | None, split: Sequence[float], seed: int) -> dict[str, Any]:
    """Attributes of the `KGDataset` in a folder; see `KGDataset.from_folder`.

    Args:
        folder: the folder.
        columns: as `read_triples` takes them.
        split: parts of train, valid and test, where valid or test have no file.
        seed: of the draw.

    Raises:
        DataError: if something is wrong with a file, there is none for train, or two for one split.
        ValueError: if no split can be drawn.
    """
    present = _listing(folder)
    vocabulary = Vocabulary()
    given = {}
    for name, stems in SPLITS.items():
        file = find_file(folder, present, stems, ENDINGS)
        if file is not None:
            given[name] = read_triples(file, vocabulary, columns)
    if "train" not in given:
        raise DataError(_without_train(present), folder)
    _doubt_unread(folder, present, given)
    triples, rows = _with_drawn(folder, given, split, seed)
    beside = Beside(folder, present, vocabulary)
    attributes = vocabulary.attributes()
    attributes["entity_labels"].update(beside.pairs("labels"))
    attributes["relation_labels"].update(beside.pairs("relation_labels"))
    attributes.update({"triples": triples, "original_triple_ids": rows})
    attributes.update({**beside.negatives(), **beside.candidates(given)})
    types = beside.types()
    return attributes if types is None else ordered_by_type(attributes, types)


def ordered_by_type(attributes: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """Attributes of a `KGDataset` with other ids: entities stand by type, see `order_by_type`.

    Args:
        attributes: those of the graph with ids in any order, and `entity_dict`.
        types: entity name -> type.
    """
    new_id, offsets = order_by_type(attributes["entity_dict"], types)
    names = np.empty(len(new_id), dtype=object)
    names[new_id] = attributes["entity_dict"]

    def renamed(by_split: Mapping[str, Int32Array] | None, columns: Any) -> dict[str, Int32Array] | None:
        if by_split is None:
            return None
        out = {split: ids.copy() for split, ids in by_split.items()}
        for ids in out.values():
            ids[:, columns] = new_id[ids[:, columns]]
        return out

    changed: dict[str, Any] = {"entity_dict": tuple(names), "type_offsets": offsets}
    for name, columns in (
        ("triples", [0, 2]),
        ("negatives", [0, 2]),
        ("neg_heads", slice(None)),
        ("neg_tails", slice(None)),
    ):
        changed[name] = renamed(attributes.get(name), columns)
    return {**attributes, **changed}


def find_file(folder: Path, present: Iterable[str], stems: Sequence[str], endings: Sequence[str]) -> Path | None:
    """The one file of a folder that is called like this, in upper or lower case.

    Raises:
        DataError: if there are several.
    """
    wanted = {f"{stem}{ending}" for stem in stems for ending in endings}
    names = sorted(name for name in present if name.lower() in wanted)
    if len(names) > 1:
        raise DataError(f"has {' and '.join(names)}, of which only one may be: remove or rename the other", folder)
    return folder / names[0] if names else None


class Beside:
    """The files beside the splits of a folder, whose names are those of the graph.

    Args:
        folder: the folder.
        present: names of its files.
        vocabulary: the names of the graph.
    """

    def __init__(self, folder: Path, present: Iterable[str], vocabulary: Vocabulary) -> None:
        self._folder, self._present = folder, present
        self._entities, self._relations = vocabulary.entities, vocabulary.relations

    def pairs(self, stem: str) -> dict[str, str]:
        """Name -> what the second column of a file says of it, the last line counting; nothing without such a file."""
        file = self._find([stem])
        return {} if file is None else {name: value for _, (name, value) in read_columns(file, 2)}

    def types(self) -> dict[str, str] | None:
        """Entity -> type, or None without such a file.

        Raises:
            DataError: if an entity has two lines.
        """
        file = self._find(["types"])
        if file is None:
            return None
        found: dict[str, str] = {}
        for number, (name, kind) in read_columns(file, 2):
            if name in found:
                raise DataError(
                    f"{shorten(name)} has a type already, {shorten(found[name])}; an entity must have one line",
                    file,
                    number,
                )
            if name in self._entities:
                found[name] = kind
        return found

    def negatives(self) -> dict[str, dict[str, Int32Array] | None]:
        """`KGDataset.negatives`, of the splits that have such a file.

        Raises:
            DataError: on a name that is not in the graph, or if there is no triple.
        """
        found = {}
        for split, file in self._of_splits("negatives"):
            rows = [
                (
                    self._entity(head, file, number),
                    self._id(self._relations, "relation", relation, file, number),
                    self._entity(tail, file, number),
                )
                for number, (head, relation, tail) in read_columns(file, 3)
            ]
            if not rows:
                raise DataError("holds no triple: remove the file, or add false triples", file)
            found[split] = np.array(rows, dtype=np.int32)
        return {"negatives": found or None}

    def candidates(self, triples: Mapping[str, Int32Array]) -> dict[str, dict[str, Int32Array] | None]:
        """`KGDataset.neg_heads` and `neg_tails`, of the splits that have such files.

        Args:
            triples: split -> triples, of the splits that have a file.

        Raises:
            DataError: on a name that is not in the graph, or another number of lines or columns.
        """
        found: dict[str, dict[str, Int32Array] | None] = {}
        for attribute, stem in CANDIDATES.items():
            of_split = {}
            for split, file in self._of_splits(stem):
                if split not in triples:
                    raise DataError(f"its lines belong to the triples of {split}, of which there is no file", file)
                of_split[split] = self._lists(file, len(triples[split]))
            found[attribute] = of_split or None
        return found

    def _lists(self, file: Path, n_triple: int) -> Int32Array:
        """Candidates (1 or n_triple, c) in the lines of a file."""
        rows: list[Int32Array] = []
        for number, line in _lines(file):
            names = [name.strip() for name in line.split("\t")]
            rows.append(np.array([self._entity(name, file, number) for name in names], dtype=np.int32))
            if len(names) != len(rows[0]):
                raise DataError(f"has {len(names):,} candidates, but lines before it {len(rows[0]):,}", file, number)
        if len(rows) not in (1, n_triple):
            raise DataError(
                f"must have a line for each of {n_triple:,} triples, or one for all, got {len(rows):,}", file
            )
        return np.stack(rows)

    def _of_splits(self, what: str) -> Iterator[tuple[str, Path]]:
        for split, stems in SPLITS.items():
            file = self._find([f"{stem}_{what}" for stem in stems])
            if file is not None:
                yield split, file

    def _find(self, stems: Sequence[str]) -> Path | None:
        return find_file(self._folder, self._present, stems, _BESIDE)

    def _entity(self, name: str, file: Path, number: int) -> int:
        return self._id(self._entities, "entity", name, file, number)

    @staticmethod
    def _id(ids: Mapping[str, int], what: str, name: str, file: Path, number: int) -> int:
        found = ids.get(name)
        if found is None:
            raise DataError(f"no triple of the splits has the {what} {shorten(name)}", file, number)
        return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    for first, lines in read_lines(file):
        for number, line in enumerate(lines, first):
            if line.strip():
                yield number, line


def _doubt_unread(folder: Path, present: Iterable[str], given: Iterable[str]) -> None:
    """Warns of files whose name tells what they hold, but not by an ending that is read."""
    stems = {stem: ENDINGS for name, of_split in SPLITS.items() if name not in given for stem in of_split}
    of_splits = [
        f"{stem}_{what}"
        for stem in itertools.chain.from_iterable(SPLITS.values())
        for what in ("negatives", *CANDIDATES.values())
    ]
    stems.update(dict.fromkeys(("types", "labels", "relation_labels", *of_splits), _BESIDE))
    unread = []
    for name in sorted(present):
        stem, dot, ending = name.lower().partition(".")
        if dot and stem in stems and f".{ending}" not in stems[stem]:
            unread.append(name)
    if unread:
        warnings.warn(
            f"{folder}: {len(unread):,} files are not read, whose names are like those of files that are: "
            f"{', '.join(map(shorten, unread[:3]))}; what lies beside the splits must have tabs, "
            f"and end with {', '.join(_BESIDE)}",
            DataWarning,
            stacklevel=3,
        )


def _listing(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise DataError(f"cannot be read: {getattr(error, 'strerror', error)}", folder) from None


def _without_train(present: Iterable[str]) -> str:
    others = sorted(filter(is_triples_file, present))
    hint = f"; it has {', '.join(others[:5])}: name one of them train, or give that file in place of the folder"
    return f"has no file train.txt, train.tsv, train.csv or of another format{hint if others else ''}"


def _with_drawn(
    folder: Path, given: Mapping[str, Int32Array], split: Sequence[float], seed: int
) -> tuple[dict[str, Int32Array], dict[str, NDArray[np.int64]] | None]:
    """All splits, those that have no file being drawn from train, and the row of each triple where it came from."""
    missing = [name for name in SPLITS if name not in given]
    train, *others = split
    parts = [train] + [0.0 if name in given else part for name, part in zip(("valid", "test"), others, strict=True)]
    if sum(parts[1:]) == 0:
        return dict(given), None
    drawn = split_triples(given["train"], [part / sum(parts) for part in parts], seed)
    rows = {
        name: drawn[name] if name in drawn else np.arange(len(given[name]))
        for name in SPLITS
        if name in {**drawn, **given}
    }
    counts = " and ".join(f"{len(drawn[name]):,} for {name}" for name in missing if name in drawn)
    warnings.warn(
        f"{folder} has no {' and no '.join(missing)}: of the {len(given['train']):,} triples of train, {counts} are "
        f"drawn by the seed {seed}; a file of that name changes that",
        DataWarning,
        stacklevel=2,
    )
    return {name: given["train" if name in drawn else name][which] for name, which in rows.items()}, rows
