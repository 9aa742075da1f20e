"""BESS: one step of distributed scoring, as a pure function of parameters and batch."""

from __future__ import annotations

import abc
import math
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import dataclass, zip
from bess_jax._numerics import MASKED_SCORE, diagonal, take_rows
from bess_jax._typing import SIDE_OF, AxisName, EntitySide
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, ShardedNegativeSampler
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.collectives import AXIS_NAME, exchange
from bess_jax.step.layout import check_layout, is_grouped
from bess_jax.step.loss import BaseLossFunction, LabelLossFunction, Labels, Regularization
from bess_jax.step.metric import Evaluation
from bess_jax.step.relation import relation_loss
from bess_jax.step.rows import Embedded, RowDropout, repeat
from bess_jax.step.sides import Lists, Sides


class Params(NamedTuple):
    """Parameters of a model. `BessKGE.init` gives every leaf a leading shard axis (S, ...)."""

    entity: Any  # (M, E) float32: the entity rows of one shard, by entity_local id
    score_fn: Any  # replicated "params" collection of the score function: relation_embedding (n_relation, R), ...
    score_state: Any = ()  # replicated "batch_stats" collection, where there is one; not trained: () in `TrainState`

    @property
    def variables(self) -> dict[str, Any]:
        """What `apply` of the score function takes."""
        return {"params": self.score_fn, **({"batch_stats": self.score_state} if self.score_state else {})}


class ScoreState(NamedTuple):
    """What a model that needs a key carries from step to step beside its parameters."""

    statistics: Any  # "batch_stats" collection of a network, replicated: averaged over the shards; else ()
    dropout_key: Any  # (2,) uint32, another one on every shard


