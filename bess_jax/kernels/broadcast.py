"""`sum_pairs` as reductions of a broadcast, for compilers that do not store what they reduce.

What XLA makes of it for a GPU (seen with jaxlib 0.10, for an H100) depends on its form:

* Reductions of their own, each with a few results: several reductions of the same numbers make XLA store these, for all
  pairs and components, and so do long ones, which it splits; hence tiles. Many results take too much shared memory.
* Barriers between them, for the same reason, and so that one begins when what another stored is free.
* Gradients by queries are sums along the last axis, of keys that are transposed before; those by keys along the first,
  which takes no transposition.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bess_jax._compat import TypeAlias, zip
from bess_jax.kernels.rows import Rows, Sums, Terms, length, map_rows, parts_with_gradient, width

_TILE = 512, 8192  # queries and keys of which gradients are computed at once
_RESULTS = 3  # of a reduction

Axes: TypeAlias = "tuple[int, int]"


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`."""
    shape = length(query), length(key), width(query)
    return tuple(_reduce(terms(_spread(query, shape, (0, 2)), _spread(key, shape, (1, 2))), axis=2))


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body`."""
    sizes = length(query), length(key)
    n_tile = [max(1, -(-size // most)) for size, most in zip(sizes, _TILE, strict=True)]
    if n_tile == [1, 1]:
        return _gradients(terms, query, key, cotangent)
    tile = [-(-size // n) for size, n in zip(sizes, n_tile, strict=True)]
    b, n = (n * size for n, size in zip(n_tile, tile, strict=True))
    query, key = _repeat_last(query, b), _repeat_last(key, n)
    cotangent = tuple(jnp.pad(w, ((0, b - sizes[0]), (0, n - sizes[1]))) for w in cotangent)

    def step(i: jax.Array, total: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
        row, column = i // n_tile[1] * tile[0], i % n_tile[1] * tile[1]
        weights = tuple(lax.dynamic_slice(w, (row, column), tile) for w in cotangent)
        by_query, by_key = _gradients(terms, _take(query, row, tile[0]), _take(key, column, tile[1]), weights)
        return _add(total[0], by_query, row), _add(total[1], by_key, column)

    zeros = map_rows(jnp.zeros_like, (query, key))
    by_query, by_key = lax.fori_loop(0, n_tile[0] * n_tile[1], step, zeros)
    return map_rows(lambda x: x[: sizes[0]], by_query), map_rows(lambda x: x[: sizes[1]], by_key)


def _gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """Gradients of one tile."""
    b, n, size = length(query), length(key), width(query)
    rows = query, key, cotangent
    by_query = _gradient(terms, 0, rows, (b, size, n), ((0, 1), (2, 1), (0, 2)), axis=2)
    rows, by_query = lax.optimization_barrier((rows, by_query))
    return by_query, _gradient(terms, 1, rows, (b, n, size), ((0, 2), (1, 2), (0, 1)), axis=0)


def _gradient(
    terms: Terms, by: int, rows: tuple[Rows, Rows, Sums], shape: tuple[int, ...], axes: tuple[Axes, ...], axis: int
) -> Rows:
    """The gradient by queries (0) or keys (1), summed along an axis.

    Args:
        terms: see `Body`.
        by: whose gradient.
        rows: queries, keys and cotangents.
        shape: of what is summed.
        axes: those axes of `shape` that queries, keys and cotangents have.
        axis: what is summed over.
    """
    needed = parts_with_gradient(terms if by == 0 else lambda x, y: terms(y, x), rows[by], rows[1 - by])
    grads, tree = jax.tree_util.tree_flatten(map_rows(jnp.zeros_like, rows[by]))
    for start in range(0, len(needed), _RESULTS):
        if start:
            rows, grads = lax.optimization_barrier((rows, grads))
        query, key, cotangent = (_spread(part, shape, own) for part, own in zip(rows, axes, strict=True))
        leaves = jax.tree_util.tree_leaves(jax.vjp(terms, query, key)[1](cotangent)[by])
        group = needed[start : start + _RESULTS]
        for i, x in zip(group, _reduce([leaves[i] for i in group], axis), strict=True):
            grads[i] = x
    return jax.tree_util.tree_unflatten(tree, grads)


def _repeat_last(rows: Rows, n: int) -> Rows:
    """n rows; further ones are the last, as a formula may not be defined for others."""
    return map_rows(lambda x: jnp.pad(x, ((0, n - len(x)), (0, 0)), mode="edge"), rows)


def _take(rows: Rows, start: jax.Array, size: int) -> Rows:
    return map_rows(lambda x: lax.dynamic_slice_in_dim(x, start, size, 0), rows)


def _add(total: Rows, part: Rows, start: jax.Array) -> Rows:
    def add(x: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(x, lax.dynamic_slice_in_dim(x, start, len(y), 0) + y, start, 0)

    return map_rows(add, total, part)


def _spread(tree: Any, shape: tuple[int, ...], axes: Axes) -> Any:
    """Arrays of `shape` from those whose axes are two of its axes, in either order."""
    is_turned = axes[0] > axes[1]
    return map_rows(lambda x: lax.broadcast_in_dim(x.T if is_turned else x, shape, sorted(axes)), tree)


def _reduce(parts: Any, axis: int) -> Any:
    """Sums of arrays of one shape along an axis, by one reduction."""

    def add(x: Any, y: Any) -> Any:
        return [a + b for a, b in zip(x, y, strict=True)]

    return lax.reduce([*parts], [jnp.zeros((), x.dtype) for x in parts], add, (axis,))
