"""Queries and the answers that they must not count, from global ids to what each shard is given. On the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bess_jax._typing import Int32Array, Side
from bess_jax.ask.shard import Queries
from bess_jax.data.sharding import Sharding


def pad_places(
    n_shard: int,
    group: NDArray[np.intp],
    query: NDArray[np.intp],
    position: Int32Array,
    size: tuple[int, int],
    chunk: int,
) -> tuple[Int32Array, Int32Array]:
    """Answers to leave out, as each shard wants them.

    Args:
        n_shard: S.
        group: (n,) number of the group that holds each answer; each shard has as many of them as it has windows.
        query: (n,) number of the query.
        position: (n,) `entity_local` id, or position among the relations of the shard.
        size: number of groups, and answers of a group.
        chunk: Q; padding names the query of this number, which does not exist.

    Returns:
        Queries and positions, (S, windows, width) int32 each.
    """
    if size[0] <= 2**16:
        group = group.astype(np.uint16)  # is sorted by radix
    order = np.argsort(group, kind="stable")
    group = group[order]
    counts = np.bincount(group, minlength=size[0])
    place = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    queries, positions = np.full(size, chunk, np.int32), np.zeros(size, np.int32)
    queries[group, place], positions[group, place] = query[order], position[order]
    return queries.reshape(n_shard, -1, size[1]), positions.reshape(n_shard, -1, size[1])


def lay_out_queries(
    sharding: Sharding,
    side: Side,
    triples: Int32Array,
    chunk: int,
    group: Int32Array | None,
    excluded: tuple[Int32Array, Int32Array],
) -> Queries:
    """Queries (S, chunk) of `triples` (n, 3), filled up with the last one; `excluded` as `pad_places` gives it."""
    shards = np.arange(sharding.n_shard)[:, None]

    def fill(x: Int32Array) -> Int32Array:
        return np.pad(x, (0, chunk - len(x)), mode="edge").astype(np.int32)

    def local(entity: Int32Array) -> Int32Array:
        here = sharding.entity_to_shard[entity][None] == shards
        return np.where(here, sharding.entity_to_idx[entity][None], -1).astype(np.int32)

    def shared(x: Int32Array) -> Int32Array:
        return np.broadcast_to(fill(x), (len(shards), chunk))

    head, relation, tail = triples.T
    known, target = (tail, head) if side == "head" else (head, tail)
    return Queries(
        known=local(fill(known)),
        relation=shared(relation),
        target=local(fill(target)),
        excluded_query=excluded[0],
        excluded_entity=excluded[1],
        group=None if group is None else shared(group),
    )


def most_on_a_shard(sharding: Sharding, listed: Int32Array) -> int:
    """The most candidates of a query, listed (Q, c), that one shard holds."""
    return max(int(np.max(np.sum(sharding.entity_to_shard[listed] == s, axis=1))) for s in range(sharding.n_shard))


def by_shard(sharding: Sharding, listed: Int32Array, width: int, rows: slice, chunk: int) -> Int32Array:
    """Rows of candidates (n, c) in global ids as (S, chunk, width) `entity_local` ids of each shard, -1 for padding."""
    listed = listed[rows]
    shard = sharding.entity_to_shard[listed]
    out = np.full((sharding.n_shard, chunk, width), -1, np.int32)
    for number in range(sharding.n_shard):
        query, place = np.nonzero(shard == number)
        column = (np.cumsum(shard == number, axis=1) - 1)[query, place]
        out[number, query, column] = sharding.entity_to_idx[listed[query, place]]
    return out
