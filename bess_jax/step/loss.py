"""Losses of positive and negative scores, and regularization of the rows of a batch."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import dataclass
from bess_jax._numerics import log_sigmoid, relu, sqrt
from bess_jax.scoring import BaseScoreFunction


class Labels(NamedTuple):
    """What a step knows of the labels of the scores, beside which are the positives'."""

    negative_mask: jax.Array | None = None  # (B, n) bool, False for padding; None: there is none
    answer_share: jax.Array | None = None  # (B, [K]) float32, 1 / number of answers of the query; None: one is labelled


_ONE_ANSWER = Labels()


@dataclass(frozen=True, kw_only=True)
class BaseLossFunction(abc.ABC):
    """What losses have in common: a float32 sum over the micro-batch, not a mean.

    Attributes:
        loss_scale: factor of the loss.

    BESS-KGE: `BaseLossFunction`.
    """

    loss_scale: float = 1.0

    @abc.abstractmethod
    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """Loss of each triple, like `positive_score`, before weight and scale; of scores in float32."""

    def per_labelled_triple(self, positive_score: jax.Array, negative_score: jax.Array, labels: Labels) -> jax.Array:
        """`per_triple` with what is known of the labels; padding is masked in the scores already.

        Raises:
            ValueError: if all answers of a query are labelled, and the loss has no labels.
        """
        _refuse_answers(self, labels)
        return self.per_triple(positive_score, negative_score)

    def __call__(
        self,
        positive_score: jax.Array,
        negative_score: jax.Array,
        triple_weight: jax.Array | float = 1.0,
        labels: Labels = _ONE_ANSWER,
    ) -> jax.Array:
        """Loss of a micro-batch, () float32.

        Args:
            positive_score: (B,) scores of the positives, or (B, K) of K answers of each query, against the same
                negatives.
            negative_score: (B, n) scores of their negatives, with `MASKED_SCORE` added to padding.
            triple_weight: (B,) or (B, K), (1,) or a number.
            labels: which negatives are padding, and how many answers a query has.

        Raises:
            ValueError: if the loss has no use for `labels.answer_share`.
        """
        scores = positive_score.astype(jnp.float32), negative_score.astype(jnp.float32)
        loss = self.per_labelled_triple(*scores, labels)
        total: jax.Array = self.loss_scale * jnp.sum(jnp.asarray(triple_weight, jnp.float32) * loss)
        return total


@dataclass(frozen=True, kw_only=True)
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
        return -0.5 * (log_sigmoid(positive_score + self.margin) + _for_answers(negative, positive_score))


class MarginRankingLoss(MarginBasedLossFunction):
    """sum_j w_j max(negative_j - positive + m, 0).

    Bordes et al. 2013 (TransE), eq. 1. BESS-KGE: `MarginRankingLoss`.
    """

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        negative = _for_answers(negative_score, positive_score)  # (B, [K,] n)
        return self.weighted_sum(negative, relu(negative - positive_score[..., None] + self.margin))


@dataclass(frozen=True, kw_only=True)
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
        return jax.nn.softplus(_for_answers(rest, positive_score) - positive_score)


