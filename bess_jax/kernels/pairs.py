"""Sums over the components of all pairs of a query and a key, with gradients: the one contract of all bodies."""

from __future__ import annotations

from functools import partial

import jax

from bess_jax.kernels import bodies
from bess_jax.kernels.rows import Rows, Sums, Terms


def sum_pairs(terms: Terms, query: Rows, key: Rows) -> Sums:
    """Sums (b, n) over the components of `terms` of every query (b, F) and every key (n, F), all of them float32.

    The array of pairs times components is never stored, neither forwards nor backwards. What computes them is chosen by
    the platform that the program is compiled for, see `use_kernels`. Differentiable once, in reverse.

    Args:
        terms: elementwise, hashable, and equal to those that give the same values.
        query: of any structure.
        key: likewise.
    """
    return _sum_pairs(bodies.chosen(), terms, query, key)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum_pairs(kernels: bodies.Kernels, terms: Terms, query: Rows, key: Rows) -> Sums:
    sums: Sums = bodies.run(kernels, "sums", terms, query, key)
    return sums


def _forward(kernels: bodies.Kernels, terms: Terms, query: Rows, key: Rows) -> tuple[Sums, tuple[Rows, Rows]]:
    return _sum_pairs(kernels, terms, query, key), (query, key)


def _backward(
    kernels: bodies.Kernels, terms: Terms, residuals: tuple[Rows, Rows], cotangent: Sums
) -> tuple[Rows, Rows]:
    gradients: tuple[Rows, Rows] = bodies.run(kernels, "gradients", terms, *residuals, cotangent)
    return gradients


_sum_pairs.defvjp(_forward, _backward)
