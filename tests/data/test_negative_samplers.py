"""Negatives by type, from given lists, and over all entities; the losses over all entities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.tolerance import ACCUMULATED, EXACT

import bess_jax as bj
from bess_jax.data.negative_sampler import (
    AllEntitiesNegativeSampler,
    PlaceholderNegativeSampler,
    TripleBasedShardedNegativeSampler,
    TypeBasedShardedNegativeSampler,
)
from bess_jax.step.loss import BCEWithLogitsLoss, SoftmaxCrossEntropyLoss
from bess_jax.step.score_moving import ScoreMovingBessKGE

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SCHEMES: Any = st.sampled_from(["h", "t", "ht"])
N_RELATION = 3


def equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, **EXACT)


def sides(scheme: str, sample_idx: np.ndarray) -> np.ndarray:
    """0 (head) or 1 (tail) for each triple of each shard, (T, S, B)."""
    size = sample_idx.shape[-1]
    side = {"h": [0] * size, "t": [1] * size, "ht": [0] * (size // 2) + [1] * (size - size // 2)}[scheme]
    return np.broadcast_to(side, sample_idx.shape).reshape(*sample_idx.shape[:2], -1)


def to_gather(mask: np.ndarray, local: bool = False) -> np.ndarray:
    """A mask (T, scorer, sets, other shard, N) laid out like the entities, (T, source, destination, sets, N)."""
    return np.moveaxis(mask, 3, 2) if local else np.moveaxis(mask, 3, 1)


# --- by type ----------------------------------------------------------------------------------------------------------


def by_type(scheme: Any = "t", local: bool = False, n_negative: int = 4, **changed: Any) -> Any:
    """12 entities of three types, (5, 6, 1), on 2 shards."""
    arguments = {
        "sharding": bj.Sharding.create(12, 2, seed=3, type_offsets=np.array([0, 5, 11])),
        "triple_types": np.random.default_rng(0).integers(3, size=(30, 2)).astype(np.int32),
        **changed,
    }
    return TypeBasedShardedNegativeSampler(
        corruption_scheme=scheme, local_sampling=local, n_negative=n_negative, seed=5, **arguments
    )


@few
@given(SCHEMES, st.booleans(), st.booleans(), st.integers(0, 99))
def test_type_is_that_of_the_replaced_entity(scheme: Any, local: bool, pairs: bool, seed: int) -> None:
    """Where the mask is True; where it is False the shard has no entity of that type."""
    sampler = by_type(scheme, local)
    sharding, T, P = sampler.sharding, 2, 4
    sample_idx = np.random.default_rng(seed).integers(30, size=(T, 2, 2, P) if pairs else (T, 2, P)).astype(np.int32)
    out = sampler.sample(sample_idx, 1, 2)
    B = P * (2 if pairs else 1)
    assert out["negative"].shape == (T, 2, 2, B, 4)
    assert out["negative_mask"].shape == (T, 2, B, 2, 4)
    assert out["negative"].dtype == np.int32
    mask, rows, side = to_gather(out["negative_mask"], local), sample_idx.reshape(T, 2, B), sides(scheme, sample_idx)
    for t, src, dst, b in np.ndindex(T, 2, 2, B):
        scorer = src if local else dst
        wanted = sampler.triple_types[rows[t, scorer, b], side[t, scorer, b]]
        here = sharding.shard_and_idx_to_entity[src][: sharding.shard_counts[src]]
        types = np.searchsorted([0, 5, 11], here, side="right") - 1
        drawn = out["negative"][t, src, dst, b]
        assert (drawn >= 0).all()
        assert (drawn < len(here)).all()
        assert (mask[t, src, dst, b] == (wanted in types)).all()
        if wanted in types:
            assert (types[drawn] == wanted).all()


def test_no_mask_without_need() -> None:
    """Only if a type that the triples need is absent from a shard; the same for all batches of a run."""
    types = np.random.default_rng(0).integers(2, size=(30, 2)).astype(np.int32)
    sample_idx = np.zeros((1, 2, 4), np.int32)
    assert (by_type().sharding.entity_type_counts == 0).any()
    assert "negative_mask" not in by_type(triple_types=types).sample(sample_idx, 0, 0)
    types[7, 0] = 2
    assert "negative_mask" not in by_type("t", triple_types=types).sample(sample_idx, 0, 0)
    assert "negative_mask" in by_type("h", triple_types=types).sample(sample_idx, 0, 0)


def test_types_are_drawn_uniformly() -> None:
    """Each entity of the type as often as the others on its shard: chi-square, and no trace of a modulo."""
    sampler = by_type(n_negative=1000, triple_types=np.ones((1, 2), np.int32))
    counts = sampler.sharding.entity_type_counts[:, 1]
    assert sorted(counts) == [2, 4]
    negative = sampler.sample(np.zeros((3, 2, 2, 2), np.int32), 0, 0)["negative"]
    for shard, count in enumerate(counts):
        seen = np.bincount(negative[:, shard].ravel(), minlength=sampler.sharding.shard_counts[shard])
        seen = seen[seen > 0]
        assert len(seen) == count
        expected = negative[:, shard].size / count
        assert ((seen - expected) ** 2 / expected).sum() < 20  # 1 and 3 degrees of freedom


def test_type_draws_are_a_function_of_their_place() -> None:
    sample_idx = np.zeros((2, 2, 4), np.int32)
    places = [(epoch, step) for epoch in range(2) for step in range(2)]
    first = {place: by_type().sample(sample_idx, *place)["negative"] for place in places}
    for place in reversed(places):
        equal(by_type().sample(sample_idx, *place)["negative"], first[place])
    assert len({array.tobytes() for array in first.values()}) == len(places)


def test_masked_negatives_are_masked_in_the_step() -> None:
    """The mask hits the columns of the entities that it belongs to, with negatives exchanged and with local ones."""
    for local in (False, True):
        sampler = by_type("ht", local)
        sample_idx = np.arange(8, dtype=np.int32).reshape(1, 2, 2, 2)
        batch = bj.shard_major({**zeros_batch(2, 2), **sampler.sample(sample_idx, 0, 0)})
        scores = np.asarray(run(make_model(sampler, None, shared=False), batch)["negative_score"])  # (S, B, S * N)
        wanted = sampler.triple_types[sample_idx.reshape(2, 4), sides("ht", sample_idx)[0]]
        counts = sampler.sharding.entity_type_counts
        for scorer, b, q in np.ndindex(2, 4, 2):
            source = scorer if local else q
            is_masked = scores[scorer, b].reshape(2, 4)[q] < -40_000
            assert (is_masked == (counts[source, wanted[scorer, b]] == 0)).all()


# --- given lists ------------------------------------------------------------------------------------------------------


@few
@given(
    SCHEMES, st.integers(1, 4), st.integers(1, 6), st.integers(4, 12), st.booleans(), st.booleans(), st.integers(0, 99)
)
def test_given_lists(scheme: Any, S: int, n: int, E: int, flat: bool, on_gather: bool, seed: int) -> None:
    """Every triple meets the entities of its list, each as often as it stands there, and nothing else."""
    rng = np.random.default_rng(seed)
    n_triple, T, P = 7, 2, 2
    lists = rng.integers(E, size=(2, 1 if flat else n_triple, n)).astype(np.int32)
    sampler = TripleBasedShardedNegativeSampler(
        sharding=bj.Sharding.create(E, S, seed),
        corruption_scheme=scheme,
        negative_heads=lists[0] if "h" in scheme else None,
        negative_tails=lists[1] if "t" in scheme else None,
        mask_on_gather=on_gather,
        return_sort_idx=True,
    )
    sample_idx = rng.integers(n_triple, size=(T, S, S, P)).astype(np.int32)
    out = sampler.sample(sample_idx, 0, 0)
    sets, B = sampler.n_list(S * P), S * P
    assert sampler.flat_negative_format == flat
    assert out["negative"].shape[:4] == (T, S, S, sets)
    assert out["negative_sort_idx"].shape == (T, S, B, n)
    mask = out["negative_mask"] if on_gather else to_gather(out["negative_mask"])
    assert mask.shape == out["negative"].shape
    slots, rows, side = sampler.sharding.shard_and_idx_to_entity, sample_idx.reshape(T, S, B), sides(scheme, sample_idx)
    for t, dst, b in np.ndindex(T, S, B):
        wanted = lists[side[t, dst, b], 0 if flat else rows[t, dst, b]]
        number = (side[t, dst, b] if sets == 2 else 0) if flat else b
        found = np.concatenate(
            [slots[src, out["negative"][t, src, dst, number][mask[t, src, dst, number]]] for src in range(S)]
        )
        equal(found, wanted[out["negative_sort_idx"][t, dst, b]])
        equal(np.sort(out["negative_sort_idx"][t, dst, b]), np.arange(n))
    longest = max(
        np.bincount(sampler.sharding.entity_to_shard[row], minlength=S).max()
        for number in sorted(set(side.ravel()))
        for row in lists[number]
    )
    assert out["negative"].shape[-1] == longest


# --- all entities -----------------------------------------------------------------------------------------------------


def zeros_batch(S: int, P: int) -> dict[str, np.ndarray]:
    return {name: np.zeros((1, S, S, P), np.int32) for name in ("head", "relation", "tail")}


def make_model(sampler: Any, loss_fn: Any, shared: bool = True, scheme: Any = bj.EmbeddingMovingBessKGE) -> Any:
    score_fn = bj.DistMult(
        negative_sample_sharing=shared, sharding=sampler.sharding, n_relation_type=N_RELATION, embedding_size=4
    )
    return scheme(negative_sampler=sampler, score_fn=score_fn, loss_fn=loss_fn, return_scores=loss_fn is None)


def run(model: Any, batch: Any, params: Any = None) -> Any:
    params = model.init(jax.random.key(0)) if params is None else params
    return jax.jit(jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard"))(params, batch)


@pytest.mark.parametrize("n_shard", [1, 3, 4])
@pytest.mark.parametrize("scheme", ["h", "t", "ht"])
def test_all_entities_are_listed_once(scheme: Any, n_shard: int) -> None:
    sampler = AllEntitiesNegativeSampler(sharding=bj.Sharding.create(10, n_shard, 1), corruption_scheme=scheme)
    out = sampler.sample(np.zeros((2, n_shard, n_shard, 2), np.int32), 0, 0)
    sets, M = 2 if scheme == "ht" else 1, sampler.sharding.max_entity_per_shard
    assert out["negative"].shape == (2, n_shard, n_shard, sets, M)
    mask = to_gather(out["negative_mask"])
    source = np.broadcast_to(np.arange(n_shard)[:, None], (n_shard, M))
    for t, dst, number in np.ndindex(2, n_shard, sets):
        here = mask[t, :, dst, number]
        listed = sampler.sharding.shard_and_idx_to_entity[source, out["negative"][t, :, dst, number]][here]
        equal(np.sort(listed), np.arange(10))


def dense_loss(kind: str, offset: float, table: Any, relations: Any, triples: Any, side: Any, weight: Any) -> Any:
    """Loss and gradients over all entities in float64, one side each triple: DistMult."""
    h, r, t = triples.T
    known = np.where(side == 1, h, t)
    answer = np.where(side == 1, t, h)
    query = table[known] * relations[r]
    scores = query @ table.T + offset
    label = np.eye(len(table))[answer]
    if kind == "softmax":
        total = np.log(np.exp(scores).sum(axis=1))
        loss, grad = total - (scores * label).sum(axis=1), np.exp(scores - total[:, None]) - label
    else:
        loss = (np.log1p(np.exp(scores)) - label * scores).sum(axis=1)
        grad = 1 / (1 + np.exp(-scores)) - label
    grad = grad * weight[:, None]
    d_table, d_relations = grad.T @ query, np.zeros_like(relations)
    np.add.at(d_table, known, (grad @ table) * relations[r])
    np.add.at(d_relations, r, (grad @ table) * table[known])
    return (loss * weight).sum(), d_table, d_relations


@pytest.mark.parametrize("kind", ["softmax", "bce"])
@pytest.mark.parametrize(
    ("n_shard", "scheme", "moving"),
    [
        (1, "t", bj.EmbeddingMovingBessKGE),
        (3, "ht", bj.EmbeddingMovingBessKGE),
        (4, "h", bj.EmbeddingMovingBessKGE),
        (3, "ht", ScoreMovingBessKGE),
    ],
)
def test_losses_over_all_entities(n_shard: int, scheme: Any, moving: Any, kind: str) -> None:
    """Value and gradients are those of the dense formula, for uneven shards and repeated triples."""
    n_entity, rng = 23, np.random.default_rng(3)
    sharding = bj.Sharding.create(n_entity, n_shard, 1)
    triples = rng.integers([n_entity, N_RELATION, n_entity], size=(40, 3)).astype(np.int32)
    dataset = bj.KGDataset(n_entity=n_entity, n_relation_type=N_RELATION, triples={"train": triples})
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding),
        negative_sampler=AllEntitiesNegativeSampler(sharding=sharding, corruption_scheme=scheme),
        shard_bs=4 * n_shard,
        batches_per_step=1,
        seed=0,
        return_triple_idx=True,
        hrt_freq_weighting=True,
    )
    host = sampler.batch(0, 0)
    rows = host.pop("triple_idx").reshape(-1)
    weight = host["triple_weight"].astype(np.float64)
    if kind == "softmax":
        loss_fn: Any = SoftmaxCrossEntropyLoss(positive_among_negatives=True, loss_scale=0.5)
    else:
        loss_fn = BCEWithLogitsLoss(positive_among_negatives=True, offset=0.3, loss_scale=0.5)
    model = make_model(sampler.negative_sampler, loss_fn, scheme=moving)
    table, relations = rng.normal(size=(n_entity, 4)), rng.normal(size=(N_RELATION, 4))
    slots = sharding.shard_and_idx_to_entity
    padded = np.where((slots < n_entity)[..., None], table[np.minimum(slots, n_entity - 1)], 1e3)  # loud padding
    params = bj.Params(
        jnp.asarray(padded, jnp.float32),
        {"relation_embedding": jnp.broadcast_to(jnp.asarray(relations, jnp.float32), (n_shard, *relations.shape))},
    )
    batch = bj.shard_major(host)

    def total(p: Any) -> Any:
        return jnp.sum(run(model, batch, p)["loss"])

    loss, grads = jax.value_and_grad(total)(params)
    chosen = triples[sampler.partitioned_triple_set.triple_sort_idx[rows]]
    side = sides(scheme, np.zeros((1, n_shard, n_shard, 4))).reshape(-1)
    offset = 0.3 if kind == "bce" else 0.0
    expected = dense_loss(kind, offset, table, relations, chosen, side, weight.reshape(-1))
    np.testing.assert_allclose(loss, 0.5 * expected[0], **ACCUMULATED)
    by_id = np.asarray(grads.entity)[sharding.entity_to_shard, sharding.entity_to_idx]
    np.testing.assert_allclose(by_id, 0.5 * expected[1], **ACCUMULATED)
    d_relations = np.asarray(grads.score_fn["relation_embedding"]).sum(axis=0)
    np.testing.assert_allclose(d_relations, 0.5 * expected[2], **ACCUMULATED)
    is_padding = slots >= n_entity
    equal(np.asarray(grads.entity)[is_padding], 0)


@pytest.mark.parametrize("kind", [SoftmaxCrossEntropyLoss, BCEWithLogitsLoss])
def test_own_entity_counts_once(kind: Any) -> None:
    """With the positive among the negatives the loss is that of the others alone; both take masked scores."""
    rng = np.random.default_rng(0)
    positive, others = rng.normal(size=(5,)).astype(np.float32), rng.normal(size=(5, 7)).astype(np.float32)
    others[0, 3] = -50_000
    everything = np.insert(others, 2, positive, axis=1)
    alone = kind().per_triple(jnp.asarray(positive), jnp.asarray(others))
    among = kind(positive_among_negatives=True).per_triple(jnp.asarray(positive), jnp.asarray(everything))
    np.testing.assert_allclose(among, alone, rtol=1e-5, atol=1e-5)
    scores = np.concatenate([positive[:, None], others], axis=1).astype(np.float64)
    if kind is SoftmaxCrossEntropyLoss:
        expected = np.log(np.exp(scores).sum(axis=1)) - positive
    else:
        expected = np.log1p(np.exp(-scores[:, 0])) + np.log1p(np.exp(scores[:, 1:])).sum(axis=1)
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-6)


# --- placeholder and errors -------------------------------------------------------------------------------------------


def test_placeholder() -> None:
    sampler = PlaceholderNegativeSampler(corruption_scheme="t")
    assert sampler.sample(np.zeros((1, 2, 4), np.int32), 0, 0) == {}


def given_lists(**changed: Any) -> Any:
    arguments: Any = {"corruption_scheme": "ht", "negative_heads": None, "negative_tails": None, **changed}
    return TripleBasedShardedNegativeSampler(sharding=bj.Sharding.create(9, 2, 0), **arguments)


def batches_with(sampler: Any, **changed: Any) -> Any:
    triples = np.zeros((5, 3), np.int32)
    dataset = bj.KGDataset(n_entity=9, n_relation_type=1, triples={"train": triples})
    arguments: Any = {"shard_bs": 4, "batches_per_step": 1, "seed": 0, **changed}
    return bj.RigidShardedBatchSampler(
        partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(
            dataset, "train", sampler.sharding, "h_shard"
        ),
        negative_sampler=sampler,
        **arguments,
    )


IDS = np.zeros((4, 2), np.int32)
EMPTY = bj.Sharding.create(10, 9, 0, np.array([0]))  # some shards hold padding only


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_type(n_negative=0), r"n_negative must be >= 1, got 0"),
        (
            lambda: by_type(sharding=bj.Sharding.create(12, 2, 1)),
            r"sharding must know the entity types, .* type_offsets",
        ),
        (lambda: by_type(triple_types=IDS + 3), r"triple_types\[0, 0\] is 3, but type ids go from 0 to 2"),
        (lambda: by_type(triple_types=IDS[:, :1]), r"triple_types must have shape \(n_triple, 2\)"),
        (lambda: by_type(sharding=EMPTY), r"sharding must leave no shard empty"),
        (lambda: given_lists(), r"negative_heads must be given for corruption_scheme 'ht', got None"),
        (
            lambda: given_lists(negative_heads=IDS, corruption_scheme="t"),
            r"negative_tails must be given for corruption_scheme 't', got None",
        ),
        (
            lambda: given_lists(negative_heads=IDS, negative_tails=IDS + 9),
            r"negative_tails\[0, 0\] is 9, but entity_global",
        ),
        (
            lambda: given_lists(negative_heads=IDS, negative_tails=IDS[:1]),
            r"must have the same shape, .* got \[\(4, 2\), \(1, 2\)\]",
        ),
        (lambda: given_lists(negative_heads=IDS[:, :0], corruption_scheme="h"), r"not be empty, got \[\(4, 0\)\]"),
        (
            lambda: given_lists(negative_heads=IDS[0], corruption_scheme="h"),
            r"negative_heads must have shape \(1 or n_tri",
        ),
        (
            lambda: batches_with(given_lists(negative_heads=IDS, corruption_scheme="h")),
            r"negative_sampler must be made for the 5 triples of partitioned_triple_set, got types or lists of 4",
        ),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
