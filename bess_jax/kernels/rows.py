"""What all bodies of `sum_pairs` speak of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bess_jax._compat import TypeAlias

Rows: TypeAlias = Any
"""One array (b, F) or a tuple of them (of tuples): what a score function makes of b rows."""
Sums: TypeAlias = "tuple[jax.Array, ...]"
Terms: TypeAlias = "Callable[[Rows, Rows], Sums]"
"""Elementwise function of the components of queries and keys; what is summed over the components."""


class UnavailableError(RuntimeError):
    """A body cannot be had here, for these terms; says why."""


class Body(NamedTuple):
    """A way to compute the sums, and one to compute their gradients."""

    sums: Callable[[Terms, Rows, Rows], Sums]
    """`terms`, queries (b, F), keys (n, F): sums (b, n), all of them float32."""
    gradients: Callable[[Terms, Rows, Rows, Sums], tuple[Rows, Rows]]
    """`terms`, queries, keys and the cotangents (b, n) of the sums: gradients by queries (b, F) and by keys (n, F)."""


map_rows: Any = jax.tree_util.tree_map


def length(rows: Rows) -> int:
    """b, of rows (b, F)."""
    return int(jax.tree_util.tree_leaves(rows)[0].shape[0])


def width(rows: Rows) -> int:
    """F, of rows (b, F)."""
    return int(jax.tree_util.tree_leaves(rows)[0].shape[1])


def parts_with_gradient(terms: Terms, own: Rows, other: Rows) -> tuple[int, ...]:
    """Numbers of the leaves of the first rows that have a gradient, and not one that is 0 whatever they are."""

    def gradient(own: Rows, other: Rows) -> Any:
        out, pull = jax.vjp(lambda x: terms(x, other), own)
        return jax.tree_util.tree_leaves(pull(out))

    scalars = map_rows(lambda x: jax.ShapeDtypeStruct((), x.dtype), (own, other))
    found = jax.make_jaxpr(gradient)(*scalars).jaxpr.outvars
    return tuple(i for i, x in enumerate(found) if getattr(x, "val", 1) != 0)  # a literal has a value, a variable none


def square_of_difference(query: jax.Array, key: jax.Array) -> Sums:
    """Terms of squared 2-norms, which some bodies make of matrix products."""
    return (square(query - key),)


@jax.custom_jvp
def square(x: jax.Array) -> jax.Array:
    """x^2, whose gradient, 2 x times what comes in, is added to a sum by one instruction."""
    return x * x


@square.defjvp
def _square_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return x * x, (x + x) * dx
