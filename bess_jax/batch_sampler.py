"""Samplers of balanced batches: the same number of triples from every partition, in every step."""

from __future__ import annotations

import abc
import dataclasses
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import HostBatch, Int32Array
from bess_jax.negative_sampler import ORDER_STREAM, POSITIVE_STREAM, ShardedNegativeSampler, generator
from bess_jax.sharding import PartitionedTripleSet


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShardedBatchSampler(abc.ABC):
    """What batch samplers have in common.

    Attributes:
        partitioned_triple_set: the triples.
        negative_sampler: sampler of their negatives.
        shard_bs: micro-batch of one shard. P, triples per partition and step, is `ceil(shard_bs / S)` for shard pairs,
            else `shard_bs`, rounded down to even if the corruption scheme is "ht".
        batches_per_step: T, steps made by one call.
        seed: seed of the draws.
        return_triple_idx: also return the rows of the partitioned set.

    BESS-KGE: `ShardedBatchSampler`. Differs from BESS-KGE: a sampler has no state; call k of an epoch is
    `batch(epoch, k)`. Where a partition is empty its places hold entity 0, masked and with weight 0 (the reference
    takes triples of another partition).
    """

    partitioned_triple_set: PartitionedTripleSet
    negative_sampler: ShardedNegativeSampler
    shard_bs: int
    batches_per_step: int
    seed: int
    return_triple_idx: bool = False

    def __post_init__(self) -> None:
        _checks.at_least("batches_per_step", self.batches_per_step, 1)
        _checks.at_least("seed", self.seed, 0)
        triples, negative = self.partitioned_triple_set, self.negative_sampler
        if triples.sharding is not negative.sharding:
            raise ValueError(
                "negative_sampler must use the sharding object of partitioned_triple_set, got another; "
                "pass the same Sharding to both"
            )
        low = 2 if negative.corruption_scheme == "ht" else 1
        if triples.partition_mode == "ht_shardpair":
            low *= triples.sharding.n_shard
        if self.shard_bs < low:
            raise ValueError(
                f"shard_bs must be >= {low}, so that a step has a triple of every shard pair"
                f"{' and side' if negative.corruption_scheme == 'ht' else ''}, got {self.shard_bs}"
            )

    @property
    def n_shard(self) -> int:
        """S."""
        return self.partitioned_triple_set.sharding.n_shard

    @property
    def positive_per_partition(self) -> int:
        """P."""
        pairs = self.partitioned_triple_set.partition_mode == "ht_shardpair"
        size = -(-self.shard_bs // self.n_shard) if pairs else self.shard_bs
        return size // 2 * 2 if self.negative_sampler.corruption_scheme == "ht" else size

    @property
    def calls_per_epoch(self) -> int:
        """Calls of T steps that visit as many triples of every partition as the largest one has."""
        size = self.batches_per_step * self.positive_per_partition
        return -(-int(self.partitioned_triple_set.triple_counts.max()) // size)

    @abc.abstractmethod
    def positions(self, epoch: int, step: int) -> tuple[Int32Array, NDArray[Any] | None]:
        """Rows (T, S, [S,] P) of the partitioned set in one call, and a mask that is False for repeats, or None."""

    def batch(self, epoch: int, step: int) -> HostBatch:
        """Batches of one call.

        Args:
            epoch: number of the epoch.
            step: number of the call in the epoch, 0 to `calls_per_epoch - 1`.

        Returns:
            "head" and "relation" (T, S, S, P) int32, axes: step, head shard, tail shard, position; "tail" the same
            with the two shards swapped (the shard that holds the rows first). One shard axis less unless partitioned by
            shard pair. "negative" as in the negative sampler. "triple_mask", "triple_idx", "triple_weight" (T, S, S*P)
            float32 where they apply.
        """
        rows, mask = self.positions(epoch, step)
        return self.gather(rows, mask, epoch, step)

    def gather(self, rows: Int32Array, mask: NDArray[Any] | None, epoch: int = 0, step: int = 0) -> HostBatch:
        """The batch of given `rows` (T, S, [S,] P) of the partitioned set; the negatives are those of (epoch, step)."""
        triples = self.partitioned_triple_set
        head, relation, tail = np.moveaxis(triples.triples[rows], -1, 0)
        batch: HostBatch = {}
        if self._empty.any():
            filled = np.broadcast_to(~self._empty[None, ..., None], rows.shape)
            head, relation, tail = (np.where(filled, x, 0).astype(np.int32) for x in (head, relation, tail))
            mask = filled if mask is None else mask & filled
            batch["triple_weight"] = filled.reshape(*rows.shape[:2], -1).astype(np.float32)
        if triples.partition_mode == "ht_shardpair":
            tail = np.swapaxes(tail, 1, 2)
        batch |= {"head": head, "relation": relation, "tail": tail}
        if mask is not None:
            batch["triple_mask"] = mask
        if self.return_triple_idx:
            batch["triple_idx"] = rows
        batch |= self.negative_sampler.sample(rows, epoch, step)
        return {name: np.ascontiguousarray(array) for name, array in batch.items()}

    @cached_property
    def _empty(self) -> NDArray[np.bool_]:
        empty: NDArray[np.bool_] = self.partitioned_triple_set.triple_counts == 0
        return empty

    def _rows(self, draws: NDArray[Any]) -> Int32Array:
        """Row number `draws` (T, S, [S,] P), modulo the count, of each partition."""
        triples = self.partitioned_triple_set
        rows: NDArray[Any] = triples.triple_offsets[..., None] + draws % np.maximum(triples.triple_counts, 1)[..., None]
        last = np.int64(len(triples.triples) - 1)
        return np.asarray(np.minimum(rows, last), dtype=np.int32)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RigidShardedBatchSampler(ShardedBatchSampler):
    """Every triple once an epoch; partitions smaller than the largest repeat some of theirs, masked.

    Attributes:
        shuffle: draw a new order every epoch, and a new choice of which triples are repeated.

    BESS-KGE: `RigidShardedBatchSampler`. Differs from BESS-KGE: the repeated triples are not the same in every epoch.
    """

    shuffle: bool = True

    def positions(self, epoch: int, step: int) -> tuple[Int32Array, NDArray[Any] | None]:
        """See `ShardedBatchSampler.positions`."""
        size = self.batches_per_step * self.positive_per_partition
        length = self.calls_per_epoch * size
        step = step % self.calls_per_epoch
        if not self.shuffle:
            return self.positions_of(np.arange(step * size, (step + 1) * size))
        order, shift = _epoch_order(self.seed, epoch, length)
        return self.positions_of(order[step * size : (step + 1) * size], shift)

    def positions_of(self, idx: NDArray[Any], shift: int = 0) -> tuple[Int32Array, NDArray[Any] | None]:
        """Rows and mask where every partition gives its triples number `idx` (T * P), wrapped around from `shift`."""
        counts = self.partitioned_triple_set.triple_counts[None, ..., None]
        axes = (1,) * (counts.ndim - 2)
        idx = np.asarray(idx).reshape(self.batches_per_step, *axes, self.positive_per_partition)
        mask = np.broadcast_to(idx < counts, np.broadcast_shapes(idx.shape, counts.shape))
        return self._rows(np.broadcast_to(idx + shift, mask.shape)), mask


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RandomShardedBatchSampler(ShardedBatchSampler):
    """Triples drawn uniformly, with replacement, from every partition.

    BESS-KGE: `RandomShardedBatchSampler`.
    """

    def positions(self, epoch: int, step: int) -> tuple[Int32Array, NDArray[Any] | None]:
        """See `ShardedBatchSampler.positions`."""
        counts = self.partitioned_triple_set.triple_counts[None, ..., None]
        size = (self.batches_per_step, *counts.shape[1:-1], self.positive_per_partition)
        draws = generator(self.seed, POSITIVE_STREAM, epoch, step).integers(np.maximum(counts, 1), size=size)
        return self._rows(draws), None


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, length: int) -> tuple[NDArray[Any], int]:
    """Order of the positions in an epoch, (length,), and where each partition starts to count."""
    rng = generator(seed, ORDER_STREAM, epoch, 0)
    return rng.permutation(length), int(rng.integers(length))
