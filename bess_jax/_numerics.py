"""Numerics with gradients that stay finite and agree with PyTorch's at the points where they are not unique."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED_SCORE = -50_000.0
"""Added to scores that must not count: padding and a row's own entity. As in BESS-KGE; finite also in float16."""


@jax.custom_jvp
def absolute(x: jax.Array) -> jax.Array:
    """|x|, with gradient 0 at 0 (`jnp.abs` gives 1 there)."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return jnp.abs(x), jnp.sign(x) * dx


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with gradient 0 at 0 (`jnp.maximum` gives 0.5 there)."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return jnp.maximum(x, 0), jnp.where(x > 0, dx, jnp.zeros_like(dx))


def norm(x: jax.Array, p: int) -> jax.Array:
    """p-norm over the last axis, p = 1 or 2, with gradient 0 where the norm is 0."""
    if p == 1:
        return jnp.sum(absolute(x), axis=-1)
    square = jnp.sum(x * x, axis=-1)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def complex_product(x: jax.Array, y: jax.Array, conjugate: bool = False) -> jax.Array:
    """Product of complex rows stored as [real half, imaginary half]; `conjugate` conjugates `y`.

    Both of shape (..., 2 D), and so is the result.
    """
    (x_re, x_im), (y_re, y_im) = jnp.split(x, 2, -1), jnp.split(y, 2, -1)
    if conjugate:
        y_im = -y_im
    return jnp.concatenate([x_re * y_re - x_im * y_im, x_re * y_im + x_im * y_re], axis=-1)


def take_rows(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of `table` (M, E) at `index` (any shape), as index.shape + (E,); the indices must be in bounds."""
    rows = table.at[index.reshape(-1)].get(mode="promise_in_bounds")
    return rows.reshape(*index.shape, table.shape[-1])
