"""Graphs and what is made of them, as they show themselves."""

from __future__ import annotations

import bess_jax as bj


def test_what_holds_a_graph_fits_a_line() -> None:
    dataset = bj.load_dataset("wn18rr")
    assert repr(dataset) == "KGDataset(40,943 entities, 11 relations; triples: train 86,835, valid 3,034, test 3,134)"
    sharding = bj.Sharding.create(dataset.n_entity, n_shard=4, seed=0)
    assert repr(sharding) == "Sharding(40,943 entities on 4 shards of 10,236 rows)"
    triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding)
    assert repr(triples) == "PartitionedTripleSet(86,835 triples in 16 partitions by ht_shardpair)"
    everything = bj.AllEntitiesNegativeSampler(sharding=sharding, corruption_scheme="t")
    batches = bj.RigidShardedBatchSampler(
        partitioned_triple_set=triples, negative_sampler=everything, shard_bs=64, seed=0
    )
    assert repr(sharding) in repr(everything)
    assert repr(everything) in repr(batches)
    assert len(repr(batches)) < 1000
