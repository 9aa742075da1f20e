"""How a query and its keys become scores: the only place where every query meets every candidate."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._numerics import norm


class Combiner(Protocol):
    """Scores of queries against keys; larger is better."""

    def rowwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Query i (b, D) against its own keys (b, n, D): (b, n)."""

    def pairwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """Every query (b, D) against every key (c, D): (b, c)."""


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
class Distance:
    """-||q - k||_p with p = 1 or 2."""

    p: int

    def __post_init__(self) -> None:
        _checks.one_of("scoring_norm", self.p, (1, 2))

    def rowwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        return -norm(query[:, None] - key, self.p)

    def pairwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        return _pairwise_distance(query, key, self.p)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pairwise_distance(query: jax.Array, key: jax.Array, p: int) -> jax.Array:
    return -norm(query[:, None] - key[None], p)


def _pairwise_distance_fwd(
    query: jax.Array, key: jax.Array, p: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    score = _pairwise_distance(query, key, p)
    return score, (query, key, score)


def _pairwise_distance_bwd(
    p: int, residuals: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Walks over the queries, so that b x c x D is never stored (autodiff would, about 90 times slower on a CPU)."""
    query, key, score = residuals
    if p == 2:
        apart = score < 0
        cotangent = jnp.where(apart, cotangent / jnp.where(apart, -score, 1), 0)

    def one_query(key_grad: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, weight = inputs[0][None], inputs[1][:, None]
        pull = jnp.where(row > key, weight, jnp.where(row < key, -weight, 0)) if p == 1 else weight * (row - key)
        return key_grad + pull, -jnp.sum(pull, axis=0)

    key_grad, query_grad = jax.lax.scan(one_query, jnp.zeros_like(key), (query, cotangent))
    return query_grad, key_grad


_pairwise_distance.defvjp(_pairwise_distance_fwd, _pairwise_distance_bwd)
