"""Ids of names that stand in the bytes of a text, many at a time.

To look a name up in a dictionary of millions takes several reads from memory, one after the other, and a string to look
up. Here the reads for thousands of names overlap, and only names that are new become strings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import zip
from bess_jax._typing import Int32Array

LONGEST = 32
"""Bytes of the names that are kept here, at most; longer ones are looked up in the dictionary."""

_IS_SPACE = np.isin(np.arange(256), [*b"\t\n\v\f\r\x1c\x1d\x1e\x1f "])
"""Of a byte, whether it is white space, as Python's `str` has it."""

_WORD = 8
_OFFSETS = np.arange(0, LONGEST, _WORD)
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(_WORD + 1)], dtype=np.uint64)
"""Keep the first n bytes of a word."""

_FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64
)  # odd, with well mixed bits
_PROBES = 32
"""Places where a name is looked for, at most."""


class Cells:
    """A table of names and their ids, by the bytes of the names: open addressing, with linear probing.

    It caches what a dictionary says and can be emptied at any time. Names are equal if all their bytes are.

    Args:
        names: name -> id, to which new names are added with the next ids.
    """

    def __init__(self, names: dict[str, int]) -> None:
        self._names = names
        self.clear()

    def clear(self) -> None:
        """Forgets all names."""
        self._n = 0
        self._slots = np.full(1 << 12, -1, dtype=np.int32)  # id of the name that is kept here
        self._keys = np.zeros((1 << 12, len(_OFFSETS)), dtype=np.uint64)  # of each id, its bytes in words

    def ids(self, raw: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Int32Array:
        """Ids (n,) int32 of names in UTF-8, new ones in their order.

        Args:
            raw: the text, followed by `LONGEST` bytes that are not a part of it.
            starts: (n,) place of the first byte of each name.
            ends: (n,) place after the last one.
        """
        sizes = ends - starts
        keys = _keys(raw, starts, sizes)
        found = self._look_up(keys, np.flatnonzero(sizes <= LONGEST), len(starts))
        missing = np.flatnonzero(found < 0)
        if len(missing):
            text = raw.tobytes()
            places = zip(starts[missing].tolist(), ends[missing].tolist(), strict=True)
            names, id_of = self._names, self._names.setdefault
            found[missing] = [id_of(text[start:end].decode(), len(names)) for start, end in places]
            short = missing[sizes[missing] <= LONGEST]
            ids, first = np.unique(found[short], return_index=True)
            self._keep(ids, keys[short[first]])
        return found

    def _look_up(self, keys: NDArray[np.uint64], rows: NDArray[np.intp], n: int) -> Int32Array:
        """Ids (n,) of those rows that are kept here, -1 for all others."""
        found = np.full(n, -1, dtype=np.int32)
        place = self._places(keys)
        for _ in range(_PROBES):
            if not len(rows):
                break
            ids = self._slots[place[rows]]
            is_used = ids >= 0
            rows, ids = rows[is_used], ids[is_used]
            is_it = (self._keys[ids] == keys[rows]).all(axis=1)
            found[rows[is_it]] = ids[is_it]
            rows = rows[~is_it]
            place[rows] = (place[rows] + 1) & (len(self._slots) - 1)
        return found

    def _keep(self, ids: Int32Array, keys: NDArray[np.uint64]) -> None:
        """Keeps the names of ids, of which it has none."""
        if not len(ids):
            return
        self._n += len(ids)
        if ids[-1] >= len(self._keys):
            larger = np.zeros((2 * int(ids[-1]), keys.shape[1]), dtype=np.uint64)
            larger[: len(self._keys)] = self._keys
            self._keys = larger
        self._keys[ids] = keys
        if 2 * self._n > len(self._slots):
            before = self._slots[self._slots >= 0]
            ids = np.concatenate([before, ids])
            self._slots = np.full(4 * len(self._slots), -1, dtype=np.int32)
            self._n = len(ids)
            while 2 * self._n > len(self._slots):
                self._slots = np.full(2 * len(self._slots), -1, dtype=np.int32)
            keys = self._keys[ids]
        place = self._places(keys)
        for _ in range(_PROBES):
            if not len(ids):
                break
            free = np.flatnonzero(self._slots[place] < 0)
            self._slots[place[free]] = ids[free]  # of several for one place the last
            left = self._slots[place] != ids
            ids, place = ids[left], (place[left] + 1) & (len(self._slots) - 1)

    def _places(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where a name is kept, if nothing else is there."""
        mixed = (keys * _FACTORS).sum(axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * _FACTORS[0]
        place: NDArray[np.int64] = (mixed ^ (mixed >> np.uint64(29))).astype(np.int64) & (len(self._slots) - 1)
        return place


def are_bare(raw: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp]) -> bool:
    """Whether no name is empty, or begins or ends with white space of ASCII."""
    return bool((starts < ends).all()) and not (_IS_SPACE[raw[starts]].any() or _IS_SPACE[raw[ends - 1]].any())


def _keys(raw: NDArray[np.uint8], starts: NDArray[np.intp], sizes: NDArray[np.intp]) -> NDArray[np.uint64]:
    """The first `LONGEST` bytes of names, in words (n, 4) that end in zeros."""
    every: NDArray[Any] = np.ndarray((len(raw) - _WORD + 1,), np.dtype("<u8"), raw.data, strides=(1,))
    words = every[starts[:, None] + _OFFSETS].astype(np.uint64, copy=False)
    masked: NDArray[np.uint64] = words & _MASKS[np.clip(sizes[:, None] - _OFFSETS, 0, _WORD)]
    return masked
