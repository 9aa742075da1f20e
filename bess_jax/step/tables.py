"""Tables of embeddings: how they are made and laid out on shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import zip
from bess_jax.data.sharding import Sharding
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import Part, init_rows
from bess_jax.scoring.initializers import Initializer
from bess_jax.step.bess import Params


def initialize_entity_embedding(
    sharding: Sharding,
    initializer: NDArray[Any] | jax.Array | Sequence[Initializer],
    row_size: Sequence[int] | None = None,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """The entity table (S, M, E), drawn or given; put it in place with `params._replace(entity=...)`.

    Args:
        sharding: sharding of the entities.
        initializer: a table, (n_entity, E) by `entity_global` or (S, M, E), or functions of `bess_jax.init`, one for
            each part of a row.
        row_size: widths of the parts, E in all; may be left out for a table.
        key: key of the draws; shard s draws from `jax.random.fold_in(key, s)`. Needed with functions.
        dtype: type of the result.

    Raises:
        ValueError: if a table has another shape, or `row_size` or `key` do not go with functions.

    BESS-KGE: `initialize_entity_embedding`, without `key`.
    """
    size = (sharding.n_shard, sharding.max_entity_per_shard)
    if not isinstance(initializer, Sequence):
        if initializer.ndim == 2:
            initializer = shard_table(initializer, sharding)
        _checks.shape("initializer", initializer, (*size, _width(row_size)), "(n_entity, E) or (S, M, E)")
        return jnp.asarray(initializer, dtype)
    parts, key = _parts(initializer, row_size, key)

    def rows(shard: jax.Array) -> jax.Array:
        return init_rows(jax.random.fold_in(key, shard), size[1], parts)

    table: jax.Array = jax.jit(jax.vmap(rows))(jnp.arange(sharding.n_shard))
    return table.astype(dtype)


def initialize_relation_embedding(
    n_relation_type: int,
    inverse_relations: bool,
    initializer: NDArray[Any] | jax.Array | Sequence[Initializer],
    row_size: Sequence[int] | None = None,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """The relation table (n_relation, R), drawn or given.

    Put it in place with `params._replace(score_fn={"relation_embedding": ...})`, a copy for each shard: (S, n_relation,
    R).

    Args:
        n_relation_type: relation types, inverse ones not counted.
        inverse_relations: have as many rows again, for inverse relations.
        initializer: a table, or functions of `bess_jax.init`, one for each part of a row.
        row_size: widths of the parts, R in all; may be left out for a table.
        key: key of the draws, needed with functions.
        dtype: type of the result.

    Raises:
        ValueError: if a table has another shape, or `row_size` or `key` do not go with functions.

    BESS-KGE: `initialize_relation_embedding`, without `key`. Differs from BESS-KGE: the rows of a table are counted.
    """
    n_relation = n_relation_type * (2 if inverse_relations else 1)
    if not isinstance(initializer, Sequence):
        _checks.shape("initializer", initializer, (n_relation, _width(row_size)), "(n_relation, R)")
        return jnp.asarray(initializer, dtype)
    parts, key = _parts(initializer, row_size, key)
    return init_rows(key, n_relation, parts).astype(dtype)


def update_sharding(
    score_fn: BaseScoreFunction, params: Params, new_sharding: Sharding
) -> tuple[BaseScoreFunction, Params]:
    """A score function and its parameters on other shards, of any number.

    Args:
        score_fn: the score function, which knows the present sharding.
        params: parameters (S, ...) of all shards, as `BessKGE.init` makes them.
        new_sharding: a sharding of the same entities.

    Returns:
        A copy of the score function, and parameters (S_new, ...) on the host.

    BESS-KGE: `BaseScoreFunction.update_sharding`, which changes the score function and the table in it.
    """

    def to_all(x: jax.Array) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(x)[0], (new_sharding.n_shard, *x.shape[1:]))

    entity = reshard(params.entity, score_fn.sharding, new_sharding)
    rest = jax.tree_util.tree_map(to_all, (params.score_fn, params.score_state))
    return score_fn.clone(sharding=new_sharding), Params(entity, *rest)


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


def _width(row_size: Sequence[int] | None) -> int | None:
    return None if row_size is None else sum(row_size)


def _parts(
    initializer: Sequence[Initializer], row_size: Sequence[int] | None, key: jax.Array | None
) -> tuple[tuple[Part, ...], jax.Array]:
    """The parts of a row, and the key, which must be given."""
    if row_size is None or len(row_size) != len(initializer):
        raise ValueError(f"row_size must have the width of each of the {len(initializer)} parts, got {row_size}")
    if key is None:
        raise ValueError("key must be given with functions that draw, got None; pass jax.random.key(seed)")
    return tuple(Part("", *part) for part in zip(row_size, initializer, strict=True)), key
