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
    return jnp.abs(x), _cut(x * 2.0**100) * dx  # fewer instructions than jnp.sign


STEEP = 2.0**60
"""Factor of the arguments of `steep_absolute`; a power of two, so that no digit is lost."""


@jax.custom_jvp
def steep_absolute(x: jax.Array) -> jax.Array:
    """|x| of an x that is `STEEP` times what is meant; its gradient, x cut off at -1 and 1, is then the sign.

    It saves an instruction in loops that are most of a step. The gradient is 0 at 0, as that of `absolute`; below 1e-18
    of what is meant, it grows with x.
    """
    return jnp.abs(x)


@steep_absolute.defjvp
def _steep_absolute_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return jnp.abs(x), _cut(x) * dx


def _cut(x: jax.Array) -> jax.Array:
    """x cut off at -1 and 1, by one operation: between two, XLA would store numbers for a GPU."""
    return jax.lax.clamp(x.dtype.type(-1), x, x.dtype.type(1))


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with gradient 0 at 0 (`jnp.maximum` gives 0.5 there)."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return jnp.maximum(x, 0), jnp.where(x > 0, dx, jnp.zeros_like(dx))


@jax.custom_jvp
def log_sigmoid(x: jax.Array) -> jax.Array:
    """log(1 / (1 + exp(-x))); `jax.nn.log_sigmoid` in less time, with a shorter gradient."""
    small = jnp.exp(-jnp.abs(x))
    y = small / (2 + small)  # log(1 + small) is 2 artanh(y), and y at most 1/3: six terms leave an error of 1e-8
    z = y * y
    series = z * (2 / 3 + z * (2 / 5 + z * (2 / 7 + z * (2 / 9 + z * (2 / 11 + z * (2 / 13))))))
    return jnp.minimum(x, 0) - y * (2 + series)


@log_sigmoid.defjvp
def _log_sigmoid_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return log_sigmoid(x), dx / (1 + jnp.exp(x))


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
    """sqrt(x^2 + y^2) in float32, with gradient 0 at 0; below 1e-18 the gradient grows with it."""
    return jnp.sqrt(x * x + y * y)


@hypot.defjvp
def _hypot_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, y), (dx, dy) = primals, tangents
    square = x * x + y * y
    inverse = jax.lax.rsqrt(jnp.maximum(square, 1e-36))
    return hypot(x, y), inverse * (x * dx + y * dy)


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


def diagonal(block: jax.Array) -> jax.Array:
    """The diagonal (b,) of scores (b, b), without index array: its gradient would be a scatter."""
    row = jnp.arange(len(block), dtype=jnp.int32)
    return jnp.sum(jnp.where(row[:, None] == row[None], block, 0), axis=-1)
