"""Updates of rows: which optimizers know no other rows, what `row_sparse` leaves alone, and `row_adagrad`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.formulas import normal
from shared.steps import SETTINGS, Case
from shared.tolerance import FLOAT32

import bess_jax as bj
from bess_jax.update.optim import check_rowwise
from bess_jax.update.train import make_train_step

ROWWISE: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adagrad": lambda: optax.adagrad(0.1),
    "row_adagrad": lambda: bj.row_adagrad(0.1),
    "adam": lambda: optax.adam(0.1),
    "adamw": lambda: optax.adamw(0.1),
    "rmsprop": lambda: optax.rmsprop(0.1),
    "clip_by_value": lambda: optax.chain(optax.clip(0.5), optax.sgd(0.1)),
    "schedule": lambda: optax.sgd(optax.linear_schedule(0.1, 0.0, 10)),
}
NOT_ROWWISE: dict[str, Callable[[], Any]] = {
    "clip_by_global_norm": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "clip_by_large_global_norm": lambda: optax.chain(optax.clip_by_global_norm(100.0), optax.sgd(0.1)),
    "adafactor": lambda: optax.adafactor(0.1),
    # Factors its second moment from 128 rows and columns on.
    "adafactor_factored": lambda: optax.adafactor(0.1, multiply_by_parameter_scale=False, clipping_threshold=None),
    "lamb": lambda: optax.lamb(0.1),
    "lars": lambda: optax.lars(0.1),
}


@pytest.mark.parametrize("name", ROWWISE)
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_rowwise_optimizers_are_accepted(name: str) -> None:
    check_rowwise(ROWWISE[name]())


@pytest.mark.parametrize("name", NOT_ROWWISE)
@pytest.mark.parametrize("rule", [bj.dense, bj.row_sparse])
@jax.numpy_dtype_promotion("standard")
def test_other_optimizers_are_refused(rule: Callable[[Any], Any], name: str) -> None:
    with pytest.raises(ValueError, match="must update each row as if it were alone"):
        rule(NOT_ROWWISE[name]())


@pytest.mark.parametrize("name", ROWWISE)
@jax.numpy_dtype_promotion("standard")
def test_row_sparse_leaves_other_rows_alone(name: str) -> None:
    """Bit by bit, in the table and in the state, whatever they hold; touched rows change as in a table of their own."""
    tx = ROWWISE[name]()
    rule, M = bj.row_sparse(tx), 7
    rows, others = jnp.array([1, 4, M, M + 1]), np.array([0, 2, 3, 5, 6])  # the last two are padding
    odd = jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45])
    table = jnp.asarray(normal(0, M, 4)).at[3].set(odd)
    params = bj.Params(table, {"relation_embedding": normal(1, 2, 4)})
    state = rule.init(params)
    state = state._replace(
        entity=jax.tree_util.tree_map(
            lambda x: x.at[3].set(odd[: x.shape[1]]) if x.shape[:1] == (M,) else x, state.entity
        )
    )
    scale = normal(2, 4, 4)

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        assert params.entity.shape == (4, 4)
        return jnp.sum(scale * params.entity**2) + jnp.sum(params.score_fn["relation_embedding"]) * batch["x"]

    def two_steps(params: Any, state: Any) -> Any:
        batch = {"entity_rows": rows, "x": jnp.float32(1)}
        for _ in range(2):
            _, params, state = rule.step(loss_fn, params, state, batch, "shard")
        return params, state

    stacked = jax.tree_util.tree_map(lambda x: x[None], (params, state))
    mapped = jax.jit(jax.vmap(two_steps, axis_name="shard"))
    after = mapped(*stacked)
    new_params, new_state = jax.tree_util.tree_map(lambda x: np.asarray(x[0]), after)
    of_rows = [(table, new_params.entity)]
    of_rows += [
        (old, new)
        for old, new in zip(*map(jax.tree_util.tree_leaves, (state.entity, new_state.entity)), strict=True)
        if old.shape[:1] == (M,)
    ]
    for old, new in of_rows:
        np.testing.assert_array_equal(new[others].view(np.uint32), np.asarray(old)[others].view(np.uint32))
        assert (new[[1, 4]] != np.asarray(old)[[1, 4]]).all()

    alone = table[rows[:2]]
    alone_state = tx.init(alone)
    for _ in range(2):
        updates, alone_state = tx.update(2 * scale[:2] * alone, alone_state, alone)
        alone = optax.apply_updates(alone, updates)
    np.testing.assert_allclose(new_params.entity[[1, 4]], alone, **FLOAT32)


@pytest.mark.parametrize("n_shard", [1, 2, 4])
@pytest.mark.parametrize("kind", [bj.dense, bj.row_sparse])
def test_unit_entities(kind: Any, n_shard: int) -> None:
    """Each row of an update is the one without it, divided by its norm; those that are not touched stay."""
    case = Case.create(SETTINGS[1], n_shard, n_step=1)
    start, batch = normal(0, *case.entity.shape).astype(np.float32), case.sampler.batch(0, 0)
    start[::7] = 0
    case, found = dataclasses.replace(case, entity=start), {}
    for unit in (False, True):
        rule = bj.accumulate(kind(optax.sgd(0.1), unit_entities=unit))
        grouped = bj.group_steps(batch, 1)
        placement = bj.Placement.create(n_shard, 1, "vmap")
        step = placement.map(make_train_step(case.model, rule, placement.axis_name))
        _, state = step(placement.put(case.state(rule)), case.fed(grouped, rule, placement))
        found[unit] = placement.get(state.params)
    plain = found[False].entity.astype(np.float64)
    norm = np.linalg.norm(plain, axis=-1, keepdims=True)
    expected = plain / np.where(norm == 0, 1, norm)
    before = start[case.sharding.shard_and_idx_to_entity]
    assert (norm == 0).any()
    assert (np.abs(norm - 1) > 0.1).any()
    if kind is bj.row_sparse:
        still = (before == plain).all(axis=-1)
        assert 0 < still.sum() < still.size
        # Touched rows without gradient are scaled too.
        ids = batch["head"], batch["tail"], batch["negative"]
        touched = np.zeros(still.shape, bool)
        for shard in range(n_shard):
            touched[shard, np.concatenate([x[0, shard].reshape(-1) for x in ids])] = True
        expected[~touched] = before[~touched]
        assert (~touched).any()
    np.testing.assert_allclose(found[True].entity, expected, **FLOAT32)
    np.testing.assert_array_equal(
        found[True].score_fn["relation_embedding"], found[False].score_fn["relation_embedding"]
    )


@pytest.mark.parametrize("start", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(7, 4), (5,), (2, 3, 4), ()])
def test_row_adagrad(shape: tuple[int, ...], start: float) -> None:
    """Against sums row by row, with a step size that changes, and rows without gradient, which stay."""
    tx = bj.row_adagrad(optax.linear_schedule(0.1, 0.0, 4), initial_accumulator_value=start, eps=1e-3)
    params = jnp.asarray(normal(0, *shape))
    table, totals = np.array(params, np.float64), np.full(shape[:1], start)
    state = tx.init(params)
    (leaf,) = jax.tree_util.tree_leaves(state[0])
    assert leaf.shape == (*shape[:1], *(1,) * (len(shape) - 1))
    for step in range(3):
        grad = normal(step + 1, *shape)
        if shape:
            grad[step % 2] = 0
        for row in np.ndindex(shape[:1]):
            g = np.asarray(grad[row], np.float64)
            totals[row] += np.mean(g**2)
            table[row] -= 0.1 * (1 - step / 4) * g / (np.sqrt(totals[row]) + 1e-3)
        updates, state = tx.update(grad, state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, table, **FLOAT32)
    np.testing.assert_allclose(np.ravel(jax.tree_util.tree_leaves(state[0])[0]), np.ravel(totals), **FLOAT32)


def test_row_adagrad_without_any_gradient() -> None:
    """0 / 0 is no update."""
    tx = bj.row_adagrad(0.1)
    updates, _ = tx.update(jnp.zeros((3, 4)), tx.init(jnp.zeros((3, 4))))
    np.testing.assert_array_equal(updates, np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_accumulator_value": -1.0}, "initial_accumulator_value must be >= 0"),
        ({"eps": 0.0}, "eps must be > 0"),
    ],
)
def test_row_adagrad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bj.row_adagrad(0.1, **arguments)
