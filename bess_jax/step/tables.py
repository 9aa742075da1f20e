"""Tables of embeddings: how they are made and laid out on shards."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax.data.sharding import Sharding
from bess_jax.scoring.initializers import Initializer


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
        initializer: a function of `bess_jax.init`, or a table: (n_entity, E) by `entity_global`, or (S, M, E).
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
    return host[row_entities(sharding)]


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
    entity = row_entities(new)
    return _sharded("table", table, old)[old.entity_to_shard[entity], old.entity_to_idx[entity]]


def row_entities(sharding: Sharding) -> NDArray[np.int32]:
    """The `entity_global` id that fills each row, (S, M) int32: padding rows get the last entity."""
    return np.minimum(sharding.shard_and_idx_to_entity, np.int32(sharding.n_entity - 1))


def _sharded(name: str, table: NDArray[Any] | jax.Array, sharding: Sharding) -> NDArray[Any]:
    host = np.asarray(table)
    rows = (sharding.n_shard, sharding.max_entity_per_shard)
    if host.shape[:2] != rows:
        raise ValueError(
            f"{name} must be laid out by its sharding, with shape (S, M, ...) = {rows} + ..., got {host.shape}"
        )
    return host
