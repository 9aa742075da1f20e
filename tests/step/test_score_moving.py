"""Moving scores: the same scores, losses and updates as moving embeddings, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.queries import MODELS, N_RELATION, WORLDS, World, lists, make_world
from shared.tolerance import ACCUMULATED, FLOAT32

import bess_jax as bj
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, TypeBasedShardedNegativeSampler
from bess_jax.step.score_moving import ScoreMovingBessKGE

SCHEMES: dict[str, Any] = {"EmbeddingMoving": bj.EmbeddingMovingBessKGE, "ScoreMoving": ScoreMovingBessKGE}


def scores_of_scheme(world: World, scheme: str, side: str, kind: str) -> np.ndarray:
    """(n_triple, n_entity) scores, from the negative scores of a distribution scheme."""
    triples = world.partitioned("ht_shardpair")
    sampler = lists(world, side, triples, kind, mask_on_gather=False)
    model = SCHEMES[scheme](
        negative_sampler=sampler,
        score_fn=world.score_fn(kind == "flat"),
        return_scores=True,
        axis_name=world.placement.axis_name,
    )
    batch = world.batch(world.sampler(triples, sampler))
    names = ("head", "relation", "tail", "negative", "negative_mask")
    inputs = {name: batch[name][:, None] for name in names}
    out = world.map(lambda p, b: model.forward(p, **b))(world.params, world.placement.put(inputs))
    slots = world.sharding.shard_and_idx_to_entity
    column = slots[np.arange(world.n_shard)[:, None, None, None], batch["negative"]]  # (src, dst, sets, N)
    column = np.moveaxis(column, 0, 2)  # as the mask: (dst, sets, src, N)
    found = np.full((len(world.triples), world.n_entity), np.nan)
    positive = np.full(len(world.triples), np.nan)
    for shard in range(world.n_shard):
        rows = batch["triple_idx"][shard].ravel()
        for number in np.flatnonzero(batch["triple_mask"][shard].ravel()):
            entry = 0 if kind == "flat" else number
            real = batch["negative_mask"][shard, entry].ravel()
            row = triples.triple_sort_idx[rows[number]]
            found[row, column[shard, entry].ravel()[real]] = out["negative_score"][shard, number][real]
            positive[row] = out["positive_score"][shard, number]
    answer = world.triples[:, 0 if side == "h" else 2]
    np.testing.assert_allclose(found[np.arange(len(found)), answer], positive, **FLOAT32)
    return found


@pytest.mark.parametrize(("n_shard", "few", "mapping", "n_device"), WORLDS)
def test_schemes_equal_brute_force(n_shard: int, few: bool, mapping: str, n_device: int | None) -> None:
    world, side = make_world(n_shard, few, mapping, n_device)
    expected = world.brute_force(side)
    for scheme in SCHEMES:
        for kind in ("flat", "specific") if scheme == "ScoreMoving" or mapping == "vmap" else ("flat",):
            np.testing.assert_allclose(scores_of_scheme(world, scheme, side, kind), expected, **FLOAT32)


@pytest.mark.parametrize("scheme", ["h", "ht"])
def test_moving_scores_train_like_moving_embeddings(scheme: str) -> None:
    """One list of negatives for all triples: the same loss and the same update, dense and on touched rows."""
    world = World("DistMult", 29, 4)
    triples = world.partitioned("ht_shardpair")
    sampler = lists(world, scheme, triples, "flat", mask_on_gather=False)
    host = world.sampler(triples, sampler).batch(0, 0)
    host = {k: v for k, v in host.items() if k not in ("triple_idx", "triple_mask")}
    merged = bj.merge_ids(host, world.sharding.max_entity_per_shard)
    params = world.params._replace(entity=jnp.nan_to_num(world.params.entity))
    loss_fn = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=True)
    results = []
    for kind in SCHEMES.values():
        model = kind(negative_sampler=sampler, score_fn=world.score_fn(True), loss_fn=loss_fn)
        for rule in (bj.dense(optax.sgd(0.1)), bj.row_sparse(optax.sgd(0.1))):
            step = jax.jit(jax.vmap(bj.make_train_step(model, rule), axis_name="shard"))
            fed = bj.shard_major(merged if rule.sparse else host)
            loss, state = step(bj.TrainState(params, jax.vmap(rule.init)(params)), fed)
            results.append((loss, state.params.entity, state.params.score_fn["relation_embedding"]))
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            np.testing.assert_allclose(x, y, **ACCUMULATED)


@pytest.mark.parametrize("kind", [bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", list(MODELS))
def test_equal_entities_tie_with_the_positive(kind: Any, flat: bool, shared: bool, name: str) -> None:
    """Where all rows are equal, a positive ranks in the middle of its 22 candidates, as `average` says, to the bit."""
    world = World(name, 33, 2)
    negative = bj.RandomShardedNegativeSampler(
        sharding=world.sharding, corruption_scheme="ht", flat_negative_format=flat, n_negative=11, seed=0
    )
    model = kind(
        negative_sampler=negative,
        score_fn=world.score_fn(shared),
        evaluation=bj.Evaluation(metric_list=["mrr"], return_ranks=True),
        return_scores=True,
    )
    params = model.init(jax.random.key(0))
    params = params._replace(entity=jnp.broadcast_to(params.entity[:1, :1], params.entity.shape))
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=world.partitioned("ht_shardpair"),
        negative_sampler=negative,
        shard_bs=8,
        batches_per_step=1,
        seed=0,
    )
    batch = {k: jnp.asarray(v[0])[:, None] for k, v in sampler.batch(0, 0).items()}
    out = jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard")(params, batch)
    n = out["negative_score"].shape[-1]
    np.testing.assert_array_equal(out["negative_score"], np.repeat(out["positive_score"][..., None], n, axis=-1))
    np.testing.assert_array_equal(out["ranks"], np.full(out["ranks"].shape, 1 + n / 2))


def conflicts() -> dict[str, tuple[Callable[[], Any], str]]:
    world, other = World("DistMult", 33, 4), World("DistMult", 33, 4)
    pairs, shared = world.partitioned("ht_shardpair"), world.score_fn(True)
    conve = bj.ConvE(
        negative_sample_sharing=True, sharding=world.sharding, n_relation_type=N_RELATION, embedding_size=36
    )
    flat_gather = lists(world, "t", pairs, "flat", mask_on_gather=True)
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

    place_t = PlaceholderNegativeSampler(corruption_scheme="t")
    return {
        "local": (moving(random("t", local_sampling=True)), "local_sampling=False"),
        "augmented": (moving(random("t"), augment_negative=True), "augment_negative must be False"),
        "mask on gather": (moving(flat_gather), "mask_on_gather=False"),
        "lists for each": (
            moving(lists(world, "t", pairs, "specific", mask_on_gather=False)),
            "negative_sample_sharing=False",
        ),
        "types": (moving(by_type, typed_fn), "where a shard lacks a type"),
        "placeholder": (moving(place_t), "must sample negatives, got a PlaceholderNegativeSampler"),
        "nothing": (moving(random("t"), return_scores=False), "nothing would be returned"),
        "sharding": (moving(random("t"), other.score_fn(True)), "sharding"),
        "ConvE": (moving(random("ht"), conve), "corruption_scheme='t' for ConvE"),
    }


def test_conflicts_are_refused() -> None:
    for make, message in conflicts().values():
        with pytest.raises((ValueError, TypeError), match=message):
            make()


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
        jax.eval_shape(
            jax.vmap(lambda p, i, n, m: model.forward(p, i, i, i, n, negative_mask=m), axis_name="shard"),
            *(world.params, ids, negative, mask),
        )
