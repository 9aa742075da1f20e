"""Score functions that are linear in the head, the relation and the tail."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bess_jax._numerics import complex_product
from bess_jax.scoring.base import BaseScoreFunction
from bess_jax.scoring.combine import Combiner, DotProduct


class DistMult(BaseScoreFunction):
    """sum h r t.

    Yang et al. 2015. BESS-KGE: `DistMult`.
    """

    @property
    def combiner(self) -> Combiner:
        """Dot product."""
        return DotProduct()

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """h r."""
        return head * relation

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """r t."""
        return tail * relation


class ComplEx(DistMult):
    """Re sum h r conj(t), rows stored as [real half, imaginary half].

    Trouillon et al. 2016. BESS-KGE: `ComplEx`.
    """

    @property
    def entity_width(self) -> int:
        """2 D."""
        return 2 * self.embedding_size

    @property
    def relation_width(self) -> int:
        """2 D."""
        return 2 * self.embedding_size

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """h r: the real part of a product with a conjugate is the dot product of the stored rows."""
        return complex_product(head, relation)

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """t conj(r)."""
        return complex_product(tail, relation, conjugate=True)

    def square_modulus(self, row: jax.Array) -> jax.Array:
        """re^2 + im^2."""
        real, imaginary = jnp.split(row, 2, axis=-1)
        return real * real + imaginary * imaginary
