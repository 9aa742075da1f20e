"""`sum_pairs` as XLA's loops, in blocks that stay in the cache.

A block of `_UNROLL` steps of the axis that is summed over becomes one loop over (rows, lanes), its terms written out.
With fewer steps a block, XLA (seen with jaxlib 0.10) fuses the slicing into that loop, which is then 6 times slower;
with more, registers run out. The terms of a block are added up in `_CHAINS` sums, as one sum would have to wait for
each addition to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bess_jax._compat import zip
from bess_jax.kernels.rows import Rows, Sums, Terms, length
from bess_jax.kernels.rows import map_rows as _map

_UNROLL = 16
_CHAINS = 4
_TILE = 512  # keys in a block


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`."""
    n_query, n_key = length(query), length(key)
    one = jax.eval_shape(terms, *(_map(lambda x: jax.ShapeDtypeStruct((), x.dtype), rows) for rows in (query, key)))
    tile, n_tile = _tiles(n_key)
    key = _pad(key, tile * n_tile, 0)
    query_t = _map(jnp.transpose, query)

    def block(keys: Rows) -> Sums:
        def term(row: Rows, lane: Rows) -> Sums:
            return terms(_map(lambda x: x[:, None], row), _map(lambda x: x[None], lane))

        zeros = tuple(jnp.zeros((n_query, tile), x.dtype) for x in one)
        sums: Sums = _walk(term, zeros, (query_t, 0), (_map(jnp.transpose, keys), 0))
        return sums

    def step(i: jax.Array, out: Sums) -> Sums:
        new: Sums = _put(out, block(_take(key, i * tile, tile, 0)), i * tile, 1)
        return new

    if n_tile == 1:
        return block(key)
    out = tuple(jnp.zeros((n_query, tile * n_tile), x.dtype) for x in one)
    return tuple(x[:, :n_key] for x in lax.fori_loop(0, n_tile, step, out))


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body`."""
    n_key = length(key)
    tile, n_tile = _tiles(n_key)
    key, cotangent = _pad(key, tile * n_tile, 0), _pad(cotangent, tile * n_tile, 1)

    def block(query_grad: Rows, keys: Rows, weight: Sums) -> tuple[Rows, Rows]:
        def to_query(lane: Rows, lane_weight: Sums) -> Rows:
            out, pull = jax.vjp(lambda x: terms(x, _map(lambda y: y[None], lane)), query)
            return pull(_spread(lane_weight, out))[0]

        def to_key(row: Rows, row_weight: Sums) -> Rows:
            out, pull = jax.vjp(lambda x: terms(_map(lambda y: y[None], row), x), keys)
            return pull(_spread(row_weight, out))[0]

        query_grad = _walk(to_query, query_grad, (keys, 0), (weight, 1))
        return query_grad, _walk(to_key, _map(jnp.zeros_like, keys), (query, 0), (weight, 0))

    def step(i: jax.Array, grads: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
        query_grad, part = block(grads[0], _take(key, i * tile, tile, 0), _take(cotangent, i * tile, tile, 1))
        return query_grad, _put(grads[1], part, i * tile, 0)

    zeros = _map(jnp.zeros_like, query)
    if n_tile == 1:
        return block(zeros, key, cotangent)
    query_grad, key_grad = lax.fori_loop(0, n_tile, step, (zeros, _map(jnp.zeros_like, key)))
    return query_grad, _map(lambda x: x[:n_key], key_grad)


def _walk(term: Callable[..., Any], total: Any, *walked: tuple[Any, int]) -> Any:
    """`total` + the sum of `term` of slices of `walked`: pairs of a tree of arrays and the axis to walk along."""
    tree, axis = walked[0]
    length = jax.tree_util.tree_leaves(tree)[0].shape[axis]
    if length == 0:
        return total
    unroll = _UNROLL if length >= _UNROLL else 1  # a short loop is not worth compiling so much
    n_block = length // unroll
    term = jax.jit(term)  # traced once, not once for each step of a block; XLA inlines it

    def add(total: Any, start: int | jax.Array, size: int) -> Any:
        blocks = [_take(tree, start, size, axis) for tree, axis in walked]
        chains: list[Any] = []
        for i in range(size):
            slices = [
                _map(lambda x, i=i, axis=axis: lax.index_in_dim(x, i, axis, keepdims=False), block)
                for block, (_, axis) in zip(blocks, walked, strict=True)
            ]
            chains.append(term(*slices))
            if len(chains) > _CHAINS:
                chains[i % _CHAINS] = _map(jnp.add, chains[i % _CHAINS], chains.pop())
        return _map(lambda x, *parts: x + sum(parts[1:], start=parts[0]), total, *chains) if chains else total

    total = lax.fori_loop(0, n_block, lambda i, total: add(total, i * unroll, unroll), total)
    return add(total, n_block * unroll, length % unroll)


def _tiles(n_key: int) -> tuple[int, int]:
    """Keys of a block, and blocks; the last one is padded with zeros."""
    n_tile = max(1, -(-n_key // _TILE))
    return -(-n_key // n_tile), n_tile


def _pad(tree: Any, size: int, axis: int) -> Any:
    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, size - n if i == axis else 0) for i, n in enumerate(x.shape)])

    return _map(pad, tree)


def _take(tree: Any, start: int | jax.Array, size: int, axis: int) -> Any:
    return _map(lambda x: lax.dynamic_slice_in_dim(x, start, size, axis), tree)


def _put(tree: Any, part: Any, start: int | jax.Array, axis: int) -> Any:
    return _map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, axis), tree, part)


def _spread(weight: Sums, like: Sums) -> Sums:
    """The weights (n,) of rows, over their lanes."""
    return tuple(jnp.broadcast_to(w[:, None], x.shape) for w, x in zip(weight, like, strict=True))
