"""Tables keep their rows through any change of shards."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.tolerance import EXACT, FLOAT32

import bess_jax as bj
from bess_jax.init import init_KGE_normal
from bess_jax.step.tables import initialize_entity_embedding, reshard, shard_table, unshard

SHARDS = (1, 2, 3, 4, 8)


def equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, **EXACT)


def test_initialize_entity_embedding() -> None:
    """Drawn shard by shard, or given in either layout."""
    sharding, key = bj.Sharding.create(10, 3, 0), jax.random.key(0)
    drawn = initialize_entity_embedding(key, init_KGE_normal, sharding, 5)
    assert drawn.shape == (3, 4, 5)
    alone = init_KGE_normal(jax.random.fold_in(key, 2), (4, 5))
    np.testing.assert_allclose(drawn[2], alone, **FLOAT32)  # compiled, or not
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    sharded = shard_table(table, sharding)
    for given in (table, jnp.asarray(table), sharded):
        equal(initialize_entity_embedding(key, given, sharding), sharded)
    assert initialize_entity_embedding(key, table, sharding, dtype=jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("n_entity", [8, 23])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_round_trips(n_entity: int, dtype: Any) -> None:
    """Rows are where their shardings say, from any number of shards to any other and back, bit by bit."""
    table = np.stack([np.arange(n_entity), -np.arange(n_entity)], axis=1).astype(dtype)  # row value = row id
    shardings = {n: bj.Sharding.create(n_entity, n, seed=n) for n in SHARDS}
    for a, b in itertools.product(shardings.values(), repeat=2):
        laid_out = shard_table(table, a)
        equal(unshard(laid_out, a), table)
        moved = reshard(laid_out, a, b)
        assert moved.dtype == table.dtype
        assert moved.shape == (b.n_shard, b.max_entity_per_shard, 2)
        ids = np.minimum(b.shard_and_idx_to_entity, n_entity - 1)  # padding repeats the last entity
        equal(moved[..., 0].astype(np.float64), ids)
        equal(moved[..., 1].astype(np.float64), -ids)
        equal(unshard(moved, b), table)
        equal(reshard(moved, b, a), laid_out)


def test_padding_is_not_read() -> None:
    old, new = bj.Sharding.create(10, 4, 0), bj.Sharding.create(10, 3, 1)
    table = shard_table(np.ones((10, 3), np.float32), old)
    table[old.shard_and_idx_to_entity >= 10] = np.nan
    assert np.isnan(table).any()
    assert np.isfinite(unshard(table, old)).all()
    assert np.isfinite(reshard(table, old, new)).all()


def test_any_rank() -> None:
    """Also optimizer states with one number a row, and rows of more axes."""
    old, new = bj.Sharding.create(10, 4, 0), bj.Sharding.create(10, 3, 1)
    for rest in ((), (2, 3)):
        table = np.random.default_rng(0).normal(size=(10, *rest))
        equal(unshard(reshard(shard_table(table, old), old, new), new), table)


SHARDING = bj.Sharding.create(10, 4, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: shard_table(np.zeros((9, 2)), SHARDING),
            r"a row for each of the sharding's 10 entities, got shape \(9, 2\)",
        ),
        (
            lambda: unshard(np.zeros((10, 2)), SHARDING),
            r"table must be laid out by its sharding, .* \(4, 3\).* \(10, 2\)",
        ),
        (
            lambda: reshard(np.zeros((4, 3, 2)), SHARDING, bj.Sharding.create(9, 2, 0)),
            r"new must be a sharding of the 10 entities of old, got one of 9",
        ),
        (
            lambda: initialize_entity_embedding(jax.random.key(0), init_KGE_normal, SHARDING),
            r"row_size must be given with an initializer, got None",
        ),
        (
            lambda: initialize_entity_embedding(jax.random.key(0), np.zeros((10, 2)), SHARDING, 3),
            r"initializer must have shape .* = \(4, 3, 3\), got \(4, 3, 2\)",
        ),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
