"""The rows that a shard scores, and dropout of their components."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bess_jax._compat import dataclass, random_words


class Embedded(NamedTuple):
    """What a shard knows of its micro-batch once rows are exchanged."""

    head: jax.Array  # (B, E)
    relation: jax.Array  # (B,) int32, or rows (B, R)
    tail: jax.Array  # (B, E), or (B, K, E)
    negative: jax.Array  # (L, S * N, E), major: the shard they came from or, if they stay, are for

    def of_answers(self) -> Embedded:
        """A row (B K, ...) for each answer of tails (B, K, E); the negatives stay as they are."""
        n_answer, width = self.tail.shape[1:]
        repeated = repeat(self.head, n_answer), repeat(self.relation, n_answer)
        return Embedded(*repeated, self.tail.reshape(-1, width), self.negative)


def repeat(x: jax.Array, n: int) -> jax.Array:
    """Each row of (B, ...) n times, (B n, ...), without a gather: its gradient would be a scatter."""
    return jnp.broadcast_to(x[:, None], (len(x), n, *x.shape[1:])).reshape(-1, *x.shape[1:])


@dataclass(frozen=True, kw_only=True)
class RowDropout:
    """In training, components of the rows are 0 with some probability, and the others larger, so that means are kept.

    Heads, tails, negatives and relations are drawn for anew, wherever a row is used. What is 0 has no gradient.

    Attributes:
        entity: probability for rows of entities; rounded down to a multiple of 2^-16.
        relation: probability for those of relations.

    Raises:
        ValueError: if one of them is not in [0, 1).

    As `lookup_embedder.dropout` of LibKGE (Broscheit et al. 2020). BESS-KGE has no counterpart.
    """

    entity: float = 0.0
    relation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("entity", "relation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")

    def __call__(self, key: jax.Array, rows: Embedded, relation_rows: Callable[[jax.Array], jax.Array]) -> Embedded:
        """The rows as they are scored in training; `relation_rows` gives rows (B, R) of ids (B,)."""
        head, relation, tail, negative = rows
        of_head, of_relation, of_tail, of_negative = jax.random.split(key, 4)
        if self.entity:
            head, tail = drop(of_head, head, self.entity), drop(of_tail, tail, self.entity)
            negative = drop(of_negative, negative, self.entity)
        if self.relation:
            relation = drop(of_relation, relation_rows(relation), self.relation)
        return Embedded(head, relation, tail, negative)


def drop(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """`x`, any shape, with components at 0 with probability `rate` in [0, 1), and the others divided by 1 - rate.

    A component takes half of a random number, where one of `jax.random.bernoulli` takes a whole one.
    """
    n_kept = math.ceil((1 - rate) * 2**16)
    numbers = random_words(key, -(-x.size // 2))
    halves = jnp.concatenate([numbers >> 16, numbers & 0xFFFF])
    is_kept = jax.lax.slice_in_dim(halves, 0, x.size).reshape(x.shape) < n_kept
    return jnp.where(is_kept, x * (2**16 / n_kept), jnp.zeros_like(x))
