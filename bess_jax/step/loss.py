"""Losses of positive and negative scores, and regularization of the rows of a batch."""

from __future__ import annotations

import abc
import dataclasses

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._numerics import log_sigmoid, relu, sqrt


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseLossFunction(abc.ABC):
    """What losses have in common: a float32 sum over the micro-batch, not a mean.

    Attributes:
        loss_scale: factor of the loss.

    BESS-KGE: `BaseLossFunction`.
    """

    loss_scale: float = 1.0

    @abc.abstractmethod
    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """Loss of each triple, (B,), before weight and scale."""

    def __call__(
        self, positive_score: jax.Array, negative_score: jax.Array, triple_weight: jax.Array | float = 1.0
    ) -> jax.Array:
        """Loss of a micro-batch, () float32.

        Args:
            positive_score: (B,) scores of the positives.
            negative_score: (B, n) scores of their negatives.
            triple_weight: (B,), (1,) or a number.
        """
        loss = self.per_triple(positive_score.astype(jnp.float32), negative_score.astype(jnp.float32))
        total: jax.Array = self.loss_scale * jnp.sum(jnp.asarray(triple_weight, jnp.float32) * loss)
        return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarginBasedLossFunction(BaseLossFunction):
    """Losses with a margin and weights of the negatives.

    Attributes:
        margin: m.
        negative_adversarial_sampling: weigh negatives by the softmax of their scores, with no gradient through the
            weights (Sun et al. 2019, RotatE, eq. 5); else by 1/n.
        negative_adversarial_scale: factor of the scores in that softmax, the reciprocal of its temperature.

    BESS-KGE: `MarginBasedLossFunction`.
    """

    margin: float
    negative_adversarial_sampling: bool
    negative_adversarial_scale: float = 1.0

    def negative_weights(self, negative_score: jax.Array) -> jax.Array:
        """Weight of each negative: (B, n), or () where they are all equal."""
        if not self.negative_adversarial_sampling:
            return jnp.asarray(1 / negative_score.shape[-1], jnp.float32)
        weights = self._unnormalized(negative_score)
        return weights / jnp.sum(weights, axis=-1, keepdims=True)

    def weighted_sum(self, negative_score: jax.Array, loss: jax.Array) -> jax.Array:
        """Sum (B,) of losses (B, n) of the negatives times their weights; divides once a triple."""
        if not self.negative_adversarial_sampling:
            return jnp.mean(loss, axis=-1)
        weights = self._unnormalized(negative_score)
        return jnp.sum(weights * loss, axis=-1) / jnp.sum(weights, axis=-1)

    def _unnormalized(self, negative_score: jax.Array) -> jax.Array:
        score = self.negative_adversarial_scale * jax.lax.stop_gradient(negative_score)
        return jnp.exp(score - jnp.max(score, axis=-1, keepdims=True))


class LogSigmoidLoss(MarginBasedLossFunction):
    """-(log s(positive + m) + sum_j w_j log s(-negative_j - m)) / 2, with s the sigmoid.

    Sun et al. 2019 (RotatE), eq. 6. BESS-KGE: `LogSigmoidLoss`.
    """

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        negative = self.weighted_sum(negative_score, log_sigmoid(-negative_score - self.margin))
        return -0.5 * (log_sigmoid(positive_score + self.margin) + negative)


class MarginRankingLoss(MarginBasedLossFunction):
    """sum_j w_j max(negative_j - positive + m, 0).

    Bordes et al. 2013 (TransE), eq. 1. BESS-KGE: `MarginRankingLoss`.
    """

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        violation = relu(negative_score - positive_score[:, None] + self.margin)
        return self.weighted_sum(negative_score, violation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSoftmaxCrossEntropyLoss(BaseLossFunction):
    """Cross entropy of the positive among itself and its n negatives, which stand for all other entities.

    Attributes:
        n_entity: number of entities; log((n_entity - 1) / n) is added to negative scores.

    Jean et al. 2015. BESS-KGE: `SampledSoftmaxCrossEntropyLoss`. Differs from BESS-KGE: the scores passed in are not
    changed.
    """

    n_entity: int

    def __post_init__(self) -> None:
        _checks.at_least("n_entity", self.n_entity, 2)

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        shift = jnp.log(jnp.float32((self.n_entity - 1) / negative_score.shape[-1]))
        rest = jax.nn.logsumexp(negative_score, axis=-1) + shift
        return jax.nn.softplus(rest - positive_score)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropyLoss(BaseLossFunction):
    """Cross entropy of the positive among itself and its negatives; with all entities as negatives, the full softmax.

    For the full softmax (1vsAll) take the negatives from `AllEntitiesNegativeSampler` and set
    `positive_among_negatives`: the loss is then logsumexp(all scores) - positive.

    Attributes:
        positive_among_negatives: True if the negatives hold the positive's own entity once, which is then not counted a
            second time; False if they do not.

    Lacroix et al. 2018 (CP-N3), eq. 3, one side at a time. BESS-KGE has no counterpart.
    """

    positive_among_negatives: bool = False

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        rest = jax.nn.logsumexp(negative_score, axis=-1) - positive_score
        return rest if self.positive_among_negatives else jax.nn.softplus(rest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCEWithLogitsLoss(BaseLossFunction):
    """-log s(positive + c) - sum_j log s(-negative_j - c), with s the sigmoid: binary cross entropy of labels 1 and 0.

    A sum over negatives, not a mean: for a mean over all entities set `loss_scale` to 1 / n_entity.

    Attributes:
        offset: c, added to all scores; helps distances, which are never positive.
        positive_among_negatives: as in `SoftmaxCrossEntropyLoss`; the own entity then has label 1 only.

    Dettmers et al. 2018 (ConvE), eq. 2, with one answer a query. BESS-KGE has no counterpart.
    """

    offset: float = 0.0
    positive_among_negatives: bool = False

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        positive, negative = positive_score + self.offset, negative_score + self.offset
        as_negative = jnp.sum(jax.nn.softplus(negative), axis=-1)
        if self.positive_among_negatives:
            as_negative -= jax.nn.softplus(positive)
        return jax.nn.softplus(-positive) + as_negative


@dataclasses.dataclass(frozen=True, kw_only=True)
class LpRegularization:
    """weight * sum of |x|^p over the components of the rows that a triple uses.

    Complex components count by their modulus; p = 3 on ComplEx is N3 (Lacroix et al. 2018, eq. 5).

    Attributes:
        weight: factor.
        p: the power, 2 or 3.
    """

    weight: float
    p: int = 3

    def __post_init__(self) -> None:
        _checks.at_least("weight", self.weight, 0)
        _checks.one_of("p", self.p, (2, 3))

    def __call__(self, square_modulus: jax.Array) -> jax.Array:
        """Penalty of each triple, (B,) float32, of squared moduli (B, n_component)."""
        square = square_modulus.astype(jnp.float32)
        if self.p == 2:
            return self.weight * jnp.sum(square, axis=-1)
        return self.weight * jnp.sum(square * sqrt(square), axis=-1)
