"""Score functions that are linear in the head, the relation and the tail."""

from __future__ import annotations

from typing import ClassVar

import jax

from bess_jax._numerics import complex_product, square_modulus
from bess_jax.scoring.base import BaseScoreFunction, Combiner, DotProduct, Part
from bess_jax.scoring.initializers import init_KGE_normal


class DistMult(BaseScoreFunction):
    """sum h r t.

    Yang et al. 2015. BESS-KGE: `DistMult`.
    """

    is_diagonal: ClassVar[bool] = True

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """Real numbers."""
        return (Part("entity", self.embedding_size, init_KGE_normal),)

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """Real numbers."""
        return (Part("relation", self.embedding_size, init_KGE_normal),)

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

    def query_relation(self, head: jax.Array, tail: jax.Array) -> jax.Array:
        """h t."""
        return head * tail


class ComplEx(DistMult):
    """Re sum h r conj(t), rows stored as [real half, imaginary half].

    Trouillon et al. 2016. BESS-KGE: `ComplEx`.
    """

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """Real and imaginary parts."""
        return tuple(Part(name, self.embedding_size, init_KGE_normal) for name in ("real", "imaginary"))

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """As entities."""
        return self.entity_parts

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """h r: the real part of a product with a conjugate is the dot product of the stored rows."""
        return complex_product(head, relation)

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """t conj(r)."""
        return complex_product(tail, relation, conjugate=True)

    def query_relation(self, head: jax.Array, tail: jax.Array) -> jax.Array:
        """t conj(h)."""
        return complex_product(tail, head, conjugate=True)

    def square_modulus(self, entity: jax.Array) -> jax.Array:
        """re^2 + im^2."""
        return square_modulus(entity)
