"""Samplers and re-sharding against the reference, array by array; tests/golden/README.md explains every key."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from shared.golden import READ, golden, golden_cases
from shared.tolerance import EXACT, FLOAT32

import bess_jax as bj
from bess_jax.data.negative_sampler import (
    PlaceholderNegativeSampler,
    RandomShardedNegativeSampler,
    ShardedNegativeSampler,
    TripleBasedShardedNegativeSampler,
    TypeBasedShardedNegativeSampler,
)
from bess_jax.step.tables import reshard, shard_table, unshard

pytestmark = pytest.mark.parity

BATCH_KINDS = {"rigid": bj.RigidShardedBatchSampler, "random": bj.RandomShardedBatchSampler}
SHARDING_ARRAYS = ("entity_to_shard", "entity_to_idx", "shard_and_idx_to_entity", "shard_counts")
PARTITION_ARRAYS = ("triples", "triple_counts", "triple_offsets", "triple_sort_idx", "types", "neg_heads", "neg_tails")


class Arrays:
    """Arrays of a golden file below a prefix, None where there is none; remembers which were read."""

    def __init__(self, name: str, prefix: str) -> None:
        self.name, self.prefix = name, prefix
        self.file = golden(name)
        self.keys = self.file.below(prefix)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.file[f"{self.prefix}/{key}"] if key in self.keys else None

    def assert_all_read(self) -> None:
        assert self.read >= self.keys, self.keys - self.read


@functools.cache
def make_sharding(n_entity: int, n_shard: int, seed: int, type_offsets: tuple[int, ...] | None = None) -> bj.Sharding:
    return bj.Sharding.create(n_entity, n_shard, seed, None if type_offsets is None else np.array(type_offsets))


def sharding_of(config: dict[str, Any]) -> bj.Sharding:
    offsets = config.get("type_offsets")
    return make_sharding(
        config["n_entity"], config["n_shard"], config["seed"], None if offsets is None else tuple(offsets)
    )


def equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, **EXACT)


def check_sharding(world: Arrays, sharding: bj.Sharding) -> None:
    for name in (*SHARDING_ARRAYS, "entity_type_counts", "entity_type_offsets"):
        expected = world[f"sharding_{name}"]
        assert (expected is None) == (getattr(sharding, name) is None)
        if expected is not None:
            equal(getattr(sharding, name), expected)


# --- negatives --------------------------------------------------------------------------------------------------------


def make_negative_sampler(cfg: dict[str, Any], sharding: bj.Sharding, **given: Any) -> ShardedNegativeSampler:
    common = {"sharding": sharding, "corruption_scheme": cfg["corruption_scheme"]}
    drawn = {k: cfg.get(k) for k in ("n_negative", "seed", "local_sampling")}
    kind = cfg["kind"]
    if kind == "random":
        return RandomShardedNegativeSampler(**common, **drawn, flat_negative_format=cfg["flat_negative_format"])
    if kind == "type":
        return TypeBasedShardedNegativeSampler(**common, **drawn, triple_types=given["triple_types"])
    if kind == "triple":
        return TripleBasedShardedNegativeSampler(
            **common,
            negative_heads=given["negative_heads"],
            negative_tails=given["negative_tails"],
            seed=cfg["seed"],
            mask_on_gather=cfg["mask_on_gather"],
            return_sort_idx=cfg["return_sort_idx"],
        )
    return PlaceholderNegativeSampler(corruption_scheme=cfg["corruption_scheme"], seed=0)


def sides(scheme: str, size: int) -> np.ndarray:
    """0 (head) or 1 (tail) for each place of a partition: written apart from the package."""
    return {"h": np.zeros(size, int), "t": np.ones(size, int), "ht": (np.arange(size) >= size // 2).astype(int)}[scheme]


def check_drawn(cfg: dict[str, Any], sharding: bj.Sharding, negative: Any, sample_idx: Any, types: Any) -> None:
    """What holds for any draw: ids in range and, by type, of the type of the entity they replace."""
    n_step, n_shard = sample_idx.shape[:2]
    assert negative.dtype == np.int32
    assert (negative >= 0).all()
    assert (negative < sharding.shard_counts[None, :, None, None, None]).all()
    if cfg["kind"] == "type":
        side = np.broadcast_to(sides(cfg["corruption_scheme"], sample_idx.shape[-1]), sample_idx.shape)
        wanted = types[sample_idx, side].reshape(n_step, n_shard, -1)
        wanted = wanted[:, :, None] if cfg["local_sampling"] else wanted[:, None]
        shard = np.arange(n_shard)[None, :, None, None, None]
        drawn = sharding.shard_and_idx_to_entity[shard, negative]
        offsets = np.append(cfg["type_offsets"], sharding.n_entity)
        equal(np.searchsorted(offsets, drawn, side="right") - 1, np.broadcast_to(wanted[..., None], drawn.shape))


def canonical(negative: Any, mask: Any, on_gather: bool) -> tuple[Any, Any]:
    """Entries (T, src, dst, sets, N) in an order that does not depend on the machine; -1 for padding."""
    mask = mask if on_gather else np.moveaxis(mask, 3, 1)
    assert mask.shape == negative.shape
    assert (np.diff(mask.astype(int), axis=-1) <= 0).all()  # padding stands last
    counts = mask.sum(axis=-1, keepdims=True)
    cyclic = np.take_along_axis(negative, np.arange(negative.shape[-1]) % np.maximum(counts, 1), axis=-1)
    equal(np.where(counts > 0, negative, 0), np.where(counts > 0, cyclic, 0))
    return np.sort(np.where(mask, negative, -1), axis=-1), mask


def check_sort_idx(sampler: Any, negative: Any, mask: Any, order: Any, sample_idx: Any) -> None:
    """The unmasked negatives of each triple, shard after shard, are the entries of its list at these positions."""
    lists = [sampler.negative_heads, sampler.negative_tails]
    n_step, n_shard = sample_idx.shape[:2]
    side = np.broadcast_to(sides(sampler.corruption_scheme, sample_idx.shape[-1]), sample_idx.shape)
    side, rows = (x.reshape(n_step, n_shard, -1) for x in (side, sample_idx))
    for t, dst, b in np.ndindex(*rows.shape):
        given = lists[side[t, dst, b]]
        given = given[0 if len(given) == 1 else rows[t, dst, b]]
        number = b
        if sampler.flat_negative_format:
            number = side[t, dst, b] if sampler.corruption_scheme == "ht" else 0
        found = [
            sampler.sharding.shard_and_idx_to_entity[src, negative[t, src, dst, number][mask[t, src, dst, number]]]
            for src in range(n_shard)
        ]
        equal(np.concatenate(found), given[order[t, dst, b]])


def check_triple_based(sampler: Any, ours: dict[str, Any], theirs: dict[str, Any], sample_idx: Any) -> None:
    """Compares "negative", "negative_mask" and "negative_sort_idx"."""
    assert ours.keys() >= {name for name, array in theirs.items() if array is not None}
    entries, mask = canonical(ours["negative"], ours["negative_mask"], sampler.mask_on_gather)
    expected, expected_mask = canonical(theirs["negative"], theirs["negative_mask"], sampler.mask_on_gather)
    equal(mask, expected_mask)
    equal(entries, expected)
    assert (theirs["negative_sort_idx"] is not None) == sampler.return_sort_idx
    if sampler.return_sort_idx:
        for out in (ours, theirs):
            assert out["negative_sort_idx"].shape == ours["negative_sort_idx"].shape
            check_sort_idx(sampler, out["negative"], mask, out["negative_sort_idx"], sample_idx)


@pytest.mark.parametrize("case", golden_cases("negative_samplers"))
def test_negative_sampler(case: str) -> None:
    cfg = golden("negative_samplers").cases[case]
    z, world = Arrays("negative_samplers", case), Arrays("negative_samplers", cfg["world"])
    sharding = sharding_of(cfg["sharding"])
    check_sharding(world, sharding)
    lists = {
        name: None if cfg.get(name) is None else world[cfg[name].split("/")[1]]
        for name in ("negative_heads", "negative_tails")
    }
    types = world["triple_types"]
    sampler = make_negative_sampler(cfg, sharding, triple_types=types, **lists)
    assert sampler.flat_negative_format == cfg["flat_negative_format"]
    assert sampler.local_sampling == cfg["local_sampling"]
    for call, name in enumerate(cfg["sample_idx"]):
        sample_idx = world[name.split("/")[1]]
        ours = sampler.sample(sample_idx, 0, call)
        theirs = {
            "negative": z[f"call{call}_negative_entities"],
            "negative_mask": z[f"call{call}_negative_mask"],
            "negative_sort_idx": z[f"call{call}_negative_sort_idx"],
        }
        assert ours["negative"].shape == theirs["negative"].shape
        if cfg["kind"] == "triple":
            check_triple_based(sampler, ours, theirs, sample_idx)
        else:
            assert ours.keys() == {"negative"}
            for out in (ours, theirs):
                checked = {**cfg, "type_offsets": cfg["sharding"]["type_offsets"]}
                check_drawn(checked, sharding, out["negative"], sample_idx, types)
    z.assert_all_read()


# --- batches ----------------------------------------------------------------------------------------------------------


MODES = ("h_shard", "t_shard", "ht_shardpair")


def stored_sets() -> dict[str, dict[str, Any]]:
    """Where the triple sets are stored, and the configuration of a case about the same world."""
    sets = {}
    for cfg in golden("batch_samplers").cases.values():
        queries = cfg.get("queries", False)
        sets.update({f"{cfg['world']}/{mode}": {**cfg, "partition_mode": mode, "dummy": "none"} for mode in MODES})
        sets.update({cfg["triples"]: cfg} if queries else {})
    return sets


@functools.cache
def stored_set(where: str) -> bj.PartitionedTripleSet:
    """A set as it is stored, so that the order within partitions is the reference's."""
    cfg, z = stored_sets()[where], Arrays("batch_samplers", where)
    return bj.PartitionedTripleSet(
        sharding=sharding_of(cfg["sharding"]),
        partition_mode=cfg["partition_mode"],
        dummy=None if cfg["dummy"] == "none" else cfg["dummy"],
        **{name: z[name] for name in PARTITION_ARRAYS},
    )