@dataclass(frozen=True, eq=False, kw_only=True)
class BessKGE(abc.ABC):
    """Base of the distribution schemes. Holds configuration only; parameters are passed in.

    `forward` and `score_batch` run on one shard, under any mapping that names the shard axis: `jax.pmap`,
    `jax.shard_map`, `jax.vmap(axis_name=...)`.

    Attributes:
        negative_sampler: tells the corruption scheme and the format of the negatives.
        score_fn: the score function.
        loss_fn: the loss, needed to train.
        evaluation: metrics to compute on the device, if any.
        return_scores: also return the scores.
        augment_negative: use the heads (tails) of the other positives corrupted on the same side as further negatives.
        regularizer: penalty of the rows of the positives, added to the loss.
        relation_weight: weight of predicting the relation too, see `relation_loss`, added to the loss of each positive.
        dropout: of the rows that are scored in training; regularizer and `relation_loss` take whole rows.
        axis_name: name of the mapped shard axis.

    Raises:
        TypeError: on a negative sampler that samples none.
        ValueError: if sampler, score function and options do not fit each other, or nothing would be returned.

    BESS-KGE: `BessKGE`. Differs from BESS-KGE: the loss leaves the returned scores as they are.
    """

    negative_sampler: ShardedNegativeSampler
    score_fn: BaseScoreFunction
    loss_fn: BaseLossFunction | None = None
    evaluation: Evaluation | None = None
    return_scores: bool = False
    augment_negative: bool = False
    regularizer: Regularization | None = None
    relation_weight: float = 0.0
    dropout: RowDropout | None = None
    axis_name: AxisName = AXIS_NAME

    def __post_init__(self) -> None:
        if isinstance(self.negative_sampler, PlaceholderNegativeSampler):
            raise TypeError(
                "negative_sampler must sample negatives, got a PlaceholderNegativeSampler, which stands for all "
                "entities; it goes with TopKQueryBessKGE and AllScoresBESS"
            )
        if self.score_fn.sharding is not self.negative_sampler.sharding:
            raise ValueError(
                "score_fn must use the sharding object of negative_sampler, got another; pass the same Sharding to both"
            )
        if self.negative_sampler.mask_on_gather:
            raise ValueError(
                "negative_sampler must have mask_on_gather=False, for masks to be where triples are scored, got True; "
                "True is for TopKQueryBessKGE"
            )
        if self.augment_negative and not self.score_fn.negative_sample_sharing:
            raise ValueError("augment_negative needs a score_fn with negative_sample_sharing=True, got False")
        loss_fn = self.loss_fn
        if self.augment_negative and isinstance(loss_fn, LabelLossFunction) and loss_fn.positive_among_negatives:
            raise ValueError(
                "augment_negative must be False for a loss_fn with positive_among_negatives=True, whose negatives are "
                "all entities already, got True"
            )
        _checks.at_least("relation_weight", self.relation_weight, 0)
        if self.relation_weight and self.score_fn.has_network:
            raise ValueError(
                f"relation_weight must be 0 for {type(self.score_fn).__name__}, whose network runs once a step, for "
                f"the triple's own relation, got {self.relation_weight}"
            )
        if self.regularizer is not None:
            self.regularizer.check_model(self.score_fn)
        scheme = self.negative_sampler.corruption_scheme
        if scheme != "t" and not self.score_fn.scores_heads:
            raise ValueError(
                f"negative_sampler must have corruption_scheme='t' for {type(self.score_fn).__name__}, which scores "
                f"only tails, got {scheme!r}; heads are learned as tails of inverse relations: inverse_relations=True "
                "in score_fn and add_inverse_triples=True in PartitionedTripleSet.create_from_dataset"
            )
        if not (self.loss_fn or self.evaluation or self.return_scores):
            raise ValueError("give at least one of loss_fn, evaluation and return_scores: nothing would be returned")

    @property
    def n_embedding_parameters(self) -> int:
        """Trainable numbers in the entity table, padding left out, and in the relation table."""
        score_fn = self.score_fn
        return score_fn.sharding.n_entity * score_fn.entity_width + score_fn.n_relation * score_fn.relation_width

    def init_shard(self, key: jax.Array, shard: jax.Array) -> Params:
        """Parameters of shard number `shard`, () int32, without shard axis. The same `key` serves all shards."""
        entity_key, score_fn_key = jax.random.split(key)
        n_row = self.score_fn.sharding.max_entity_per_shard
        entity = self.score_fn.init_entity(jax.random.fold_in(entity_key, shard), n_row)
        return Params(entity, self.score_fn.init_params(score_fn_key))

    def init(self, key: jax.Array) -> Params:
        """Parameters of all shards, every leaf with a leading axis (S, ...), ready for `jax.pmap`."""
        shards = jnp.arange(self.score_fn.sharding.n_shard)
        params: Params = jax.jit(jax.vmap(self.init_shard, in_axes=(None, 0)))(key, shards)
        return params

    def score_batch(
        self, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array, negative: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Positive scores (B,) and negative scores (B, n) of the micro-batch; arguments as in `forward`.

        The columns of the negative scores are those that the class describes.

        BESS-KGE: `BessKGE.score_batch`.
        """
        check_layout(self.negative_sampler, head, negative=negative, relation=relation, tail=tail)
        positive, against, _ = self._score(params, self._embed(params, head, relation, tail, negative), None)
        return positive, against

    def forward(
        self,
        params: Params,
        head: jax.Array,
        relation: jax.Array,
        tail: jax.Array,
        negative: jax.Array,
        triple_mask: jax.Array | None = None,
        triple_weight: jax.Array | None = None,
        negative_mask: jax.Array | None = None,
        answer_share: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> dict[str, Any]:
        """One step on one shard: gather rows, exchange them, score, compute loss and metrics.

        Args:
            params: parameters of this shard.
            head: (1, S, P) int32 `entity_local` ids on this shard, by shard of the tail.
            relation: (1, S, P) int32 relation ids.
            tail: (1, S, P) int32 `entity_local` ids on this shard, by shard of the head, which scores the triple; or
                (1, S, P, K), K answers of each query (h, r, ?), which meet the same negatives.
            negative: (1, S, L, N) int32 `entity_local` ids on this shard, by shard that scores them; L is 1, 2 ("ht",
                flat) or B = S P.
            triple_mask: (1, S, P) bool, False for triples that metrics leave out; the loss takes all.
            triple_weight: (1, B), or (1, B, K), or (1,) float32 weights in the loss.
            negative_mask: (1, L, S, N) bool, False for padding, by shard that holds the negatives.
            answer_share: (1, B), or (1, B, K), float32, 1 / number of answers of the query, where all are labelled.
            dropout_key: given in training, another one on every shard and in every step; a network, and dropout of
                rows, work as in training if and only if it is given.

        Returns:
            Those asked for of "loss" () float32, the sum over the micro-batch; "metrics"; "ranks" (B,);
            "positive_score" (B,), or (B, K), and "negative_score" (B, n). Of a network in training also "score_state",
            its statistics after this micro-batch, those of the shard.

        Raises:
            ValueError: if a shape is not the one above, a network is to be trained that the scheme does not train, the
                loss has no use for `answer_share`, or answers are grouped for what needs one of each query.

        BESS-KGE: `BessKGE.forward`.
        """
        if dropout_key is not None:
            self.check_training()
        masks = {"triple_mask": triple_mask, "negative_mask": negative_mask}
        of_triples = {"triple_weight": triple_weight, "answer_share": answer_share}
        check_layout(
            self.negative_sampler, head, negative=negative, relation=relation, tail=tail, **masks, **of_triples
        )
        if is_grouped(tail):
            self._check_grouped()
        rows = self._embed(params, head, relation, tail, negative)
        scored = rows
        if dropout_key is not None and self.dropout is not None:
            scored = self.dropout(dropout_key, rows, partial(self._apply, params, "relation_rows"))
        positive_score, negative_score, statistics = self._score(params, scored, dropout_key)
        out: dict[str, Any] = {} if statistics is None else {"score_state": statistics}
        mask = None if negative_mask is None else self._candidate_mask(negative_mask[0], len(positive_score))
        if mask is not None:
            penalty = jnp.where(mask, jnp.float32(0), jnp.float32(MASKED_SCORE))
            negative_score = negative_score.astype(jnp.float32) + penalty
        if self.loss_fn is not None:
            weight = jnp.ones((), jnp.float32) if triple_weight is None else triple_weight[0]
            labels = Labels(mask, None if answer_share is None else answer_share[0])
            out["loss"] = self.loss_fn(positive_score, negative_score, weight, labels)
            for further in self._further_losses(params, rows):
                out["loss"] += self.loss_fn.loss_scale * jnp.sum(weight.reshape(-1) * further)
        if self.evaluation is not None:
            ranks = self.evaluation.ranks_from_scores(positive_score, negative_score)
            counted = None if triple_mask is None else triple_mask.reshape(-1)
            out["metrics"] = self.evaluation.stacked_metrics_from_ranks(ranks, counted)[0]
            if self.evaluation.return_ranks:
                out["ranks"] = ranks
        if self.return_scores:
            out.update({"positive_score": positive_score, "negative_score": negative_score})
        return out

    @property
    def needs_key(self) -> bool:
        """True if training draws at random: with dropout of rows, or a network."""
        return self.dropout is not None or self.score_fn.has_network

    @property
    def trains_networks(self) -> bool:
        """True if a score function with a network can be trained: it must run once a step."""
        return False

    def check_training(self) -> None:
        """Checks that the score function can be trained.

        Raises:
            ValueError: if it has a network that is not run once a step.
        """
        if self.score_fn.has_network and not self.trains_networks:
            raise ValueError(
                "model must be an EmbeddingMovingBessKGE with corruption_scheme 't' to train "
                f"{type(self.score_fn).__name__}, whose network runs once a step, where the triple is; got a "
                f"{type(self).__name__} with {self.negative_sampler.corruption_scheme!r}"
            )

    def _check_grouped(self) -> None:
        """Raises ValueError unless answers of a query can be scored together."""
        if self.evaluation or self.augment_negative or self.negative_sampler.corruption_scheme != "t":
            raise ValueError(
                "tail must be (1, S, P), one answer of each query, with evaluation, augment_negative or another "
                "corruption scheme than 't', got (1, S, P, K)"
            )

    @property
    def lists(self) -> Lists:
        """Which negatives a positive meets."""
        if self.negative_sampler.flat_negative_format:
            return Lists.ONE
        return Lists.ALL if self.score_fn.negative_sample_sharing else Lists.OWN

    @cached_property
    def sides(self) -> Sides:
        """Positives by corrupted side."""
        names = tuple(SIDE_OF[letter] for letter in self.negative_sampler.corruption_scheme)
        return Sides(names, self.score_fn.sharding.n_shard)

    @property
    def _negatives_stay(self) -> bool:
        """True if the rows of negatives are not exchanged."""
        return self.negative_sampler.local_sampling

    @property
    def _exact_ties(self) -> bool:
        return self.evaluation is not None and self.evaluation.exact_ties

    def _embed(
        self, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array, negative: jax.Array
    ) -> Embedded:
        _, n_shard, size = head.shape
        n_tail = math.prod(tail.shape[2:])
        n_list, n_negative = negative.shape[2:]
        blocks = [ids[0].reshape(n_shard, -1) for ids in (head, tail, negative)]
        rows = take_rows(params.entity, jnp.concatenate(blocks, axis=1))  # one gather, (S, P + P [K] + L N, E)
        width = rows.shape[-1]
        kept, sent = jnp.split(rows, [size], axis=1)
        if self._negatives_stay:
            sent, kept_negative = jnp.split(sent, [n_tail], axis=1)
            arrived = jnp.concatenate([exchange(sent, self.axis_name), kept_negative], axis=1)
        else:
            arrived = exchange(sent, self.axis_name)
        tail_rows, negative_rows = jnp.split(arrived, [n_tail], axis=1)
        negative_rows = jnp.swapaxes(negative_rows.reshape(n_shard, n_list, n_negative, width), 0, 1)
        return Embedded(
            head=kept.reshape(-1, width),
            relation=relation.reshape(-1),
            tail=tail_rows.reshape(-1, *tail.shape[3:], width),
            negative=negative_rows.reshape(n_list, -1, width),
        )

    @abc.abstractmethod
    def _score(self, params: Params, rows: Embedded, dropout_key: jax.Array | None) -> tuple[jax.Array, jax.Array, Any]:
        """Scores as in `score_batch`; of a network in training its statistics afterwards, else None."""

    def _lists_of_side(self, lists: jax.Array, number: int) -> jax.Array:
        """Of lists (L, ...) those for the positives of side `number`, (1, ...) or (b, ...)."""
        if self.negative_sampler.flat_negative_format:  # how they are laid out, whoever meets them
            return jax.lax.slice_in_dim(lists, number, number + 1)
        part: jax.Array = self.sides.split(lists)[number]
        return part

    def _further_losses(self, params: Params, rows: Embedded) -> list[jax.Array]:
        """What each positive adds to the loss by its own rows, (B,) float32 each, or (B K,)."""
        losses = []
        relation, triples = rows.relation, rows
        if rows.tail.ndim == 3:  # the rows of a query once for each of its answers; read once
            rows_of_relations = self._apply(params, "relation_rows", relation) if self.regularizer else relation
            relation = repeat(rows_of_relations, rows.tail.shape[1])
            triples = rows.of_answers()
        if self.regularizer is not None:
            losses.append(self.regularizer(*self._apply(params, "penalized", triples.head, relation, triples.tail)))
        if self.relation_weight:
            own = relation_loss(self.score_fn, params.variables, triples.head, triples.relation, triples.tail)
            losses.append(self.relation_weight * own)
        return losses

    def _candidate_mask(self, negative_mask: jax.Array, micro_batch: int) -> jax.Array:
        """Which negative scores (B, n) are of no padding, by the mask (L, S, N) of the lists."""
        mask = negative_mask.reshape(len(negative_mask), -1)
        n_row = micro_batch // len(self.sides.names)
        blocks = []
        for number in range(len(self.sides.names)):
            block = self._lists_of_side(mask, number)
            if self.augment_negative:
                n_own = n_row if self.lists is Lists.ONE else 1
                block = jnp.pad(block, ((0, 0), (n_own, 0)), constant_values=True)
            if self.lists is Lists.ALL:
                block = block.reshape(1, -1)
            blocks.append(jnp.broadcast_to(block, (n_row, block.shape[-1])))
        return self.sides.join(blocks)

    def _score_positives(self, params: Params, rows: Embedded) -> jax.Array:
        """Scores (B,) of the positives, for exact ties computed as those of the candidates they meet."""
        if not (self._exact_ties and self.score_fn.sides_agree):
            return self._apply(params, "score_triple", rows.head, rows.relation, rows.tail)
        scores = []
        by_side = self.sides.split((rows.head, rows.relation, rows.tail))
        for side, (head, relation, tail) in zip(self.sides.names, by_side, strict=True):
            own, known = (head, tail) if side == "head" else (tail, head)
            alone = self.lists is Lists.OWN
            candidate = own[:, None] if alone else own[None]
            block = self._score_candidates(params, side, known, relation, candidate)
            scores.append(jnp.squeeze(block, axis=1) if alone else diagonal(block))
        return self.sides.join(scores)

    def _score_candidates(
        self, params: Params, side: EntitySide, known: jax.Array, relation: jax.Array, candidate: jax.Array
    ) -> jax.Array:
        """Scores (b, n) of candidates for `side`, (1 or b, m, E), for rows (b, E) of the other and relations (b,).

        For exact ties, products have whole `LANES`, so that equal rows have equal scores, in every bit.
        """
        n_column = 0
        if self._exact_ties and (self.score_fn.negative_sample_sharing or candidate.shape[0] == 1):
            candidate = candidate.reshape(1, -1, candidate.shape[-1])
            n_column = candidate.shape[1]
            candidate = jnp.pad(candidate, ((0, 0), (0, whole_lanes(n_column) - n_column), (0, 0)))
        args = (candidate, relation, known) if side == "head" else (known, relation, candidate)
        scores = self._apply(params, f"score_{side}s", *args)
        return jax.lax.slice_in_dim(scores, 0, n_column, axis=1) if n_column else scores

    def _apply(self, params: Params, method: str, *args: jax.Array) -> jax.Array:
        return cast("jax.Array", self.score_fn.apply(params.variables, *args, method=method))
