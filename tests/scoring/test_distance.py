"""Distances of all pairs: their hand-written gradients, and where gradients are not unique."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import normal
from shared.tolerance import FLOAT32

from bess_jax.scoring.distance import Distance

B, N = 4, 3  # queries, keys


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
    key = query.copy()
    key[1, 0] += 1  # row 0 is equal to key 0; row 1 differs from key 1 in one component
    for method in ("pairwise", "rowwise"):

        def own(q: jax.Array, k: jax.Array, method: str = method) -> jax.Array:
            if method == "rowwise":
                return jnp.sum(Distance(p).rowwise(q, k[:, None]))
            return jnp.trace(Distance(p).pairwise(q, k))

        by_query, by_key = jax.grad(own, (0, 1))(query, key)
        np.testing.assert_allclose(by_query, [[0, 0, 0, 0], [1, 0, 0, 0]], **FLOAT32)
        np.testing.assert_array_equal(by_key, -by_query)
