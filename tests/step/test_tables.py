"""Initializers draw by the laws they state; tables keep their rows through any change of shards."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.tolerance import EXACT, FLOAT32

import bess_jax as bj
from bess_jax.step import tables as embedding
from bess_jax.step.tables import initialize_entity_embedding, reshard, shard_table, unshard

SHARDS = (1, 2, 3, 4, 8)
SIZE = (4000, 25)
N = SIZE[0] * SIZE[1]


def equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, **EXACT)


# --- initializers -----------------------------------------------------------------------------------------------------


def whole(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Rows that know each other."""
    return jnp.broadcast_to(jnp.arange(shape[0], dtype=dtype)[:, None], shape)


UNIFORM = [
    (embedding.init_KGE_uniform, -1 / 25, 1 / 25),
    (functools.partial(embedding.init_KGE_uniform, b=3.0), -3 / 25, 3 / 25),
    (functools.partial(embedding.init_KGE_uniform, b=3.0, divide_by_embedding_size=False), -3, 3),
    (embedding.init_uniform_rotation, 0, 2 * math.pi),
]
NORMAL = [
    (embedding.init_KGE_normal, 1 / 25),
    (functools.partial(embedding.init_KGE_normal, std=2.0, divide_by_embedding_size=False), 2.0),
    (embedding.init_xavier_norm, math.sqrt(2 / 25)),
    (functools.partial(embedding.init_xavier_norm, gain=0.5), 0.5 * math.sqrt(2 / 25)),
]
LAWS = [
    embedding.init_KGE_uniform,
    embedding.init_KGE_normal,
    embedding.init_xavier_norm,
    embedding.init_uniform_norm,
    embedding.init_uniform_rotation,
]


def kolmogorov(sample: Any, cdf: Callable[[Any], Any]) -> float:
    """Largest distance between the two distribution functions, times sqrt(n): over 2 once in 1500 true samples."""
    ordered = np.sort(np.asarray(sample, np.float64).ravel())
    return float(np.abs(cdf(ordered) - (np.arange(len(ordered)) + 0.5) / len(ordered)).max() * np.sqrt(len(ordered)))


@pytest.mark.parametrize(("law", "low", "high"), UNIFORM)
def test_uniform_laws(law: Any, low: float, high: float) -> None:
    drawn = np.asarray(law(jax.random.key(0), SIZE, jnp.float32))
    assert drawn.dtype == np.float32
    assert kolmogorov(drawn, lambda x: np.clip((x - low) / (high - low), 0, 1)) < 2
    assert low <= drawn.min() < drawn.max() <= high


@pytest.mark.parametrize(("law", "std"), NORMAL)
def test_normal_laws(law: Any, std: float) -> None:
    drawn = law(jax.random.key(0), SIZE, jnp.float32)
    assert kolmogorov(drawn, lambda x: 0.5 + 0.5 * np.vectorize(math.erf)(x / (std * math.sqrt(2)))) < 2


def test_uniform_norm() -> None:
    """Directions of rows drawn from the unit cube: norm 1, no negative component, and all components alike."""
    drawn = np.asarray(embedding.init_uniform_norm(jax.random.key(0), SIZE, jnp.float32), np.float64)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-6)
    assert drawn.min() >= 0
    cube = np.random.default_rng(0).random(SIZE)
    cube /= np.linalg.norm(cube, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.mean(axis=0), cube.mean(), atol=6 * cube.std() / math.sqrt(SIZE[0]))
    np.testing.assert_allclose(drawn.std(), cube.std(), rtol=0.02)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("law", LAWS)
def test_types_keys_and_promotion(law: Any, dtype: Any) -> None:
    """Half precision holds the float32 draws, rounded; another key gives other rows."""
    drawn = law(jax.random.key(1), (7, 6), dtype)
    assert drawn.dtype == dtype
    equal(drawn.astype(jnp.float32), law(jax.random.key(1), (7, 6), jnp.float32).astype(dtype).astype(jnp.float32))
    assert (drawn != law(jax.random.key(2), (7, 6), dtype)).any()


@pytest.mark.parametrize("given", [None, functools.partial(embedding.init_KGE_normal, std=2.0), whole])
def test_many_rows_are_drawn_in_blocks(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of independent rows, every one drawn and no block like another; other functions see the whole table."""
    monkeypatch.setattr(embedding, "_BLOCK", 8)
    sharding = bj.Sharding.create(21, 1, seed=0)
    score_fn = bj.TransE(True, sharding, 1, 4, entity_initializer=given)
    rows = score_fn.init_entity(jax.random.key(0), 21)
    assert rows.shape == (21, 4)
    assert len(np.unique(rows)) == (21 if given is whole else 84)
    text = str(jax.make_jaxpr(lambda key: score_fn.init_entity(key, 21))(jax.random.key(0)))
    assert ("f32[8,4]" in text) == (given is not whole)


def test_initialize_entity_embedding() -> None:
    """Drawn shard by shard, or given in either layout."""
    sharding, key = bj.Sharding.create(10, 3, 0), jax.random.key(0)
    drawn = initialize_entity_embedding(key, embedding.init_KGE_normal, sharding, 5)
    assert drawn.shape == (3, 4, 5)
    alone = embedding.init_KGE_normal(jax.random.fold_in(key, 2), (4, 5))
    np.testing.assert_allclose(drawn[2], alone, **FLOAT32)  # compiled, or not
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    sharded = shard_table(table, sharding)
    for given in (table, jnp.asarray(table), sharded):
        equal(initialize_entity_embedding(key, given, sharding), sharded)
    assert initialize_entity_embedding(key, table, sharding, dtype=jnp.bfloat16).dtype == jnp.bfloat16


# --- layout -----------------------------------------------------------------------------------------------------------


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
            lambda: initialize_entity_embedding(jax.random.key(0), embedding.init_KGE_normal, SHARDING),
            r"row_size must be given with an initializer, got None",
        ),
        (
            lambda: initialize_entity_embedding(jax.random.key(0), np.zeros((10, 2)), SHARDING, 3),
            r"initializer must have shape .* = \(4, 3, 3\), got \(4, 3, 2\)",
        ),
        (lambda: embedding.init_KGE_uniform(jax.random.key(0), (2, 2), b=-1.0), r"b must be >= 0, got -1"),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
