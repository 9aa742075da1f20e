"""Score functions -||c + sum_j w_j k_j||_p: affine in the parts k_j of the candidate, c and w_j made of the rest."""

from __future__ import annotations

import jax

from bess_jax._numerics import normalize
from bess_jax.kernels.rows import Rows
from bess_jax.scoring.base import BaseScoreFunction, Combiner, Part
from bess_jax.scoring.distance import AffineDistance


class AffineScoreFunction(BaseScoreFunction):
    """Base of the score functions below: the keys are the parts of an entity.

    Attributes:
        scoring_norm: p, 1 or 2.
        normalize_entities: divide each part of an entity by its 2-norm.
    """

    scoring_norm: int = 1
    normalize_entities: bool = True

    @property
    def combiner(self) -> Combiner:
        """Norm of an affine function of the candidate."""
        return AffineDistance(self.scoring_norm)

    def entity(self, row: jax.Array) -> tuple[jax.Array, ...]:
        """The parts of an entity, normalized if so asked."""
        parts = self.split_entity(row)
        return tuple(normalize(part) for part in parts) if self.normalize_entities else parts

    def key_tail(self, entity: jax.Array) -> Rows:
        """The parts."""
        return self.entity(entity)

    def key_head(self, entity: jax.Array) -> Rows:
        """The parts."""
        return self.entity(entity)


class PairRE(AffineScoreFunction):
    """-||h r_h - t r_t||_p.

    Chao et al. 2021. BESS-KGE: `PairRE`.
    """

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """r_h, r_t."""
        return (Part("r_h", self.embedding_size), Part("r_t", self.embedding_size))

    def query_tail(self, head: jax.Array, relation: jax.Array) -> Rows:
        """h r_h, -r_t."""
        (h,), (r_h, r_t) = self.entity(head), self.split_relation(relation)
        return h * r_h, -r_t

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """-t r_t, r_h."""
        (t,), (r_h, r_t) = self.entity(tail), self.split_relation(relation)
        return -t * r_t, r_h


class TripleRE(AffineScoreFunction):
    """-||h (r_h + u) + r_m - t (r_t + u)||_p.

    Attributes:
        u: offset of version 2 of the model, >= 0; 0 gives version 1.

    Yu et al. 2022. BESS-KGE: `TripleRE`.
    """

    u: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.u < float("inf"):
            raise ValueError(f"u must be >= 0 and finite, got {self.u}")

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """r_h, r_m, r_t."""
        return tuple(Part(name, self.embedding_size) for name in ("r_h", "r_m", "r_t"))

    def query_tail(self, head: jax.Array, relation: jax.Array) -> Rows:
        """h (r_h + u) + r_m, -(r_t + u)."""
        (h,), (r_h, r_m, r_t) = self.entity(head), self.split_relation(relation)
        return h * (r_h + self.u) + r_m, -(r_t + self.u)

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """r_m - t (r_t + u), r_h + u."""
        (t,), (r_h, r_m, r_t) = self.entity(tail), self.split_relation(relation)
        return r_m - t * (r_t + self.u), r_h + self.u


class InterHT(AffineScoreFunction):
    """-||h (t' + o) + r - t (h' + o)||_p, where e' is the auxiliary part of an entity.

    Attributes:
        offset: o.

    Wang et al. 2022. BESS-KGE: `InterHT`.
    """

    offset: float = 1.0

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """e, e'."""
        return (Part("main", self.embedding_size), Part("auxiliary", self.embedding_size))

    def query_tail(self, head: jax.Array, relation: jax.Array) -> Rows:
        """h o + r, then the weights of t and t'."""
        h, h_aux = self.entity(head)
        return h * self.offset + relation, -(h_aux + self.offset), h

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """r - t o, then the weights of h and h'."""
        t, t_aux = self.entity(tail)
        return relation - t * self.offset, t_aux + self.offset, -t


class TranS(InterHT):
    """-||h (t' + o + r_b) + r - t (h' + o - r_f)||_p: InterHT with two more parts of a relation.

    Zhang et al. 2022; the paper writes r with a bar and a hat for r_b and r_f. BESS-KGE: `TranS`.
    """

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """r, r_b, r_f."""
        return tuple(Part(name, self.embedding_size) for name in ("r", "r_b", "r_f"))

    def query_tail(self, head: jax.Array, relation: jax.Array) -> Rows:
        """h (o + r_b) + r, then the weights of t and t'."""
        (h, h_aux), (r, r_b, r_f) = self.entity(head), self.split_relation(relation)
        return h * (self.offset + r_b) + r, r_f - h_aux - self.offset, h

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """r - t (o - r_f), then the weights of h and h'."""
        (t, t_aux), (r, r_b, r_f) = self.entity(tail), self.split_relation(relation)
        return r - t * (self.offset - r_f), t_aux + self.offset + r_b, -t
