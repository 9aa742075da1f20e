"""What IPUs ask of a placement."""

from __future__ import annotations

from collections.abc import Sequence

import jax

MISSING = (
    "IPUs need the JAX of graphcore-research/jax-experimental, under Python 3.8; docs/ipu.md tells how to install it. "
    f"This is JAX {jax.__version__}"
)


def check_ipus(n_shard: int, ids: Sequence[int], mapping: str) -> None:
    """Checks that there can be a Poplar device of these IPUs, and that each has one shard.

    Raises:
        ValueError: if not, or under another mapping than "pmap".

    Source: jax-experimental's device mesh, of 1, 2, 4 and so on IPUs that start at a multiple of their number.
    """
    n = len(ids)
    if mapping != "pmap":
        raise ValueError(f"mapping must be 'pmap' on IPUs, got {mapping!r}")
    if n != n_shard:
        raise ValueError(
            f"n_device must be n_shard on IPUs, as updates of several shards on one are slow loops, got {n} for "
            f"{n_shard} shards: give {n_shard}, or cut the entities into {n} shards"
        )
    if n & (n - 1):
        below = 2 ** (n.bit_length() - 1)
        raise ValueError(f"n_shard must be a power of two on IPUs, got {n}: give {below} or {2 * below}")
    if [*ids] != [*range(ids[0], ids[0] + n)] or ids[0] % n:
        raise ValueError(
            f"devices must be {n} IPUs in a row, from a multiple of {n}, got the ids {[*ids]}: leave the choice to "
            "Placement.create"
        )