def make_batch_sampler(case: str) -> Any:
    cfg = golden("batch_samplers").cases[case]
    triples = stored_set(cfg["triples"])
    arguments = dict(cfg["batch_sampler"])
    return BATCH_KINDS[arguments.pop("kind")](
        partitioned_triple_set=triples,
        negative_sampler=make_negative_sampler(
            {**cfg["negative_sampler"], "corruption_scheme": cfg["corruption_scheme"]},
            triples.sharding,
            triple_types=triples.types,
            negative_heads=triples.neg_heads,
            negative_tails=triples.neg_tails,
        ),
        as_reference=True,
        **arguments,
    )


@pytest.mark.parametrize("where", stored_sets())
def test_stored_set(where: str) -> None:
    """The stored sets are those that we would make, up to the order within partitions."""
    cfg = stored_sets()[where]
    world, triples = Arrays("batch_samplers", cfg["world"]), stored_set(where)
    check_sharding(world, triples.sharding)
    offsets = cfg["sharding"]["type_offsets"]
    dataset = bj.KGDataset(
        n_entity=cfg["n_entity"],
        n_relation_type=cfg["n_relation_type"],
        triples={"train": world["dataset_triples"]},
        type_offsets=None if offsets is None else {f"type{i}": offset for i, offset in enumerate(offsets)},
        neg_heads={"train": world["dataset_neg_heads"]},
        neg_tails={"train": world["dataset_neg_tails"]},
    )
    if where not in (f"{cfg['world']}/{mode}" for mode in MODES):
        queries = dataset.triples["train"][:, :2]
        ours = bj.PartitionedTripleSet.create_from_queries(dataset, triples.sharding, queries, "hr")
        assert triples.neg_tails is None
    else:
        ours = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", triples.sharding, cfg["partition_mode"])
    assert ours.dummy == triples.dummy
    equal(ours.triple_counts, triples.triple_counts)
    equal(ours.triple_offsets, triples.triple_offsets)
    back, theirs_back = np.argsort(ours.triple_sort_idx), np.argsort(triples.triple_sort_idx)
    for name in ("triples", "types", "neg_heads", "neg_tails"):
        expected = getattr(triples, name)
        if expected is not None:
            equal(getattr(ours, name)[back], expected[theirs_back])


