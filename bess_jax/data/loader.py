"""The host half of feeding devices: equal ids merged, shards in front, batches made ahead in a background thread."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import zip
from bess_jax._typing import HostBatch

K = TypeVar("K")

_ENTITY_IDS = ("head", "tail", "negative")
_FLAGS_PER_ID = 8
"""Rows per id below which a pass over flags of all rows is faster than a sort of the ids."""


def merge_ids(batch: HostBatch, max_entity_per_shard: int) -> HostBatch:
    """Lists the entity rows that each shard touches in each step, and points the batch at that list.

    Args:
        batch: host batch, partitioned by shard pair: "head", "tail" (T, S, S, P), "negative" (T, S, S, L, N) int32
            `entity_local` ids; other arrays pass through.
        max_entity_per_shard: M.

    Returns:
        A new batch. "entity_rows" (T, S, U) int32: the touched `entity_local` ids, ascending, without repeats, then
        padding M, M + 1, ... (out of range on purpose); U = min(M, ids per shard and step). "head", "tail" and
        "negative" hold positions in that list.

    Raises:
        ValueError: if an id is not in [0, M).
    """
    for name in _ENTITY_IDS:
        _checks.ids(name, batch[name], max_entity_per_shard, "entity_local")
    n_step, n_shard = batch["head"].shape[:2]
    flat = [batch[name].reshape(n_step, n_shard, -1) for name in _ENTITY_IDS]
    ids = np.concatenate(flat, axis=-1, dtype=np.intp)  # as NumPy indexes with: converted once
    n_id = ids.shape[-1]
    size = min(max_entity_per_shard, n_id)
    rows = np.empty((n_step, n_shard, size), dtype=np.int32)
    positions = np.empty(ids.shape, dtype=np.int32)
    padding = np.arange(max_entity_per_shard, max_entity_per_shard + size, dtype=np.int32)
    position_of = np.empty(max_entity_per_shard, dtype=np.int32)  # read only where it was just written
    flags = np.zeros(max_entity_per_shard, dtype=bool) if max_entity_per_shard <= _FLAGS_PER_ID * n_id else None
    for i in np.ndindex(n_step, n_shard):
        unique = _sorted_unique(ids[i]) if flags is None else _flagged_unique(ids[i], flags)
        n = len(unique)
        rows[i][:n] = unique
        rows[i][n:] = padding[: size - n]
        position_of[unique] = np.arange(n, dtype=np.int32)
        position_of.take(ids[i], out=positions[i], mode="clip")  # the default mode copies `out`
    ends = np.cumsum([part.shape[-1] for part in flat])[:-1]
    merged = {
        name: part.reshape(batch[name].shape)
        for name, part in zip(_ENTITY_IDS, np.split(positions, ends, axis=-1), strict=True)
    }
    return {**batch, **merged, "entity_rows": rows}


def _flagged_unique(ids: NDArray[np.intp], flags: NDArray[np.bool_]) -> NDArray[np.intp]:
    """`np.unique` of ids below `len(flags)`, which are all False before and after; takes time with their number."""
    flags[ids] = True
    unique = flags.nonzero()[0]
    flags[unique] = False
    return unique


def _sorted_unique(ids: NDArray[np.intp]) -> NDArray[np.int32]:
    """`np.unique`, which hashes in NumPy 2.4 and is several times slower than a sort."""
    ordered = np.sort(ids.astype(np.int32))  # half the bytes, half the time
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def shard_major(batch: HostBatch) -> HostBatch:
    """Swaps the axes (T, S, ...) of every array to (S, T, ...): the shard first, as mappings want it."""
    return {name: np.ascontiguousarray(np.swapaxes(array, 0, 1)) for name, array in batch.items()}


def prefetch(make: Callable[[K], Any], keys: Iterable[K], depth: int = 2) -> Generator[Any, None, None]:
    """Yields `make(key)` in the order of `keys`, made by a background thread up to `depth` items ahead.

    An exception in `make` is raised where its item is due. Closing the iterator stops the thread.
    """
    _checks.at_least("depth", depth, 1)
    items: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    is_finalizing = sys.is_finalizing  # modules may be empty by then
    end = object()

    def offer(item: Any, error: Exception | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put((item, error), timeout=0.1)
                return

    def work() -> None:
        try:
            for key in keys:
                if stopped.is_set():
                    return
                offer(make(key), None)
        except Exception as error:  # handed over to the consumer, which raises it
            offer(None, error)
        else:
            offer(end, None)

    thread = threading.Thread(target=work, name="bess_jax-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        if not is_finalizing():  # else Python ends with this iterator still open, and has ended the thread itself
            thread.join()
