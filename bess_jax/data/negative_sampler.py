"""Samplers of negative entities: which rows of every shard each shard scores its positives against."""

from __future__ import annotations

import abc
import dataclasses
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import dataclass
from bess_jax._typing import CorruptionScheme, HostBatch, Int32Array
from bess_jax.data.sharding import Sharding

POSITIVE_STREAM, NEGATIVE_STREAM, ORDER_STREAM = range(3)

_JUMP = 0x9E3779B97F4A7C15F39CC0605CEDC835  # as `PCG64.jumped`: streams that start a power of two apart are alike


def generator(seed: int, stream: int, epoch: int, step: int) -> np.random.Generator:
    """Generator of the draws at one place of a run: any batch can be made alone, in any order."""
    return np.random.default_rng((seed, stream, epoch, step))


@dataclass(frozen=True, eq=False, kw_only=True)
class ShardedNegativeSampler(abc.ABC):
    """What negative samplers have in common.

    Attributes:
        sharding: sharding of the entities.
        corruption_scheme: "h" replaces heads, "t" tails, "ht" heads in the first half of every partition of the
            micro-batch and tails in the second.
        local_sampling: True if each shard scores negatives of its own only, so that none are exchanged.
        flat_negative_format: True if the triples of a micro-batch share one list of negatives (two for "ht").
        mask_on_gather: True if "negative_mask" is laid out like the entities, for the shard that holds them, as top-k
            queries want it; else for the shard that scores them, as `BessKGE.forward` wants it.

    BESS-KGE: `ShardedNegativeSampler`.
    """

    sharding: Sharding
    corruption_scheme: CorruptionScheme
    local_sampling: bool = False
    flat_negative_format: bool = False
    mask_on_gather: bool = dataclasses.field(default=False, init=False)
    draws_by_shard: ClassVar[bool] = False  # True if a shard's draws need neither those of others nor the triples

    def __post_init__(self) -> None:
        _checks.one_of("corruption_scheme", self.corruption_scheme, ("h", "t", "ht"))

    def n_list(self, micro_batch: int) -> int:
        """L, lists of negatives for a micro-batch of this many triples: 1 or 2 (flat), else one for each triple."""
        if not self.flat_negative_format:
            return micro_batch
        return 2 if self.corruption_scheme == "ht" else 1

    @property
    def n_triple(self) -> int | None:
        """Rows of the partitioned set that the sampler was made for, or None if any will do."""
        return None

    @abc.abstractmethod
    def sample(self, sample_idx: Int32Array, epoch: int, step: int, shards: range | None = None) -> HostBatch:
        """Negatives of one call.

        Args:
            sample_idx: (T, S, S, P) or (T, S, P) int32, rows of the partitioned triple set that make up the batch.
            epoch: epoch of the call.
            step: position of the call in the epoch; with `seed` and `epoch` it fixes every draw.
            shards: n shards whose entities are drawn, if the sampler `draws_by_shard`; `sample_idx` and the result are
                then (T, n, ...); default: all.

        Returns:
            "negative": (T, S, S, L, N) int32 `entity_local` ids; [t, src, dst] live on shard `src` and are scored by
            shard `dst` (under `local_sampling` by `src`). L is that of `n_list`; without flat format, lists are
            ordered like the triples of the scoring shard. Where a sampler has entries that must not count,
            "negative_mask", False for those: (T, S, L, S, N) bool, [t, dst, :, src] on the shard that scores them,
            or (T, S, S, L, N), laid out like "negative", under `mask_on_gather`. Optionally "negative_sort_idx", see
            `TripleBasedShardedNegativeSampler`.
        """

    def sides(self, sample_idx: Int32Array) -> NDArray[np.int64]:
        """The side that is replaced, 0 for the head and 1 for the tail, of every triple (T, S, [S,] P) of a batch."""
        place = np.arange(sample_idx.shape[-1])
        first_tail = {"h": len(place), "t": 0, "ht": len(place) // 2}[self.corruption_scheme]
        return np.broadcast_to((place >= first_tail).astype(np.int64), sample_idx.shape)

    def _mask_layout(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask (T, src, dst, L, N) of the entities in the layout in which it is returned."""
        if self.mask_on_gather:
            return mask
        return np.moveaxis(mask, 2, 3) if self.local_sampling else np.moveaxis(mask, 1, 3)


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomShardedNegativeSampler(ShardedNegativeSampler):
    """Negatives drawn uniformly, with replacement, from the entities of each shard.

    Attributes:
        n_negative: N, negatives per shard, shard and list; a triple meets `S * N` of them (`N` from each shard).
        seed: seed of the draws.

    BESS-KGE: `RandomShardedNegativeSampler`. Differs from BESS-KGE: draws are a function of (seed, epoch, step,
    shard), and exactly uniform (the reference takes a modulo).
    """

    n_negative: int
    seed: int
    draws_by_shard: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.at_least("n_negative", self.n_negative, 1)
        _checks.at_least("seed", self.seed, 0)
        check_no_empty_shard(self.sharding)

    def sample(self, sample_idx: Int32Array, epoch: int, step: int, shards: range | None = None) -> HostBatch:
        """See `ShardedNegativeSampler.sample`."""
        own, n_shard = range(self.sharding.n_shard) if shards is None else shards, self.sharding.n_shard
        n_list = self.n_list(int(np.prod(sample_idx.shape[2:])))
        draws = np.empty((len(sample_idx), len(own), n_shard, n_list, self.n_negative), np.int32)
        counts = self.sharding.shard_counts.tolist()
        rng = generator(self.seed, NEGATIVE_STREAM, epoch, step)
        start = rng.bit_generator.state
        for place, shard in enumerate(own):  # from a part of the stream of its own: faster than generators of their own
            rng.bit_generator.state = start
            rng.bit_generator.advance(shard * _JUMP % 2**128)  # type: ignore[attr-defined]
            draws[:, place] = rng.integers(counts[shard], size=draws[:, place].shape, dtype=np.int32)
        return {"negative": draws}


@dataclass(frozen=True, eq=False, kw_only=True)
class TypeBasedShardedNegativeSampler(ShardedNegativeSampler):
    """Negatives of the same type as the entity they replace, drawn uniformly, with replacement, on each shard.

    Where a shard holds no entity of a type, its places are filled with other entities of that shard and masked. The
    batch has a "negative_mask" if this can happen to any triple; a triple can be left without negatives of a shard,
    and under `local_sampling` without any.

    Attributes:
        triple_types: (n_triple, 2) int32, types of head and tail of the rows of the partitioned set
            (`PartitionedTripleSet.types`).
        n_negative: N, negatives per shard and triple; a triple meets `S * N` of them.
        seed: seed of the draws.

    BESS-KGE: `TypeBasedShardedNegativeSampler`. Differs from BESS-KGE: places of an absent type are masked (the
    reference takes entities of another type), and draws are exactly uniform (the reference takes a modulo of a modulo)
    and a function of (seed, epoch, step).
    """

    triple_types: Int32Array
    n_negative: int
    seed: int
    flat_negative_format: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.at_least("n_negative", self.n_negative, 1)
        _checks.at_least("seed", self.seed, 0)
        check_no_empty_shard(self.sharding)
        if self.sharding.entity_type_counts is None:
            raise ValueError(
                "sharding must know the entity types, got one without; give type_offsets to Sharding.create"
            )
        _checks.shape("triple_types", self.triple_types, (None, 2), "(n_triple, 2)")
        _checks.ids("triple_types", self.triple_types, self.sharding.entity_type_counts.shape[1], "type")

    @property
    def n_triple(self) -> int | None:
        """Rows of `triple_types`."""
        return len(self.triple_types)

    def sample(self, sample_idx: Int32Array, epoch: int, step: int, shards: range | None = None) -> HostBatch:
        """See `ShardedNegativeSampler.sample`."""
        n_step, n_shard = sample_idx.shape[:2]
        types = self.triple_types[sample_idx, self.sides(sample_idx)].reshape(n_step, n_shard, -1)
        types = types[:, :, None] if self.local_sampling else types[:, None]  # (T, S or 1, 1 or S, B)
        shard = np.arange(n_shard)[None, :, None, None]
        counts, offsets = (table[shard, types] for table in self._tables)  # (T, S, 1 or S, B)
        whole = self.sharding.shard_counts[:, None, None]
        low, high = (np.where(counts > 0, x, y) for x, y in ((offsets, 0), (offsets + counts, whole)))
        size = (n_step, n_shard, n_shard, types.shape[-1], self.n_negative)
        rng = generator(self.seed, NEGATIVE_STREAM, epoch, step)
        out: HostBatch = {"negative": rng.integers(low[..., None], high[..., None], size=size, dtype=np.int32)}
        if self.needs_mask:
            out["negative_mask"] = self._mask_layout(np.broadcast_to((counts > 0)[..., None], size))
        return out

    @property
    def _tables(self) -> tuple[Int32Array, Int32Array]:
        """Counts and offsets (S, n_type) of the types on every shard."""
        counts, offsets = self.sharding.entity_type_counts, self.sharding.entity_type_offsets
        if counts is None or offsets is None:
            raise ValueError("sharding must know the entity types")  # checked when it was built
        return counts, offsets

    @cached_property
    def needs_mask(self) -> bool:
        """True if a type that the triples need is absent from a shard; one answer for all batches of a run."""
        columns = {"h": [0], "t": [1], "ht": [0, 1]}[self.corruption_scheme]
        needed = np.bincount(self.triple_types[:, columns].ravel(), minlength=self._tables[0].shape[1]) > 0
        return bool((self._tables[0][:, needed] == 0).any())


class _Split(NamedTuple):
    """Lists of entities (..., n), split by shard and padded to the same length N."""

    entity: Int32Array  # (..., S, N) `entity_local`
    mask: NDArray[np.bool_]  # (..., S, N) False for padding
    order: Int32Array  # (..., n) positions in the list, by shard


@dataclass(frozen=True, eq=False, kw_only=True)
class TripleBasedShardedNegativeSampler(ShardedNegativeSampler):
    """Given negatives: one list for all triples (then in flat format), or one for every triple.

    Every list is split by shard, and the parts are padded to the longest of them (N), by repetition, masked.

    Attributes:
        negative_heads: (1 or n_triple, n) int32 `entity_global` ids to replace heads, one list for all triples or one
            for each row of the partitioned set (`PartitionedTripleSet.neg_heads`); may be None for scheme "t".
        negative_tails: the same for tails; may be None for scheme "h".
        seed: not used, nothing is drawn.
        mask_on_gather: see `ShardedNegativeSampler`; top-k queries need True.
        return_sort_idx: also return "negative_sort_idx" (T, S, B, n) int32: for each triple of a shard, the positions
            in its list of the negatives that the mask leaves, in the order of the shards that hold them.

    BESS-KGE: `TripleBasedShardedNegativeSampler`. Differs from BESS-KGE: the sort by shard is stable, so the order does
    not depend on the machine.
    """

    negative_heads: Int32Array | None = dataclasses.field(repr=False)
    negative_tails: Int32Array | None = dataclasses.field(repr=False)
    seed: int = 0
    mask_on_gather: bool = False
    return_sort_idx: bool = False
    local_sampling: bool = dataclasses.field(default=False, init=False)
    flat_negative_format: ClassVar[Any]  # type: ignore[misc]  # no field, but the property below

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, entities in self._given.items():
            if entities is None:
                raise ValueError(
                    f"{name} must be given for corruption_scheme {self.corruption_scheme!r}, got None; "
                    "pass the list or change the scheme"
                )
            _checks.shape(name, entities, (None, None), "(1 or n_triple, n)")
            _checks.ids(name, entities, self.sharding.n_entity, "entity_global")
        shapes = [entities.shape for entities in self._lists]
        if min(shapes[0]) < 1 or shapes[0] != shapes[-1]:
            raise ValueError(
                "negative_heads and negative_tails must have the same shape, (1 or n_triple, n), and not be empty, "
                f"got {shapes}"
            )

    @property  # type: ignore[no-redef]
    def flat_negative_format(self) -> bool:
        """True if one list is given for all triples."""
        return len(self._lists[0]) == 1

    @property
    def n_triple(self) -> int | None:
        """Rows of the lists; None in flat format."""
        return None if self.flat_negative_format else len(self._lists[0])

    @property
    def _given(self) -> dict[str, Int32Array | None]:
        """The lists that the scheme uses, (1 or n_triple, n) each, by argument."""
        sides = (("h", "negative_heads", self.negative_heads), ("t", "negative_tails", self.negative_tails))
        return {name: entities for side, name, entities in sides if side in self.corruption_scheme}

    @property
    def _lists(self) -> list[Int32Array]:
        return [entities for entities in self._given.values() if entities is not None]

    @cached_property
    def n_negative_per_shard(self) -> int:
        """N, length of the longest part of a list on a shard."""
        longest = 0
        for entities in self._lists:
            for start in range(0, len(entities), 1 << 16):  # blocks, so that memory does not grow with the lists
                counts = self._counts(self.sharding.entity_to_shard[entities[start : start + (1 << 16)]])
                longest = max(longest, int(counts.max()))
        return longest

    @cached_property
    def _flat_split(self) -> _Split:
        """The one list of each side, (1 or 2, ...)."""
        return self._split(np.concatenate(self._lists))

    def sample(self, sample_idx: Int32Array, epoch: int, step: int, shards: range | None = None) -> HostBatch:
        """See `ShardedNegativeSampler.sample`; epoch and step make no difference."""
        n_step, n_shard = sample_idx.shape[:2]
        lists = self._lists
        sides = self.sides(sample_idx)
        if self.flat_negative_format:
            split = self._flat_split
            order = split.order[np.minimum(sides, len(lists) - 1)]
        else:
            entities = lists[0][sample_idx]
            if len(lists) == 2:
                entities = np.where(sides[..., None], lists[1][sample_idx], entities)
            split = self._split(entities)
            order = split.order
        n_list = self.n_list(int(np.prod(sample_idx.shape[2:])))
        size = (n_step, n_shard, n_list, *split.entity.shape[-2:])  # (T, dst, L, src, N)
        lead = (1, 1) if self.flat_negative_format else (n_step, n_shard)
        entity = np.broadcast_to(split.entity.reshape(*lead, *size[2:]), size)
        mask = np.broadcast_to(split.mask.reshape(*lead, *size[2:]), size)
        out: HostBatch = {
            "negative": np.moveaxis(entity, 3, 1),
            "negative_mask": self._mask_layout(np.moveaxis(mask, 3, 1)),
        }
        if self.return_sort_idx:
            out["negative_sort_idx"] = order.reshape(n_step, n_shard, -1, order.shape[-1])
        return {name: np.ascontiguousarray(array) for name, array in out.items()}

    def _counts(self, shard: Int32Array) -> NDArray[np.int64]:
        """Entries of each list (rows, n) on each shard, (rows, S)."""
        n_shard = self.sharding.n_shard
        key = np.arange(len(shard))[:, None] * n_shard + shard
        return np.bincount(key.ravel(), minlength=len(shard) * n_shard).reshape(-1, n_shard)

    def _split(self, entities: Int32Array) -> _Split:
        """Splits lists (..., n) of `entity_global` ids."""
        lead, n = entities.shape[:-1], entities.shape[-1]
        entities = entities.reshape(-1, n)
        shard = self.sharding.entity_to_shard[entities]
        order = np.argsort(shard, axis=1, kind="stable")
        counts = self._counts(shard)
        first = np.cumsum(counts, axis=1) - counts
        place = np.arange(self.n_negative_per_shard)
        source = first[..., None] + place % np.maximum(counts, 1)[..., None]  # (rows, S, N)
        local = np.take_along_axis(self.sharding.entity_to_idx[entities], order, axis=1)
        rows = np.arange(len(entities))[:, None, None]
        entity = np.where(counts[..., None] > 0, local[rows, np.minimum(source, n - 1)], 0)
        mask = place < counts[..., None]
        return _Split(
            entity.astype(np.int32).reshape(*lead, *entity.shape[1:]),
            mask.reshape(*lead, *mask.shape[1:]),
            order.astype(np.int32).reshape(*lead, n),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class AllEntitiesNegativeSampler(TripleBasedShardedNegativeSampler):
    """Lists every entity once, in flat format, for losses over all entities (1vsAll); N = M, padding masked.

    The entity that a negative would replace is in the list too: use it with a loss with
    `positive_among_negatives=True`, without `augment_negative`. `EmbeddingMovingBessKGE` then sends the whole table to
    all shards; `ScoreMovingBessKGE` sends queries and scores only.

    BESS-KGE has no counterpart.
    """

    negative_heads: None = dataclasses.field(default=None, init=False, repr=False)
    negative_tails: None = dataclasses.field(default=None, init=False, repr=False)

    @cached_property
    def _given(self) -> dict[str, Int32Array | None]:
        everything = np.arange(self.sharding.n_entity, dtype=np.int32)[None]
        return dict.fromkeys(self.corruption_scheme, everything)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlaceholderNegativeSampler(ShardedNegativeSampler):
    """No negatives: for pipelines that score all entities, block by block of the table.

    It knows no sharding and goes with any triple set.

    Attributes:
        seed: not used, nothing is drawn.

    BESS-KGE: `PlaceholderNegativeSampler`.
    """

    seed: int = 0
    sharding: Sharding = dataclasses.field(init=False, repr=False)
    local_sampling: bool = dataclasses.field(default=False, init=False)
    flat_negative_format: bool = dataclasses.field(default=False, init=False)

    def sample(self, sample_idx: Int32Array, epoch: int, step: int, shards: range | None = None) -> HostBatch:
        """An empty dictionary."""
        return {}


def check_no_empty_shard(sharding: Sharding) -> None:
    """Raises ValueError if a shard holds no entity to draw."""
    empty = np.flatnonzero(sharding.shard_counts == 0)
    if empty.size:
        raise ValueError(
            f"sharding must leave no shard empty, but shard {empty[0]} of {sharding.n_shard} holds none of the "
            f"{sharding.n_entity} entities; use fewer shards or another sharding seed"
        )
