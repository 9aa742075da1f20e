"""Gradients where they are not unique, complex products, and rows that are taken."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import normal
from shared.tolerance import FLOAT32

from bess_jax._numerics import absolute, complex_product, norm, relu, take_rows


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
    x = normal(0, 3, 5)
    x[1] = 0
    np.testing.assert_allclose(norm(x, p), np.linalg.norm(x, p, axis=-1), **FLOAT32)
    gradient = jax.grad(lambda y: jnp.sum(norm(y, p)))(x)
    expected = np.sign(x) if p == 1 else x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(gradient, expected, **FLOAT32)
    np.testing.assert_array_equal(gradient[1], np.zeros(5))


def test_complex_product() -> None:
    x, y = normal(0, 3, 6), normal(1, 3, 6)
    X, Y = (z[:, :3] + 1j * z[:, 3:] for z in (x, y))
    for conjugate, expected in ((False, X * Y), (True, X * Y.conj())):
        packed = np.concatenate([expected.real, expected.imag], axis=-1)
        np.testing.assert_allclose(complex_product(x, y, conjugate), packed, **FLOAT32)


def test_take_rows() -> None:
    """Any shape of the index; the gradients of repeated rows add up."""
    table, index = normal(0, 5, 2), jnp.array([[0, 3, 3], [4, 0, 3]])
    np.testing.assert_array_equal(take_rows(table, index), table[np.asarray(index)])
    gradient = jax.grad(lambda x: jnp.sum(take_rows(x, index)))(table)
    np.testing.assert_array_equal(gradient, np.repeat([[2.0], [0.0], [0.0], [3.0], [1.0]], 2, axis=1))
