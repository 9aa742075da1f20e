"""Ranks and best answers over all entities, against brute force."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXACT

import bess_jax as bj
from bess_jax.inference import rank_counts
from bess_jax.pipeline import KnownAnswers, NonFiniteScoreError, Ranker, Ranks

pytestmark = pytest.mark.optimized  # ties must be real in programs as users run them

N_RELATION = 3
MODELS = {
    "TransE-1": (bj.TransE, {"scoring_norm": 1}),
    "TransE-2": (bj.TransE, {"scoring_norm": 2}),
    "DistMult": (bj.DistMult, {}),
    "ComplEx": (bj.ComplEx, {}),
}


def world(
    model: str, n_shard: int, inverse: bool = False, n_entity: int = 1201, ties: bool = True
) -> tuple[bj.BaseScoreFunction, bj.Params, np.ndarray, np.ndarray, np.ndarray]:
    """Score function, sharded parameters, and the global tables and triples; many rows are equal."""
    rng = np.random.default_rng(n_shard)
    kind, arguments = MODELS[model]
    sharding = bj.Sharding.create(n_entity, n_shard, seed=5)
    score_fn = kind(
        negative_sample_sharing=False,
        sharding=sharding,
        n_relation_type=N_RELATION,
        embedding_size=8,
        inverse_relations=inverse,
        **arguments,
    )
    entity = rng.normal(size=(n_entity, score_fn.entity_width)).astype(np.float32)
    if ties:
        entity = entity[rng.integers(n_entity // 3, size=n_entity)]  # every row about three times
    relation = rng.normal(size=(score_fn.n_relation, score_fn.relation_width)).astype(np.float32)
    padded = np.concatenate([entity, np.full((n_shard * sharding.max_entity_per_shard, entity.shape[1]), np.nan)])
    params = bj.Params(
        padded.astype(np.float32)[sharding.shard_and_idx_to_entity],
        {"relation_embedding": np.broadcast_to(relation, (n_shard, *relation.shape))},
    )
    size = (600,)
    triples = np.stack([rng.integers(high, size=size) for high in (n_entity, N_RELATION, n_entity)], axis=1)
    return score_fn, params, entity, relation, np.unique(triples, axis=0).astype(np.int32)


def all_scores(
    score_fn: bj.BaseScoreFunction, entity: np.ndarray, relation: np.ndarray, side: str, triples: np.ndarray
) -> np.ndarray:
    """(n, n_entity) float64 scores of every entity on one side of the triples; equal rows have the same score."""
    entity, row_of = np.unique(entity, axis=0, return_inverse=True)
    triples = np.stack([row_of[triples[:, 0]], triples[:, 1], row_of[triples[:, 2]]], axis=1)
    h, r, t = entity[triples[:, 0]], relation[triples[:, 1]], entity[triples[:, 2]]
    if score_fn.inverse_relations and side == "head":
        h, r, side = t, relation[triples[:, 1] + N_RELATION], "tail"
    h, r, t, every = (x.astype(np.float64) for x in (h, r, t, entity))
    if isinstance(score_fn, bj.TransE):
        distance = (h + r)[:, None] - every if side == "tail" else every + (r - t)[:, None]
        score = -np.linalg.norm(distance, score_fn.scoring_norm, axis=-1)
    elif isinstance(score_fn, bj.ComplEx):
        h, r, t, every = (x[..., :8] + 1j * x[..., 8:] for x in (h, r, t, every))
        score = ((h * r) @ every.conj().T).real if side == "tail" else (every @ (r * t.conj()).T).T.real
    else:
        score = (h * r) @ every.T if side == "tail" else (r * t) @ every.T
    return score[:, row_of]


def brute_force(
    score_fn: bj.BaseScoreFunction, entity: np.ndarray, relation: np.ndarray, side: str, triples: np.ndarray, known: Any
) -> np.ndarray:
    scores = all_scores(score_fn, entity, relation, side, triples)
    answers = {tuple(triple) for triple in known.tolist()}
    ranks = []
    for (h, r, t), row in zip(triples.tolist(), scores, strict=True):
        target = t if side == "tail" else h
        others = [e for e in range(len(entity)) if ((h, r, e) if side == "tail" else (e, r, t)) not in answers]
        others = np.array([e for e in others if e != target])
        better, ties = (row[others] > row[target]).sum(), (row[others] == row[target]).sum()
        ranks.append(1 + better + ties / 2)
    return np.array(ranks)


@pytest.mark.parametrize(
    ("model", "n_shard"),
    [(model, n_shard) for model in ("TransE-1", "ComplEx") for n_shard in (1, 2, 3, 4, 8)]
    + [("TransE-2", 3), ("DistMult", 4)],
)
def test_ranks_equal_brute_force_with_ties(model: str, n_shard: int) -> None:
    score_fn, params, entity, relation, triples = world(model, n_shard, inverse=n_shard == 3)
    placement = bj.Placement.create(n_shard, mapping=("pmap", "shard_map")[n_shard % 2])
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=48, window=128)
    ranks = ranker.ranks(placement.put(params), triples[:110], KnownAnswers(triples, N_RELATION))
    for side in ("head", "tail"):
        expected = brute_force(score_fn, entity, relation, side, triples[:110], triples)
        np.testing.assert_allclose(getattr(ranks, side), expected, **EXACT)
    assert np.mean(ranks.tail % 1 == 0.5) > 0.1  # there were ties


def test_ranks_do_not_depend_on_chunks_and_windows() -> None:
    score_fn, params, _, _, triples = world("ComplEx", 2, n_entity=1201)
    placement = bj.Placement.create(2)
    known = KnownAnswers(triples, N_RELATION)
    found = [
        Ranker(score_fn=score_fn, placement=placement, chunk=chunk, window=window).ranks(
            placement.put(params), triples[:100], known
        )
        for chunk, window in ((7, 128), (64, 300), (1000, 1000), (1, 256))
    ]
    for ranks in found[1:]:
        np.testing.assert_array_equal(ranks, found[0])


def test_metrics() -> None:
    both = Ranks(np.array([1.0, 2.5]), np.array([4.0, 20.0])).metrics()["both"]
    assert both["mrr"] == pytest.approx((1 + 0.4 + 0.25 + 0.05) / 4)
    assert (both["hits@1"], both["hits@3"], both["hits@10"]) == (0.25, 0.5, 0.75)
    assert both["mean_rank"] == pytest.approx(27.5 / 4)


def test_a_diverged_model_is_refused() -> None:
    score_fn, params, _, _, triples = world("DistMult", 2)
    params.entity[:] = np.nan
    placement = bj.Placement.create(2)
    with pytest.raises(NonFiniteScoreError, match="not finite"):
        Ranker(score_fn=score_fn, placement=placement).ranks(
            placement.put(params), triples[:4], KnownAnswers(triples, N_RELATION)
        )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n_shard", [1, 4])
def test_top_k_equals_a_full_sort(model: str, n_shard: int) -> None:
    score_fn, params, entity, relation, triples = world(model, n_shard, ties=False, n_entity=301)
    placement = bj.Placement.create(n_shard)
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=16, window=128)
    for side, known in (("tail", 0), ("head", 2)):
        queries = triples[:40]
        for k in (3, len(entity)):
            found = ranker.top_k(placement.put(params), side, queries[:, known], queries[:, 1], k)
            scores = all_scores(score_fn, entity, relation, side, queries)
            np.testing.assert_allclose(np.round(found.score, 3), np.round(-np.sort(-scores)[:, :k], 3), atol=2e-3)
            gap = np.abs(np.diff(-np.sort(-scores), axis=1))[:, :k].min(axis=1) > 1e-3
            assert gap.any() or k == len(entity)
            np.testing.assert_array_equal(found.entity[gap], np.argsort(-scores, axis=1)[gap, :k])


def test_top_k_never_returns_padding_and_leaves_out_what_is_known() -> None:
    score_fn, params, *_ = world("DistMult", 4, n_entity=5)
    placement = bj.Placement.create(4)
    ranker = Ranker(score_fn=score_fn, placement=placement)
    triples = np.array([[0, 1, 3], [0, 1, 4], [2, 0, 1]], np.int32)
    query = np.array([0], np.int32), np.array([1], np.int32)
    found = ranker.top_k(placement.put(params), "tail", *query, k=5, skip=KnownAnswers(triples, N_RELATION))
    assert sorted(found.entity[0].tolist()) == [-1, -1, 0, 1, 2]
    assert np.isneginf(found.score[0, 3:]).all()
    with pytest.raises(ValueError, match="k must be between 1 and the number of entities, 5, got 6"):
        ranker.top_k(placement.put(params), "tail", *query, k=6)


def test_known_answers() -> None:
    triples = np.array([[0, 1, 3], [0, 1, 4], [2, 0, 1], [5, 1, 3]], np.int32)
    known = KnownAnswers(triples, 2)
    query, answer = known.of("tail", np.array([0, 2, 2]), np.array([1, 1, 0]))
    assert list(zip(query.tolist(), answer.tolist(), strict=True)) == [(0, 3), (0, 4), (2, 1)]
    query, answer = known.of("head", np.array([3]), np.array([1]))
    assert sorted(answer.tolist()) == [0, 5]
    assert query.tolist() == [0, 0]


def test_no_array_of_queries_times_entities() -> None:
    """The compiled ranking holds queries x window scores, far fewer than queries x entities."""
    n_entity, chunk, window = 20_000, 64, 128
    score_fn, _, _, _, _ = world("DistMult", 1, n_entity=n_entity)
    ranker = Ranker(score_fn=score_fn, placement=bj.Placement.create(1), chunk=chunk, window=window)
    params = bj.Params(
        jax.ShapeDtypeStruct((1, n_entity, 8), jnp.float32),
        {"relation_embedding": jax.ShapeDtypeStruct((1, N_RELATION, 8), jnp.float32)},
    )
    queries = ranker._queries(chunk, *(np.zeros(chunk, np.int32),) * 3)
    n_window = -(-n_entity // window)
    queries = queries._replace(
        excluded_query=np.zeros((1, n_window, 2), np.int32), excluded_entity=np.zeros((1, n_window, 2), np.int32)
    )
    fn = ranker.placement.map(partial(rank_counts, ranker.score_fn, "tail", window, "shard"))
    compiled = fn.lower(params, jax.ShapeDtypeStruct((1,), jnp.int32), queries).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * 4 * chunk * n_entity
