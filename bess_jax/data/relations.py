"""What a graph tells about its relations: how many heads have a tail, and which relations hold the same pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array
from bess_jax.data.keys import pair_keys, repeats, triple_keys

_BLOCK = 1 << 22
"""Pairs of triples that are compared at a time."""

_MOST_COMPARED = 1 << 28
"""Pairs of triples that are compared at most: about half a minute."""


def relation_categories(train: Int32Array, n_relation: int) -> NDArray[np.str_]:
    """Category of each relation: how many heads have a tail, and how many tails a head.

    The first letter is "1" if the mean number of heads of the (relation, tail) pairs that occur is below 1.5, else "N";
    the second one tells this of the tails of the (head, relation) pairs. Equal triples count once.

    Args:
        train: (n_train, 3) int32 triples. Bordes et al. count in the whole graph: `KGDataset.all_triples`.
        n_relation: number of relation ids.

    Returns:
        (n_relation,) str, "1-1", "1-N", "N-1", "N-N", or "unseen" for relations without triples.

    Raises:
        ValueError: if `train` is not of that shape, or a relation id is out of range.

    Bordes et al. 2013, "Translating embeddings for modeling multi-relational data", table 4.
    """
    _checks.shape("train", train, (None, 3), "(n_train, 3)")
    _checks.ids("train", train, n_relation, "relation", columns=(1,))
    head, relation, tail = train.T
    n_triple = np.bincount(np.delete(relation, repeats(triple_keys(train))), minlength=n_relation)
    many_heads = n_triple >= 1.5 * _n_different(relation, tail, n_relation)
    many_tails = n_triple >= 1.5 * _n_different(relation, head, n_relation)
    names = np.array([["1-1", "1-N"], ["N-1", "N-N"]])[many_heads.astype(int), many_tails.astype(int)]
    return np.where(n_triple > 0, names, "unseen")


class Common(NamedTuple):
    """Relations that hold some of the same pairs of entities, n of them; each two stand in both orders."""

    relation: NDArray[np.int64]  # (n,)
    other: NDArray[np.int64]  # (n,)
    n_pair: NDArray[np.int64]  # (n,) pairs of `relation` that `other` holds too


def common_pairs(triples: Int32Array, reverse: bool) -> Common | None:
    """Pairs (h, t) of a relation that another one holds too: as (h, t), or, if `reverse`, as (t, h).

    Args:
        triples: (n_triple, 3) int32 different triples without self-loops.
        reverse: whether to look for (t, h), which the relation itself may hold as well.

    Returns:
        The relations that have some in common, or None if there is too much to compare.
    """
    n, n_relation = (1 + int(triples[:, columns].max(initial=0)) for columns in ([0, 2], 1))
    head, relation, tail = triples.T
    pair = pair_keys(head, tail, n)
    order = np.argsort(pair)
    pair, relation = pair[order], relation[order]
    wanted = pair_keys(tail[order], head[order], n) if reverse else pair
    start = np.searchsorted(pair, wanted)
    n_found = np.searchsorted(pair, wanted, side="right") - start
    end = np.cumsum(n_found)
    n_all = int(end[-1]) if len(end) else 0
    if n_all > _MOST_COMPARED:
        return None
    if n_all == 0:
        return Common(*np.zeros((3, 0), dtype=np.int64))
    counted = []
    cuts = [*np.searchsorted(end, np.arange(0, n_all, _BLOCK)).tolist(), len(end)]
    for i, low in enumerate(cuts[:-1]):
        high = cuts[i + 1]
        n_here = n_found[low:high]
        of = np.arange(low, high).repeat(n_here)
        nth = np.arange(len(of)) - (np.cumsum(n_here) - n_here).repeat(n_here)
        counted.append(np.unique(pair_keys(relation[of], relation[start[of] + nth], n_relation), return_counts=True))
    key, group = np.unique(np.concatenate([key for key, _ in counted]), return_inverse=True)
    n_pair = np.bincount(group, weights=np.concatenate([count for _, count in counted]), minlength=len(key))
    one, other = np.divmod(key.astype(np.int64), n_relation)
    kept = slice(None) if reverse else one != other
    return Common(one[kept], other[kept], n_pair.astype(np.int64)[kept])


def _n_different(relation: Int32Array, entity: Int32Array, n_relation: int) -> NDArray[np.intp]:
    """Number of different entities of each relation, (n_relation,)."""
    n_entity = 1 + int(entity.max(initial=0))
    pair = np.sort(pair_keys(relation, entity, n_entity))
    is_new = np.ones(len(pair), dtype=bool)
    is_new[1:] = pair[1:] != pair[:-1]
    return np.bincount((pair[is_new] // np.uint64(n_entity)).astype(np.intp), minlength=n_relation)
