"""Triples of a partitioned set grouped by their query, so that a query is scored once for several answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array
from bess_jax.data.sharding import PartitionedTripleSet


class Groups(NamedTuple):
    """Triples with the same head and relation in the same partition, at most K in a group."""

    rows: Int32Array  # (n_group, K), rows of the set, sorted by partition; the first one fills up
    mask: NDArray[np.bool_]  # (n_group, K), False for what fills up
    counts: Int32Array  # (S,) or (S, S), groups in each partition
    offsets: Int32Array  # the same shape, first group of each partition


def group_by_query(triples: PartitionedTripleSet, size: int) -> Groups:
    """Groups the triples of every partition by query (h, r, ?); one with more than `size` answers has several groups.

    Answers of a query stay in the order of the set, and are dealt out evenly: 9 answers in groups of at most 8 make one
    of 5 and one of 4.

    Raises:
        ValueError: if `size` is less than 1.
    """
    _checks.at_least("size", size, 1)
    head, relation = triples.triples[:, 0].astype(np.int64), triples.triples[:, 1]
    partition = np.repeat(np.arange(triples.triple_counts.size), triples.triple_counts.ravel())
    order = np.lexsort((relation, head, partition))
    keys = np.stack([partition, head, relation])[:, order]
    is_first = np.ones(len(order), dtype=bool)
    np.any(keys[:, 1:] != keys[:, :-1], axis=0, out=is_first[1:])
    first = np.flatnonzero(is_first)
    n_answer = np.diff(first, append=len(order))
    n_group = -(-n_answer // size)
    rank = np.arange(len(order)) - np.repeat(first, n_answer)
    within, slot = divmod(rank, np.repeat(n_group, n_answer))[::-1]  # dealt out: answer i to group i modulo n_group
    group = np.repeat(np.cumsum(n_group) - n_group, n_answer) + within
    rows = np.full((int(n_group.sum()), size), -1, dtype=np.int32)
    rows[group, slot] = order
    mask = rows >= 0
    counts = np.bincount(np.repeat(partition[order[first]], n_group), minlength=triples.triple_counts.size)
    shape = triples.triple_counts.shape
    return Groups(
        rows=np.where(mask, rows, rows[:, :1]),
        mask=mask,
        counts=counts.reshape(shape).astype(np.int32),
        offsets=(np.cumsum(counts) - counts).reshape(shape).astype(np.int32),
    )
