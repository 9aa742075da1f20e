"""Types that the package shares, and the letters of BESS-KGE for sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import TypeAlias

if TYPE_CHECKING:
    import jax

Int32Array: TypeAlias = "NDArray[np.int32]"
"""Host array of ids or counts."""

HostBatch: TypeAlias = "dict[str, NDArray[Any]]"
"""Host arrays of `T` steps, step-major: every leaf starts with the axes (T, S, ...)."""

Batch: TypeAlias = "Mapping[str, jax.Array]"
"""Device arrays of one shard and one step; the keys are the arguments of `BessKGE.forward`,
and "entity_rows" where ids were merged."""

AxisName: TypeAlias = "str | tuple[str, ...]"
"""Name of the mapped shard axis; a tuple (major to minor) where it is split over devices and within a device."""

Side: TypeAlias = Literal["head", "relation", "tail"]
"""A column of a triple: what a query asks for."""

EntitySide: TypeAlias = Literal["head", "tail"]
"""A column that holds entities: what a negative replaces."""

PartitionMode: TypeAlias = Literal["h_shard", "t_shard", "ht_shardpair"]
CorruptionScheme: TypeAlias = Literal["h", "t", "ht"]

SIDE_OF: Mapping[str, EntitySide] = {"h": "head", "t": "tail"}
"""A letter of BESS-KGE's schemes -> the side that it stands for."""

Mapping_: TypeAlias = Literal["pmap", "shard_map", "vmap"]
