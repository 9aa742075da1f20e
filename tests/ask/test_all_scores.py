"""Scores of all entities, filtered and ranked on the host, against brute force, and what is refused."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from shared.queries import N_RELATION, WORLDS, World, lists, make_world
from shared.tolerance import EXACT, FLOAT32

import bess_jax as bj
from bess_jax.ask.all_scores import AllScoresBESS, AllScoresPipeline, get_entity_filter
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler


def all_scores(world: World, side: Any, **arguments: Any) -> dict[str, Any]:
    """Output of the pipeline, in the order of the triples."""
    triples = world.partitioned("t_shard" if side == "h" else "h_shard")
    pipeline = AllScoresPipeline(
        batch_sampler=dataclasses.replace(
            world.sampler(triples, PlaceholderNegativeSampler(corruption_scheme=side)),
            shard_bs=5,
            batches_per_step=2,
            shuffle=True,
        ),
        corruption_scheme=side,
        score_fn=world.score_fn(True),
        placement=world.placement,
        **arguments,
    )
    out = pipeline.forward(world.params)
    back = np.argsort(triples.triple_sort_idx[out.pop("triple_idx")])
    assert len(back) == len(world.triples)
    return {name: x[back] if isinstance(x, np.ndarray) else x for name, x in out.items()}


@pytest.mark.parametrize(("n_shard", "few", "mapping", "n_device"), WORLDS)
def test_scores_equal_brute_force(n_shard: int, few: bool, mapping: str, n_device: int | None) -> None:
    world, side = make_world(n_shard, few, mapping, n_device)
    expected = world.brute_force(side)
    k = min(4, world.n_entity)
    order = np.argsort(-expected, axis=1)
    place = np.argmax(order == world.triples[:, [0 if side == "h" else 2]], axis=1) + 1
    evaluation = bj.Evaluation(metric_list=["mrr", "hits@3"], return_ranks=True)
    out = all_scores(world, side, evaluation=evaluation, return_scores=True, return_topk=True, k=k, window_size=5)
    np.testing.assert_allclose(out["scores"], expected, **FLOAT32)
    np.testing.assert_allclose(out["topk_global_id"], order[:, :k], **EXACT)
    np.testing.assert_allclose(out["ranks"], place, **EXACT)
    assert out["metrics_avg"]["mrr"] == pytest.approx((1 / place).mean(), rel=1e-5)


def test_equal_scores_come_in_the_order_of_the_ids() -> None:
    world = World("TransE1", 33, 4)
    world.params = world.params._replace(entity=jnp.ones_like(world.params.entity))
    assert (all_scores(world, "t", return_topk=True, k=7)["topk_global_id"] == np.arange(7)).all()


@pytest.mark.parametrize("side", ["h", "t"])
def test_filters_and_candidates(side: Any) -> None:
    world = World("ComplEx", 33, 4)
    candidates = np.array([3, 9, 4, 30, 31, 3, 12], np.int32)
    extra = np.random.default_rng(1).integers([33, N_RELATION, 33], size=(200, 3)).astype(np.int32)
    expected = world.brute_force(side)
    answer = world.triples[:, 0 if side == "h" else 2]
    n = np.arange(len(answer))
    outside = ~np.isin(answer, candidates)
    assert outside.any()
    assert not outside.all()
    expected[:, ~np.isin(np.arange(33), candidates)] = -np.inf
    truth = expected[n, answer]
    known = set(map(tuple, np.concatenate([world.triples, extra]).tolist()))
    for row, (h, r, t) in enumerate(world.triples.tolist()):
        hits = [e for e in range(33) if ((e, r, t) if side == "h" else (h, r, e)) in known]
        expected[row, hits] = -np.inf
    ranks = 1 + (expected > truth[:, None]).sum(axis=1)
    expected[n, answer] = truth
    arguments = {
        "filter_triples": [world.triples, extra],
        "candidate_ents": candidates,
        "evaluation": bj.Evaluation(metric_list=["mrr"], mode="optimistic", return_ranks=True, reduction="sum"),
        "return_scores": True,
        "return_topk": True,
        "k": 6,
    }
    out = all_scores(world, side, **arguments)
    np.testing.assert_allclose(out["scores"], expected, **FLOAT32)
    np.testing.assert_allclose(out["ranks"], ranks, **EXACT)
    assert out["metrics"]["mrr"] == pytest.approx((1 / ranks).sum(), rel=1e-5)
    best = np.sort(expected, axis=1)[:, :-7:-1]
    order = np.where(best > -np.inf, np.argsort(-expected, axis=1, kind="stable")[:, :6], -1)
    np.testing.assert_allclose(out["topk_global_id"], order, **EXACT)
    assert (order[outside] == -1).any()

    reference = all_scores(world, side, **arguments, as_reference=True)
    assert (reference["scores"][n, answer][outside] == np.finfo(np.float32).min).all()
    np.testing.assert_allclose(reference["ranks"], ranks, **EXACT)


def test_queries_without_ground_truth() -> None:
    world = World("DistMult", 33, 4)
    queries = world.triples[:, :2]
    triples = bj.PartitionedTripleSet.create_from_queries(world.dataset, world.sharding, queries, "hr")
    arguments: dict[str, Any] = {
        "batch_sampler": world.sampler(triples, PlaceholderNegativeSampler(corruption_scheme="t")),
        "corruption_scheme": "t",
        "score_fn": world.score_fn(True),
        "placement": world.placement,
        "return_scores": True,
    }
    out = AllScoresPipeline(**arguments, filter_triples=[world.triples]).forward(world.params)
    expected = world.brute_force("t")
    for row, (h, r) in enumerate(queries.tolist()):
        known = (world.triples[:, 0] == h) & (world.triples[:, 1] == r)
        expected[row, world.triples[known, 2]] = -np.inf  # nothing is restored
    np.testing.assert_allclose(out["scores"], expected[triples.triple_sort_idx[out["triple_idx"]]], **FLOAT32)
    with pytest.raises(ValueError, match="evaluation needs the ground truth, but the queries have no tails"):
        AllScoresPipeline(**arguments, evaluation=bj.Evaluation(metric_list=["mrr"]))


def test_no_array_of_queries_times_triples() -> None:
    triples = np.stack([np.arange(50_000), np.zeros(50_000), np.arange(50_000)], axis=1).astype(np.int32)
    tracemalloc.start()
    found = get_entity_filter(triples, triples, "t")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.stack([np.arange(50_000)] * 2, axis=1))
    assert peak < 50_000**2 / 100


def conflicts() -> dict[str, tuple[Callable[[], Any], str]]:
    world, other = World("DistMult", 33, 4), World("DistMult", 33, 4)
    pairs, tails, shared = world.partitioned("ht_shardpair"), world.partitioned("h_shard"), world.score_fn(True)
    conve = bj.ConvE(
        negative_sample_sharing=True, sharding=world.sharding, n_relation_type=N_RELATION, embedding_size=36
    )
    each = lists(world, "t", tails, "specific", mask_on_gather=True)
    place_h, place_t, place_ht = (PlaceholderNegativeSampler(corruption_scheme=x) for x in ("h", "t", "ht"))  # type: ignore[arg-type]

    def block(sampler: Any, score_fn: Any = shared, **arguments: Any) -> Any:
        return lambda: AllScoresBESS(candidate_sampler=sampler, score_fn=score_fn, **arguments)

    bad_entity, bad_relation = np.array([[0, 0, 33]]), np.array([[0, 9, 0]])
    rigid = world.sampler(tails, place_t)
    fields = {f.name: getattr(rigid, f.name) for f in dataclasses.fields(rigid) if f.name != "shuffle"}

    def pipeline(**arguments: Any) -> Any:
        given = {
            "batch_sampler": rigid,
            "corruption_scheme": "t",
            "score_fn": shared,
            "placement": world.placement,
            "evaluation": bj.Evaluation(metric_list=["mrr"]),
        }
        return lambda: AllScoresPipeline(**{**given, **arguments})

    return {
        "block, kind": (block(each, world.score_fn(False)), "candidate_sampler must be a PlaceholderNegativeSampler"),
        "block, ht": (block(place_ht), "corruption_scheme must be 'h' or 't', got 'ht'"),
        "block, ConvE": (block(place_h, conve), "corruption_scheme must be 't' for ConvE"),
        "block, window": (block(place_t, window_size=0), "window_size must be >= 1"),
        "nothing": (pipeline(evaluation=None), "nothing would be returned"),
        "ConvE": (pipeline(corruption_scheme="h", score_fn=conve), "corruption_scheme must be 't' for ConvE"),
        "scheme": (pipeline(corruption_scheme="ht"), "corruption_scheme must be one of 'h', 't'"),
        "mode": (pipeline(corruption_scheme="h"), "partition_mode 't_shard'"),
        "pairs": (pipeline(batch_sampler=world.sampler(pairs, place_t)), "partition_mode 'h_shard'"),
        "random sampler": (pipeline(batch_sampler=bj.RandomShardedBatchSampler(**fields)), "RigidShardedBatchSampler"),
        "twice": (
            pipeline(batch_sampler=dataclasses.replace(rigid, duplicate_batch=True)),
            "duplicate_batch=False",
        ),
        "sharding": (pipeline(score_fn=other.score_fn(True)), "sharding object"),
        "placement": (pipeline(placement=bj.Placement.create(2)), "placement must have 4 shards"),
        "k": (pipeline(k=34), "k must be between 1"),
        "window": (pipeline(window_size=0), "window_size must be >= 1"),
        "filter shape": (pipeline(filter_triples=world.triples), r"filter_triples\[0\] must have shape \(n, 3\)"),
        "filter ids": (pipeline(filter_triples=[bad_entity]), "entity ids go from 0 to 32"),
        "filter relations": (pipeline(filter_triples=[bad_relation]), "relation ids go from 0 to 2"),
        "candidates": (pipeline(candidate_ents=np.array([1, 33])), r"candidate_ents\[1\] is 33"),
        "candidates shape": (pipeline(candidate_ents=np.array([[1, 3]])), "candidate_ents must have shape"),
    }


def test_conflicts_are_refused() -> None:
    for make, message in conflicts().values():
        with pytest.raises((ValueError, TypeError), match=message):
            make()
