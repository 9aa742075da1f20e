"""BoxE, whose relations are boxes."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._numerics import absolute, norm
from bess_jax.scoring.base import BaseScoreFunction, Part
from bess_jax.scoring.combine import Combiner, OneByOne, Rows

_unit_uniform = nn.initializers.uniform(1.0)


@dataclasses.dataclass(frozen=True)
class BoxDistance(OneByOne):
    """-(distance of the head's point from its box + distance of the tail's point from its box).

    A query is (own, centre, width), each (b, 2, D), first for the head and then for the tail; the points are own + key,
    with keys (n, 2 D). Within a box a distance is divided by its width + 1, outside it is multiplied.

    Attributes:
        squash: the points are tanh(own + key).
        per_dimension: each dimension is inside or outside by itself; if False, all are outside if one is.
    """

    squash: bool
    per_dimension: bool

    def one(self, query: Rows, key: jax.Array) -> jax.Array:
        """See `OneByOne`."""
        own, centre, width = (part[None] for part in query)
        point = own + key.reshape(-1, *own.shape[1:])
        apart = absolute((jnp.tanh(point) if self.squash else point) - centre)
        inside = apart <= width / 2
        if not self.per_dimension:
            inside = jnp.all(inside, axis=-1, keepdims=True)
        steep = width + 1
        jump = width / 2 * (steep - 1 / steep)  # makes the two forms meet on the border
        return -jnp.sum(norm(jnp.where(inside, apart / steep, apart * steep - jump), self.p), axis=-1)


class BoxE(BaseScoreFunction):
    """-(||dist(h + t', box_h)||_p + ||dist(t + h', box_t)||_p), where e' is the bump of an entity.

    Attributes:
        scoring_norm: p, 1 or 2.
        apply_tanh: squash the points and the corners of the boxes by tanh.
        dist_func_per_dim: the distance is that of inside or outside by dimension, not for all dimensions together.
        eps: least geometric mean of the widths, which they are divided by.
        as_reference: with `apply_tanh`, take tanh(lower corner + width) for the upper corner, the lower one being
            squashed already.

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
        return (jnp.stack(self.split_entity(head), axis=1), *self._boxes(relation))

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """t', t and the boxes: the points are t' + h, t + h'."""
        return (jnp.stack(self.split_entity(tail)[::-1], axis=1), *self._boxes(relation))

    def key_tail(self, entity: jax.Array) -> jax.Array:
        """t', t."""
        return jnp.concatenate(self.split_entity(entity)[::-1], axis=-1)

    def _boxes(self, relation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Centres and widths (b, 2, D) of the head's box and the tail's."""
        parts = self.split_relation(relation)
        centre, width, size = (jnp.stack(parts[i : i + 2], axis=1) for i in (0, 2, 4))
        width = absolute(width)
        mean = jnp.exp(jnp.mean(jnp.log(jnp.maximum(width, self.eps)), axis=-1, keepdims=True))
        width = width / jnp.maximum(mean, self.eps) * (1 + nn.elu(size))
        if not self.apply_tanh:
            return centre, width
        low = jnp.tanh(centre - width / 2)
        high = jnp.tanh(low + width if self.as_reference else centre + width / 2)
        return (low + high) / 2, high - low
