"""Tables of embeddings: how their rows are drawn, and how they are laid out on shards."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Initializer
from bess_jax.sharding import Sharding


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


def initialize_entity_embedding(
    key: jax.Array,
    initializer: Initializer | NDArray[Any] | jax.Array,
    sharding: Sharding,
    row_size: int | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """The entity table (S, M, E), drawn or given; put it in place with `params._replace(entity=...)`.

    Args:
        key: key of the draws; shard s draws from `jax.random.fold_in(key, s)`.
        initializer: one of the functions above, or a table: (n_entity, E) by `entity_global`, or (S, M, E).
        sharding: sharding of the entities.
        row_size: E; may be left out for a table.
        dtype: type of the result.

    Raises:
        ValueError: if a table has another shape, or none is given and `row_size` is missing.

    BESS-KGE: `initialize_entity_embedding`.
    """
    size = (sharding.n_shard, sharding.max_entity_per_shard)
    if callable(initializer):
        if row_size is None:
            raise ValueError("row_size must be given with an initializer, got None; pass the width of an entity row")
        draw = initializer
        shards = jnp.arange(sharding.n_shard)
        rows = jax.vmap(lambda shard: draw(jax.random.fold_in(key, shard), (size[1], row_size), dtype))
        table: jax.Array = jax.jit(rows)(shards)
        return table
    if np.ndim(initializer) == 2:
        initializer = shard_table(initializer, sharding)
    _checks.shape("initializer", initializer, (*size, row_size), "(n_entity, E) or (S, M, E)")
    return jnp.asarray(initializer, dtype)


def shard_table(table: NDArray[Any] | jax.Array, sharding: Sharding) -> NDArray[Any]:
    """Lays out rows (n_entity, ...) by `entity_global` on shards, (S, M, ...); padding repeats the last entity's row.

    Raises:
        ValueError: if the table has another number of rows than the sharding has entities.

    BESS-KGE: `initialize_entity_embedding`.
    """
    host = np.asarray(table)
    if host.ndim < 1 or len(host) != sharding.n_entity:
        raise ValueError(
            f"table must have a row for each of the sharding's {sharding.n_entity} entities, got shape {host.shape}"
        )
    return host[_entities(sharding)]


def unshard(table: NDArray[Any] | jax.Array, sharding: Sharding) -> NDArray[Any]:
    """Rows by `entity_global` id, (n_entity, ...), of a sharded table (S, M, ...); a copy on the host, without padding.

    Raises:
        ValueError: if the table is not one of this sharding.
    """
    host = _sharded("table", table, sharding)
    return host[sharding.entity_to_shard, sharding.entity_to_idx]


def reshard(table: NDArray[Any] | jax.Array, old: Sharding, new: Sharding) -> NDArray[Any]:
    """Moves rows from one sharding of the same entities to another, of any number of shards.

    Args:
        table: (S_old, M_old, ...) laid out by `old`: an embedding table or an optimizer's state of it.
        old: the sharding of `table`.
        new: the sharding of the result.

    Returns:
        (S_new, M_new, ...), a copy on the host; padding rows repeat the row of the last entity.

    Raises:
        ValueError: if the table is not one of `old`, or the shardings are of different numbers of entities.

    BESS-KGE: `refactor_embedding_sharding`.
    """
    if old.n_entity != new.n_entity:
        raise ValueError(f"new must be a sharding of the {old.n_entity} entities of old, got one of {new.n_entity}")
    entity = _entities(new)
    return _sharded("table", table, old)[old.entity_to_shard[entity], old.entity_to_idx[entity]]


def _entities(sharding: Sharding) -> NDArray[np.int32]:
    """The `entity_global` id that fills each row, (S, M): padding rows get the last entity."""
    return np.minimum(sharding.shard_and_idx_to_entity, np.int32(sharding.n_entity - 1))


def _sharded(name: str, table: NDArray[Any] | jax.Array, sharding: Sharding) -> NDArray[Any]:
    host = np.asarray(table)
    rows = (sharding.n_shard, sharding.max_entity_per_shard)
    if host.shape[:2] != rows:
        raise ValueError(
            f"{name} must be laid out by its sharding, with shape (S, M, ...) = {rows} + ..., got {host.shape}"
        )
    return host


def _draw(law: Any, key: jax.Array, shape: tuple[int, ...], dtype: Any, scale: float, **arguments: float) -> jax.Array:
    """`scale` times a draw, in float32 whatever the type of the table: bfloat16 has too few steps to draw from."""
    drawn: jax.Array = law(key, shape, jnp.float32, **arguments) * scale
    return drawn.astype(dtype)
