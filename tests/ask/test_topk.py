"""The best answers as BESS-KGE finds them, against brute force, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.queries import N_RELATION, WORLDS, World, lists, make_world
from shared.tolerance import EXACT, FLOAT32

import bess_jax as bj
from bess_jax.ask.topk import TopKQueryBessKGE
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, TripleBasedShardedNegativeSampler


def top_k(world: World, side: str, kind: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n_triple, k) ids and scores, and the ranks of the ground truth."""
    triples = world.partitioned("t_shard" if side == "h" else "h_shard")
    if kind == "all":
        sampler: Any = PlaceholderNegativeSampler(corruption_scheme=side)
    else:
        sampler = lists(world, side, triples, kind, mask_on_gather=True)
    module = TopKQueryBessKGE(
        k=k,
        candidate_sampler=sampler,
        score_fn=world.score_fn(kind != "specific"),
        evaluation=bj.Evaluation(metric_list=["mrr"], return_ranks=True),
        return_scores=True,
        window_size=3,
        axis_name=world.placement.axis_name,
    )
    batch = world.batch(world.sampler(triples, sampler))
    idx, mask = batch.pop("triple_idx"), batch["triple_mask"]
    inputs = {name: array[:, None] for name, array in batch.items() if name != "triple_weight"}
    entity_id = world.placement.put(world.sharding.shard_and_idx_to_entity)
    if kind == "flat":  # the ids can also be handed in
        forward = world.map(lambda p, b, i: module.forward(p, entity_id=i, **b))
        out = forward(world.params, world.placement.put(inputs), entity_id)
    else:
        out = world.map(lambda p, b: module.forward(p, **b))(world.params, world.placement.put(inputs))
    np.testing.assert_allclose(out["metrics"][:, 0], np.where(mask, 1 / out["ranks"], 0), **FLOAT32)
    back = np.argsort(triples.triple_sort_idx[idx[mask]])
    return tuple(out[name][mask][back] for name in ("topk_global_id", "topk_scores", "ranks"))  # type: ignore[return-value]


@pytest.mark.parametrize(("n_shard", "few", "mapping", "n_device"), WORLDS)
def test_top_k_equals_brute_force(n_shard: int, few: bool, mapping: str, n_device: int | None) -> None:
    world, side = make_world(n_shard, few, mapping, n_device)
    expected = world.brute_force(side)
    k = min(4, world.n_entity)
    order = np.argsort(-expected, axis=1)
    place = np.argmax(order == world.triples[:, [0 if side == "h" else 2]], axis=1) + 1
    for kind in ("all", "flat", "specific"):
        entity, score, ranks = top_k(world, side, kind, k)
        np.testing.assert_allclose(entity, order[:, :k], **EXACT)
        np.testing.assert_allclose(score, -np.sort(-expected, axis=1)[:, :k], **FLOAT32)
        np.testing.assert_allclose(ranks, np.minimum(place, k + 1), **EXACT)


def test_fewer_candidates_than_asked_for() -> None:
    """What is missing is -1, never padding or an entity that is no candidate."""
    world = World("TransE1", 9, 4)
    triples = world.partitioned("h_shard")
    candidates = np.array([[7, 2, 5]], np.int32)
    sampler = TripleBasedShardedNegativeSampler(
        sharding=world.sharding,
        corruption_scheme="t",
        negative_heads=None,
        negative_tails=candidates,
        mask_on_gather=True,
    )
    module = TopKQueryBessKGE(k=6, candidate_sampler=sampler, score_fn=world.score_fn(True), return_scores=True)
    batch = world.batch(world.sampler(triples, sampler))
    inputs = {name: batch[name][:, None] for name in ("relation", "head", "negative", "negative_mask")}
    out = world.map(lambda p, b: module.forward(p, **b))(world.params, inputs)
    found = out["topk_global_id"][batch["triple_mask"]]
    assert (np.sort(found[:, :3], axis=1) == [2, 5, 7]).all()
    assert (found[:, 3:] == -1).all()
    assert np.isneginf(out["topk_scores"][batch["triple_mask"]][:, 3:]).all()


def test_equal_scores_come_in_the_order_of_the_ids() -> None:
    world = World("TransE1", 33, 4)
    world.params = world.params._replace(entity=jnp.ones_like(world.params.entity))
    found, *_ = top_k(world, "t", "all", 7)
    assert (found == np.arange(7)).all()


