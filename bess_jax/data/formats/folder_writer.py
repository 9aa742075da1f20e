"""A graph as a folder of text files, which `KGDataset.from_folder` reads."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import TypeAlias, zip
from bess_jax._typing import Int32Array
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import sync_folder
from bess_jax.data.formats.folder import CANDIDATES, SPLITS, ordered_by_type
from bess_jax.data.formats.vocabulary import BadNameError, clean_names
from bess_jax.data.text import shorten

_BLOCK = 100_000
"""Lines that are put together at a time."""

Names: TypeAlias = "NDArray[np.object_]"


def write_folder(dataset: KGDataset, folder: Path) -> KGDataset:
    """Writes a graph into a new folder, all of it or nothing: splits, types, labels, false triples, candidates.

    Files hold names: an entity without one is called by its id. They do not hold ids, which follow the order of first
    appearance when the folder is read.

    Returns:
        The graph with those ids, as `KGDataset.from_folder` reads it.

    Raises:
        ValueError: if it could not be read back: a name has a tab, a line end, a NUL or white space at an end, an
            entity or a relation stands in no triple, or there is no train or a split of another name.
        OSError: if the folder exists, or cannot be written.
    """
    if os.path.lexists(folder):
        raise FileExistsError(errno.EEXIST, "exists already, give the name of a new folder", str(folder))
    graph = by_appearance(dataset)
    entities, relations = (np.array(names, dtype=object) for names in (graph.entity_dict, graph.relation_dict))
    for what, texts in (
        ("an entity", entities),
        ("a relation", relations),
        ("an entity with a label", graph.entity_labels),
        ("a relation with a label", graph.relation_labels),
        ("a label of an entity", graph.entity_labels.values()),
        ("a label of a relation", graph.relation_labels.values()),
        ("a type", graph.type_offsets or ()),
    ):
        _check_texts(what, [*texts])
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for name, lines in _files(graph, entities, relations):
            with (part / f"{name}.tsv").open("w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(lines)
                stream.flush()
                os.fsync(stream.fileno())
        sync_folder(part)
        part.rename(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(folder)  # a full disk tells none
        raise
    sync_folder(folder.parent)
    return graph


def by_appearance(dataset: KGDataset) -> KGDataset:
    """The graph with the ids and names that it has when it is read from a folder: see `KGDataset.from_folder`.

    Raises:
        ValueError: if an entity or a relation stands in no triple, or there is no train or a split of another name.
    """
    named = {*dataset.triples}.union(dataset.negatives or (), dataset.neg_heads or (), dataset.neg_tails or ())
    if "train" not in dataset.triples or not named <= set(SPLITS):
        raise ValueError(f"a folder holds train, valid and test, but the splits are {', '.join(sorted(named))}")
    every = np.concatenate([dataset.triples[split] for split in SPLITS if split in dataset.triples])
    old_entity, new_entity = _appearance("entities", every[:, ::2].ravel(), dataset.n_entity)
    old_relation, new_relation = _appearance("relations", every[:, 1], dataset.n_relation_type)
    entities, relations = (
        np.array(names or [*map(str, range(n))], dtype=object)
        for names, n in (
            (dataset.entity_dict, dataset.n_entity),
            (dataset.relation_dict, dataset.n_relation_type),
        )
    )

    def renumbered(ids: Int32Array) -> Int32Array:
        return np.stack([new_entity[ids[:, 0]], new_relation[ids[:, 1]], new_entity[ids[:, 2]]], axis=1)

    attributes: dict[str, Any] = {
        "n_entity": dataset.n_entity,
        "n_relation_type": dataset.n_relation_type,
        "triples": _each(dataset.triples, renumbered) or {},
        "entity_dict": tuple(entities[old_entity]),
        "relation_dict": tuple(relations[old_relation]),
        "negatives": _each(dataset.negatives, renumbered),
        "neg_heads": _each(dataset.neg_heads, new_entity.__getitem__),
        "neg_tails": _each(dataset.neg_tails, new_entity.__getitem__),
        "entity_labels": dataset.entity_labels,
        "relation_labels": dataset.relation_labels,
    }
    if dataset.type_offsets is not None:
        attributes = ordered_by_type(attributes, dict(zip(entities, _types(dataset), strict=True)))
    return KGDataset(**attributes)


def _types(dataset: KGDataset) -> list[str]:
    """The type of each entity."""
    in_order = sorted((first, name) for name, first in (dataset.type_offsets or {}).items())
    ends = [*(first for first, _ in in_order[1:]), dataset.n_entity]
    return [name for (first, name), end in zip(in_order, ends, strict=True) for _ in range(end - first)]


def _each(
    of_splits: Mapping[str, Int32Array] | None, fn: Callable[[Int32Array], Int32Array]
) -> dict[str, Int32Array] | None:
    """Of the splits that there are, in the order in which they are read."""
    return None if of_splits is None else {split: fn(of_splits[split]) for split in SPLITS if split in of_splits}


def _appearance(what: str, ids: Int32Array, n: int) -> tuple[NDArray[np.intp], Int32Array]:
    """Ids (n,) in the order of first appearance, and the place of each in it."""
    first = np.full(n, len(ids))
    first[ids[::-1]] = np.arange(len(ids))[::-1]  # of repeated ids the last assignment stays
    n_missing = int(np.count_nonzero(first == len(ids)))
    if n_missing:
        raise ValueError(
            f"{n_missing:,} {what} stand in no triple, which a folder of triples cannot hold, but .npz can"
        )
    order = np.argsort(first)
    place = np.empty(n, dtype=np.int32)
    place[order] = np.arange(n, dtype=np.int32)
    return order, place


def _check_texts(what: str, texts: list[str]) -> None:
    """Raises ValueError unless all would be read from a file as they are."""
    try:
        clean = clean_names(texts)
    except BadNameError as error:
        raise ValueError(f"{what} cannot be written to a file of text: {error.reason}") from None
    for text, read in zip(texts, clean, strict=True):
        if text != read or "\t" in text or "\n" in text:
            raise ValueError(
                f"{what} cannot be written to a file of text, as it has a tab, a line end or white space at an end: "
                f"{shorten(text)}"
            )


def _files(graph: KGDataset, entities: Names, relations: Names) -> Iterator[tuple[str, Iterable[str]]]:
    """Name of each file, and its lines."""
    for split, ids in graph.triples.items():
        yield split, _triples(ids, entities, relations)
    if graph.type_offsets is not None:
        yield "types", _pairs(zip(entities, _types(graph), strict=True))
    if graph.entity_labels:
        yield "labels", _pairs(graph.entity_labels.items())
    if graph.relation_labels:
        yield "relation_labels", _pairs(graph.relation_labels.items())
    for split, ids in (graph.negatives or {}).items():
        yield f"{split}_negatives", _triples(ids, entities, relations)
    for what, of_splits in ((stem, getattr(graph, name)) for name, stem in CANDIDATES.items()):
        for split, ids in (of_splits or {}).items():
            yield f"{split}_{what}", ("\t".join(entities[row]) + "\n" for row in ids)


def _triples(ids: Int32Array, entities: Names, relations: Names) -> Iterator[str]:
    for start in range(0, len(ids), _BLOCK):
        head, relation, tail = ids[start : start + _BLOCK].T
        columns = (entities[head], relations[relation], entities[tail])
        yield "".join(f"{h}\t{r}\t{t}\n" for h, r, t in zip(*(of.tolist() for of in columns), strict=True))


def _pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"{name}\t{value}\n" for name, value in pairs)