def rows_of(triples: bj.PartitionedTripleSet, batch: dict[str, Any]) -> Any:
    """Rows (T, S, S, P) of the set that make up a batch without "triple_idx"."""
    counts = triples.triple_counts
    head_shard, tail_shard = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), len(counts))
    keys = zip(head_shard.tolist(), tail_shard.tolist(), *triples.triples.T.tolist(), strict=True)
    known = {key: number for number, key in enumerate(keys)}
    assert len(known) == len(triples.triples)  # no triple twice, so that the rows are certain
    tail = np.swapaxes(batch["tail"], 1, 2)
    rows = np.empty(tail.shape, np.int32)
    for place in np.ndindex(*rows.shape):
        rows[place] = known[(place[1], place[2], batch["head"][place], batch["relation"][place], tail[place])]
    return rows


@pytest.mark.parametrize("case", golden_cases("batch_samplers"))
def test_batch_sampler(case: str) -> None:
    cfg = golden("batch_samplers").cases[case]
    z, sampler = Arrays("batch_samplers", case), make_batch_sampler(case)
    triples, size = sampler.partitioned_triple_set, cfg["partition_sample_size"]
    rigid = isinstance(sampler, bj.RigidShardedBatchSampler)
    assert sampler.positive_per_partition == cfg["positive_per_partition"]
    assert sampler.batches_per_step * sampler.positive_per_partition == size
    assert sampler.calls_per_epoch * (size if rigid else 1) == cfg["length"]
    weights = z["hrt_weights"]
    assert (weights is not None) == sampler.hrt_freq_weighting
    if weights is not None:
        np.testing.assert_allclose(sampler.hrt_weights, weights, rtol=1e-12)
    for number, position in enumerate(cfg["which_batches"]):
        names = ("head", "relation", "tail", "triple_mask", "triple_idx", "triple_weight")
        theirs = {name: z[f"batch{number}_{name}"] for name in (*names, *NEGATIVE)}
        idx = z[f"idx{number}"]
        if rigid:
            order = np.arange(cfg["length"])
            if "shuffle_seed" in cfg:
                order = np.random.default_rng(cfg["shuffle_seed"]).permutation(cfg["length"])
            equal(idx, order[position * size : (position + 1) * size])
            rows, mask = sampler.positions_of(idx)
        else:
            drawn = rows_of(triples, theirs) if theirs["triple_idx"] is None else theirs["triple_idx"]
            n = sampler.positive_per_partition
            rows, mask = drawn[..., :n], None
            if sampler.duplicate_batch:
                equal(drawn[..., n:], rows)
            low, count = (x[..., None] for x in (triples.triple_offsets, triples.triple_counts))
            assert ((rows >= low) & (rows < low + count)).all()
            assert sampler.positions(0, number)[0].shape == rows.shape
        ours = sampler.gather(rows, mask, 0, number)
        assert ours.keys() == {name for name, array in theirs.items() if array is not None}
        for name in ours.keys() & {"head", "relation", "tail", "triple_mask", "triple_idx"}:
            equal(ours[name], theirs[name])
        if "triple_weight" in ours:
            np.testing.assert_allclose(ours["triple_weight"], theirs["triple_weight"], **FLOAT32)
        check_negatives(cfg, sampler, ours, theirs, rows)
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype
    if cfg.get("queries"):
        for name in PARTITION_ARRAYS:
            z[f"pts/{name}"]  # compared above
    z.assert_all_read()


