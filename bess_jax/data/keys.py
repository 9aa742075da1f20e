"""Rows of ids as single numbers, which sort and compare many times as fast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import TypeAlias

Keys: TypeAlias = "NDArray[np.uint64]"


def pair_keys(first: NDArray[np.integer], second: NDArray[np.integer], n_second: int) -> Keys:
    """A number (n,) for each pair of ids >= 0, `second` below `n_second`; equal ones for equal pairs alone."""
    keys: Keys = first.astype(np.uint64) * np.uint64(n_second) + second.astype(np.uint64)
    return keys


def triple_keys(triples: NDArray[np.integer]) -> Keys:
    """A number (n,) for each triple (n, 3) of ids >= 0; equal ones for equal triples alone."""
    head, relation, tail = triples.T
    n_head, n_relation, n_tail = (1 + int(ids.max(initial=0)) for ids in triples.T)
    key = pair_keys(head, relation, n_relation)
    if n_head * n_relation * n_tail >= 2**64:
        key = np.unique(key, return_inverse=True)[1].astype(np.uint64)
    return pair_keys(key, tail, n_tail)


def repeated(keys: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which keys (n,) occur more than once."""
    order = np.argsort(keys)
    in_order = keys[order]
    is_next = in_order[1:] == in_order[:-1]
    found = np.zeros(len(keys), dtype=bool)
    found[order[1:][is_next]] = True
    found[order[:-1][is_next]] = True
    return found


def repeats(keys: NDArray[np.integer]) -> NDArray[np.int64]:
    """Places, in order, of keys that stand at an earlier place too."""
    places = np.flatnonzero(repeated(keys))  # mostly few: a stable sort takes much longer than another one
    is_first = np.zeros(len(places), dtype=bool)
    is_first[np.unique(keys[places], return_index=True)[1]] = True
    return places[~is_first]


def is_in(keys: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which keys (n,) are among others."""
    if len(others) == 0:
        return np.zeros(len(keys), dtype=bool)
    in_order, order = np.sort(others), np.argsort(keys)  # of keys in order, each is searched near the one before it
    place = np.searchsorted(in_order, keys[order])
    place[place == len(in_order)] = 0
    found = np.empty(len(keys), dtype=bool)
    found[order] = in_order[place] == keys[order]
    return found
