"""Regularization of the rows of a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import Case, Negatives, complex_, normal
from shared.tolerance import FLOAT32

import bess_jax as bj

MODULI = tuple(normal(i, 3, n) for i, n in enumerate((5, 4, 5)))
"""Of the components of heads, relations and tails."""


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("relation_weight", [None, 0.0, 0.7])
def test_lp(p: int, relation_weight: float | None) -> None:
    """The weighted sum of |x|^p, by its formula, with a gradient that is 0 at 0."""
    rows = [x.copy() for x in MODULI]
    for x in rows:
        x[1] = 0
    weights = (0.3, 0.3 if relation_weight is None else relation_weight, 0.3)
    regularizer = bj.LpRegularization(weight=0.3, relation_weight=relation_weight, p=p)
    expected = sum(w * (np.abs(x) ** p).sum(-1) for w, x in zip(weights, rows, strict=True))
    np.testing.assert_allclose(regularizer(*(x**2 for x in rows)), expected, **FLOAT32)
    gradients = jax.grad(lambda x: jnp.sum(regularizer(*(y * y for y in x))))(rows)
    for weight, x, gradient in zip(weights, rows, gradients, strict=True):
        slope = np.sign(x) * np.abs(x) ** (p - 1)
        np.testing.assert_allclose(gradient, weight * p * slope, **FLOAT32)
        np.testing.assert_array_equal(gradient[1], 0)


@pytest.mark.parametrize("kind", [bj.LpRegularization, bj.DuraRegularization])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"weight": -1.0}, "weight must be"), ({"weight": 1.0, "relation_weight": -0.1}, "relation_weight must be")],
)
def test_arguments(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_powers() -> None:
    with pytest.raises(ValueError, match="p must be"):
        bj.LpRegularization(weight=1.0, p=4)


def penalties(name: str, regularizer: Any) -> tuple[Any, list[Any]]:
    """Of a model: penalties of triples, with head, relation and tail as they are multiplied."""
    case = Case(name, {})
    width = case.model.entity_width
    head, tail, relation = normal(1, 3, width), normal(2, 3, width), np.array([0, 3, 3])
    squares = case.model.apply(case.variables(case.table, {"params": {}}), head, relation, tail, method="penalized")
    of = complex_ if name == "ComplEx" else np.float64
    return regularizer(*squares), [of(x) for x in (head, case.table[relation], tail)]


def test_complex_components_count_by_modulus() -> None:
    """In a model: the rows of the triple, ComplEx by modulus."""
    found, rows = penalties("ComplEx", bj.LpRegularization(weight=1.0))
    np.testing.assert_allclose(found, sum((np.abs(x) ** 3).sum(-1) for x in rows), **FLOAT32)


@pytest.mark.parametrize("name", ["ComplEx", "DistMult"])
@pytest.mark.parametrize("relation_weight", [None, 0.75])
def test_dura(name: str, relation_weight: float | None) -> None:
    """By the products: |h|^2 + |t|^2, and |h r|^2 + |t conj(r)|^2."""
    regularizer = bj.DuraRegularization(weight=0.25, relation_weight=relation_weight)
    found, (h, r, t) = penalties(name, regularizer)
    alone, products = (sum((np.abs(x) ** 2).sum(-1) for x in parts) for parts in ((h, t), (h * r, t * np.conj(r))))
    second = 0.25 if relation_weight is None else relation_weight
    np.testing.assert_allclose(found, 0.25 * alone + second * products, **FLOAT32)


def test_dura_is_for_products() -> None:
    score_fn = Case("TransE", {}).model
    with pytest.raises(ValueError, match="regularizer must not be DuraRegularization for TransE"):
        bj.EmbeddingMovingBessKGE(
            negative_sampler=Negatives(score_fn.sharding, "t", True),
            score_fn=score_fn,
            return_scores=True,
            regularizer=bj.DuraRegularization(weight=1.0),
        )
