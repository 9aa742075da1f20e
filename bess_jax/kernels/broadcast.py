"""`sum_pairs` as reductions of a broadcast, for compilers that never store what they reduce."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bess_jax._compat import zip
from bess_jax.kernels.rows import Rows, Sums, Terms, map_rows


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`."""
    return tuple(jnp.sum(x, axis=-1) for x in terms(*_over_pairs(query, key)))


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body`."""

    def pull(by: int, query: Rows, key: Rows, cotangent: Sums) -> Any:
        rows = _over_pairs(query, key)
        shape = jnp.broadcast_shapes(*(x.shape for x in jax.tree_util.tree_leaves(rows)))
        rows = tuple(map_rows(lambda x: jnp.broadcast_to(x, shape), part) for part in rows)
        out, pull = jax.vjp(terms, *rows)
        grads = pull(tuple(jnp.broadcast_to(w[..., None], x.shape) for w, x in zip(cotangent, out, strict=True)))
        return map_rows(lambda x: jnp.sum(x, axis=1 - by), grads[by])

    by_query = pull(0, query, key, cotangent)
    by_key = pull(1, *lax.optimization_barrier((query, key, cotangent)))
    return by_query, by_key


def _over_pairs(query: Rows, key: Rows) -> tuple[Rows, Rows]:
    """Views (b, 1, F) and (1, n, F)."""
    return map_rows(lambda x: x[:, None], query), map_rows(lambda x: x[None], key)
