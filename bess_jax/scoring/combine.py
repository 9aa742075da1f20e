"""How a query and its keys become scores: the only place where every query meets every candidate."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._numerics import modulus, norm

Rows: TypeAlias = Any
"""One array (b, ...) or a tuple of them: what a score function makes of b rows."""


class Combiner(Protocol):
    """Scores of queries against keys; larger is better."""

    def rowwise(self, query: Rows, key: Rows) -> jax.Array:
        """Query i (b, ...) against its own keys (b, n, D): (b, n)."""

    def pairwise(self, query: Rows, key: Rows) -> jax.Array:
        """Every query (b, ...) against every key (c, D): (b, c)."""


@dataclasses.dataclass(frozen=True)
class DotProduct:
    """<q, k>, in full float32 precision on every platform."""

    def rowwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        return jnp.sum(query[:, None] * key, axis=-1)

    def pairwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        return jnp.matmul(query, key.T, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class OneByOne:
    """A combiner given by `one`, the scores of one query; in the gradient, queries are walked through one at a time."""

    p: int

    def __post_init__(self) -> None:
        _checks.one_of("scoring_norm", self.p, (1, 2))

    def one(self, query: Rows, key: Rows) -> jax.Array:
        """One query (...) against keys (n, D): (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define one")

    def rowwise(self, query: Rows, key: Rows) -> jax.Array:
        """See `Combiner`."""
        return jax.vmap(self.one)(query, key)

    def pairwise(self, query: Rows, key: Rows) -> jax.Array:
        """See `Combiner`."""
        return _pairwise(self, query, key)


@dataclasses.dataclass(frozen=True)
class Distance(OneByOne):
    """-||q - k||_p with p = 1 or 2.

    Attributes:
        modulus: take the norm of the moduli of complex components; rows are then [real half, imaginary half].
    """

    modulus: bool = False

    def one(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `OneByOne`."""
        apart = query[None] - key
        if self.modulus and self.p != 2:  # the 2-norm of the moduli is that of the stored numbers
            apart = modulus(apart)
        return -norm(apart, self.p)


@dataclasses.dataclass(frozen=True)
class AffineDistance(OneByOne):
    """-||c + sum_j w_j k_j||_p, of queries (c, w_1, w_2, ...) and keys (k_1, k_2, ...)."""

    def one(self, query: tuple[jax.Array, ...], key: tuple[jax.Array, ...]) -> jax.Array:
        """See `OneByOne`."""
        constant, *weights = query
        terms = [weight[None] * part for weight, part in zip(weights, key, strict=True)]
        return -norm(sum(terms, start=constant[None]), self.p)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pairwise(combiner: OneByOne, query: Rows, key: Rows) -> jax.Array:
    return jax.vmap(combiner.one, in_axes=(0, None))(query, key)


def _pairwise_fwd(combiner: OneByOne, query: Rows, key: Rows) -> tuple[jax.Array, tuple[Rows, Rows]]:
    return _pairwise(combiner, query, key), (query, key)


def _pairwise_bwd(combiner: OneByOne, residuals: tuple[Rows, Rows], cotangent: jax.Array) -> tuple[Rows, Rows]:
    """Walks over the queries, so that b x c x D is never stored (autodiff would, about 90 times slower on a CPU)."""
    query, key = residuals

    def one_query(key_grad: Rows, inputs: tuple[Rows, jax.Array]) -> tuple[Rows, Rows]:
        row, weight = inputs
        _, pull = jax.vjp(combiner.one, row, key)
        by_row, by_key = pull(weight)
        return jax.tree_util.tree_map(jnp.add, key_grad, by_key), by_row

    key_grad, query_grad = jax.lax.scan(one_query, jax.tree_util.tree_map(jnp.zeros_like, key), (query, cotangent))
    return query_grad, key_grad


_pairwise.defvjp(_pairwise_fwd, _pairwise_bwd)
