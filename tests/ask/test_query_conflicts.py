"""Queries and moving scores: what does not fit together is refused, with the fix in the message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_queries import N_RELATION, World, lists

import bess_jax as bj
from bess_jax.ask.all_scores import AllScoresPipeline
from bess_jax.ask.topk import AllScoresBESS, TopKQueryBessKGE
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, TypeBasedShardedNegativeSampler
from bess_jax.step.score_moving import ScoreMovingBessKGE


def conflicts() -> dict[str, tuple[Callable[[], Any], str]]:
    world = World("DistMult", 33, 4)
    other = World("DistMult", 33, 4)
    pairs, tails = world.partitioned("ht_shardpair"), world.partitioned("h_shard")
    shared, own = world.score_fn(True), world.score_fn(False)
    conve = bj.scoring.ConvE(
        negative_sample_sharing=True, sharding=world.sharding, n_relation_type=N_RELATION, embedding_size=36
    )
    flat, flat_gather = (lists(world, "t", pairs, "flat", gather) for gather in (False, True))
    each = lists(world, "t", tails, "specific", mask_on_gather=True)
    place_h, place_t, place_ht = (PlaceholderNegativeSampler(corruption_scheme=x) for x in ("h", "t", "ht"))  # type: ignore[arg-type]
    mrr = bj.Evaluation(metric_list=["mrr"])
    typed = bj.Sharding.create(33, 4, seed=4, type_offsets=np.array([0, 1]))  # one entity has a type of its own
    typed_fn = shared.clone(sharding=typed)
    by_type = TypeBasedShardedNegativeSampler(
        sharding=typed, corruption_scheme="t", triple_types=np.array([[0, 0]], np.int32), n_negative=2, seed=0
    )

    def random(scheme: Any, **arguments: Any) -> Any:
        return bj.RandomShardedNegativeSampler(
            sharding=world.sharding, corruption_scheme=scheme, n_negative=2, seed=0, **arguments
        )

    def moving(sampler: Any, score_fn: Any = shared, **arguments: Any) -> Any:
        return lambda: ScoreMovingBessKGE(
            negative_sampler=sampler, score_fn=score_fn, **{"return_scores": True, **arguments}
        )

    def top(sampler: Any, score_fn: Any = shared, k: int = 3, **arguments: Any) -> Any:
        return lambda: TopKQueryBessKGE(k=k, candidate_sampler=sampler, score_fn=score_fn, **arguments)

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
            "evaluation": mrr,
        }
        return lambda: AllScoresPipeline(**{**given, **arguments})

    return {
        "local": (moving(random("t", local_sampling=True)), "local_sampling=False"),
        "augmented": (moving(random("t"), augment_negative=True), "augment_negative must be False"),
        "moving, mask on gather": (moving(flat_gather), "mask_on_gather=False"),
        "moving, lists for each": (
            moving(lists(world, "t", pairs, "specific", mask_on_gather=False)),
            "negative_sample_sharing=False",
        ),
        "moving, types": (moving(by_type, typed_fn), "where a shard lacks a type"),
        "moving, placeholder": (moving(place_t), "must sample negatives, got a PlaceholderNegativeSampler"),
        "moving, nothing": (moving(random("t"), return_scores=False), "nothing would be returned"),
        "moving, sharding": (moving(random("t"), other.score_fn(True)), "sharding"),
        "moving, ConvE": (moving(random("ht"), conve), "corruption_scheme='t' for ConvE"),
        "top-k, k": (top(place_t, k=0), "k must be between 1 and the number of entities, 33, got 0"),
        "top-k, large k": (top(place_t, k=34), "k must be between 1 and the number of entities, 33, got 34"),
        "top-k, window": (top(place_t, window_size=0), "window_size must be >= 1"),
        "top-k, ht": (top(place_ht), "corruption_scheme 'h' or 't', got 'ht'"),
        "top-k, ConvE": (top(place_h, conve), "corruption_scheme 't' for ConvE"),
        "top-k, kind": (top(random("t")), "candidate_sampler must be a Placeholder.* or Triple.*, got a Random"),
        "top-k, mask": (top(flat), "mask_on_gather=True"),
        "top-k, lists for each": (top(each), "negative_sample_sharing=False"),
        "top-k, sharding": (top(each, other.score_fn(False)), "sharding object"),
        "block, kind": (block(each, own), "candidate_sampler must be a PlaceholderNegativeSampler"),
        "block, ht": (block(place_ht), "corruption_scheme 'h' or 't', got 'ht'"),
        "block, ConvE": (block(place_h, conve), "corruption_scheme 't' for ConvE"),
        "block, window": (block(place_t, window_size=0), "window_size must be >= 1"),
        "nothing": (pipeline(evaluation=None), "nothing would be returned"),
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


def test_a_mask_of_shared_negatives_is_refused() -> None:
    world = World("DistMult", 33, 4)
    sampler = bj.RandomShardedNegativeSampler(
        sharding=world.sharding, corruption_scheme="t", n_negative=2, seed=0, flat_negative_format=True
    )
    model = ScoreMovingBessKGE(negative_sampler=sampler, score_fn=world.score_fn(True), return_scores=True)
    ids = jnp.zeros((4, 1, 4, 3), jnp.int32)
    mask = jnp.ones((4, 1, 1, 4, 2), bool)
    negative = jnp.zeros((4, 1, 4, 1, 2), jnp.int32)
    with pytest.raises(ValueError, match="negative_mask must be None where a triple meets the negatives of all shards"):
        trace(lambda p, i, n, m: model.forward(p, i, i, i, n, negative_mask=m), world.params, ids, negative, mask)
