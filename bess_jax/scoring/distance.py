"""Scores that are distances of a query and a key."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import zip
from bess_jax._numerics import STEEP, absolute, hypot, sqrt, steep_absolute
from bess_jax.kernels import square_of_difference, sum_pairs
from bess_jax.kernels.rows import Rows, Sums


@dataclasses.dataclass(frozen=True)
class Componentwise:
    """A combiner given by `terms`, which are summed over the components, in float32, and by `score`.

    Attributes:
        p: of the p-norm, 1 or 2.
    """

    p: int

    def __post_init__(self) -> None:
        _checks.one_of("scoring_norm", self.p, (1, 2))

    def prepare(self, query: Rows, key: Rows) -> tuple[Rows, Rows]:
        """What `terms` takes, of queries (b, F) and keys (..., F) in float32: what rows can do once, for all pairs."""
        return query, key

    def terms(self, query: Rows, key: Rows) -> Sums:
        """Elementwise, of prepared rows."""
        raise NotImplementedError(f"{type(self).__name__} must define terms")

    def score(self, sums: Sums) -> jax.Array:
        """Score of a pair from its sums: minus the sum of p-norms, the terms being p-th powers."""
        norms = [sqrt(x) for x in sums] if self.p == 2 else list(sums)
        return -sum(norms[1:], start=norms[0])

    def rowwise(self, query: Rows, key: Rows) -> jax.Array:
        """See `Combiner`."""
        queries, keys = self.prepare(_to_float32(query), _to_float32(key))
        terms = self.terms(jax.tree_util.tree_map(lambda x: x[:, None], queries), keys)
        return self.score(tuple(jnp.sum(x, axis=-1) for x in terms)).astype(_dtype(query, key))

    def pairwise(self, query: Rows, key: Rows) -> jax.Array:
        """See `Combiner`."""
        sums = sum_pairs(self.terms, *self.prepare(_to_float32(query), _to_float32(key)))
        return self.score(sums).astype(_dtype(query, key))

    def power(self, x: jax.Array) -> jax.Array:
        """|x|^p."""
        return absolute(x) if self.p == 1 else x * x


@dataclasses.dataclass(frozen=True)
class _NormOfDifference(Componentwise):
    """Base of what is linear in the query: for p = 1 that is multiplied by `STEEP`, see `steep_absolute`."""

    @property
    def _factor(self) -> float:
        return STEEP if self.p == 1 else 1.0

    def score(self, sums: Sums) -> jax.Array:
        """See `Componentwise`."""
        return super().score(sums) / self._factor

    def power(self, x: jax.Array) -> jax.Array:
        """|x|^p, of a multiple of x."""
        return steep_absolute(x) if self.p == 1 else x * x


@dataclasses.dataclass(frozen=True)
class Distance(_NormOfDifference):
    """-||q - k||_p."""

    def prepare(self, query: jax.Array, key: jax.Array) -> tuple[Rows, Rows]:
        """See `Componentwise`; multiples of both."""
        return self._factor * query, self._factor * key

    def terms(self, query: jax.Array, key: jax.Array) -> Sums:
        """See `Componentwise`."""
        return square_of_difference(query, key) if self.p == 2 else (self.power(query - key),)

    def pairwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        if self.p == 1:
            return super().pairwise(query, key)
        squares = sum_pairs(square_of_difference, _to_float32(query), _to_float32(key))
        return self.score(squares).astype(_dtype(query, key))


@dataclasses.dataclass(frozen=True)
class ModulusDistance(Componentwise):
    """Minus the sum of the moduli of q - k, of complex rows stored as [real half, imaginary half]."""

    p: int = dataclasses.field(default=1, init=False)

    def prepare(self, query: jax.Array, key: jax.Array) -> tuple[Rows, Rows]:
        """See `Componentwise`; the halves."""
        return tuple(jnp.split(query, 2, axis=-1)), tuple(jnp.split(key, 2, axis=-1))

    def terms(self, query: Rows, key: Rows) -> Sums:
        """See `Componentwise`."""
        (q_re, q_im), (k_re, k_im) = query, key
        return (hypot(q_re - k_re, q_im - k_im),)


@dataclasses.dataclass(frozen=True)
class AffineDistance(_NormOfDifference):
    """-||c + sum_j w_j k_j||_p, of queries (c, w_1, w_2, ...) and keys (k_1, k_2, ...)."""

    def prepare(self, query: Rows, key: Rows) -> tuple[Rows, Rows]:
        """See `Componentwise`; a multiple of the query."""
        return tuple(self._factor * part for part in query), key

    def terms(self, query: Rows, key: Rows) -> Sums:
        """See `Componentwise`."""
        constant, *weights = query
        return (self.power(sum((w * k for w, k in zip(weights, key, strict=True)), start=constant)),)


def _to_float32(rows: Rows) -> Rows:
    return jax.tree_util.tree_map(lambda x: x.astype(jnp.float32), rows)


def _dtype(query: Rows, key: Rows) -> jnp.dtype:
    return jnp.result_type(*(x.dtype for x in jax.tree_util.tree_leaves((query, key))))
