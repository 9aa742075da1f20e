"""Samplers of negative entities: which rows of every shard each shard scores its positives against."""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from bess_jax import _checks
from bess_jax._typing import CorruptionScheme, HostBatch, Int32Array
from bess_jax.sharding import Sharding

POSITIVE_STREAM, NEGATIVE_STREAM, ORDER_STREAM = range(3)


def generator(seed: int, stream: int, epoch: int, step: int) -> np.random.Generator:
    """Generator of the draws at one place of a run: any batch can be made alone, in any order."""
    return np.random.default_rng((seed, stream, epoch, step))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShardedNegativeSampler(abc.ABC):
    """What negative samplers have in common.

    Attributes:
        sharding: sharding of the entities.
        corruption_scheme: "h" replaces heads, "t" tails, "ht" heads in the first half of every partition of the
            micro-batch and tails in the second.
        local_sampling: True if each shard scores negatives of its own only, so that none are exchanged.
        flat_negative_format: True if the triples of a micro-batch share one set of negatives (two for "ht").

    BESS-KGE: `ShardedNegativeSampler`.
    """

    sharding: Sharding
    corruption_scheme: CorruptionScheme
    local_sampling: bool = False
    flat_negative_format: bool = False

    def __post_init__(self) -> None:
        _checks.one_of("corruption_scheme", self.corruption_scheme, ("h", "t", "ht"))

    def n_set(self, micro_batch: int) -> int:
        """B, the sets of negatives in a micro-batch of this many triples: 1 or 2 (flat), else one per triple."""
        if not self.flat_negative_format:
            return micro_batch
        return 2 if self.corruption_scheme == "ht" else 1

    @abc.abstractmethod
    def sample(self, sample_idx: Int32Array, epoch: int, step: int) -> HostBatch:
        """Negatives of one call.

        Args:
            sample_idx: (T, S, S, P) or (T, S, P) int32, rows of the partitioned triple set that make up the batch.
            epoch: epoch of the call.
            step: position of the call in the epoch; with `seed` and `epoch` it fixes every draw.

        Returns:
            "negative": (T, S, S, B, N) int32 `entity_local` ids; [t, src, dst] live on shard `src` and are scored by
            shard `dst` (under `local_sampling` by `src`). Optionally "negative_mask".
        """


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RandomShardedNegativeSampler(ShardedNegativeSampler):
    """Negatives drawn uniformly, with replacement, from the entities of each shard.

    Attributes:
        n_negative: N, negatives per shard, shard and set; a triple meets `S * N` of them (`N` from each shard).
        seed: seed of the draws.

    BESS-KGE: `RandomShardedNegativeSampler`. Differs from BESS-KGE: draws are a function of (seed, epoch, step), and
    exactly uniform (the reference takes a modulo).
    """

    n_negative: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.at_least("n_negative", self.n_negative, 1)
        _checks.at_least("seed", self.seed, 0)
        check_no_empty_shard(self.sharding)

    def sample(self, sample_idx: Int32Array, epoch: int, step: int) -> HostBatch:
        """See `ShardedNegativeSampler.sample`."""
        n_step, n_shard = sample_idx.shape[:2]
        size = (n_step, n_shard, n_shard, self.n_set(int(np.prod(sample_idx.shape[2:]))), self.n_negative)
        high = self.sharding.shard_counts[None, :, None, None, None]
        draws = generator(self.seed, NEGATIVE_STREAM, epoch, step).integers(high, size=size, dtype=np.int32)
        return {"negative": draws}


def check_no_empty_shard(sharding: Sharding) -> None:
    """Raises ValueError if a shard holds no entity to draw."""
    empty = np.flatnonzero(sharding.shard_counts == 0)
    if empty.size:
        raise ValueError(
            f"sharding must leave no shard empty, but shard {empty[0]} of {sharding.n_shard} holds none of the "
            f"{sharding.n_entity} entities; use fewer shards or another sharding seed"
        )
