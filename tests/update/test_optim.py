"""The update rules: what they keep, and what they refuse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.steps import SETTINGS, Case

import bess_jax as bj
from bess_jax.update.optim import RowSparseState
from bess_jax.update.train import make_train_step


def run(rule: bj.UpdateRule, merged: bool) -> Any:
    case = Case.create(SETTINGS[1], n_shard=2, n_step=1)
    placement = bj.Placement.create(2, 1, "vmap")
    batch = case.sampler.batch(0, 0)
    if merged:
        batch = bj.merge_ids(batch, case.sharding.max_entity_per_shard)
    step = placement.map(make_train_step(case.model, rule, placement.axis_name))
    return step(placement.put(case.state(rule)), placement.put(bj.shard_major(batch)))


def test_a_batch_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch must have merged ids for `row_sparse`, got .*apply"):
        run(bj.row_sparse(optax.sgd(0.1)), merged=False)
    with pytest.raises(ValueError, match=r"batch must have ids of the whole table for `dense`, .*use row_sparse"):
        run(bj.dense(optax.sgd(0.1)), merged=True)
    for rule in (bj.row_sparse, bj.dense):
        losses, _ = run(rule(optax.sgd(0.1)), merged=rule is bj.row_sparse)
        assert np.isfinite(losses).all()


@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_state_of_row_sparse() -> None:
    """The state of the table and that of the rest, by name."""
    params = bj.Params(jnp.ones((5, 4)), {"relation_embedding": jnp.ones((2, 4))})
    state = bj.row_sparse(optax.adam(0.1)).init(params)
    assert isinstance(state, RowSparseState)
    assert state.entity[0].mu.shape == (5, 4)
    assert jax.tree_util.tree_map(jnp.shape, state.score_fn[0].nu) == {"relation_embedding": (2, 4)}
