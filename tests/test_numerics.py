"""Gradients where they are not unique, score functions against themselves, and updates of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.tolerance import FLOAT32

import bess_jax as bj
from bess_jax._numerics import absolute, complex_product, norm, relu, take_rows
from bess_jax.scoring.distance import Distance
from bess_jax.update.optim import check_rowwise

B, N = 4, 3  # triples, candidates of each
SHARDING = bj.Sharding.create(10, 1, 0)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# --- gradients at ties and zeros --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "gradient"),
    [(absolute, [-1.0, 0.0, 1.0]), (relu, [0.0, 0.0, 1.0])],
)
def test_gradient_at_zero(fn: Callable[[jax.Array], jax.Array], gradient: list[float]) -> None:
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(fn(x), {"absolute": [2, 0, 3], "relu": [0, 0, 3]}[fn.__name__])
    for wrap in (lambda f: f, jax.jit):
        np.testing.assert_array_equal(wrap(jax.vmap(jax.grad(fn)))(x), gradient)
    np.testing.assert_array_equal(jax.jvp(fn, (x,), (jnp.ones(3),))[1], gradient)


@pytest.mark.parametrize("p", [1, 2])
def test_norm(p: int) -> None:
    """The p-norm of the last axis; its gradient is 0 where it is 0, and that of the formula elsewhere."""
    x = normal(0, 3, 5).at[1].set(0)
    np.testing.assert_allclose(norm(x, p), np.linalg.norm(x, p, axis=-1), **FLOAT32)
    gradient = jax.grad(lambda y: jnp.sum(norm(y, p)))(x)
    expected = np.sign(x) if p == 1 else x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(gradient, expected, **FLOAT32)
    np.testing.assert_array_equal(gradient[1], np.zeros(5))


def test_complex_product() -> None:
    x, y = normal(0, 3, 6), normal(1, 3, 6)
    X, Y = (np.asarray(z[:, :3]) + 1j * np.asarray(z[:, 3:]) for z in (x, y))
    for conjugate, expected in ((False, X * Y), (True, X * Y.conj())):
        packed = np.concatenate([expected.real, expected.imag], axis=-1)
        np.testing.assert_allclose(complex_product(x, y, conjugate), packed, **FLOAT32)


def test_take_rows() -> None:
    """Any shape of the index; the gradients of repeated rows add up."""
    table, index = normal(0, 5, 2), jnp.array([[0, 3, 3], [4, 0, 3]])
    np.testing.assert_array_equal(take_rows(table, index), np.asarray(table)[np.asarray(index)])
    gradient = jax.grad(lambda x: jnp.sum(take_rows(x, index)))(table)
    np.testing.assert_array_equal(gradient, np.repeat([[2.0], [0.0], [0.0], [3.0], [1.0]], 2, axis=1))


# --- distances --------------------------------------------------------------------------------------------------------


def plain_distance(query: jax.Array, key: jax.Array, p: int) -> jax.Array:
    d = query[:, None] - key[None]
    return -jnp.sum(jnp.abs(d), axis=-1) if p == 1 else -jnp.sqrt(jnp.sum(d * d, axis=-1))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("p", [1, 2])
def test_pairwise_distance_gradient(p: int, mapped: bool) -> None:
    """The hand-written gradient is the one that autodiff finds in the formula."""
    lead = (2,) if mapped else ()
    query, key, cotangent = normal(0, *lead, B, 5), normal(1, *lead, N, 5), normal(2, *lead, B, N)

    def value_and_gradient(distance: Any) -> Any:
        def one(q: jax.Array, k: jax.Array, c: jax.Array) -> Any:
            score, vjp = jax.vjp(lambda *args: distance(*args), q, k)
            return score, vjp(c)

        return jax.jit(jax.vmap(one) if mapped else one)(query, key, cotangent)

    ours = value_and_gradient(Distance(p).pairwise)
    theirs = value_and_gradient(lambda q, k: plain_distance(q, k, p))
    for a, b in zip(*map(jax.tree_util.tree_leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, **FLOAT32)


@pytest.mark.parametrize("p", [1, 2])
def test_distance_ties(p: int) -> None:
    """Equal components (p = 1) or rows (p = 2) pull at nothing."""
    query = normal(0, 2, 4)
    key = query.at[1, 0].add(1)  # row 0 is equal to key 0; row 1 differs from key 1 in one component
    for method in ("pairwise", "rowwise"):

        def own(q: jax.Array, k: jax.Array, method: str = method) -> jax.Array:
            if method == "rowwise":
                return jnp.sum(Distance(p).rowwise(q, k[:, None]))
            return jnp.trace(Distance(p).pairwise(q, k))

        by_query, by_key = jax.grad(own, (0, 1))(query, key)
        np.testing.assert_allclose(by_query, [[0, 0, 0, 0], [1, 0, 0, 0]], **FLOAT32)
        np.testing.assert_array_equal(by_key, -by_query)


@pytest.mark.parametrize("p", [2, 3])
def test_regularization(p: int) -> None:
    """weight * sum of |x|^p, by its formula, with a gradient that is 0 at 0."""
    square = normal(0, 3, 5).at[1].set(0) ** 2
    regularizer = bj.LpRegularization(weight=0.3, p=p)
    np.testing.assert_allclose(regularizer(square), 0.3 * np.sum(np.sqrt(square) ** p, axis=-1), **FLOAT32)

    def penalty(x: jax.Array) -> jax.Array:
        return jnp.sum(regularizer(x * x))

    x = normal(0, 3, 5).at[1].set(0)
    gradient = jax.grad(penalty)(x)
    np.testing.assert_allclose(gradient, 0.3 * p * np.abs(x) ** (p - 1) * np.sign(x), **FLOAT32)
    np.testing.assert_array_equal(gradient[1], np.zeros(5))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"weight": -1.0}, "weight"), ({"weight": 1.0, "p": 4}, "p must be")]
)
def test_regularization_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bj.LpRegularization(**arguments)


def test_regularization_counts_complex_components_by_modulus() -> None:
    """In a model: the rows of the triple, ComplEx by modulus."""
    score_fn = bj.ComplEx(negative_sample_sharing=True, sharding=SHARDING, n_relation_type=5, embedding_size=4)
    params = score_fn.init_params(jax.random.key(0))
    head, tail, relation = normal(1, B, 8), normal(2, B, 8), jnp.array([0, 3, 3, 1])
    square = score_fn.apply({"params": params}, head, relation, tail, method="penalized")
    rows = [np.asarray(x) for x in (head, params["relation_embedding"][relation], tail)]
    expected = sum((np.abs(x[:, :4] + 1j * x[:, 4:]) ** 3).sum(-1) for x in rows)
    np.testing.assert_allclose(bj.LpRegularization(weight=1.0)(square), expected, **FLOAT32)


# --- updates of rows --------------------------------------------------------------------------------------------------

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
    table = normal(0, M, 4).at[3].set(odd)
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


@pytest.mark.parametrize("start", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(7, 4), (5,), (2, 3, 4), ()])
def test_row_adagrad(shape: tuple[int, ...], start: float) -> None:
    """Against sums row by row, with a step size that changes, and rows without gradient, which stay."""
    tx = bj.row_adagrad(optax.linear_schedule(0.1, 0.0, 4), initial_accumulator_value=start, eps=1e-3)
    params = normal(0, *shape)
    table, totals = np.array(params, np.float64), np.full(shape[:1], start)
    state = tx.init(params)
    (leaf,) = jax.tree_util.tree_leaves(state[0])
    assert leaf.shape == (*shape[:1], *(1,) * (len(shape) - 1))
    for step in range(3):
        grad = normal(step + 1, *shape)
        if shape:
            grad = grad.at[step % 2].set(0)
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
