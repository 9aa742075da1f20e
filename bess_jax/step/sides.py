"""How the positives of a micro-batch split by the side that is corrupted, and which negatives they meet."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bess_jax._typing import EntitySide


class Lists(enum.Enum):
    """Which lists of negatives a positive meets."""

    ONE = enum.auto()  # the one list of its shard, or of its shard and side
    OWN = enum.auto()  # its own
    ALL = enum.auto()  # those of all positives that are corrupted on the same side


@dataclasses.dataclass(frozen=True)
class Sides:
    """How the positives of a micro-batch split by the side that is corrupted, and join again.

    Attributes:
        names: the corrupted sides. If there are two, the first half of every shard pair's positives has the first one.
        n_shard: S.
    """

    names: tuple[EntitySide, ...]
    n_shard: int

    def split(self, tree: Any) -> list[Any]:
        """Arrays (B, ...) of all positives as a tree of arrays (b, ...) for each side."""
        n_side = len(self.names)
        if n_side == 1:
            return [tree]

        def part(x: jax.Array, number: int) -> jax.Array:
            by_side = x.reshape(self.n_shard, n_side, -1, *x.shape[1:])
            return jax.lax.index_in_dim(by_side, number, axis=1, keepdims=False).reshape(-1, *x.shape[1:])

        return [jax.tree_util.tree_map(partial(part, number=number), tree) for number in range(n_side)]

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """One array (B, ...) of all positives from one (b, ...) for each side: undoes `split`."""
        if len(parts) == 1:
            return parts[0]
        by_shard = [x.reshape(self.n_shard, -1, *x.shape[1:]) for x in parts]
        return jnp.concatenate(by_shard, axis=1).reshape(-1, *parts[0].shape[1:])