def test_merged_answers() -> None:
    """Of ties on several shards, candidates listed twice, zeros of both signs, scores that are NaN or missing."""
    n_query, k, n_shard = 9, 6, 4
    world, rng = World("DistMult", 33, n_shard), np.random.default_rng(0)
    module = TopKQueryBessKGE(
        k=k, candidate_sampler=PlaceholderNegativeSampler(corruption_scheme="t"), score_fn=world.score_fn(True)
    )
    values = np.float32([-np.inf, -np.inf, np.nan, -0.0, 0.0, 1])
    score = rng.choice(values, size=(n_shard, n_shard * n_query, k), p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    local = rng.integers(8, size=score.shape).astype(np.int32)
    ids = world.sharding.shard_and_idx_to_entity
    found = jax.vmap(module._merge, axis_name="shard")(score, local, ids)

    def by_query(x: np.ndarray) -> np.ndarray:  # (S of the query, Q, S that found it, K)
        return np.moveaxis(x.reshape(n_shard, n_shard, n_query, k), 0, 2).reshape(n_shard, n_query, -1)

    score, entity = by_query(score), by_query(ids[np.arange(n_shard)[:, None, None], local])
    order = np.lexsort((entity, -score), axis=-1)[..., :k]  # NaN last
    score, entity = (np.take_along_axis(x, order, axis=-1) for x in (score, entity))
    np.testing.assert_allclose(found[0], score, **EXACT)
    np.testing.assert_allclose(found[1], np.where(score > -np.inf, entity, -1), **EXACT)
    assert 0 < np.mean(found[1] == -1) < 1


def conflicts() -> dict[str, tuple[Callable[[], Any], str]]:
    world, other = World("DistMult", 33, 4), World("DistMult", 33, 4)
    pairs, tails, shared = world.partitioned("ht_shardpair"), world.partitioned("h_shard"), world.score_fn(True)
    conve = bj.ConvE(
        negative_sample_sharing=True, sharding=world.sharding, n_relation_type=N_RELATION, embedding_size=36
    )
    flat = lists(world, "t", pairs, "flat", mask_on_gather=False)
    each = lists(world, "t", tails, "specific", mask_on_gather=True)
    place_h, place_t, place_ht = (PlaceholderNegativeSampler(corruption_scheme=x) for x in ("h", "t", "ht"))  # type: ignore[arg-type]
    random = bj.RandomShardedNegativeSampler(sharding=world.sharding, corruption_scheme="t", n_negative=2, seed=0)

    def top(sampler: Any, score_fn: Any = shared, k: int = 3, **arguments: Any) -> Any:
        return lambda: TopKQueryBessKGE(k=k, candidate_sampler=sampler, score_fn=score_fn, **arguments)

    return {
        "k": (top(place_t, k=0), "k must be between 1 and the number of entities, 33, got 0"),
        "large k": (top(place_t, k=34), "k must be between 1 and the number of entities, 33, got 34"),
        "window": (top(place_t, window_size=0), "window_size must be >= 1"),
        "ht": (top(place_ht), "corruption_scheme must be 'h' or 't', got 'ht'"),
        "ConvE": (top(place_h, conve), "corruption_scheme must be 't' for ConvE"),
        "kind": (top(random), "candidate_sampler must be a Placeholder.* or Triple.*, got a Random"),
        "mask": (top(flat), "mask_on_gather=True"),
        "lists for each": (top(each), "negative_sample_sharing=False"),
        "sharding": (top(each, other.score_fn(False)), "sharding object"),
    }


def test_conflicts_are_refused() -> None:
    for make, message in conflicts().values():
        with pytest.raises((ValueError, TypeError), match=message):
            make()


def trace(fn: Callable[..., Any], *args: Any) -> None:
    jax.eval_shape(jax.vmap(fn, axis_name="shard"), *args)


def test_bad_batches_are_refused() -> None:
    world = World("DistMult", 33, 4)
    rows = bj.Params(world.params.entity[0], {"relation_embedding": world.params.score_fn["relation_embedding"][0]})
    ids = jnp.zeros((1, 5), jnp.int32)
    score_fn = world.score_fn(True)
    mrr = bj.Evaluation(metric_list=["mrr"])
    every = TopKQueryBessKGE(
        k=3,
        candidate_sampler=PlaceholderNegativeSampler(corruption_scheme="t"),
        score_fn=score_fn,
        evaluation=mrr,
    )
    listed = dataclasses.replace(
        every, candidate_sampler=lists(world, "t", world.partitioned("h_shard"), "flat", mask_on_gather=True)
    )
    negative = jnp.zeros((1, 4, 1, 2), jnp.int32)
    for module, batch, message in (
        (every, {}, "head must be given, the known entities of queries for a tail"),
        (every, {"head": ids[:, :3]}, "head must have shape"),
        (every, {"head": ids}, "tail must be given, the ground truth"),
        (every, {"head": ids, "negative": negative}, "negative must be None where all entities are candidates"),
        (listed, {"head": ids}, "negative must be given"),
        (listed, {"head": ids, "negative": negative[:, :3]}, "negative must have shape"),
        (
            listed,
            {"head": ids, "negative": negative, "negative_mask": negative[..., :1] > 0},
            "negative_mask must have",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            trace(lambda _, module=module, batch=batch: module.forward(rows, ids, **batch), jnp.arange(4))
