"""A graph on shards with random tables, the scores of all entities by one formula, and batches of its triples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from shared import oracle

import bess_jax as bj
from bess_jax.data.negative_sampler import TripleBasedShardedNegativeSampler

N_RELATION = 3
MODELS: dict[str, Any] = {"TransE1": bj.TransE, "DistMult": bj.DistMult, "ComplEx": bj.ComplEx}
WORLDS = [(n_shard, few, "vmap", None) for n_shard in (1, 2, 3, 4, 8) for few in (False, True)]
WORLDS += [(4, False, "pmap", 4), (4, True, "shard_map", 4), (4, True, "pmap", 2)]
"""Number of shards, whether entities are fewer than two for each of them, mapping and number of devices."""


@dataclasses.dataclass
class World:
    """A graph on shards, with NaN in the rows that are padding."""

    model: str
    n_entity: int
    n_shard: int
    mapping: Any = "vmap"
    n_device: int | None = None

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.n_shard)
        self.sharding = bj.Sharding.create(self.n_entity, self.n_shard, seed=4)
        triples = rng.integers([self.n_entity, N_RELATION, self.n_entity], size=(60, 3)).astype(np.int32)
        shard = self.sharding.entity_to_shard
        pair = shard[triples[:, 0]] * self.n_shard + shard[triples[:, 2]]
        if self.n_shard > 1:
            triples = triples[pair != pair[0]]  # an empty shard pair
        self.triples = np.unique(triples, axis=0)
        self.dataset = bj.KGDataset(n_entity=self.n_entity, n_relation_type=N_RELATION, triples={"test": self.triples})
        score_fn = self.score_fn(True)
        self.entity = rng.normal(size=(self.n_entity, score_fn.entity_width)).astype(np.float32)
        self.relation = rng.normal(size=(N_RELATION, score_fn.relation_width)).astype(np.float32)
        padding = np.full((self.n_shard * self.sharding.max_entity_per_shard, self.entity.shape[1]), np.nan)
        rows = np.concatenate([self.entity, padding.astype(np.float32)])[self.sharding.shard_and_idx_to_entity]
        relations = np.broadcast_to(self.relation, (self.n_shard, *self.relation.shape))
        self.placement = bj.Placement.create(self.n_shard, self.n_device, self.mapping)
        self.params = self.placement.put(bj.Params(rows, {"relation_embedding": relations}))

    def score_fn(self, shared: bool) -> Any:
        return MODELS[self.model](
            negative_sample_sharing=shared, sharding=self.sharding, n_relation_type=N_RELATION, embedding_size=6
        )

    def partitioned(self, mode: Any) -> bj.PartitionedTripleSet:
        return bj.PartitionedTripleSet.create_from_dataset(self.dataset, "test", self.sharding, mode)

    def map(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Like `Placement.map`, with results on the host."""
        mapped = self.placement.map(fn)
        return lambda *args: self.placement.get(mapped(*args))

    def batch(self, sampler: bj.RigidShardedBatchSampler) -> dict[str, np.ndarray]:
        """The only call of a sampler, without step axis."""
        assert sampler.calls_per_epoch == 1
        return {name: array[0] for name, array in sampler.batch(0, 0).items()}

    def sampler(self, triples: bj.PartitionedTripleSet, negative: Any) -> bj.RigidShardedBatchSampler:
        size = int(triples.triple_counts.max()) * (self.n_shard if triples.triple_counts.ndim == 2 else 1)
        return bj.RigidShardedBatchSampler(
            partitioned_triple_set=triples,
            negative_sampler=negative,
            shard_bs=2 * size,
            batches_per_step=1,
            seed=0,
            shuffle=False,
            return_triple_idx=True,
        )

    def brute_force(self, side: str) -> np.ndarray:
        """(n_triple, n_entity) float64 scores of all entities on one side of the triples."""
        h, r, t = self.triples.T
        entity, relation = self.entity.astype(np.float64), self.relation.astype(np.float64)
        head, tail = (entity[x][:, None] for x in (h, t))
        args = (entity[None], relation[r][:, None], tail) if side == "h" else (head, relation[r][:, None], entity[None])
        return oracle.SCORERS[self.model](*args)[0]


def make_world(n_shard: int, few: bool, mapping: str, n_device: int | None) -> tuple[World, str]:
    """One of `WORLDS`, and the side that is asked for; models and sides take turns."""
    model = list(MODELS)[(n_shard + few) % 3]
    world = World(model, max(n_shard + 1, 3) if few else 8 * n_shard + 1, n_shard, mapping, n_device)
    if n_shard > 1:
        assert (world.partitioned("ht_shardpair").triple_counts == 0).any()
        assert few == (world.n_entity < 2 * n_shard) or n_shard < 3
        assert len(set(world.sharding.shard_counts.tolist())) > 1
    return world, "ht"[(n_shard // 2 + few) % 2]


def lists(world: World, side: str, triples: bj.PartitionedTripleSet, kind: str, mask_on_gather: bool) -> Any:
    """Sampler of all entities as candidates, in one list or in one list for each triple, in another order each."""
    rng = np.random.default_rng(0)
    n = 1 if kind == "flat" else len(triples.triples)
    entities = np.stack([rng.permutation(world.n_entity) for _ in range(n)]).astype(np.int32)
    return TripleBasedShardedNegativeSampler(
        sharding=world.sharding,
        corruption_scheme=side,
        negative_heads=entities,
        negative_tails=entities,
        mask_on_gather=mask_on_gather,
    )
