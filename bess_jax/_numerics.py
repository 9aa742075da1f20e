"""Numerics with gradients that stay finite and agree with PyTorch's at the points where they are not unique."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED_SCORE = -50_000.0
"""Added to scores that must not count: padding and a row's own entity. As in BESS-KGE; finite also in float16."""


@jax.custom_jvp
def absolute(x: jax.Array) -> jax.Array:
    """|x|, with gradient 0 at 0 (`jnp.abs` gives 1 there); below 1e-30 it grows with x."""
    return jnp.abs(x)


@absolute.defjvp
def _absolute_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    if x.dtype == jnp.float16:  # too short for what follows
        return jnp.abs(x), jnp.sign(x) * dx
    sign = x * 2.0**100  # then cut off at 1: fewer instructions than jnp.sign, in loops that are most of a step
    sign = jnp.where(sign < 1, sign, jnp.ones_like(x))
    return jnp.abs(x), jnp.where(sign > -1, sign, -jnp.ones_like(x)) * dx


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with gradient 0 at 0 (`jnp.maximum` gives 0.5 there)."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return jnp.maximum(x, 0), jnp.where(x > 0, dx, jnp.zeros_like(dx))


def sqrt(x: jax.Array) -> jax.Array:
    """Square root, with gradient 0 at 0 (`jnp.sqrt` gives infinity there)."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def norm(x: jax.Array, p: int) -> jax.Array:
    """p-norm over the last axis, p = 1 or 2, with gradient 0 where the norm is 0."""
    if p == 1:
        return jnp.sum(absolute(x), axis=-1)
    return sqrt(jnp.sum(x * x, axis=-1))


def normalize(x: jax.Array) -> jax.Array:
    """x / max(||x||_2, 1e-12) over the last axis, with gradient 0 where the norm is at most that.

    Differs from PyTorch's `normalize`, whose gradient is 1e12 there.
    """
    low = 6.2e-5 if x.dtype == jnp.float16 else 1e-12  # which is 0 in float16
    length = norm(x, 2)[..., None]
    return jnp.where(length > low, x / jnp.where(length > low, length, 1), jax.lax.stop_gradient(x / low))


@jax.custom_jvp
def hypot(x: jax.Array, y: jax.Array) -> jax.Array:
    """sqrt(x^2 + y^2), with gradient 0 at 0."""
    return jnp.sqrt(x * x + y * y)


@hypot.defjvp
def _hypot_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, y), (dx, dy) = primals, tangents
    length = hypot(x, y)
    inverse = 1 / jnp.where(length == 0, jnp.ones_like(length), length)
    return length, inverse * x * dx + inverse * y * dy


def complex_product(x: jax.Array, y: jax.Array, conjugate: bool = False) -> jax.Array:
    """Product of complex rows stored as [real half, imaginary half]; `conjugate` conjugates `y`.

    Both of shape (..., 2 D), and so is the result.
    """
    (x_re, x_im), (y_re, y_im) = jnp.split(x, 2, -1), jnp.split(y, 2, -1)
    if conjugate:
        y_im = -y_im
    return jnp.concatenate([x_re * y_re - x_im * y_im, x_re * y_im + x_im * y_re], axis=-1)


def square_modulus(x: jax.Array) -> jax.Array:
    """re^2 + im^2, (..., D), of complex rows (..., 2 D) stored as [real half, imaginary half]."""
    real, imaginary = jnp.split(x, 2, axis=-1)
    return real * real + imaginary * imaginary


def take_rows(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of `table` (M, E) at `index` (any shape), as index.shape + (E,); the indices must be in bounds."""
    rows = jnp.asarray(table).at[index.reshape(-1)].get(mode="promise_in_bounds")
    return rows.reshape(*index.shape, table.shape[-1])
