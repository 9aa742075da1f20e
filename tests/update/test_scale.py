"""The adjustable factor of updates, under every rule, and the course that a plateau gives it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bess_jax as bj
from bess_jax._compat import blocks_of
from bess_jax.update.scale import adjustable, plateau, set_scale


def quadratic(params: bj.Params, batch: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(params.entity.astype(jnp.float32) ** 2) + jnp.sum(params.score_fn["r"].astype(jnp.float32) ** 2)


PARAMS = bj.Params(jnp.arange(1.0, 9.0).reshape(4, 2), {"r": jnp.ones((2, 2))})


@pytest.mark.parametrize("kind", ["dense", "row_sparse", "accumulate", "low_precision"])
def test_the_factor_is_one_of_the_rate(kind: str) -> None:
    """Of one shard and, with a leading axis, of two: entity table and score function, and the step count goes on."""
    tx = adjustable(optax.sgd(0.5, momentum=0.9))
    if kind == "low_precision":
        tx = bj.low_precision(tx)
    rule = bj.row_sparse(tx) if kind == "row_sparse" else bj.dense(tx)
    batch = {"x": jnp.zeros((2,))}
    if kind == "row_sparse":
        batch["entity_rows"] = jnp.array([[0, 1, 2, 3]])
    if kind == "accumulate":
        rule, batch = bj.accumulate(rule), {"x": jnp.zeros((1, 2))}

    def step(state: Any) -> bj.Params:
        params = jax.tree_util.tree_map(lambda x: x[None], (PARAMS, batch))
        out = jax.vmap(lambda p, b, s: rule.step(quadratic, p, s, b, "shard"), axis_name="shard")(*params, state)
        return jax.tree_util.tree_map(lambda x: x[0], out[1])

    state = jax.tree_util.tree_map(lambda x: x[None], rule.init(PARAMS))
    whole, quarter = step(state), step(set_scale(state, 0.25))
    for before, by_whole, by_quarter in zip(*map(jax.tree_util.tree_leaves, (PARAMS, whole, quarter)), strict=True):
        assert np.abs(by_whole - before).max() > 0.1
        np.testing.assert_allclose(by_quarter - before, 0.25 * (by_whole - before), rtol=1e-6)


@pytest.mark.parametrize("mapping", [jax.pmap, jax.vmap])
def test_the_factor_stays_where_it_is(mapping: Any) -> None:
    before = mapping(lambda _: adjustable(optax.sgd(0.5)).init(PARAMS))(jnp.arange(3))
    after = set_scale(before, 0.25)
    assert jax.tree_util.tree_structure(after) == jax.tree_util.tree_structure(before)
    assert after.scale.dtype == jnp.float32
    np.testing.assert_array_equal(after.scale, np.full(3, 0.25))
    where = [[device for device, _ in blocks_of(state.scale)] for state in (before, after)]
    assert where[0] == where[1]
    assert len(where[0]) == (3 if mapping is jax.pmap else 1)


def test_a_state_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="opt_state must be of an optimizer wrapped by `adjustable`, got none"):
        set_scale(optax.adam(0.1).init(PARAMS), 0.5)


def test_plateau() -> None:
    values = [0.1, 0.2, 0.2, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.4]
    scales = [plateau(values[:n], factor=0.5, patience=2, min_scale=0.2) for n in range(len(values) + 1)]
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
