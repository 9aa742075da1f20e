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
from bess_jax.step.tables import (
    initialize_entity_embedding,
    initialize_relation_embedding,
    reshard,
    shard_table,
    unshard,
    update_sharding,
)

SHARDS = (1, 2, 3, 4, 8)


def equal(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, **EXACT)


def test_initialize_entity_embedding() -> None:
    """Drawn shard by shard, or given in either layout."""
    sharding, key = bj.Sharding.create(10, 3, 0), jax.random.key(0)
    drawn = initialize_entity_embedding(sharding, [init_KGE_normal], [5], key)
    assert drawn.shape == (3, 4, 5)
    alone = init_KGE_normal(jax.random.fold_in(key, 2), (4, 5))
    np.testing.assert_allclose(drawn[2], alone, **FLOAT32)  # compiled, or not
    parts = initialize_entity_embedding(sharding, [init_KGE_normal, jax.nn.initializers.ones], [5, 2], key)
    equal(parts[..., 5:], np.ones((3, 4, 2)))
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    sharded = shard_table(table, sharding)
    for given in (table, jnp.asarray(table), sharded):
        equal(initialize_entity_embedding(sharding, given), sharded)
    assert initialize_entity_embedding(sharding, table, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_initialize_relation_embedding() -> None:
    """As a score function draws its own, or given."""
    key = jax.random.key(0)
    drawn = initialize_relation_embedding(3, True, [init_KGE_normal, init_KGE_normal], [4, 1], key)
    first, second = jax.random.split(key)
    equal(drawn, np.concatenate([init_KGE_normal(first, (6, 4)), init_KGE_normal(second, (6, 1))], axis=-1))
    equal(initialize_relation_embedding(3, False, drawn[:3], [4, 1]), drawn[:3])


def test_update_sharding() -> None:
    """Scores of triples are the same on other shards."""
    old, new = bj.Sharding.create(10, 3, 0), bj.Sharding.create(10, 4, 1)
    score_fn = bj.TransE(negative_sample_sharing=True, sharding=old, n_relation_type=2, embedding_size=4)
    negatives = bj.RandomShardedNegativeSampler(sharding=old, n_negative=1, seed=0, corruption_scheme="t")
    model = bj.EmbeddingMovingBessKGE(negative_sampler=negatives, score_fn=score_fn, return_scores=True)
    params = model.init(jax.random.key(0))
    score_fn_2, params_2 = update_sharding(score_fn, params, new)
    assert score_fn_2.sharding is new
    assert score_fn.sharding is old
    equal(unshard(params_2.entity, new), unshard(params.entity, old))
    relation = params_2.score_fn["relation_embedding"]
    assert relation.shape == (4, 2, 4)
    equal(relation[3], params.score_fn["relation_embedding"][0])


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
            lambda: initialize_entity_embedding(SHARDING, [init_KGE_normal]),
            r"row_size must have the width of each of the 1 parts, got None",
        ),
        (
            lambda: initialize_entity_embedding(SHARDING, [init_KGE_normal], [3, 1]),
            r"each of the 1 parts, got \[3, 1\]",
        ),
        (
            lambda: initialize_relation_embedding(3, False, [init_KGE_normal], [4]),
            r"key must be given with functions that draw, got None",
        ),
        (
            lambda: initialize_entity_embedding(SHARDING, np.zeros((10, 2)), [2, 1]),
            r"initializer must have shape .* = \(4, 3, 3\), got \(4, 3, 2\)",
        ),
        (
            lambda: initialize_relation_embedding(3, True, np.zeros((3, 2))),
            r"initializer must have shape .* = \(6, \*\), got \(3, 2\)",
        ),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
