"""Which shard holds which entity, and triples grouped by the shards of their entities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from bess_jax import _checks
from bess_jax._typing import Int32Array, PartitionMode
from bess_jax.data.archive import load_arrays, save_arrays
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sharding:
    """Entities cut into `S` shards of equal size `M = ceil(n_entity / S)`.

    Attributes:
        n_shard: S.
        entity_to_shard: (n_entity,) int32, shard of each `entity_global` id.
        entity_to_idx: (n_entity,) int32, `entity_local` id (row in the shard) of each `entity_global` id.
        shard_and_idx_to_entity: (S, M) int32, `entity_global` id of each row; ids >= n_entity are padding, which stands
            last in its shard.
        shard_counts: (S,) int32, rows of each shard that are not padding.
        entity_type_counts: (S, n_type) int32, entities of each type on each shard, or None.
        entity_type_offsets: (S, n_type) int32, `entity_local` id where each type starts, or None.

    BESS-KGE: `Sharding`.
    """

    n_shard: int
    entity_to_shard: Int32Array
    entity_to_idx: Int32Array
    shard_and_idx_to_entity: Int32Array
    shard_counts: Int32Array
    entity_type_counts: Int32Array | None = None
    entity_type_offsets: Int32Array | None = None

    def __repr__(self) -> str:
        return f"Sharding({self.n_entity:,} entities on {self.n_shard} shards of {self.max_entity_per_shard:,} rows)"

    @property
    def n_entity(self) -> int:
        """Number of entities, padding left out."""
        return len(self.entity_to_shard)

    @property
    def max_entity_per_shard(self) -> int:
        """M, rows of each shard."""
        return int(self.shard_and_idx_to_entity.shape[1])

    @classmethod
    def create(
        cls,
        n_entity: int,
        n_shard: int,
        seed: int,
        type_offsets: Int32Array | None = None,
    ) -> Sharding:
        """Draws a balanced sharding: a permutation of `S * M` slots, cut into S pieces, each sorted.

        Args:
            n_entity: number of entities.
            n_shard: S.
            seed: seed of the permutation; the same one gives the same sharding.
            type_offsets: (n_type,) first `entity_global` id of each entity type, if entities are ordered by type.

        Raises:
            ValueError: if there are more shards than entities.

        BESS-KGE: `Sharding.create`, the same permutation for the same seed.
        """
        _checks.at_least("n_shard", n_shard, 1)
        if n_shard > n_entity:
            raise ValueError(f"n_shard must be at most the number of entities, {n_entity}, got {n_shard}")
        per_shard = -(-n_entity // n_shard)
        drawn = np.random.default_rng(seed).permutation(n_shard * per_shard).reshape(n_shard, per_shard)
        slots = np.sort(drawn, axis=1).astype(np.int32)
        shard, idx = np.divmod(np.argsort(slots, axis=None)[:n_entity], per_shard)
        type_counts = local_offsets = None
        if type_offsets is not None:
            bounds = np.append(np.asarray(type_offsets), n_entity)
            below = np.stack([np.searchsorted(row, bounds) for row in slots])
            type_counts = np.diff(below, axis=1).astype(np.int32)
            local_offsets = below[:, :-1].astype(np.int32)
        return cls(
            n_shard=n_shard,
            entity_to_shard=shard.astype(np.int32),
            entity_to_idx=idx.astype(np.int32),
            shard_and_idx_to_entity=slots,
            shard_counts=(slots < n_entity).sum(axis=1, dtype=np.int32),
            entity_type_counts=type_counts,
            entity_type_offsets=local_offsets,
        )

    def save(self, out_file: str | Path) -> None:
        """Writes the sharding into one `.npz` file, with checksums, all of it or nothing.

        Raises:
            OSError: if the file cannot be written.
        """
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        save_arrays({name: np.asarray(array) for name, array in arrays.items() if array is not None}, Path(out_file))

    @classmethod
    def load(cls, path: str | Path) -> Sharding:
        """Reads what `save` wrote.

        Raises:
            DataError: if the file cannot be read, is damaged, or is another one.
        """
        what = "a sharding that Sharding.save wrote"
        arrays = load_arrays(Path(path), what)
        names = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(cls)}
        if not {name for name, needed in names.items() if needed} <= arrays.keys() <= names.keys():
            raise DataError(f"not {what}: it has the members {', '.join(arrays)}", Path(path))
        return cls(n_shard=int(arrays.pop("n_shard")), **arrays)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PartitionedTripleSet:
    """Triples sorted by partition: the shard of the head, of the tail, or of both.

    Attributes:
        sharding: the sharding that defines partitions and `entity_local` ids.
        partition_mode: "h_shard" (heads local, tails global), "t_shard" (the mirror image) or "ht_shardpair" (both
            local; partition = shard(head) * S + shard(tail)).
        dummy: "head" or "tail" if that column is made up (queries without ground truth), else None.
        triples: (n_triple, 3) int32, sorted by partition, in the order of the input within one.
        triple_counts: (S,) or (S, S) int32, triples in each partition.
        triple_offsets: the same shape, first row of each partition.
        triple_sort_idx: (n_triple,) int32, row of the input that became this row.
        types: (n_triple, 2) int32 types of head and tail, or None.
        neg_heads: (1 or n_triple, n) int32 `entity_global` candidates to replace heads, or None.
        neg_tails: the same for tails.

    BESS-KGE: `PartitionedTripleSet`. Differs from BESS-KGE: the sort is stable, so the order within a partition does
    not depend on the machine; `dummy` is None where the reference says "none".
    """

    sharding: Sharding
    partition_mode: PartitionMode
    dummy: Literal["head", "tail"] | None
    triples: Int32Array
    triple_counts: Int32Array
    triple_offsets: Int32Array
    triple_sort_idx: Int32Array
    types: Int32Array | None = None
    neg_heads: Int32Array | None = None
    neg_tails: Int32Array | None = None

    def __repr__(self) -> str:
        n_partition = self.triple_counts.size
        return (
            f"PartitionedTripleSet({len(self.triples):,} triples in {n_partition} partitions by {self.partition_mode})"
        )

    @classmethod
    def create_from_dataset(
        cls,
        dataset: KGDataset,
        part: str,
        sharding: Sharding,
        partition_mode: PartitionMode = "ht_shardpair",
        add_inverse_triples: bool = False,
    ) -> PartitionedTripleSet:
        """Partitions one split of a data set.

        Args:
            dataset: the graph.
            part: the split, for example "train".
            sharding: the sharding of its entities.
            partition_mode: see the class.
            add_inverse_triples: append (t, r + n_relation_type, h) for every triple; types and candidates are swapped.

        Raises:
            ValueError: if the split does not exist or the sharding is of another number of entities.

        BESS-KGE: `PartitionedTripleSet.create_from_dataset`.
        """
        _checks.one_of("part", part, tuple(dataset.triples))
        _check_same_entities(dataset, sharding)
        triples = dataset.triples[part]
        types = dataset.ht_types[part] if dataset.ht_types is not None else None
        neg_heads, neg_tails = (
            None if neg is None else neg.get(part) for neg in (dataset.neg_heads, dataset.neg_tails)
        )
        if add_inverse_triples:
            n = len(triples)
            inverse = triples[:, ::-1] + np.array([0, dataset.n_relation_type, 0], dtype=np.int32)
            triples = np.concatenate([triples, inverse])
            types = None if types is None else np.concatenate([types, types[:, ::-1]])
            if neg_heads is not None and neg_tails is not None:
                heads, tails = (np.broadcast_to(neg, (n, neg.shape[-1])) for neg in (neg_heads, neg_tails))
                neg_heads, neg_tails = np.concatenate([heads, tails]), np.concatenate([tails, heads])
        return cls._partition(sharding, partition_mode, None, triples, types, neg_heads, neg_tails)

    @classmethod
    def create_from_queries(
        cls,
        dataset: KGDataset,
        sharding: Sharding,
        queries: Int32Array,
        query_mode: Literal["hr", "rt"],
        ground_truth: Int32Array | None = None,
        negative: Int32Array | None = None,
        negative_type: str | None = None,
        as_reference: bool = False,
    ) -> PartitionedTripleSet:
        """Partitions queries (h, r, ?) or (?, r, t) by the shard of the known entity.

        Args:
            dataset: the graph.
            sharding: the sharding of its entities.
            queries: (n_query, 2) int32, (head, relation) or (relation, tail), entities as `entity_global`.
            query_mode: "hr" or "rt".
            ground_truth: (n_query,) int32 `entity_global` answers, if known.
            negative: (1 or n_query, n) int32 `entity_global` candidates; default: all entities.
            negative_type: restrict the default candidates to one entity type.
            as_reference: repeat two faults of the reference: the last entity of `negative_type` is left out, and types
                of the known entities are taken from their local ids.

        Raises:
            ValueError: on bad shapes or ids, or a `negative_type` the data set lacks.

        BESS-KGE: `PartitionedTripleSet.create_from_queries`.
        """
        _checks.one_of("query_mode", query_mode, ("hr", "rt"))
        _check_same_entities(dataset, sharding)
        _checks.shape("queries", queries, (None, 2), "(n_query, 2)")
        known, relation = (0, 1) if query_mode == "hr" else (1, 0)
        _checks.ids("queries", queries, dataset.n_entity, "entity", columns=(known,))
        _checks.ids("queries", queries, dataset.n_relation_type, "relation", columns=(relation,))
        low, high = _type_range(dataset, negative_type)
        if as_reference and negative_type is not None:
            high -= 1
        if negative is None:
            negative = np.arange(low, high, dtype=np.int32)[None]
        _checks.ids("negative", negative, dataset.n_entity, "entity")
        if ground_truth is None:
            answer = np.full(len(queries), low, dtype=np.int32)
        else:
            _checks.shape("ground_truth", ground_truth, (len(queries),), "(n_query,)")
            _checks.ids("ground_truth", ground_truth, dataset.n_entity, "entity")
            answer = ground_truth.astype(np.int32)
        column = 2 if query_mode == "hr" else 0
        triples = np.insert(queries.astype(np.int32), column, answer, axis=1)
        dummy: Literal["head", "tail"] | None = None
        if ground_truth is None:
            dummy = "tail" if query_mode == "hr" else "head"
        types = None
        if negative_type is not None and dataset.type_offsets is not None:
            entities = triples[:, [0, 2]]
            if as_reference:
                entities[:, 0 if query_mode == "hr" else 1] = sharding.entity_to_idx[queries[:, known]]
            offsets = np.fromiter(dataset.type_offsets.values(), dtype=np.int64)
            types = (np.searchsorted(offsets, entities, side="right") - 1).astype(np.int32)
        if query_mode == "hr":
            return cls._partition(sharding, "h_shard", dummy, triples, types, None, negative)
        return cls._partition(sharding, "t_shard", dummy, triples, types, negative, None)

    @classmethod
    def _partition(
        cls,
        sharding: Sharding,
        partition_mode: PartitionMode,
        dummy: Literal["head", "tail"] | None,
        triples: Int32Array,
        types: Int32Array | None,
        neg_heads: Int32Array | None,
        neg_tails: Int32Array | None,
    ) -> PartitionedTripleSet:
        _checks.one_of("partition_mode", partition_mode, ("h_shard", "t_shard", "ht_shardpair"))
        n_shard = sharding.n_shard
        head_shard, tail_shard = sharding.entity_to_shard[triples[:, [0, 2]]].T
        partition, size = {
            "h_shard": (head_shard, (n_shard,)),
            "t_shard": (tail_shard, (n_shard,)),
            "ht_shardpair": (head_shard * n_shard + tail_shard, (n_shard, n_shard)),
        }[partition_mode]
        order = np.argsort(partition, kind="stable")
        counts = np.bincount(partition, minlength=int(np.prod(size)))
        local = triples[order]
        if partition_mode != "t_shard":
            local[:, 0] = sharding.entity_to_idx[local[:, 0]]
        if partition_mode != "h_shard":
            local[:, 2] = sharding.entity_to_idx[local[:, 2]]
        neg_heads, neg_tails = (neg if neg is None or len(neg) == 1 else neg[order] for neg in (neg_heads, neg_tails))
        return cls(
            sharding=sharding,
            partition_mode=partition_mode,
            dummy=dummy,
            triples=local,
            triple_counts=counts.reshape(size).astype(np.int32),
            triple_offsets=(np.cumsum(counts) - counts).reshape(size).astype(np.int32),
            triple_sort_idx=order.astype(np.int32),
            types=None if types is None else types[order],
            neg_heads=neg_heads,
            neg_tails=neg_tails,
        )


def _check_same_entities(dataset: KGDataset, sharding: Sharding) -> None:
    if dataset.n_entity != sharding.n_entity:
        raise ValueError(
            f"sharding must be of the data set's {dataset.n_entity} entities, got one of {sharding.n_entity}; "
            "make it with Sharding.create(dataset.n_entity, ...)"
        )


def _type_range(dataset: KGDataset, name: str | None) -> tuple[int, int]:
    """First `entity_global` id of a type and the one after its last; all entities for None."""
    if name is None:
        return 0, dataset.n_entity
    offsets: Mapping[str, int] = dataset.type_offsets or {}
    _checks.one_of("negative_type", name, tuple(offsets))
    starts = [*offsets.values(), dataset.n_entity]
    position = list(offsets).index(name)
    return starts[position], starts[position + 1]
