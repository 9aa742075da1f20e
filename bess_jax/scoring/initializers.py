"""How rows of embeddings are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import TypeAlias

Initializer: TypeAlias = "Callable[[jax.Array, tuple[int, ...], Any], jax.Array]"
"""`(key, shape, dtype) -> array`, the form of `jax.nn.initializers`."""


def init_KGE_uniform(  # noqa: N802
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    b: float = 1.0,
    divide_by_embedding_size: bool = True,
) -> jax.Array:
    """Rows (..., E) of independent components, uniform in [-b, b), or in [-b / E, b / E).

    Options are set with `functools.partial`, as in all initializers here.

    BESS-KGE: `init_KGE_uniform`.
    """
    _checks.at_least("b", b, 0)
    scale = b / shape[-1] if divide_by_embedding_size else b
    return _draw(jax.random.uniform, key, shape, dtype, scale, minval=-1.0)


def init_KGE_normal(  # noqa: N802
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    std: float = 1.0,
    divide_by_embedding_size: bool = True,
) -> jax.Array:
    """Rows (..., E) of independent normal components of mean 0 and standard deviation std, or std / E.

    BESS-KGE: `init_KGE_normal`.
    """
    _checks.at_least("std", std, 0)
    scale = std / shape[-1] if divide_by_embedding_size else std
    return _draw(jax.random.normal, key, shape, dtype, scale)


def init_xavier_norm(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, gain: float = 1.0) -> jax.Array:
    """Rows (..., E) of independent normal components of mean 0 and standard deviation gain * sqrt(2 / E).

    Glorot and Bengio 2010, eq. 12, with a fan-in of 0 and a fan-out of E. BESS-KGE: `init_xavier_norm`.
    """
    _checks.at_least("gain", gain, 0)
    return _draw(jax.random.normal, key, shape, dtype, gain * math.sqrt(2 / shape[-1]))


def init_uniform_norm(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Rows (..., E) of components drawn uniformly from [0, 1) and divided by the row's 2-norm.

    BESS-KGE: `init_uniform_norm`.
    """
    rows = jax.random.uniform(key, shape, jnp.float32)
    norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / jnp.maximum(norm, 1e-12)).astype(dtype)


def init_uniform_rotation(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Angles (..., R) drawn uniformly from [0, 2 pi), for the relations of RotatE.

    BESS-KGE: `init_uniform_rotation`.
    """
    return _draw(jax.random.uniform, key, shape, dtype, 2 * math.pi)


_INDEPENDENT_ROWS = (init_KGE_uniform, init_KGE_normal, init_xavier_norm, init_uniform_norm, init_uniform_rotation)
_BLOCK = 65_536  # rows drawn at a time: random bits take several times the memory of the rows


def rows_are_independent(initializer: Initializer) -> bool:
    """True for the functions above, with options set or not: their rows may be drawn a block at a time."""
    return getattr(initializer, "func", initializer) in _INDEPENDENT_ROWS


def in_blocks(draw: Initializer, key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """Rows (n, E) of `draw`, which must be independent, with little memory beside them if there are many."""
    n_row, width = shape
    if n_row <= _BLOCK:
        return draw(key, shape, dtype)

    def step(number: jax.Array, table: jax.Array) -> jax.Array:
        block = draw(jax.random.fold_in(key, number), (_BLOCK, width), dtype)
        start = jnp.minimum(number * _BLOCK, n_row - _BLOCK)
        return jax.lax.dynamic_update_slice_in_dim(table, block, start, 0)

    table: jax.Array = jax.lax.fori_loop(0, -(-n_row // _BLOCK), step, jnp.zeros(shape, dtype))
    return table


def _draw(law: Any, key: jax.Array, shape: tuple[int, ...], dtype: Any, scale: float, **arguments: float) -> jax.Array:
    """`scale` times a draw, in float32 whatever the type of the table: bfloat16 has too few steps to draw from."""
    drawn: jax.Array = law(key, shape, jnp.float32, **arguments) * scale
    return drawn.astype(dtype)
