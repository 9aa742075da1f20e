"""Losses as users compile them, with the scores they are of, on more rows than jaxlib 0.10.2 sums rightly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.oracle import Array, Loss
from shared.steps import make_loss
from shared.tolerance import ACCUMULATED

import bess_jax as bj

pytestmark = pytest.mark.optimized

ROWS = 33_000  # XLA's fault begins at 32,769, see test_xla_faults.py
LOSSES = (Loss("LogSigmoid", adversarial=1.0), Loss("MarginRanking"), Loss("SampledSoftmax", n_entity=1000))


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("width", "n_negative"), [(1, 3), (2, 1), (3, 3), (5, 2)])
def test_losses_of_products(width: int, n_negative: int) -> None:
    """Every loss of every row, and its gradients by row, where few negatives are shared by many positives."""
    query, target, key = draw(0, ROWS, width), draw(1, ROWS, width), draw(2, n_negative, width)

    def losses(query: Any, target: Any) -> list[Any]:
        positive, negative = jnp.sum(query * target, axis=-1), query @ key.T
        return [make_loss(loss).per_triple(positive, negative) for loss in LOSSES]

    @jax.jit
    def run(query: Any, target: Any) -> Any:
        gradients = [jax.grad(lambda *rows, i=i: jnp.sum(losses(*rows)[i]), (0, 1))(query, target) for i in range(3)]
        return losses(query, target), gradients

    values, gradients = run(query, target)
    q, t, k = (x.astype(np.float64) for x in (query, target, key))
    positive, negative = np.sum(q * t, axis=-1), q @ k.T
    for loss, value, (by_query, by_target) in zip(LOSSES, values, gradients, strict=True):
        theirs, by_positive, by_negative = loss(positive, negative, loss.weights(negative))
        np.testing.assert_allclose(value, theirs, **ACCUMULATED)
        np.testing.assert_allclose(by_target, by_positive[:, None] * q, **ACCUMULATED)
        np.testing.assert_allclose(by_query, by_positive[:, None] * t + by_negative @ k, **ACCUMULATED)


def test_regularization() -> None:
    """Powers of the components of many narrow rows."""
    rows = draw(0, ROWS, 3)
    for p in (2, 3):
        value = jax.jit(bj.LpRegularization(weight=0.5, p=p))(rows**2)
        np.testing.assert_allclose(value, 0.5 * np.sum(np.abs(rows.astype(np.float64)) ** p, axis=-1), **ACCUMULATED)
