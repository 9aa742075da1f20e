"""Nearest entities and relations against distances written as one formula in float64."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

import bess_jax as bj
from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.ask.similarity import Measure

N, WIDTH = 45, 6


def values(measure: str, rows: np.ndarray) -> np.ndarray:
    """(n, n) float64, larger is nearer."""
    rows = rows.astype(np.float64)
    if measure == "cosine":
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(length == 0, 1, length)
    if measure in ("cosine", "dot"):
        return rows @ rows.T
    return -np.linalg.norm(rows[:, None] - rows[None], int(measure[1]), axis=-1)


def expected(measure: str, rows: np.ndarray, ids: list[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (Q, k) and values (Q, k) by a full sort, ties by id, the row itself left out."""
    every = values(measure, rows)
    best = [
        sorted((i for i in range(len(rows)) if i != q), key=lambda i, q=q: (-round(every[q, i], 9), i))[:k] for q in ids
    ]
    near = np.array([[every[q, i] for i in row] for q, row in zip(ids, best, strict=True)])
    return np.array(best), near if measure in ("cosine", "dot") else -near


def make(
    kind: Any = bj.DistMult, n_shard: int = 3, n_relation: int = 5, coarse: bool = True, **arguments: Any
) -> tuple[bj.Ranker, bj.Params, np.ndarray, np.ndarray]:
    """A model with random rows, on coarse steps or not, some of them equal, and its entity and relation rows."""
    rng = np.random.default_rng(3)
    sharding = bj.Sharding.create(N, n_shard, seed=2)
    score_fn = kind(
        negative_sample_sharing=False,
        sharding=sharding,
        n_relation_type=n_relation,
        embedding_size=WIDTH,
        inverse_relations=True,
        **arguments,
    )
    size = (N, score_fn.entity_width)
    entity = (rng.integers(-3, 4, size=size) / 4 if coarse else rng.normal(size=size)).astype(np.float32)
    entity[7] = entity[11] = entity[30]  # ties
    relation = rng.normal(size=(score_fn.n_relation, score_fn.relation_width)).astype(np.float32)
    padding = np.full((n_shard * sharding.max_entity_per_shard - N, entity.shape[1]), np.nan, np.float32)
    placement = bj.Placement.create(n_shard)
    params = bj.Params(
        np.concatenate([entity, padding])[sharding.shard_and_idx_to_entity],
        {"relation_embedding": np.broadcast_to(relation, (n_shard, *relation.shape))},
    )
    return bj.Ranker(score_fn=score_fn, placement=placement, chunk=8), placement.put(params), entity, relation


@pytest.mark.parametrize("measure", get_args(Measure))
@pytest.mark.parametrize(("kind", "n_shard"), [(bj.DistMult, 1), (bj.ComplEx, 3)])
def test_entities(measure: Measure, kind: Any, n_shard: int) -> None:
    ranker, params, rows, _ = make(kind, n_shard, coarse=measure != "cosine")  # equal sums are then equal in float32
    ids = [0, 7, 30, 44, 5, 6, 7, 8, 9, 10, 12]
    for k in (4, N - 1):
        found = bj.Neighbours.of_entities(ranker, params, measure).nearest(ids, k)
        near, value = expected(measure, rows, ids, k)
        np.testing.assert_array_equal(found.id, near)
        np.testing.assert_allclose(found.score, value, atol=2e-3 if measure == "l2" else 1e-5)
    assert found.id.shape == (len(ids), N - 1)
    assert all(q not in row for q, row in zip(ids, found.id.tolist(), strict=True))


@pytest.mark.parametrize("measure", get_args(Measure))
def test_relations(measure: Measure) -> None:
    ranker, params, _, rows = make(bj.TransE, n_shard=3, scoring_norm=1)
    found = bj.Neighbours.of_relations(ranker, params, measure).nearest([4, 1], 4)
    near, value = expected(measure, rows[:5], [4, 1], 4)  # inverse relations are left out
    np.testing.assert_array_equal(found.id, near)
    np.testing.assert_allclose(found.score, value, rtol=1e-4, atol=1e-5)


def test_a_whole_turn_changes_no_relation_of_rotate() -> None:
    ranker, params, _, rows = make(bj.RotatE)
    turned = rows + 2 * np.pi * np.round(np.random.default_rng(0).normal(size=rows.shape))
    table = ranker.placement.put({"relation_embedding": np.stack([turned.astype(np.float32)] * 3)})
    near = [
        bj.Neighbours.of_relations(ranker, p, "cosine").nearest([0], 4)
        for p in (params, params._replace(score_fn=table))
    ]
    np.testing.assert_array_equal(near[0].id, near[1].id)
    np.testing.assert_allclose(near[0].score, near[1].score, atol=1e-5)
    angle = rows[0].astype(np.float64) - rows[:5]
    np.testing.assert_allclose(near[0].score[0], np.sort(np.cos(angle).mean(axis=1)[1:])[::-1], atol=1e-5)


def test_the_bias_of_conve_does_not_count() -> None:
    ranker, params, rows, _ = make(bj.ConvE, embedding_height=2, embedding_width=3, kernel_height=2, kernel_width=2)
    assert rows.shape[1] == WIDTH + 1
    found = bj.Neighbours.of_entities(ranker, params, "l1").nearest([3], 5)
    np.testing.assert_array_equal(found.id, expected("l1", rows[:, :WIDTH], [3], 5)[0])
    assert (expected("l1", rows, [3], 5)[0] != found.id).any()


def test_a_row_of_zeros_is_like_nothing() -> None:
    ranker, params, *_ = make()
    zeros = params._replace(entity=params.entity * 0)
    found = bj.Neighbours.of_entities(ranker, zeros, "cosine").nearest([3], 2)
    np.testing.assert_array_equal(found.score, [[0, 0]])
    np.testing.assert_array_equal(found.id, [[0, 1]])


@pytest.mark.parametrize("measure", get_args(Measure))
def test_rows_that_are_not_finite_are_refused(measure: Measure) -> None:
    ranker, params, _, _ = make()
    broken = params._replace(entity=params.entity * np.float32(np.nan))
    with pytest.raises(NonFiniteScoreError, match="not finite"):
        bj.Neighbours.of_entities(ranker, broken, measure).nearest([5], 3)


def test_bad_questions() -> None:
    ranker, params, *_ = make()
    with pytest.raises(ValueError, match="measure must be one of 'cosine', 'dot', 'l2', 'l1', got 'l3'"):
        bj.Neighbours.of_entities(ranker, params, "l3")  # type: ignore[arg-type]
    entities, relations = bj.Neighbours.of_entities(ranker, params), bj.Neighbours.of_relations(ranker, params)
    for k in (0, N):
        with pytest.raises(ValueError, match=f"k must be between 1 and the number of other entities, 44, got {k}"):
            entities.nearest([1], k)
    with pytest.raises(ValueError, match="k must be between 1 and the number of other relations, 4, got 5"):
        relations.nearest([1], 5)
    with pytest.raises(ValueError, match=r"ids\[0\] is 5, but relation ids go from 0 to 4"):
        relations.nearest([5], 1)
