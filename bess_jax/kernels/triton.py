"""`sum_pairs` as three kernels for GPUs, written in Pallas for its Triton backend.

The formula is traced into the kernels, and so is its gradient by `jax.vjp`. Each number of a result belongs to one
program, which walks along what is summed over: nothing is added atomically, and nothing of pairs times components is
stored.

* sums: a program has some queries and keys, and walks along the components.
* gradients: a program has some rows of one side and some of their components, and walks along the rows of the other.

Programs on the border take the last row or component for those that are not there, and write the same number to the
same place once more. So no formula meets numbers that are not from rows.

JAX 0.12 warns that a later one will not have this backend; then this file goes, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as backend

from bess_jax.kernels.rows import Rows, Sums, Terms, length, map_rows, parts_with_gradient, width

_PAIRS = 32, 64  # queries and keys of a program
_OWN = 16, 32  # rows and components of a program
_WARPS = 4


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`."""
    b, n, size = length(query), length(key), width(query)
    like = jax.eval_shape(terms, *(map_rows(lambda x: jax.ShapeDtypeStruct((), x.dtype), x) for x in (query, key)))
    if not b * n * size:
        return tuple(jnp.zeros((b, n), x.dtype) for x in like)

    def kernel(queries: Rows, keys: Rows, *out: Any) -> None:
        at = [_places(axis, most, own) for axis, (most, own) in enumerate(zip(_PAIRS, (b, n), strict=True))]

        def add(i: jax.Array, total: Sums) -> Sums:
            rows = map_rows(lambda x: x[i, at[0]][:, None], queries), map_rows(lambda x: x[i, at[1]][None], keys)
            return tuple(map(jnp.add, total, terms(*rows)))

        total = lax.fori_loop(0, size, add, tuple(jnp.zeros(_PAIRS, x.dtype) for x in like))
        _put(out, at, total)

    shapes = tuple(jax.ShapeDtypeStruct((b, n), x.dtype) for x in like)
    columns = map_rows(jnp.transpose, (query, key))
    return tuple(_call(kernel, _grid((b, n), _PAIRS), shapes, *columns))


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body`."""
    by_query = _gradient(terms, query, key, tuple(w.T for w in cotangent))
    return by_query, _gradient(lambda x, y: terms(y, x), key, query, cotangent)


def _gradient(terms: Terms, own: Rows, other: Rows, cotangent: Sums) -> Rows:
    """The gradient by the first rows (m, F) of sums, which have the cotangents (n, m)."""
    m, n, size = length(own), length(other), width(own)
    parts = parts_with_gradient(terms, own, other)
    grads, tree = jax.tree_util.tree_flatten(map_rows(jnp.zeros_like, own))
    if not (m * n * size and parts):
        return jax.tree_util.tree_unflatten(tree, grads)

    def kernel(rows: Rows, others: Rows, weights: Sums, *out: Any) -> None:
        at = [_places(axis, most, own) for axis, (most, own) in enumerate(zip(_OWN, (m, size), strict=True))]
        mine = map_rows(lambda x: x[at[0][:, None], at[1][None]], rows)

        def add(j: jax.Array, total: list[jax.Array]) -> list[jax.Array]:
            row = map_rows(lambda x: jnp.broadcast_to(x[j, at[1]][None], _OWN), others)
            by = tuple(jnp.broadcast_to(w[j, at[0]][:, None], _OWN) for w in weights)
            found = jax.tree_util.tree_leaves(jax.vjp(lambda x: terms(x, row), mine)[1](by))
            return [x + found[i] for x, i in zip(total, parts, strict=True)]

        _put(out, at, lax.fori_loop(0, n, add, [jnp.zeros(_OWN, grads[i].dtype) for i in parts]))

    shapes = tuple(jax.ShapeDtypeStruct((m, size), grads[i].dtype) for i in parts)
    for i, grad in zip(parts, _call(kernel, _grid((m, size), _OWN), shapes, own, other, cotangent), strict=True):
        grads[i] = grad
    return jax.tree_util.tree_unflatten(tree, grads)


def _call(kernel: Callable[..., None], grid: tuple[int, int], shapes: Any, *args: Any) -> Any:
    """What a kernel writes: on a GPU compiled, elsewhere interpreted."""
    call = partial(pl.pallas_call, kernel, grid=grid, out_shape=shapes)
    compiled = call(compiler_params=backend.CompilerParams(num_warps=_WARPS))
    return lax.platform_dependent(*args, cuda=compiled, rocm=compiled, default=call(interpret=True))


def _grid(sizes: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    return pl.cdiv(sizes[0], block[0]), pl.cdiv(sizes[1], block[1])


def _places(axis: int, block: int, size: int) -> jax.Array:
    """Where along an axis a program is, (block,) int32; the last place again for those beyond it."""
    return jnp.minimum(pl.program_id(axis) * block + jnp.arange(block), size - 1)


def _put(out: Any, at: list[jax.Array], values: Any) -> None:
    for ref, value in zip(out, values, strict=True):
        ref[at[0][:, None], at[1][None]] = value
