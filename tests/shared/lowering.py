"""Programs for any number of devices, which need not be there: HLO text before XLA's passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

AXIS = "shard"


def array(*shape: int, dtype: Any = jnp.float32) -> Any:
    """An argument of one shard."""
    return jax.ShapeDtypeStruct(shape, dtype)


def ids(*shape: int) -> Any:
    """An argument of one shard."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def lowered(fn: Callable[..., Any], *args: Any, n_shard: int = 4, donate: tuple[int, ...] = ()) -> Any:
    """`fn` of the arrays of one shard, for `n_shard` devices."""
    every = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n_shard, *x.shape), x.dtype), args)

    def of_block(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[None], fn(*jax.tree.map(lambda x: x[0], args)))

    spec = PartitionSpec(AXIS)
    mesh = AbstractMesh((n_shard,), (AXIS,))
    mapped = jax.shard_map(of_block, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(mapped, donate_argnums=donate).trace(*every).lower(lowering_platforms=("cpu",))


def text(fn: Callable[..., Any], *args: Any, n_shard: int = 4, donate: tuple[int, ...] = ()) -> str:
    """HLO of `lowered`."""
    return str(lowered(fn, *args, n_shard=n_shard, donate=donate).compiler_ir("hlo").as_hlo_text())
