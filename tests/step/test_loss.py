"""Regularization of the rows of a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import Case, complex_, normal
from shared.tolerance import FLOAT32

import bess_jax as bj


@pytest.mark.parametrize("p", [2, 3])
def test_regularization(p: int) -> None:
    """weight * sum of |x|^p, by its formula, with a gradient that is 0 at 0."""
    square = normal(0, 3, 5) ** 2
    square[1] = 0
    regularizer = bj.LpRegularization(weight=0.3, p=p)
    np.testing.assert_allclose(regularizer(square), 0.3 * np.sum(np.sqrt(square) ** p, axis=-1), **FLOAT32)

    def penalty(x: jax.Array) -> jax.Array:
        return jnp.sum(regularizer(x * x))

    x = normal(0, 3, 5)
    x[1] = 0
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
    case = Case("ComplEx", {})
    head, tail, relation = normal(1, 3, 12), normal(2, 3, 12), np.array([0, 3, 3])
    square = case.model.apply(case.variables(case.table, {"params": {}}), head, relation, tail, method="penalized")
    expected = sum((np.abs(complex_(x)) ** 3).sum(-1) for x in (head, case.table[relation], tail))
    np.testing.assert_allclose(bj.LpRegularization(weight=1.0)(square), expected, **FLOAT32)
