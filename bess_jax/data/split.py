"""Cuts triples into train, valid and test so that all of valid and test can be learnt from train."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import zip
from bess_jax.data.files import DataWarning
from bess_jax.data.keys import repeats, triple_keys

SPLIT = (0.7, 0.15, 0.15)
"""Parts of train, valid and test, where nothing else is asked for."""

SPLIT_NAMES = ("train", "valid", "test")


def split_triples(
    triples: NDArray[np.integer], split: Sequence[float] = SPLIT, seed: int = 1234
) -> dict[str, NDArray[np.int64]]:
    """Draws splits at random; every entity and every relation has a triple in train.

    Of a random order of the different triples, the first one of each entity and each relation stays in train; valid and
    test are drawn from the others. Repeated triples are left out but for their first.

    Args:
        triples: (n_triple, 3) integers >= 0: head, relation, tail.
        split: parts of train, valid and test, which add up to 1. A part of 0 gives no such split.
        seed: the same seed gives the same splits.

    Returns:
        Split name -> (n,) int64 rows of `triples` in increasing order. Valid and test have their part, rounded, but at
        least one; fewer, told by a `DataWarning`, if train needs more than its part.

    Raises:
        ValueError: if the parts or the seed are not as above, there is no triple, or none is left for valid or test.
    """
    _check(triples, split, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(_first_rows(triples))
    needed = np.zeros(len(order), dtype=bool)
    in_order = triples[order]
    needed[_first_places(in_order[:, 1])] = True
    needed[_first_places(in_order[:, ::2].ravel()) // 2] = True
    eligible = rng.permutation(order[~needed])
    sizes = _sizes(split, len(order), len(eligible))
    cuts = np.cumsum(sizes)
    parts = {"valid": eligible[: cuts[0]], "test": eligible[cuts[0] : cuts[1]]}
    parts["train"] = np.concatenate([eligible[cuts[1] :], order[needed]])
    return {name: np.sort(parts[name]) for name in SPLIT_NAMES if len(parts[name])}


def _check(triples: NDArray[np.integer], split: Any, seed: Any) -> None:
    _checks.shape("triples", triples, (None, 3), "(n_triple, 3)")
    if len(triples) == 0:
        raise ValueError("triples must hold at least one triple, got none")
    if triples.dtype.kind not in "iu" or triples.min() < 0:
        raise ValueError(f"triples must hold integers >= 0, got {triples.dtype} from {triples.min()}")
    try:
        parts = [] if isinstance(split, str) else [*map(float, split)]
    except (TypeError, ValueError):
        parts = []
    if len(parts) != 3 or not all(part >= 0 for part in parts) or not abs(sum(parts) - 1) < 1e-6 or parts[0] == 0:
        raise ValueError(
            f"split must be the parts of train (> 0), valid and test (>= 0), which add up to 1, got {split!r}"
        )
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")


def _first_rows(triples: NDArray[np.integer]) -> NDArray[np.int64]:
    """Rows, in order, of triples that no earlier row has."""
    again = repeats(triple_keys(triples))
    if len(again) == 0:
        return np.arange(len(triples))
    warnings.warn(
        f"{len(again):,} of {len(triples):,} triples are left out, since they repeat an earlier one, such as row "
        f"{again[0]:,} (from 0)",
        DataWarning,
        stacklevel=3,
    )
    return np.delete(np.arange(len(triples)), again)


def _first_places(ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each of the ids occurs first."""
    first = np.full(1 + int(ids.max()), -1, dtype=np.int64)
    first[ids[::-1]] = np.arange(len(ids))[::-1]  # of repeated ids the last assignment stays
    return first[first >= 0]


def _sizes(split: Sequence[float], n: int, n_eligible: int) -> list[int]:
    """Triples of valid and test."""
    wanted = [max(1, round(part * n)) if part else 0 for part in split[1:]]
    if sum(wanted) <= n_eligible:
        return wanted
    n_valid = round(n_eligible * wanted[0] / sum(wanted))
    sizes = [n_valid, n_eligible - n_valid]
    told = (
        f"{n - n_eligible:,} of {n:,} different triples stay in train, so that it has every entity and relation: "
        f"{sizes[0]:,} are left for valid and {sizes[1]:,} for test, in place of {wanted[0]:,} and {wanted[1]:,}"
    )
    if any(size == 0 < want for size, want in zip(sizes, wanted, strict=True)):
        raise ValueError(f"{told}; add triples, or give a split without them, such as 1,0,0")
    warnings.warn(told, DataWarning, stacklevel=3)
    return sizes
