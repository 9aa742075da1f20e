"""Entities on a plane: the two directions in which their embeddings vary most."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax.data.dataset import KGDataset
from bess_jax.predict.embeddings import EmbeddingTable
from bess_jax.predict.predictor import Predictor

N_SHOWN = 2000
N_GROUP = 7
"""Groups with a colour of their own: those that have most of the entities shown."""
OTHER, SEED = "other", 0


class EmbeddingMap(NamedTuple):
    """Some entities on a plane."""

    place: NDArray[np.float64]  # (m, 2)
    label: list[str]  # (m,)
    group: list[str]  # (m,) type or most frequent relation, or `OTHER`
    groups: list[str]  # those that occur, the most frequent first, `OTHER` last
    grouped_by: str  # "type", or "most frequent relation"
    explained: tuple[float, float]  # part of the variance along each axis
    n_entity: int


def principal_components(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (m, 2) of rows (m, E) along the two directions of most variance, and the part (2,) of it along each.

    Signs are such that the largest number of a direction is positive.

    Pearson 1901, "On lines and planes of closest fit to systems of points in space".
    """
    centred = rows - rows.mean(axis=0)
    _, size, direction = np.linalg.svd(centred, full_matrices=False)
    direction = direction[:2]
    largest = np.take_along_axis(direction, np.abs(direction).argmax(axis=1, keepdims=True), axis=1)
    return centred @ (direction * np.sign(largest)).T, size[:2] ** 2 / np.sum(size**2)


def embedding_map(predictor: Predictor) -> EmbeddingMap | str:
    """A map of some entities, drawn at random if there are more, or why there is none."""
    dataset, table = predictor.dataset, predictor.entity_table()
    n = dataset.n_entity
    ids = np.arange(n)
    if n > N_SHOWN:
        ids = np.sort(np.random.default_rng(SEED).choice(n, N_SHOWN, replace=False))
    compared = predictor.ranker.score_fn.compared_entity(jnp.asarray(_rows(table, ids)))
    rows = np.asarray(compared, np.float64).reshape(len(ids), -1)
    if n < 3 or rows.shape[1] < 2 or not np.ptp(rows, axis=0).any():
        return "There is no map: it takes three entities with different embeddings of two numbers."
    place, explained = principal_components(rows)
    group = _types(table, ids) or _frequent_relations(dataset, ids)
    frequent = [name for name, _ in Counter(group).most_common(N_GROUP)]
    group = [name if name in frequent else OTHER for name in group]
    return EmbeddingMap(
        place=place,
        label=[table.labels[i] for i in ids.tolist()],
        group=group,
        groups=[*(name for name in frequent if name != OTHER), *([OTHER] if OTHER in group else [])],
        grouped_by="most frequent relation" if table.types is None else "type",
        explained=(float(explained[0]), float(explained[1])),
        n_entity=n,
    )


def _rows(table: EmbeddingTable, ids: NDArray[np.intp]) -> NDArray[np.float32]:
    """Rows (m, E) of ids in rising order."""
    found = []
    for where, rows in table.blocks():
        here = ids[(ids >= where.start) & (ids < where.stop)]
        found.append(rows[here - where.start])
    return np.concatenate(found)


def _types(table: EmbeddingTable, ids: NDArray[np.intp]) -> list[str] | None:
    return None if table.types is None else [table.types[i] for i in ids.tolist()]


def _frequent_relations(dataset: KGDataset, ids: NDArray[np.intp]) -> list[str]:
    """Label of the relation that each entity stands in most often, of several the first; `OTHER` for none."""
    triples = dataset.triples.get("train", dataset.all_triples())
    place = np.full(dataset.n_entity, -1, np.int64)
    place[ids] = np.arange(len(ids))
    entity, relation = np.concatenate([place[triples[:, 0]], place[triples[:, 2]]]), np.tile(triples[:, 1], 2)
    key = entity * dataset.n_relation_type + relation
    keys, count = np.unique(key[entity >= 0], return_counts=True)
    entity, relation = np.divmod(keys, dataset.n_relation_type)
    most = np.full(len(ids), -1, np.int64)
    for i in np.lexsort((-relation, count)).tolist():  # later ones replace those before
        most[entity[i]] = relation[i]
    return [OTHER if i < 0 else dataset.relation_label(i) for i in most.tolist()]
