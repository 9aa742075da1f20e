"""BoxE, whose relations are boxes."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import zip
from bess_jax._numerics import absolute
from bess_jax.kernels.rows import Rows, Sums
from bess_jax.scoring.base import BaseScoreFunction, Combiner, Part
from bess_jax.scoring.distance import Componentwise

_unit_uniform = nn.initializers.uniform(1.0)


@dataclasses.dataclass(frozen=True)
class BoxDistance(Componentwise):
    """-(distance of the head's point from its box + distance of the tail's point from its box).

    A query is (own, centre, width) of the head's box and then of the tail's, each (b, D); the points are own + key,
    with a key (n, D) for each. Within a box a distance is divided by its width + 1, outside it is multiplied.

    Attributes:
        squash: the points are tanh(own + key).
        per_dimension: each dimension is inside or outside by itself; if False, all are outside if one is.
    """

    squash: bool
    per_dimension: bool

    def prepare(self, query: Rows, key: Rows) -> tuple[Rows, Rows]:
        """See `Componentwise`; adds 1 / (width + 1), and exp(2 own) and exp(2 key) to `squash` their sum."""
        boxes = [(own, centre, width, 1 / (width + 1)) for own, centre, width in (query[:3], query[3:])]
        if not self.squash:
            return tuple(boxes), tuple((point,) for point in key)
        return tuple((*box, _exp_twice(box[0])) for box in boxes), tuple((point, _exp_twice(point)) for point in key)

    def terms(self, query: Rows, key: Rows) -> Sums:
        """See `Componentwise`; of a box (inside, outside, number of dimensions outside) unless `per_dimension`."""
        sums: list[jax.Array] = []
        for (own, centre, width, narrow, *own_exp), (other, *other_exp) in zip(query, key, strict=True):
            point = _tanh_of_sum(own, other, *own_exp, *other_exp) if self.squash else own + other
            apart = absolute(point - centre)
            if self.per_dimension:
                sums += [self.power(_by_dimension(apart, width, narrow))]
            else:
                near, far = _inside(apart, width, narrow), _outside(apart, width, narrow)
                sums += [self.power(near), self.power(far), (apart > width / 2).astype(near.dtype)]
        return tuple(sums)

    def score(self, sums: Sums) -> jax.Array:
        """See `Componentwise`."""
        if self.per_dimension:
            return super().score(sums)
        boxes = (sums[:3], sums[3:])
        return super().score(tuple(jnp.where(count > 0, far, near) for near, far, count in boxes))


def _exp_twice(x: jax.Array) -> jax.Array:
    """exp(2 x) of |x| <= 40, where tanh has long been 1, so that the product of two of them is a number."""
    return jnp.exp(2 * jnp.clip(x, -40, 40))


@jax.custom_jvp
def _tanh_of_sum(x: jax.Array, y: jax.Array, exp_x: jax.Array, exp_y: jax.Array) -> jax.Array:
    """tanh(x + y), given exp(2 x) and exp(2 y); a quotient for every pair, where tanh takes many steps."""
    return 1 - 2 / (1 + exp_x * exp_y)


@_tanh_of_sum.defjvp
def _tanh_of_sum_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    value = _tanh_of_sum(*primals)
    return value, (1 - value * value) * (tangents[0] + tangents[1])


@jax.custom_jvp
def _inside(apart: jax.Array, width: jax.Array, narrow: jax.Array) -> jax.Array:
    """apart / (width + 1), given narrow = 1 / (width + 1)."""
    return apart * narrow


@_inside.defjvp
def _inside_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    apart, _, narrow = primals
    return apart * narrow, narrow * tangents[0] - apart * (narrow * narrow) * tangents[1]


@jax.custom_jvp
def _outside(apart: jax.Array, width: jax.Array, narrow: jax.Array) -> jax.Array:
    """apart (width + 1) - jump, where the jump makes this meet `_inside` on the border, at apart = width / 2."""
    return apart * (width + 1) - width * (0.5 * (width + 1 - narrow))


@_outside.defjvp
def _outside_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    _, width, _ = primals
    return _outside(*primals), (width + 1) * tangents[0] + _outside_by_width(*primals) * tangents[1]


def _outside_by_width(apart: jax.Array, width: jax.Array, narrow: jax.Array) -> jax.Array:
    return apart - 0.5 * (width + 1 - narrow + width * (1 + narrow * narrow))


@jax.custom_jvp
def _by_dimension(apart: jax.Array, width: jax.Array, narrow: jax.Array) -> jax.Array:
    """`_outside` or `_inside`; its gradient chooses a factor, where that of `jnp.where` would go both ways."""
    return jnp.where(apart > width / 2, _outside(apart, width, narrow), _inside(apart, width, narrow))


@_by_dimension.defjvp
def _by_dimension_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    apart, width, narrow = primals
    outside = apart > width / 2
    by_apart = jnp.where(outside, width + 1, narrow)
    by_width = jnp.where(outside, _outside_by_width(*primals), -apart * (narrow * narrow))
    return _by_dimension(*primals), by_apart * tangents[0] + by_width * tangents[1]


class BoxE(BaseScoreFunction):
    """-(||dist(h + t', box_h)||_p + ||dist(t + h', box_t)||_p), where e' is the bump of an entity.

    Attributes:
        scoring_norm: p, 1 or 2.
        apply_tanh: squash the points and the corners of the boxes by tanh.
        dist_func_per_dim: the distance is that of inside or outside by dimension, not for all dimensions together.
        eps: least geometric mean of the widths, which they are divided by.
        as_reference: with `apply_tanh`, take tanh(lower corner + width) for the upper corner, the lower one being
            squashed already.

    Initial values are BESS-KGE's, uniform in [0, 1). The paper's, uniform to 1 / (2 sqrt(D)) on either side of 0, gave
    far better ranks on FB15k-237 and WN18RR: see their recipes.

    Abboud et al. 2020. BESS-KGE: `BoxE`. Differs from BESS-KGE: the upper corner is the paper's, tanh(centre +
    width / 2), unless `as_reference`.
    """

    scoring_norm: int = 1
    apply_tanh: bool = True
    dist_func_per_dim: bool = True
    eps: float = 1e-6
    as_reference: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive("eps", self.eps)

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """e, e'."""
        return tuple(Part(name, self.embedding_size, _unit_uniform) for name in ("position", "bump"))

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """For the head and the tail: centre, widths relative to each other, size."""
        boxes = ("head_centre", "tail_centre", "head_width", "tail_width")
        return (
            *(Part(name, self.embedding_size, _unit_uniform) for name in boxes),
            *(Part(name, 1, nn.initializers.ones) for name in ("head_size", "tail_size")),
        )

    @property
    def combiner(self) -> Combiner:
        """Distances of both points from their boxes."""
        return BoxDistance(self.scoring_norm, self.apply_tanh, self.dist_func_per_dim)

    def query_tail(self, head: jax.Array, relation: jax.Array) -> Rows:
        """h, h' and the boxes: the points are h + t', h' + t."""
        return self._query(self.split_entity(head), relation)

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """t', t and the boxes: the points are t' + h, t + h'."""
        return self._query(self.split_entity(tail)[::-1], relation)

    def key_tail(self, entity: jax.Array) -> Rows:
        """t', t."""
        return self.split_entity(entity)[::-1]

    def key_head(self, entity: jax.Array) -> Rows:
        """h, h'."""
        return self.split_entity(entity)

    def _query(self, points: tuple[jax.Array, ...], relation: jax.Array) -> Rows:
        """Own point, centre and width, first for the head's box and then for the tail's, each (b, D)."""
        parts = self.split_relation(relation)
        boxes = zip(points, parts[0:2], parts[2:4], parts[4:6], strict=True)
        return tuple(x for own, *box in boxes for x in (own, *self._box(*box)))

    def _box(self, centre: jax.Array, width: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Centres and widths (b, D)."""
        width = absolute(width)
        mean = jnp.exp(jnp.mean(jnp.log(jnp.maximum(width, self.eps)), axis=-1, keepdims=True))
        width = width / jnp.maximum(mean, self.eps) * (1 + nn.elu(size))
        if not self.apply_tanh:
            return centre, width
        low = jnp.tanh(centre - width / 2)
        high = jnp.tanh(low + width if self.as_reference else centre + width / 2)
        return (low + high) / 2, high - low