NEGATIVE = ("negative", "negative_mask", "negative_sort_idx")


def check_negatives(cfg: dict[str, Any], sampler: Any, ours: Any, theirs: Any, rows: Any) -> None:
    triples, kind = sampler.partitioned_triple_set, cfg["negative_sampler"]["kind"]
    sample_idx = np.concatenate([rows, rows], axis=-1) if sampler.duplicate_batch else rows
    if kind == "triple":
        check_triple_based(sampler.negative_sampler, ours, theirs, sample_idx)
    elif kind != "placeholder":
        assert ours["negative"].shape == theirs["negative"].shape
        offsets = cfg["sharding"]["type_offsets"]
        checked = {**cfg["negative_sampler"], "corruption_scheme": cfg["corruption_scheme"], "type_offsets": offsets}
        for out in (ours, theirs):
            check_drawn(checked, triples.sharding, out["negative"], sample_idx, triples.types)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden_cases("sharding", kind="reshard"))
def test_reshard(case: str) -> None:
    file = golden("sharding")
    old, new = (bj.Sharding.create(**file.cases[case][name]) for name in ("old", "new"))
    names = {"table", "sharded_old", "sharded_new", "old_shard_and_idx_to_entity", "new_shard_and_idx_to_entity"}
    assert file.below(case) == names
    z = {name: file[f"{case}/{name}"] for name in names}
    equal(old.shard_and_idx_to_entity, z["old_shard_and_idx_to_entity"])
    equal(new.shard_and_idx_to_entity, z["new_shard_and_idx_to_entity"])
    equal(shard_table(z["table"], old), z["sharded_old"])
    equal(shard_table(z["table"], new), z["sharded_new"])
    equal(reshard(z["sharded_old"], old, new), z["sharded_new"])
    equal(unshard(z["sharded_old"], old), z["table"])
    equal(unshard(z["sharded_new"], new), z["table"])


@pytest.mark.parametrize("name", ["negative_samplers", "batch_samplers"])
def test_nothing_is_left_out(name: str) -> None:
    """Every array of a file is read by a test above; those that this process has not run are run here."""
    file = golden(name)

    def unread() -> set[str]:
        return {key for key in file.files if (name, key) not in READ}

    if name == "batch_samplers":
        for where in stored_sets():
            test_stored_set(where)
    for case in file.cases:
        if any(key.startswith(f"{case}/") for key in unread()):
            {"negative_samplers": test_negative_sampler, "batch_samplers": test_batch_sampler}[name](case)
    inputs = {key for cfg in file.cases.values() for key in cfg.get("sample_idx", [])}
    assert unread() == {key for key in file.files if "/sample_idx_" in key} - inputs  # inputs of no case
