"""Score functions in which a relation moves entities."""

from __future__ import annotations

import jax

from bess_jax.scoring.base import BaseScoreFunction
from bess_jax.scoring.combine import Combiner, Distance


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
