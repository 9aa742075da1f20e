"""Sharding, partition and samplers: what holds for every graph, and batches that depend on nothing but their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler

N_RELATION = 4
few = settings(max_examples=30, deadline=None, derandomize=True, database=None)
sizes = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, min(n, 9)), st.integers(0, 99)))


def make_dataset(n_entity: int, n_triple: int, seed: int) -> bj.KGDataset:
    rng = np.random.default_rng(seed)
    triples = rng.integers([n_entity, N_RELATION, n_entity], size=(n_triple, 3)).astype(np.int32)
    return bj.KGDataset(n_entity=n_entity, n_relation_type=N_RELATION, triples={"train": triples})


def make_sampler(
    n_entity: int = 23,
    n_shard: int = 3,
    n_triple: int = 100,
    shard_bs: int = 6,
    mode: Any = "ht_shardpair",
    scheme: Any = "t",
    kind: type[Any] = bj.RigidShardedBatchSampler,
    n_negative: int = 2,
    flat: bool = True,
    local: bool = False,
    batches_per_step: int = 2,
    **arguments: Any,
) -> Any:
    sharding = bj.Sharding.create(n_entity, n_shard, seed=1)
    dataset = make_dataset(n_entity, n_triple, seed=2)
    return kind(
        partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding, mode),
        negative_sampler=bj.RandomShardedNegativeSampler(
            sharding=sharding,
            corruption_scheme=scheme,
            n_negative=n_negative,
            seed=3,
            flat_negative_format=flat,
            local_sampling=local,
        ),
        shard_bs=shard_bs,
        batches_per_step=batches_per_step,
        seed=4,
        **arguments,
    )


# --- sharding and partition -------------------------------------------------------------------------------------------


@few
@given(sizes)
def test_sharding_holds_every_entity_once(size: tuple[int, int, int]) -> None:
    n_entity, n_shard, seed = size
    sharding = bj.Sharding.create(n_entity, n_shard, seed)
    M = sharding.max_entity_per_shard
    assert (sharding.n_entity, sharding.n_shard, M) == (n_entity, n_shard, -(-n_entity // n_shard))
    slots = sharding.shard_and_idx_to_entity
    assert slots.shape == (n_shard, M)
    np.testing.assert_array_equal(np.sort(slots, axis=None), np.arange(n_shard * M))
    np.testing.assert_array_equal(slots[sharding.entity_to_shard, sharding.entity_to_idx], np.arange(n_entity))
    is_padding = slots >= n_entity
    assert (np.diff(is_padding.astype(int), axis=1) >= 0).all()  # padding stands last
    np.testing.assert_array_equal(sharding.shard_counts, M - is_padding.sum(axis=1))
    arrays = (slots, sharding.entity_to_shard, sharding.entity_to_idx, sharding.shard_counts)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


@few
@given(sizes, st.data())
def test_sharding_types(size: tuple[int, int, int], data: Any) -> None:
    """Each shard holds the entities of a type side by side, as its offsets and counts say."""
    n_entity, n_shard, seed = size
    starts = data.draw(st.sets(st.integers(1, n_entity), max_size=3))
    offsets = np.array([0, *sorted(starts - {n_entity})], dtype=np.int32)
    sharding = bj.Sharding.create(n_entity, n_shard, seed, offsets)
    types = np.searchsorted(offsets, sharding.shard_and_idx_to_entity, side="right") - 1
    assert sharding.entity_type_counts is not None
    assert sharding.entity_type_offsets is not None
    np.testing.assert_array_equal(sharding.entity_type_counts.sum(axis=1), sharding.shard_counts)
    for row, counts, first in zip(types, sharding.entity_type_counts, sharding.entity_type_offsets, strict=True):
        for kind in range(len(offsets)):
            assert (row[first[kind] : first[kind] + counts[kind]] == kind).all()


def test_sharding_save_load(tmp_path: Any) -> None:
    for offsets in (None, np.array([0, 5], dtype=np.int32)):
        saved = bj.Sharding.create(11, 3, 0, offsets)
        saved.save(tmp_path / "sharding.npz")
        loaded = bj.Sharding.load(tmp_path / "sharding.npz")
        for name, value in vars(saved).items():
            np.testing.assert_array_equal(getattr(loaded, name), value)


@few
@given(sizes, st.integers(1, 60), st.sampled_from(["h_shard", "t_shard", "ht_shardpair"]), st.booleans())
def test_partition_holds_every_triple_once(size: tuple[int, int, int], n: int, mode: Any, inverse: bool) -> None:
    n_entity, n_shard, seed = size
    sharding = bj.Sharding.create(n_entity, n_shard, seed)
    dataset = make_dataset(n_entity, n, seed)
    ours = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding, mode, add_inverse_triples=inverse)
    triples = dataset.triples["train"]
    if inverse:
        triples = np.concatenate([triples, triples[:, ::-1] + np.array([0, N_RELATION, 0])])
    np.testing.assert_array_equal(np.sort(ours.triple_sort_idx), np.arange(len(triples)))
    assert ours.triple_counts.shape == ((n_shard, n_shard) if mode == "ht_shardpair" else (n_shard,))
    counts = ours.triple_counts.ravel()
    assert counts.sum() == len(triples)
    np.testing.assert_array_equal(ours.triple_offsets.ravel(), np.cumsum(counts) - counts)
    partition = np.repeat(np.arange(counts.size), counts)
    head, relation, tail = ours.triples.T
    if mode != "t_shard":
        shard = partition // n_shard if mode == "ht_shardpair" else partition
        head = sharding.shard_and_idx_to_entity[shard, head]
    if mode != "h_shard":
        tail = sharding.shard_and_idx_to_entity[partition % n_shard, tail]
    np.testing.assert_array_equal(np.stack([head, relation, tail], axis=1), triples[ours.triple_sort_idx])


# --- batches ----------------------------------------------------------------------------------------------------------


def global_triples(batch: dict[str, np.ndarray], sharding: bj.Sharding) -> np.ndarray:
    """Triples (T, S, S, P, 3) in entity_global ids."""
    here = np.arange(sharding.n_shard)[:, None, None]
    slots = sharding.shard_and_idx_to_entity
    tail = np.swapaxes(slots[here, batch["tail"]], 1, 2)
    return np.stack([slots[here, batch["head"]], batch["relation"], tail], axis=-1)


@few
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["h", "ht"]),
    st.booleans(),
)
def test_rigid_visits_every_triple_once(S: int, n: int, P: int, T: int, scheme: str, shuffle: bool) -> None:
    """An epoch holds every triple once where the mask is True; what the mask leaves out is of the same partition."""
    even = 2 if scheme == "ht" else 1
    sampler = make_sampler(
        n_entity=9,
        n_shard=S,
        n_triple=n,
        shard_bs=S * P * even,
        scheme=scheme,
        batches_per_step=T,
        shuffle=shuffle,
        return_triple_idx=True,
    )
    triples = sampler.partitioned_triple_set
    for epoch in range(2):
        batches = [sampler.batch(epoch, step) for step in range(sampler.calls_per_epoch)]
        seen = np.concatenate([b["triple_idx"][b["triple_mask"]] for b in batches])
        np.testing.assert_array_equal(np.sort(seen), np.arange(n))
        for b in batches:
            assert b["head"].shape == (T, S, S, P * even)
            filled = np.broadcast_to((triples.triple_counts > 0)[None, ..., None], b["head"].shape)
            dataset = make_dataset(9, n, seed=2).triples["train"]
            expected = dataset[triples.triple_sort_idx[b["triple_idx"]]]
            np.testing.assert_array_equal(global_triples(b, triples.sharding)[filled], expected[filled])


def test_rigid_in_order_without_shuffle() -> None:
    """Without shuffle a partition gives its triples in their order."""
    sampler = make_sampler(n_shard=1, n_triple=7, shard_bs=2, batches_per_step=1, shuffle=False, return_triple_idx=True)
    rows = [sampler.batch(0, step)["triple_idx"].ravel().tolist() for step in range(sampler.calls_per_epoch)]
    assert rows == [[0, 1], [2, 3], [4, 5], [6, 0]]


@pytest.mark.parametrize("mode", ["h_shard", "t_shard"])
def test_one_shard_axis(mode: str) -> None:
    """Partitioned by one shard, batches have one shard axis, and an epoch still holds every triple once."""
    sampler = make_sampler(mode=mode, shard_bs=4, return_triple_idx=True)
    batches = [sampler.batch(0, step) for step in range(sampler.calls_per_epoch)]
    assert {batches[0][name].shape for name in ("head", "relation", "tail", "triple_mask")} == {(2, 3, 4)}
    assert batches[0]["negative"].shape == (2, 3, 3, 1, 2)
    seen = np.concatenate([b["triple_idx"][b["triple_mask"]] for b in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(100))


@pytest.mark.parametrize("kind", [bj.RigidShardedBatchSampler, bj.RandomShardedBatchSampler])
def test_batch_is_a_function_of_its_place(kind: type[Any]) -> None:
    """Made by another object, alone and in another order, a batch is the same; at another place it differs."""
    places = [(epoch, step) for epoch in range(3) for step in range(3)]
    one, other = make_sampler(kind=kind), make_sampler(kind=kind)
    batches = {place: one.batch(*place) for place in places}
    for place in reversed(places):
        again = other.batch(*place)
        assert again.keys() == batches[place].keys()
        for name, array in again.items():
            np.testing.assert_allclose(array, batches[place][name], **EXACT)
            assert array.dtype == batches[place][name].dtype
    for name in ("head", "relation", "tail", "negative"):
        assert len({batch[name].tobytes() for batch in batches.values()}) == len(places)


@pytest.mark.parametrize("kind", [bj.RigidShardedBatchSampler, bj.RandomShardedBatchSampler])
def test_batches_of_an_epoch(kind: type[Any]) -> None:
    """All batches of the epoch that is asked for, as often as one asks; a place alone is no batch."""
    sampler = make_sampler(kind=kind)
    for epoch in (3, 0, 3):
        batches = list(sampler.batches(epoch))
        assert len(batches) == len(sampler) == sampler.calls_per_epoch > 1
        for step, batch in enumerate(batches):
            np.testing.assert_allclose(batch["head"], sampler.batch(epoch, step)["head"], **EXACT)
    with pytest.raises(TypeError, match="not subscriptable"):
        sampler[0]
    with pytest.raises(TypeError, match="not iterable"):
        iter(sampler)


def test_epochs_repeat_other_triples() -> None:
    """Which triples fill up the smaller partitions changes with the epoch."""
    sampler = make_sampler(return_triple_idx=True)

    def repeated(epoch: int) -> list[int]:
        batches = [sampler.batch(epoch, step) for step in range(sampler.calls_per_epoch)]
        return sorted(np.concatenate([b["triple_idx"][~b["triple_mask"]] for b in batches]).tolist())

    assert repeated(0)
    assert len(repeated(0)) == len(repeated(1))
    assert repeated(0) != repeated(1)


def test_random_draws_from_the_partition() -> None:
    """Uniformly: a chi-square statistic of 100 triples, 99 degrees of freedom, far in neither tail."""
    sampler = make_sampler(n_shard=2, shard_bs=1000, batches_per_step=8, kind=bj.RandomShardedBatchSampler)
    rows, mask = sampler.positions(0, 0)
    assert mask is None
    triples = sampler.partitioned_triple_set
    low = triples.triple_offsets[..., None]
    assert ((rows >= low) & (rows < low + triples.triple_counts[..., None])).all()
    counts = np.bincount(rows.ravel(), minlength=100)
    expected = np.repeat(4000 / triples.triple_counts.ravel(), triples.triple_counts.ravel())
    statistic = ((counts - expected) ** 2 / expected).sum()  # mean 96, standard deviation 14
    assert 50 < statistic < 150


def test_negatives_are_uniform() -> None:
    """In range of every shard, padding never drawn, each entity as often as the others of its shard."""
    sampler = make_sampler(n_entity=22, n_negative=500, batches_per_step=4)
    negative = sampler.batch(0, 0)["negative"]
    sharding = sampler.negative_sampler.sharding
    assert negative.shape == (4, 3, 3, 1, 500)
    assert negative.dtype == np.int32
    assert sorted(sharding.shard_counts) != [8, 8, 8]
    for shard, n in enumerate(sharding.shard_counts):
        counts = np.bincount(negative[:, shard].ravel())
        assert len(counts) == n
        expected = 6000 / n
        statistic = ((counts - expected) ** 2 / expected).sum()  # 5 to 7 degrees of freedom
        assert 0.5 < statistic < 25
    for destination in range(1, 3):  # and other ones for every shard that scores them
        assert (negative[:, :, destination] != negative[:, :, 0]).any()


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    ("scheme", "flat", "sets"), [("h", True, 1), ("ht", True, 2), ("t", False, 6), ("ht", False, 6)]
)
def test_negative_sets(scheme: str, flat: bool, sets: int, local: bool) -> None:
    assert make_sampler(scheme=scheme, flat=flat, local=local).batch(0, 0)["negative"].shape == (2, 3, 3, sets, 2)


@pytest.mark.parametrize("kind", [bj.RigidShardedBatchSampler, bj.RandomShardedBatchSampler])
def test_empty_shard_pairs(kind: type[Any]) -> None:
    """Their places hold entity 0, count for nothing and are not in the mask; all others have weight 1."""
    sampler = make_sampler(n_entity=9, n_shard=3, n_triple=4, shard_bs=6, kind=kind)
    empty = sampler.partitioned_triple_set.triple_counts == 0
    assert empty.any()
    batch = sampler.batch(0, 0)
    here = np.broadcast_to(empty[None, ..., None], batch["head"].shape)
    assert batch["triple_weight"].dtype == np.float32
    np.testing.assert_array_equal(batch["triple_weight"].reshape(here.shape), np.where(here, 0, 1))
    assert not batch["triple_mask"][here].any()
    for name in ("head", "relation"):
        assert not batch[name][here].any()
    assert not batch["tail"][np.swapaxes(here, 1, 2)].any()
    assert "triple_weight" not in make_sampler(kind=kind).batch(0, 0)


# --- weights, doubled batches, queries --------------------------------------------------------------------------------


def brute_weights(triples: np.ndarray, smoothing: float) -> np.ndarray:
    """Weights of global triples, counted one by one."""
    pairs = [[(h, r), (r, t)] for h, r, t in triples.tolist()]
    counts = [sum(a == h for a, _ in pairs) + sum(b == t for _, b in pairs) for h, t in pairs]
    return 1 / np.sqrt(np.array(counts) + smoothing)


@pytest.mark.parametrize("mode", ["h_shard", "t_shard", "ht_shardpair"])
@pytest.mark.parametrize("n_shard", [1, 3])
def test_frequency_weights(mode: str, n_shard: int) -> None:
    """Pairs are counted by global ids, so that weights do not depend on the shards; as_reference repeats its fault."""
    dataset = make_dataset(9, 100, seed=2).triples["train"]
    for smoothing in (0.0, 2.5):
        arguments: Any = {"hrt_freq_weighting": True, "weight_smoothing": smoothing, "mode": mode, "n_shard": n_shard}
        sampler = make_sampler(n_entity=9, **arguments)
        order = sampler.partitioned_triple_set.triple_sort_idx
        np.testing.assert_allclose(sampler.hrt_weights, brute_weights(dataset, smoothing)[order], rtol=1e-12)
        quirk = make_sampler(n_entity=9, as_reference=True, **arguments)
        stored = brute_weights(quirk.partitioned_triple_set.triples, smoothing)
        np.testing.assert_allclose(quirk.hrt_weights, stored, rtol=1e-12)
        assert (quirk.hrt_weights == sampler.hrt_weights).all() == (n_shard == 1)


@pytest.mark.parametrize("kind", [bj.RigidShardedBatchSampler, bj.RandomShardedBatchSampler])
@pytest.mark.parametrize("duplicate", [False, True])
def test_weights_of_a_batch(kind: type[Any], duplicate: bool) -> None:
    """In proportion to the weights of the triples, 0 where a partition is empty, and adding up to shard_bs."""
    sampler = make_sampler(
        n_entity=9,
        n_triple=8,
        shard_bs=13,
        kind=kind,
        hrt_freq_weighting=True,
        duplicate_batch=duplicate,
        return_triple_idx=True,
    )
    empty = sampler.partitioned_triple_set.triple_counts == 0
    assert empty.any()
    for step in range(sampler.calls_per_epoch):
        batch = sampler.batch(0, step)
        here = np.broadcast_to(empty[None, ..., None], batch["head"].shape)
        expected = np.where(here, 0, sampler.hrt_weights[batch["triple_idx"]]).reshape(2, 3, -1)
        total = expected.sum(axis=-1, keepdims=True)
        assert batch["triple_weight"].dtype == np.float32
        np.testing.assert_allclose(batch["triple_weight"], 13 * expected / np.where(total > 0, total, 1), rtol=1e-6)
        np.testing.assert_allclose(batch["triple_weight"].sum(axis=-1), 13 * (total[..., 0] > 0), rtol=1e-6)


def test_no_triple_on_a_shard() -> None:
    """A shard without any triple has weight 0 everywhere, not NaN."""
    sampler = make_sampler(n_entity=9, n_triple=1, hrt_freq_weighting=True)
    weight = sampler.batch(0, 0)["triple_weight"]
    assert np.isfinite(weight).all()
    np.testing.assert_allclose(np.sort(weight.sum(axis=-1)), [[0, 0, 6]] * 2)


@pytest.mark.parametrize("kind", [bj.RigidShardedBatchSampler, bj.RandomShardedBatchSampler])
@pytest.mark.parametrize(("mode", "scheme"), [("ht_shardpair", "ht"), ("h_shard", "t")])
def test_duplicate_batch(kind: type[Any], mode: str, scheme: str) -> None:
    """Every partition holds its triples twice, and their two halves are corrupted on either side under "ht"."""
    arguments: Any = {"kind": kind, "mode": mode, "scheme": scheme, "return_triple_idx": True}
    sampler = make_sampler(shard_bs=24, duplicate_batch=True, **arguments)
    half = sampler.positive_per_partition
    assert half == {"ht_shardpair": 4, "h_shard": 12}[mode]
    batch = sampler.batch(0, 1)
    for name in ("head", "relation", "tail", "triple_idx", *(["triple_mask"] if "triple_mask" in batch else [])):
        assert batch[name].shape[-1] == 2 * half
        np.testing.assert_array_equal(batch[name][..., :half], batch[name][..., half:])
    once = make_sampler(shard_bs=12, **arguments)
    assert once.positive_per_partition == half
    np.testing.assert_array_equal(once.batch(0, 1)["triple_idx"], batch["triple_idx"][..., :half])


def brute_shares(triples: np.ndarray, side: np.ndarray) -> np.ndarray:
    """1 / number of entities that could stand where `side` (0 head, 1 tail) is replaced in each row."""
    known = {tuple(row) for row in triples.tolist()}
    counts = [
        sum((h, r, x) in known if side else (x, r, t) in known for x in range(triples.max() + 1))
        for (h, r, t), side in zip(triples.tolist(), side.tolist(), strict=True)
    ]
    return 1 / np.array(counts)


@pytest.mark.parametrize("mode", ["h_shard", "t_shard", "ht_shardpair"])
@pytest.mark.parametrize(("scheme", "n_shard"), [("h", 3), ("t", 1), ("ht", 3), ("ht", 8)])
def test_answer_shares(mode: str, scheme: str, n_shard: int) -> None:
    """Different answers of the set are counted, by global ids: whatever the shards, however often a triple is there."""
    dataset = make_dataset(9, 100, seed=2).triples["train"]
    assert len(np.unique(dataset, axis=0)) < len(dataset)
    sampler = make_sampler(
        n_entity=9,
        n_shard=n_shard,
        shard_bs=16,
        mode=mode,
        scheme=scheme,
        return_answer_share=True,
        return_triple_idx=True,
    )
    order = sampler.partitioned_triple_set.triple_sort_idx
    wanted = {side: brute_shares(dataset, np.full(len(dataset), side == "t"))[order] for side in scheme}
    np.testing.assert_allclose(sampler.answer_shares, [wanted[side] for side in scheme], rtol=1e-6)
    batch = sampler.batch(0, 1)
    rows = batch["triple_idx"]
    half = rows.shape[-1] // 2 if scheme == "ht" else rows.shape[-1]
    parts = [wanted[side][part] for side, part in zip(scheme, (rows[..., :half], rows[..., half:]), strict=False)]
    expected = np.concatenate(parts, axis=-1).reshape(2, n_shard, -1)
    assert batch["answer_share"].dtype == np.float32
    np.testing.assert_allclose(batch["answer_share"], expected, rtol=1e-6)
    assert "answer_share" not in make_sampler(mode=mode).batch(0, 1)


def test_answer_shares_of_inverse_and_doubled_triples() -> None:
    """Inverse triples ask queries of their own, and so does each side of a triple that is doubled under "ht"."""
    dataset, sharding = make_dataset(9, 6, seed=2), bj.Sharding.create(9, 4, seed=1)
    triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding, add_inverse_triples=True)
    assert (triples.triple_counts == 0).any()
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=triples,
        negative_sampler=bj.AllEntitiesNegativeSampler(sharding=sharding, corruption_scheme="ht"),
        shard_bs=32,
        seed=0,
        duplicate_batch=True,
        return_answer_share=True,
        return_triple_idx=True,
    )
    given = dataset.triples["train"]
    every = np.concatenate([given, given[:, ::-1] + np.array([0, N_RELATION, 0])])[triples.triple_sort_idx]
    shares = [brute_shares(every, np.full(len(every), side)) for side in (0, 1)]
    batch = sampler.batch(0, 0)
    rows = batch["triple_idx"].reshape(4, 4, 2, -1)
    expected = np.stack([shares[0][rows[:, :, 0]], shares[1][rows[:, :, 1]]], axis=2)
    np.testing.assert_allclose(batch["answer_share"].reshape(rows.shape), expected, rtol=1e-6)
    assert batch["answer_share"].size == batch["triple_weight"].size  # which is 0 where a partition is empty
    part = sampler.batch(0, 0, range(1, 3))
    np.testing.assert_array_equal(part["answer_share"], batch["answer_share"][:, 1:3])
    merged = bj.shard_major(bj.merge_ids(batch, sharding.max_entity_per_shard))
    np.testing.assert_array_equal(merged["answer_share"], np.swapaxes(batch["answer_share"], 0, 1))


@pytest.mark.parametrize("query_mode", ["hr", "rt"])
def test_queries_lack_the_made_up_column(query_mode: Any) -> None:
    sharding, dataset = bj.Sharding.create(23, 3, seed=1), make_dataset(23, 40, seed=2)
    pairs = dataset.triples["train"][:, :2] if query_mode == "hr" else dataset.triples["train"][:, 1:]
    arguments: Any = {
        "partitioned_triple_set": bj.PartitionedTripleSet.create_from_queries(dataset, sharding, pairs, query_mode),
        "negative_sampler": PlaceholderNegativeSampler(corruption_scheme="t" if query_mode == "hr" else "h"),
        "shard_bs": 4,
        "batches_per_step": 2,
        "seed": 0,
    }
    batch = bj.RigidShardedBatchSampler(**arguments).batch(0, 0)
    assert batch.keys() == {"head" if query_mode == "hr" else "tail", "relation", "triple_mask"}
    for name in ("hrt_freq_weighting", "return_answer_share"):
        with pytest.raises(ValueError, match=f"{name} needs triples with both entities, got queries without"):
            bj.RigidShardedBatchSampler(**arguments, **{name: True})


# --- merged ids -------------------------------------------------------------------------------------------------------


@few
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.one_of(st.integers(1, 12), st.integers(300, 400)),  # few rows per id, and many: found by flags or by a sort
    st.integers(0, 99),
)
def test_merge_ids(T: int, S: int, P: int, M: int, seed: int) -> None:
    """Rows ascend without repeats, padding is out of range, and positions lead back to the ids."""
    rng = np.random.default_rng(seed)
    batch = {name: rng.integers(M, size=(T, S, S, P), dtype=np.int32) for name in ("head", "tail")}
    batch["negative"] = rng.integers(M, size=(T, S, S, 2, P), dtype=np.int32)
    batch["relation"] = rng.integers(5, size=(T, S, S, P), dtype=np.int32)
    before = {name: array.copy() for name, array in batch.items()}
    merged = bj.merge_ids(batch, M)
    rows = merged["entity_rows"]
    assert rows.shape == (T, S, min(M, 4 * S * P))
    assert rows.dtype == np.int32
    assert (np.diff(rows, axis=-1) > 0).all()
    for t in range(T):
        for s in range(S):
            touched = np.unique(np.concatenate([before[name][t, s].ravel() for name in ("head", "tail", "negative")]))
            np.testing.assert_array_equal(rows[t, s][rows[t, s] < M], touched)
            for name in ("head", "tail", "negative"):
                np.testing.assert_array_equal(rows[t, s][merged[name][t, s]], before[name][t, s])
    np.testing.assert_array_equal(merged["relation"], before["relation"])
    for name, array in batch.items():
        np.testing.assert_array_equal(array, before[name])  # the argument stays as it was


def test_shard_major() -> None:
    swapped = bj.shard_major({"x": np.arange(24).reshape(2, 3, 4)})["x"]
    assert swapped.flags.c_contiguous
    np.testing.assert_array_equal(swapped, np.arange(24).reshape(2, 3, 4).swapaxes(0, 1))


# --- errors -----------------------------------------------------------------------------------------------------------


def two_shardings() -> Any:
    sampler = make_sampler()
    return bj.RigidShardedBatchSampler(
        partitioned_triple_set=sampler.partitioned_triple_set,
        negative_sampler=make_sampler().negative_sampler,
        shard_bs=6,
        batches_per_step=1,
        seed=0,
    )


def other_sharding_in_model() -> Any:
    score_fn = bj.DistMult(
        negative_sample_sharing=True,
        sharding=bj.Sharding.create(23, 3, seed=1),
        n_relation_type=N_RELATION,
        embedding_size=4,
    )
    return bj.EmbeddingMovingBessKGE(
        negative_sampler=make_sampler().negative_sampler, score_fn=score_fn, return_scores=True
    )


def merge_with(name: str, value: int) -> Any:
    batch = {key: np.zeros((1, 1, 1, 3), np.int32) for key in ("head", "tail")}
    batch["negative"] = np.zeros((1, 1, 1, 1, 3), np.int32)
    batch[name][..., 2] = value
    return bj.merge_ids(batch, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bj.Sharding.create(3, 4, 0), r"n_shard must be at most the number of entities, 3, got 4"),
        (lambda: bj.Sharding.create(3, 0, 0), r"n_shard must be >= 1, got 0"),
        (lambda: make_sampler(shard_bs=2), r"shard_bs must be >= 3, .* got 2"),
        (lambda: make_sampler(shard_bs=5, scheme="ht"), r"shard_bs must be >= 6, .* and side, got 5"),
        (lambda: make_sampler(shard_bs=5, duplicate_batch=True), r"shard_bs must be >= 6, .* twice, got 5"),
        (lambda: make_sampler(weight_smoothing=-1.0), r"weight_smoothing must be >= 0, got -1"),
        (lambda: make_sampler(shard_bs=0, mode="h_shard"), r"shard_bs must be >= 1, .* got 0"),
        (lambda: make_sampler(batches_per_step=0), r"batches_per_step must be >= 1, got 0"),
        (lambda: make_sampler(n_negative=0), r"n_negative must be >= 1, got 0"),
        (lambda: make_sampler(scheme="x"), r"corruption_scheme must be one of 'h', 't', 'ht', got 'x'"),
        (lambda: make_sampler(mode="x"), r"partition_mode must be one of .* got 'x'"),
        (two_shardings, r"negative_sampler must use the sharding object of partitioned_triple_set"),
        (other_sharding_in_model, r"score_fn must use the sharding object of negative_sampler"),
        (lambda: merge_with("tail", 4), r"tail\[0, 0, 0, 2\] is 4, but entity_local ids go from 0 to 3"),
        (lambda: merge_with("negative", -1), r"negative\[0, 0, 0, 0, 2\] is -1, but entity_local ids"),
        (
            lambda: bj.KGDataset(n_entity=3, n_relation_type=1, triples={"train": np.array([[0, 0, 3]])}),
            r"triples\['train'\]\[0, 2\] is 3, but entity ids go from 0 to 2",
        ),
        (
            lambda: bj.KGDataset(n_entity=3, n_relation_type=1, triples={"train": np.array([[0, 1, 2]])}),
            r"triples\['train'\]\[0, 1\] is 1, but relation ids go from 0 to 0",
        ),
        (
            lambda: bj.PartitionedTripleSet.create_from_dataset(
                make_dataset(5, 5, 0), "train", bj.Sharding.create(6, 2, 0)
            ),
            r"sharding must be of the data set's 5 entities, got one of 6",
        ),
        (
            lambda: bj.PartitionedTripleSet.create_from_dataset(
                make_dataset(5, 5, 0), "x", bj.Sharding.create(5, 2, 0)
            ),
            r"part must be one of 'train', got 'x'",
        ),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shards", [range(0, 1), range(1, 3), range(4)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hrt_freq_weighting": True, "duplicate_batch": True, "return_triple_idx": True},
        {"hrt_freq_weighting": True, "answers_per_query": 3, "return_answer_share": True},
    ],
)
@pytest.mark.parametrize("kind", [bj.RigidShardedBatchSampler, bj.RandomShardedBatchSampler])
@pytest.mark.parametrize("mode", ["ht_shardpair", "h_shard"])
def test_part_of_a_batch(shards: range, options: Any, kind: Any, mode: Any) -> None:
    """Some shards of a batch are, bit for bit, those of the whole one; also where partitions are empty."""
    sharding = bj.Sharding.create(30, 4, seed=0)
    rng = np.random.default_rng(1)
    triples = np.stack([rng.integers(30, size=40), rng.integers(3, size=40), rng.integers(30, size=40)], axis=1)
    dataset = bj.KGDataset(30, 3, {"train": triples.astype(np.int32)})
    triple_set = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding, mode)
    assert mode == "h_shard" or (triple_set.triple_counts == 0).any()
    negative = bj.RandomShardedNegativeSampler(sharding=sharding, n_negative=3, seed=5, corruption_scheme="t")
    sampler = kind(
        partitioned_triple_set=triple_set,
        negative_sampler=negative,
        shard_bs=8,
        batches_per_step=2,
        seed=3,
        **options,
    )
    whole, part = sampler.batch(1, 1), sampler.batch(1, 1, shards)
    assert set(whole) == set(part)
    for name, array in part.items():
        np.testing.assert_array_equal(array, whole[name][:, shards.start : shards.stop], err_msg=name, strict=True)
    if mode == "ht_shardpair":
        rows = bj.merge_ids(whole, sharding.max_entity_per_shard), bj.merge_ids(part, sharding.max_entity_per_shard)
        for name, array in rows[1].items():
            np.testing.assert_array_equal(array, rows[0][name][:, shards.start : shards.stop], err_msg=name)


def test_part_of_a_batch_with_lists() -> None:
    """Where types of triples on other shards decide on the negatives, the part is cut out."""
    offsets = np.array([0, 12], np.int32)
    sharding = bj.Sharding.create(30, 2, seed=0, type_offsets=offsets)
    triples = np.stack([np.arange(30) % 12, np.zeros(30), np.arange(30)], axis=1).astype(np.int32)
    dataset = bj.KGDataset(30, 1, {"train": triples}, type_offsets={"a": 0, "b": 12})
    triple_set = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding)
    assert triple_set.types is not None
    negative = bj.TypeBasedShardedNegativeSampler(
        sharding=sharding, triple_types=triple_set.types, n_negative=2, seed=0, corruption_scheme="ht"
    )
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=triple_set, negative_sampler=negative, shard_bs=8, seed=0
    )
    whole, part = sampler.batch(0, 1), sampler.batch(0, 1, range(1, 2))
    for name, array in part.items():
        np.testing.assert_array_equal(array, whole[name][:, 1:], err_msg=name, strict=True)
