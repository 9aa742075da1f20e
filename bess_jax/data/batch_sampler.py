"""Samplers of balanced batches: the same number of triples from every partition, in every step."""

from __future__ import annotations

import abc
from collections.abc import Generator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import TypeAlias, dataclass
from bess_jax._typing import HostBatch, Int32Array
from bess_jax.data.groups import Groups, group_by_query
from bess_jax.data.loader import prefetch
from bess_jax.data.negative_sampler import ORDER_STREAM, POSITIVE_STREAM, ShardedNegativeSampler, generator
from bess_jax.data.sharding import PartitionedTripleSet

Part: TypeAlias = "tuple[slice, ...]"
"""Index of partitions."""

ALL: Part = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardedBatchSampler(abc.ABC):
    """What batch samplers have in common.

    Attributes:
        partitioned_triple_set: the triples.
        negative_sampler: sampler of their negatives.
        shard_bs: micro-batch B of one shard. P, triples per partition and step, is `ceil(shard_bs / S)` for shard
            pairs, else `shard_bs`; half of that, rounded down, under `duplicate_batch`; rounded down to even if the
            corruption scheme is "ht".
        batches_per_step: T, steps made by one call.
        seed: seed of the draws.
        return_triple_idx: also return the rows of the partitioned set.
        hrt_freq_weighting: weigh triples by `hrt_weights`: rare ones count more.
        weight_smoothing: added to the counts in `hrt_weights`.
        duplicate_batch: every partition of a batch holds its triples twice, [x, x], 2 P in all; under "ht" they
            are then corrupted on either side.
        answers_per_query: K, triples with the same head and relation that are one place of a batch; with more than 1,
            all sizes above count such groups (`group_by_query`), and no longer triples.
        return_answer_share: also return "answer_share", for losses in which every answer of a query is right (KvsAll),
            see `answer_shares`.
        as_reference: count pairs for `hrt_weights` by the ids stored in the partitioned set, which are local.

    BESS-KGE: `ShardedBatchSampler`. Differs from BESS-KGE: a sampler has no state; call k of an epoch is
    `batch(epoch, k)`, and there is no `sampler[k]`, which would have to mean the same epoch each time. Where a
    partition is empty its places hold entity 0, masked and with weight 0 (the reference takes triples of another
    partition). Pairs are counted by global ids (the reference takes two entities with the same local id on different
    shards for one, see `as_reference`).
    """

    partitioned_triple_set: PartitionedTripleSet
    negative_sampler: ShardedNegativeSampler
    shard_bs: int
    seed: int
    batches_per_step: int = 1
    return_triple_idx: bool = False
    hrt_freq_weighting: bool = False
    weight_smoothing: float = 0.0
    duplicate_batch: bool = False
    answers_per_query: int = 1
    return_answer_share: bool = False
    as_reference: bool = False

    def __post_init__(self) -> None:
        _checks.at_least("batches_per_step", self.batches_per_step, 1)
        _checks.at_least("seed", self.seed, 0)
        _checks.at_least("weight_smoothing", self.weight_smoothing, 0)
        triples, negative = self.partitioned_triple_set, self.negative_sampler
        if getattr(negative, "sharding", triples.sharding) is not triples.sharding:  # a placeholder has none
            raise ValueError(
                "negative_sampler must use the sharding object of partitioned_triple_set, got another; "
                "pass the same Sharding to both"
            )
        if negative.n_triple not in (None, len(triples.triples)):
            raise ValueError(
                f"negative_sampler must be made for the {len(triples.triples)} triples of partitioned_triple_set, got "
                f"types or lists of {negative.n_triple}; take them from its types, neg_heads and neg_tails"
            )
        for name in ("hrt_freq_weighting", "return_answer_share"):
            if getattr(self, name) and triples.dummy is not None:
                raise ValueError(
                    f"{name} needs triples with both entities, got queries without {triples.dummy}s; set it to False"
                )
        _checks.at_least("answers_per_query", self.answers_per_query, 1)
        if self.is_grouped and (negative.corruption_scheme != "t" or triples.dummy is not None or negative.n_triple):
            raise ValueError(
                "answers_per_query must be 1 unless tails are corrupted, known, and replaced by negatives that do not "
                f"depend on the triple, got {self.answers_per_query}"
            )
        low = (2 if negative.corruption_scheme == "ht" else 1) * (2 if self.duplicate_batch else 1)
        if triples.partition_mode == "ht_shardpair":
            low *= triples.sharding.n_shard
        if self.shard_bs < low:
            raise ValueError(
                f"shard_bs must be >= {low}, so that a step has a triple of every shard pair"
                f"{' and side' if negative.corruption_scheme == 'ht' else ''}"
                f"{', twice' if self.duplicate_batch else ''}, got {self.shard_bs}"
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
        size //= 2 if self.duplicate_batch else 1
        return size // 2 * 2 if self.negative_sampler.corruption_scheme == "ht" else size

    @property
    def is_grouped(self) -> bool:
        """True if a place of a batch holds several answers of a query."""
        return self.answers_per_query > 1

    @property
    def positives_per_step(self) -> float:
        """Triples of a step on all shards, repeated ones counted; the mean where they are grouped."""
        places = self.positive_per_partition * self.counts.size * (2 if self.duplicate_batch else 1)
        return places * (len(self.partitioned_triple_set.triples) / max(int(self.counts.sum()), 1))

    @cached_property
    def groups(self) -> Groups:
        """The triples grouped by query."""
        return group_by_query(self.partitioned_triple_set, self.answers_per_query)

    @property
    def counts(self) -> Int32Array:
        """Triples, or groups of them, in each partition, (S,) or (S, S)."""
        return self.groups.counts if self.is_grouped else self.partitioned_triple_set.triple_counts

    @property
    def calls_per_epoch(self) -> int:
        """Calls of T steps that visit as many triples of every partition as the largest one has."""
        size = self.batches_per_step * self.positive_per_partition
        return -(-int(self.counts.max()) // size)

    def __len__(self) -> int:
        """`calls_per_epoch`, the number of `batches`."""
        return self.calls_per_epoch

    def batches(self, epoch: int) -> Generator[HostBatch, None, None]:
        """Every `batch` of an epoch in order, made by a background thread up to two calls ahead.

        BESS-KGE: `ShardedBatchSampler.get_dataloader`. Differs from BESS-KGE: the epoch is given, and not the number of
        times that the loader was gone through.
        """
        return prefetch(lambda step: self.batch(epoch, step), range(self.calls_per_epoch))

    @abc.abstractmethod
    def positions(self, epoch: int, step: int, part: Part = ALL) -> tuple[Int32Array, NDArray[Any] | None]:
        """Rows (T, S, [S,] P) of the partitioned set in one call, and a mask that is False for repeats, or None.

        Where answers are grouped they are numbers of groups.

        `part` is an index of partitions, (S, [S]), and picks those that are wanted: the draws of a partition are the
        same whatever is picked.
        """

    def batch(self, epoch: int, step: int, shards: range | None = None) -> HostBatch:
        """Batches of one call.

        Args:
            epoch: number of the epoch.
            step: number of the call in the epoch, 0 to `calls_per_epoch - 1`.
            shards: n shards whose part of the batch is made, (T, n, ...) of each array; default: all. It takes time
                with n, except where lists or types of the triples of all shards decide on the negatives.

        Returns:
            "head" and "relation" (T, S, S, P) int32, axes: step, head shard, tail shard, position; "tail" the same
            with the two shards swapped (the shard that holds the rows first). One shard axis less unless partitioned by
            shard pair. The last axis is 2 P under `duplicate_batch`. The made-up column of queries is left out.
            Where answers are grouped, "tail" has one more axis, (..., P, K), and so have "triple_weight", which is
            then always there, with 0 for what fills up a group, "answer_share" and "triple_idx"; there is no mask.
            "negative" and what goes with it as in the negative sampler. "triple_mask", "triple_idx" like "head", and
            "triple_weight" (T, S, B) float32 where they apply; weights by frequency add up to `shard_bs` on each shard.
            "answer_share" (T, S, B) float32 if asked for.
        """
        if shards is None or len(shards) == self.n_shard:
            return self.gather(*self.positions(epoch, step), epoch, step)
        own = slice(shards.start, shards.stop)
        is_by_pair = self.partitioned_triple_set.partition_mode == "ht_shardpair"
        if not (is_by_pair and self.negative_sampler.draws_by_shard):
            return {name: np.ascontiguousarray(array[:, own]) for name, array in self.batch(epoch, step).items()}
        tail_rows, _ = self.positions(epoch, step, (slice(None), own))
        return self.gather(*self.positions(epoch, step, (own,)), epoch, step, shards, tail_rows)

    def gather(
        self,
        rows: Int32Array,
        mask: NDArray[Any] | None,
        epoch: int = 0,
        step: int = 0,
        shards: range | None = None,
        tail_rows: Int32Array | None = None,
    ) -> HostBatch:
        """The batch of given `rows` (T, S, [S,] P) of the partitioned set; the negatives are those of (epoch, step).

        For n `shards`, `rows` (T, n, S, P) are those of their heads and `tail_rows` (T, S, n, P) those of their tails.
        """
        triples = self.partitioned_triple_set
        own = slice(None) if shards is None else slice(shards.start, shards.stop)
        empty = self._empty[own]
        if self.duplicate_batch:
            rows = np.concatenate([rows, rows], axis=-1)
            mask = None if mask is None else np.concatenate([mask, mask], axis=-1)
            tail_rows = None if tail_rows is None else np.concatenate([tail_rows, tail_rows], axis=-1)
        places, counted = rows, None
        if self.is_grouped:
            rows, counted, mask = self.groups.rows[places], self.groups.mask[places], None
            tail_rows = None if tail_rows is None else self.groups.rows[tail_rows]
        head, relation, tail = self._columns(rows, empty)
        if tail_rows is not None:
            tail = self._columns(tail_rows, self._empty[:, own])[2]
        if self.is_grouped:
            head, relation = head[..., 0], relation[..., 0]
        weight: NDArray[Any] | None = counted
        if self.hrt_freq_weighting:
            weight = self.hrt_weights[rows] * (1.0 if counted is None else counted)
        if self._empty.any():
            filled = np.broadcast_to(~_for_each(empty, rows.ndim - 1), rows.shape)
            counted = None if counted is None else counted & filled
            mask = None if self.is_grouped else filled if mask is None else mask & filled
            weight = filled * (1.0 if weight is None else weight)
        if triples.partition_mode == "ht_shardpair":
            tail = np.swapaxes(tail, 1, 2)
        batch: HostBatch = {"head": head, "relation": relation, "tail": tail}
        if triples.dummy is not None:
            del batch[triples.dummy]
        if mask is not None:
            batch["triple_mask"] = mask
        by_shard = (*rows.shape[:2], -1, *rows.shape[places.ndim :])
        if weight is not None:
            weight = self._normalized(weight, counted) if self.hrt_freq_weighting else weight
            batch["triple_weight"] = weight.reshape(by_shard).astype(np.float32)
        if self.return_answer_share:
            number = np.minimum(self.negative_sampler.sides(rows), len(self.answer_shares) - 1)
            batch["answer_share"] = self.answer_shares[number, rows].reshape(by_shard)
        if self.return_triple_idx:
            batch["triple_idx"] = rows
        batch.update(self.negative_sampler.sample(places, epoch, step, shards))
        return {name: np.ascontiguousarray(array) for name, array in batch.items()}

    @cached_property
    def hrt_weights(self) -> NDArray[np.float64]:
        """1 / sqrt(count(h, r) + count(r, t) + `weight_smoothing`) of every triple of the set, (n_triple,) float64.

        BESS-KGE: `ShardedBatchSampler.get_hrt_weights`.
        """
        triples = self.partitioned_triple_set
        head, relation, tail = (triples.triples if self.as_reference else _global_triples(triples)).T
        counts = _pair_counts(head, relation) + _pair_counts(tail, relation)
        weights: NDArray[np.float64] = 1 / np.sqrt(counts + self.weight_smoothing)
        return weights

    @cached_property
    def answer_shares(self) -> NDArray[np.float32]:
        """1 / number of answers that the query of a triple has in the set, (1 or 2, n_triple), for each corrupted side.

        Queries are (?, r, t) where heads are replaced and (h, r, ?) for tails; answers are different entities, by
        global ids, however often a triple is in the set. The shares of the answers of a query add up to 1.
        """
        head, relation, tail = _global_triples(self.partitioned_triple_set).T
        ends = {"h": (tail, head), "t": (head, tail)}
        queries = (ends[side] for side in self.negative_sampler.corruption_scheme)
        counts = [_pair_counts(known, relation, answer) for known, answer in queries]
        return (1 / np.stack(counts)).astype(np.float32)

    def _normalized(self, weight: NDArray[Any], counted: NDArray[Any] | None) -> NDArray[Any]:
        """Weights (T, S, ...) that add up to `shard_bs`, or the triples that count, on each shard, unless all are 0."""
        axes = tuple(range(2, weight.ndim))
        total = weight.sum(axis=axes, keepdims=True)
        wanted = self.shard_bs if counted is None else counted.sum(axis=axes, keepdims=True)
        return weight * (wanted / np.where(total > 0, total, 1))

    @cached_property
    def _empty(self) -> NDArray[np.bool_]:
        empty: NDArray[np.bool_] = self.partitioned_triple_set.triple_counts == 0
        return empty

    def _columns(self, rows: Int32Array, empty: NDArray[np.bool_]) -> NDArray[Any]:
        """Heads, relations and tails, (3, ...), of rows (T, ..., P); 0 where a partition is `empty`."""
        columns = np.moveaxis(self.partitioned_triple_set.triples.take(rows, axis=0), -1, 0)  # much faster than [rows]
        return np.where(_for_each(empty, rows.ndim - 1), np.int32(0), columns) if empty.any() else columns

    def _rows(self, draws: NDArray[Any], part: Part) -> Int32Array:
        """Row number `draws` (T, ..., P), modulo the count, of each partition of a part."""
        triples = self.partitioned_triple_set
        all_offsets = self.groups.offsets if self.is_grouped else triples.triple_offsets
        offsets, counts = all_offsets[part], self.counts[part]
        rows: NDArray[Any] = offsets[..., None] + draws % np.maximum(counts, 1)[..., None]
        last = np.int64((len(self.groups.rows) if self.is_grouped else len(triples.triples)) - 1)
        return np.asarray(np.minimum(rows, last), dtype=np.int32)


@dataclass(frozen=True, eq=False, kw_only=True)
class RigidShardedBatchSampler(ShardedBatchSampler):
    """Every triple once an epoch; partitions smaller than the largest repeat some of theirs, masked.

    Attributes:
        shuffle: draw a new order every epoch, and a new choice of which triples are repeated.

    BESS-KGE: `RigidShardedBatchSampler`. Differs from BESS-KGE: the repeated triples are not the same in every epoch.
    """

    shuffle: bool = True

    def positions(self, epoch: int, step: int, part: Part = ALL) -> tuple[Int32Array, NDArray[Any] | None]:
        """See `ShardedBatchSampler.positions`."""
        size = self.batches_per_step * self.positive_per_partition
        length = self.calls_per_epoch * size
        step = step % self.calls_per_epoch
        if not self.shuffle:
            return self.positions_of(np.arange(step * size, (step + 1) * size), part=part)
        order, shift = _epoch_order(self.seed, epoch, length)
        return self.positions_of(order[step * size : (step + 1) * size], shift, part)

    def positions_of(
        self, idx: NDArray[Any], shift: int = 0, part: Part = ALL
    ) -> tuple[Int32Array, NDArray[Any] | None]:
        """Rows and mask where every partition gives its triples number `idx` (T * P), wrapped around from `shift`."""
        counts = self.counts[part][None, ..., None]
        axes = (1,) * (counts.ndim - 2)
        idx = np.asarray(idx).reshape(self.batches_per_step, *axes, self.positive_per_partition)
        mask = np.broadcast_to(idx < counts, np.broadcast_shapes(idx.shape, counts.shape))
        return self._rows(np.broadcast_to(idx + shift, mask.shape), part), mask


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomShardedBatchSampler(ShardedBatchSampler):
    """Triples drawn uniformly, with replacement, from every partition.

    BESS-KGE: `RandomShardedBatchSampler`.
    """

    def positions(self, epoch: int, step: int, part: Part = ALL) -> tuple[Int32Array, NDArray[Any] | None]:
        """See `ShardedBatchSampler.positions`; draws for all partitions."""
        counts = self.counts[None, ..., None]
        size = (self.batches_per_step, *counts.shape[1:-1], self.positive_per_partition)
        draws = generator(self.seed, POSITIVE_STREAM, epoch, step).integers(np.maximum(counts, 1), size=size)
        return self._rows(draws[(slice(None), *part)], part), None


def _for_each(flags: NDArray[np.bool_], ndim: int) -> NDArray[np.bool_]:
    """Flags of partitions, with axes of length 1 behind them for places in a partition."""
    return flags.reshape(flags.shape + (1,) * (ndim - flags.ndim))


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, length: int) -> tuple[NDArray[Any], int]:
    """Order of the positions in an epoch, (length,), and where each partition starts to count."""
    rng = generator(seed, ORDER_STREAM, epoch, 0)
    return rng.permutation(length), int(rng.integers(length))


def _global_triples(triples: PartitionedTripleSet) -> Int32Array:
    """The triples (n_triple, 3) with heads and tails as `entity_global`."""
    n_shard, slots = triples.sharding.n_shard, triples.sharding.shard_and_idx_to_entity
    partition = np.repeat(np.arange(triples.triple_counts.size), triples.triple_counts.ravel())
    out = triples.triples.copy()
    if triples.partition_mode != "t_shard":
        shard = partition // n_shard if triples.partition_mode == "ht_shardpair" else partition
        out[:, 0] = slots[shard, out[:, 0]]
    if triples.partition_mode != "h_shard":
        out[:, 2] = slots[partition % n_shard, out[:, 2]]
    return out


def _pair_counts(entity: Int32Array, relation: Int32Array, answer: Int32Array | None = None) -> NDArray[np.int64]:
    """How often each row's pair (entity, relation) occurs, or with how many different answers, (n_triple,)."""
    key = entity.astype(np.int64) * (int(relation.max(initial=0)) + 1) + relation
    order = np.argsort(key) if answer is None else np.lexsort((answer, key))  # np.unique hashes in NumPy 2.4, slower
    is_first = np.diff(key[order], prepend=-1) != 0
    first = np.flatnonzero(is_first)
    n_row = np.diff(first, append=len(key))
    counted = n_row
    if answer is not None:
        is_new = is_first | (np.diff(answer[order], prepend=-1) != 0)
        counted = np.add.reduceat(is_new, first, dtype=np.int64)
    counts = np.empty(len(key), dtype=np.int64)
    counts[order] = np.repeat(counted, n_row)
    return counts