@dataclass(frozen=True, kw_only=True)
class LabelLossFunction(BaseLossFunction):
    """Losses of scores against labels: 1 for answers, 0 for other candidates.

    With all entities as negatives (`AllEntitiesNegativeSampler`) and `positive_among_negatives`, a query is labelled by
    the answer of its triple (1vsAll), or by all its answers in the triple set (KvsAll): then the batch sampler has
    `return_answer_share`, and the sum over the triples of the set, each once, is the sum over its queries (h, r) (for
    corrupted heads: (r, t)). An answer counts in the step of its own triple; `answers_per_query` of the sampler brings
    those of a query together.

    Attributes:
        positive_among_negatives: True if the negatives hold the positive's own entity once, which is then not counted a
            second time; False if they do not.
        label_smoothing: e: labels y become (1 - e) y + e / n over the n candidates that are no padding. Needs
            `positive_among_negatives`. (LibKGE and the code of ConvE add 1 / n, PyKEEN spreads e over the others.)

    Raises:
        ValueError: if `label_smoothing` is not in [0, 1), or not 0 where the candidates lack the positive.
    """

    positive_among_negatives: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1, got {self.label_smoothing}")
        if self.label_smoothing and not self.positive_among_negatives:
            raise ValueError(
                f"label_smoothing must be 0 unless the negatives are all entities, got {self.label_smoothing}; take "
                "them from AllEntitiesNegativeSampler and set positive_among_negatives=True"
            )

    def per_triple(self, positive_score: jax.Array, negative_score: jax.Array) -> jax.Array:
        """See `BaseLossFunction.per_triple`."""
        return self.per_labelled_triple(positive_score, negative_score, _ONE_ANSWER)

    def _mean(self, score: jax.Array, labels: Labels) -> jax.Array:
        """Mean (B,) of the scores (B, n) that are no padding: what smoothed labels are multiplied with."""
        mask = labels.negative_mask
        if mask is None:
            return jnp.mean(score, axis=-1)
        return jnp.sum(jnp.where(mask, score, 0), axis=-1) / jnp.sum(mask, axis=-1, dtype=jnp.float32)


class SoftmaxCrossEntropyLoss(LabelLossFunction):
    """Cross entropy of the positive among itself and its negatives; with all entities as negatives, the full softmax.

    For the full softmax (1vsAll) take the negatives from `AllEntitiesNegativeSampler` and set
    `positive_among_negatives`: the loss is then logsumexp(all scores) - positive. For KvsAll the labels of a query are
    1 / (number of its answers), and its loss is the mean of that over its answers.

    Lacroix et al. 2018 (CP-N3), eq. 3, one side at a time; KvsAll as LibKGE's with the loss kl, up to a constant.
    BESS-KGE has no counterpart.
    """

    def per_labelled_triple(self, positive_score: jax.Array, negative_score: jax.Array, labels: Labels) -> jax.Array:
        """See `BaseLossFunction.per_labelled_triple`."""
        rest = _for_answers(jax.nn.logsumexp(negative_score, axis=-1), positive_score) - positive_score
        if not self.positive_among_negatives:
            _refuse_answers(self, labels)
            return jax.nn.softplus(rest)
        if self.label_smoothing:
            mean = _for_answers(self._mean(negative_score, labels), positive_score)
            rest += self.label_smoothing * (positive_score - mean)
        return rest if labels.answer_share is None else labels.answer_share * rest


@dataclass(frozen=True, kw_only=True)
class BCEWithLogitsLoss(LabelLossFunction):
    """-log s(positive + c) - sum_j log s(-negative_j - c), with s the sigmoid: binary cross entropy of labels 1 and 0.

    A sum over negatives, not a mean: for a mean over all entities set `loss_scale` to 1 / n_entity. With
    `positive_among_negatives` the own entity has label 1 only; for KvsAll a triple adds its query's
    sum_j log(1 + exp(negative_j + c)) by its share, 1 / (number of answers), and takes away its own score.

    Attributes:
        offset: c, added to all scores; helps distances, which are never positive.

    Dettmers et al. 2018 (ConvE), eq. 2. BESS-KGE has no counterpart.
    """

    offset: float = 0.0

    def per_labelled_triple(self, positive_score: jax.Array, negative_score: jax.Array, labels: Labels) -> jax.Array:
        """See `BaseLossFunction.per_labelled_triple`."""
        positive, negative = positive_score + self.offset, negative_score + self.offset
        of_query = jnp.sum(jax.nn.softplus(negative), axis=-1)  # as if no label were 1
        if not self.positive_among_negatives:
            _refuse_answers(self, labels)
            return jax.nn.softplus(-positive) + _for_answers(of_query, positive)
        if self.label_smoothing:
            of_query -= self.label_smoothing * self._mean(negative, labels)
        share = 1.0 if labels.answer_share is None else labels.answer_share
        return share * _for_answers(of_query, positive) - (1 - self.label_smoothing) * positive


