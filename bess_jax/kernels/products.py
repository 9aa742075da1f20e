"""Squared 2-norms of differences by matrix products, and by differences where a query and a key are close.

||q||^2 + ||k||^2 - 2 <q, k> cancels. With u = 2^-24, F components and lengths = ||q||^2 + ||k||^2, such a square is off
by at most about sqrt(F) u lengths, by a quarter of that in the mean: seen with random rows, F from 8 to 4,000, and what
Higham and Mary (2019) let expect. So a part sqrt(F) u lengths / (2 square) of the distance is wrong: `_ERROR` where the
square is `threshold` times the lengths (8 times that if F = 1,000 and all components of a row are equal). Squares below
are computed again, from differences.

They are few and mostly none, but shapes are static. So there are rounds: in each, every query takes its next close key,
and there are as many as the query with the most of them needs. That is a loop, not a condition, as under `vmap` both
sides of that would always run. In place of many rounds there is one pass over all pairs. Both add up in the same order,
that of `loops`, so that equal keys tie, also if they are of two calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bess_jax.kernels import loops
from bess_jax.kernels.rows import Rows, Sums, Terms, square_of_difference

_ERROR = 1e-5  # of a distance
_MANY = 32  # keys a round: so many of them take as long in `loops` (a CPU, 512 keys)
_BITS = 32  # of a word


def threshold(width: int) -> float:
    """The least ratio of a square to the lengths of its rows (..., F) at which the products are precise enough."""
    return math.sqrt(width) * 2.0**-24 / (2 * _ERROR)


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`; other terms than squares of differences go to `loops`."""
    if terms is not square_of_difference:
        return loops.sums(terms, query, key)
    square, close = _squares(query, key)
    if not square.size:
        return (square,)
    found = _pack(close)

    def one(row: jax.Array, other: jax.Array) -> jax.Array:
        return loops.sums(terms, row[None], other[None])[0][0, 0]

    def again(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        square, found = state
        place, found = _next(found)
        exact = jax.vmap(one)(query, jnp.take(key, place, axis=0, mode="clip"))
        return square.at[jnp.arange(len(query)), place].set(exact, mode="drop"), found

    def all_pairs(square: jax.Array, query: jax.Array, found: jax.Array) -> jax.Array:
        return jnp.where(_unpack(found, len(key)), loops.sums(terms, query, key)[0], square)

    n_round, many = _rounds(found, len(key))
    square, _ = lax.fori_loop(0, n_round, again, (square, found))
    return (_if(many, all_pairs, square, query, found),)


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body` and `sums`."""
    if terms is not square_of_difference:
        return loops.gradients(terms, query, key, cotangent)
    (weight,) = cotangent
    _, close = _squares(query, key)  # XLA has them from the forward pass, if that is in the same program
    far = jnp.where(close, 0, weight)
    grads = (
        2 * (jnp.sum(far, axis=1)[:, None] * query - _product(far, key)),
        2 * (jnp.sum(far, axis=0)[:, None] * key - _product(far.T, query)),
    )
    if not weight.size:
        return grads
    found = _pack(close)

    def again(_: Any, state: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        (by_query, by_key), found = state
        place, found = _next(found)
        own = jnp.asarray(weight).at[jnp.arange(len(query)), place].get(mode="fill", fill_value=0)
        part = 2 * own[:, None] * (query - jnp.take(key, place, axis=0, mode="clip"))
        return (by_query + part, by_key.at[place].add(-part, mode="drop")), found

    def all_pairs(grads: tuple[jax.Array, jax.Array], query: jax.Array, found: jax.Array) -> Any:
        near = jnp.where(_unpack(found, len(key)), weight, 0)
        by_query, by_key = loops.gradients(terms, query, key, (near,))
        return grads[0] + by_query, grads[1] + by_key

    n_round, many = _rounds(found, len(key))
    grads, _ = lax.fori_loop(0, n_round, again, (grads, found))
    result: tuple[Rows, Rows] = _if(many, all_pairs, grads, query, found)
    return result


def _squares(query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squares (b, n) by products, and which of them are too small for that; what is not finite is not."""
    lengths = jnp.sum(query * query, axis=-1)[:, None] + jnp.sum(key * key, axis=-1)[None]
    square = lengths - 2 * _product(query, key.T)
    return square, square < threshold(query.shape[-1]) * lengths


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _pack(close: jax.Array) -> jax.Array:
    """The bits (b, n) in words (b, m) uint32: bit i of word j is that of key i m + j."""
    n_query, n_key = close.shape
    m = -(-n_key // _BITS)
    bits = jnp.pad(close, ((0, 0), (0, m * _BITS - n_key))).reshape(n_query, _BITS, m).astype(jnp.uint32)
    return jnp.sum(bits << _shifts(), axis=1, dtype=jnp.uint32)


def _unpack(found: jax.Array, n_key: int) -> jax.Array:
    """What `_pack` was given."""
    bits = (found[:, None] >> _shifts()) & 1
    return bits.reshape(len(found), -1)[:, :n_key].astype(bool)


def _shifts() -> jax.Array:
    return jnp.arange(_BITS, dtype=jnp.uint32)[None, :, None]


def _next(found: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A key (b,) int32 of every query, past the last one if there is none, and the words without it."""
    m = found.shape[-1]
    words = jnp.arange(m, dtype=jnp.int32)[None]
    word = jnp.min(jnp.where(found != 0, words, m), axis=-1)
    taken = words == word[:, None]
    bits = jnp.sum(jnp.where(taken, found, 0), axis=-1, dtype=jnp.uint32)
    lowest = _BITS - 1 - lax.clz(bits & (~bits + 1)).astype(jnp.int32)
    return jnp.where(bits == 0, _BITS * m, lowest * m + word), jnp.where(taken, found & (found - 1), found)


def _rounds(found: jax.Array, n_key: int) -> tuple[jax.Array, jax.Array]:
    """Rounds, and whether there is a pass over all pairs in place of them."""
    n_close = jnp.max(jnp.sum(lax.population_count(found).astype(jnp.int32), axis=-1))
    many = n_close > max(1, n_key // _MANY)
    return jnp.where(many, 0, n_close), many


def _if(condition: jax.Array, then: Callable[..., Any], state: Any, *inputs: jax.Array) -> Any:
    """`then(state, *inputs)` where the condition holds, else `state`: a loop of one round, which `vmap` leaves one.

    XLA computes before a loop what is the same in all of its rounds, needed or not: the inputs are made to differ.
    """

    def once(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        pending, state = carry
        given = [jnp.where(pending, x, jnp.zeros_like(x)) for x in inputs]
        return jnp.zeros_like(pending), then(state, *given)

    return lax.while_loop(lambda carry: carry[0], once, (condition, state))[1]
