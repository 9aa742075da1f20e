"""Score functions in which a relation moves entities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bess_jax._numerics import complex_product, square_modulus
from bess_jax.scoring.base import BaseScoreFunction, Combiner, Part
from bess_jax.scoring.distance import Distance, ModulusDistance
from bess_jax.scoring.initializers import init_uniform_rotation


class TransE(BaseScoreFunction):
    """-||h + r - t||_p.

    Attributes:
        scoring_norm: p, 1 or 2.

    Bordes et al. 2013. BESS-KGE: `TransE`.
    """

    scoring_norm: int = 1

    @property
    def combiner(self) -> Combiner:
        """Distance of the moved entity."""
        return Distance(self.scoring_norm)

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """h + r."""
        return head + relation

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """t - r."""
        return tail - relation


class RotatE(BaseScoreFunction):
    """-||h exp(i r) - t||_p of complex h and t, stored as [real half, imaginary half], and angles r.

    Attributes:
        scoring_norm: p, 1 or 2.
        as_reference: take the p-norm of the stored numbers, not of the moduli. For p = 1 a rotation then changes
            distances: `score_heads`, which turns the tail back, is another function than `score_triple`.

    Sun et al. 2019. BESS-KGE: `RotatE`. Differs from BESS-KGE: the norm is the paper's, unless `as_reference`.
    """

    scoring_norm: int = 1
    as_reference: bool = False

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """Real and imaginary parts."""
        return (Part("real", self.embedding_size), Part("imaginary", self.embedding_size))

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """Angles in radians."""
        return (Part("angle", self.embedding_size, init_uniform_rotation),)

    @property
    def combiner(self) -> Combiner:
        """Distance of the turned entity; the 2-norm of the moduli is that of the stored numbers."""
        return ModulusDistance() if self.scoring_norm == 1 and not self.as_reference else Distance(self.scoring_norm)

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """h exp(i r)."""
        return complex_product(head, _unit(relation))

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """t exp(-i r)."""
        return complex_product(tail, _unit(relation), conjugate=True)

    @property
    def sides_agree(self) -> bool:
        """False for p = 1 of the stored numbers."""
        return not self.as_reference or self.scoring_norm == 2

    def square_modulus(self, entity: jax.Array) -> jax.Array:
        """re^2 + im^2."""
        return square_modulus(entity)

    def relation_square_modulus(self, relation: jax.Array) -> jax.Array:
        """Nothing: the modulus of exp(i r) is always 1."""
        return relation[..., :0]

    def compared_relation(self, relation: jax.Array) -> jax.Array:
        """exp(i r): angles that differ by a whole turn are the same."""
        return _unit(relation)


def _unit(angle: jax.Array) -> jax.Array:
    """exp(i angle), stored as [real half, imaginary half]."""
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