@dataclass(frozen=True, kw_only=True)
class Regularization(abc.ABC):
    """What penalties of the rows that a triple uses have in common.

    A row is penalized in each triple that uses it, so as often as it occurs in the batch.

    Attributes:
        weight: factor of what is of entities alone.
        relation_weight: factor of what relations have part in; None: as `weight`.

    Raises:
        ValueError: if one of them is negative.
    """

    weight: float
    relation_weight: float | None = None

    is_of_products: ClassVar[bool] = False
    """True if it is for products of rows, which not every score function has."""

    def __post_init__(self) -> None:
        _checks.at_least("weight", self.weight, 0)
        _checks.at_least("relation_weight", self.weight_of_relations, 0)

    @property
    def weight_of_relations(self) -> float:
        """`relation_weight`, or what it is by default."""
        return self.weight if self.relation_weight is None else self.relation_weight

    def check_model(self, score_fn: BaseScoreFunction) -> None:
        """Raises ValueError if the penalty is not for this score function."""
        if self.is_of_products and not score_fn.is_diagonal:
            raise ValueError(
                f"regularizer must not be {type(self).__name__} for {type(score_fn).__name__}, whose scores are no sum "
                "of products h r t; use LpRegularization"
            )

    @abc.abstractmethod
    def __call__(self, head: jax.Array, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """Penalty of each triple, (B,) float32, of squared moduli of components (B, n), as `penalized` gives them."""


@dataclass(frozen=True, kw_only=True)
class LpRegularization(Regularization):
    """Sum of |x|^p over the components of head, relation and tail, each times its weight.

    Complex components count by their modulus; p = 3 on ComplEx is N3 (Lacroix et al. 2018, eq. 5). It is what LibKGE
    calls weighted, with weights that are p times those here, and with real and imaginary parts apart.

    Attributes:
        p: the power, 1, 2 or 3.
    """

    p: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("p", self.p, (1, 2, 3))

    def __call__(self, head: jax.Array, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """See `Regularization`; numbers of components may differ."""
        of_entities = self._sum(head) + self._sum(tail)
        return self.weight * of_entities + self.weight_of_relations * self._sum(relation)

    def _sum(self, square_modulus: jax.Array) -> jax.Array:
        square = square_modulus.astype(jnp.float32)
        if self.p == 2:
            return jnp.sum(square, axis=-1)
        modulus = sqrt(square)
        return jnp.sum(modulus if self.p == 1 else square * modulus, axis=-1)


class DuraRegularization(Regularization):
    """weight (|h|^2 + |t|^2) + relation_weight (|h r|^2 + |t conj(r)|^2), of scores sum h r conj(t).

    For models that are such a sum (`BaseScoreFunction.is_diagonal`): the modulus of a product is that of its factors.

    Zhang et al. 2020 (DURA, arXiv 2011.05816), where both weights are the same; DURA_W in the authors' code, which most
    of their settings have, is 0.5 and 1.5 times one weight.
    """

    is_of_products: ClassVar[bool] = True

    def __call__(self, head: jax.Array, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """See `Regularization`."""
        of_entities = head.astype(jnp.float32) + tail.astype(jnp.float32)
        factor = self.weight + self.weight_of_relations * relation.astype(jnp.float32)
        return jnp.sum(of_entities * factor, axis=-1)


def _for_answers(of_query: jax.Array, positive_score: jax.Array) -> jax.Array:
    """What belongs to queries, (B, ...), so that it goes with positives (B,), or (B, 1, ...) with answers (B, K)."""
    return of_query if positive_score.ndim == 1 else of_query[:, None]


def _refuse_answers(loss_fn: BaseLossFunction, labels: Labels) -> None:
    if labels.answer_share is not None:
        raise ValueError(
            f"answer_share must be None for {loss_fn}, which knows one answer of a query: set "
            "return_answer_share=False in the batch sampler, or use SoftmaxCrossEntropyLoss or BCEWithLogitsLoss with "
            "positive_among_negatives=True and all entities as negatives"
        )
