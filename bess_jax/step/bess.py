"""BESS: one step of distributed scoring, as a pure function of parameters and batch."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax import _checks
from bess_jax._numerics import MASKED_SCORE, take_rows
from bess_jax._typing import AxisName
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, ShardedNegativeSampler
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.loss import BaseLossFunction, LpRegularization
from bess_jax.step.metric import Evaluation
from bess_jax.step.spmd import AXIS_NAME, exchange


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
    """What a score function with a network carries from step to step beside its parameters."""

    statistics: Any  # "batch_stats" collection, replicated: running statistics, averaged over the shards
    dropout_key: Any  # (2,) uint32, another one on every shard


class Embedded(NamedTuple):
    """What a shard knows of its micro-batch once rows are exchanged."""

    head: jax.Array  # (B, E)
    relation: jax.Array  # (B,) int32
    tail: jax.Array  # (B, E)
    negative: jax.Array  # (sets of negatives, S * N, E), major: the shard they came from or, if they stay, are for


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
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
        axis_name: name of the mapped shard axis.

    BESS-KGE: `BessKGE`. Differs from BESS-KGE: the loss leaves the returned scores as they are.
    """

    negative_sampler: ShardedNegativeSampler
    score_fn: BaseScoreFunction
    loss_fn: BaseLossFunction | None = None
    evaluation: Evaluation | None = None
    return_scores: bool = False
    augment_negative: bool = False
    regularizer: LpRegularization | None = None
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

    @abc.abstractmethod
    def score_batch(
        self, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array, negative: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Positive scores (B,) and negative scores (B, n) of the micro-batch; arguments as in `forward`.

        BESS-KGE: `BessKGE.score_batch`.
        """

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
        dropout_key: jax.Array | None = None,
    ) -> dict[str, Any]:
        """One step on one shard: gather rows, exchange them, score, compute loss and metrics.

        Args:
            params: parameters of this shard.
            head: (1, S, P) int32 `entity_local` ids on this shard, by shard of the tail.
            relation: (1, S, P) int32 relation ids.
            tail: (1, S, P) int32 `entity_local` ids on this shard, by shard of the head, which scores the triple.
            negative: (1, S, sets, N) int32 `entity_local` ids on this shard, by shard that scores them; sets is 1, 2
                ("ht", flat) or B = S * P.
            triple_mask: (1, S, P) bool, False for triples that metrics leave out; the loss takes all.
            triple_weight: (1, B) or (1,) float32 weights in the loss.
            negative_mask: (1, sets, S, N) bool, False for padding, by shard that holds the negatives.
            dropout_key: given in training, another one on every shard and in every step; only a network uses it, and
                works as in training if and only if it is given.

        Returns:
            Those asked for of "loss" () float32, the sum over the micro-batch; "metrics"; "ranks" (B,);
            "positive_score" (B,) and "negative_score" (B, n). Of a network in training also "score_state", its
            statistics after this micro-batch, those of the shard.

        Raises:
            ValueError: if a shape is not the one above.

        BESS-KGE: `BessKGE.forward`.
        """
        self._check_layout(head, relation, tail, negative, triple_mask, triple_weight, negative_mask)
        rows = self._embed(params, head, relation, tail, negative)
        out: dict[str, Any] = {}
        if dropout_key is not None and self.score_fn.has_network:
            positive_score, negative_score, out["score_state"] = self._score_in_training(params, rows, dropout_key)
        else:
            positive_score, negative_score = self._score(params, rows)
        if negative_mask is not None:
            negative_score = negative_score.astype(jnp.float32) + self._penalty(negative_mask[0], len(positive_score))
        if self.loss_fn is not None:
            weight = jnp.ones((1,), jnp.float32) if triple_weight is None else triple_weight.reshape(-1)
            out["loss"] = self.loss_fn(positive_score, negative_score, weight)
            if self.regularizer is not None:
                moduli = self._apply(params, "penalized", rows.head, rows.relation, rows.tail)
                out["loss"] += self.loss_fn.loss_scale * jnp.sum(weight * self.regularizer(moduli))
        if self.evaluation is not None:
            ranks = self.evaluation.ranks_from_scores(positive_score, negative_score)
            mask = None if triple_mask is None else triple_mask.reshape(-1)
            out["metrics"] = self.evaluation.stacked_metrics_from_ranks(ranks, mask)[0]
            if self.evaluation.return_ranks:
                out["ranks"] = ranks
        if self.return_scores:
            out |= {"positive_score": positive_score, "negative_score": negative_score}
        return out

    @property
    def _negatives_stay(self) -> bool:
        """True if the rows of negatives are not exchanged."""
        return self.negative_sampler.local_sampling

    def _embed(
        self, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array, negative: jax.Array
    ) -> Embedded:
        _, n_shard, size = head.shape
        sets, n_negative = negative.shape[2:]
        blocks = [ids[0].reshape(n_shard, -1) for ids in (head, tail, negative)]
        rows = take_rows(params.entity, jnp.concatenate(blocks, axis=1))  # one gather, (S, 2 P + sets * N, E)
        width = rows.shape[-1]
        kept, sent = jnp.split(rows, [size], axis=1)
        if self._negatives_stay:
            sent, kept_negative = jnp.split(sent, [size], axis=1)
            arrived = jnp.concatenate([exchange(sent, self.axis_name), kept_negative], axis=1)
        else:
            arrived = exchange(sent, self.axis_name)
        tail_rows, negative_rows = jnp.split(arrived, [size], axis=1)
        negative_rows = jnp.swapaxes(negative_rows.reshape(n_shard, sets, n_negative, width), 0, 1)
        return Embedded(
            head=kept.reshape(-1, width),
            relation=relation.reshape(-1),
            tail=tail_rows.reshape(-1, width),
            negative=negative_rows.reshape(sets, -1, width),
        )

    @abc.abstractmethod
    def _score(self, params: Params, rows: Embedded) -> tuple[jax.Array, jax.Array]:
        """Scores of the micro-batch, as `score_batch`."""

    def _score_in_training(
        self, params: Params, rows: Embedded, dropout_key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """The same of a network in training, and its statistics afterwards."""
        raise ValueError(f"{type(self).__name__} does not train networks: use EmbeddingMovingBessKGE")

    def _sides(self, micro_batch: int) -> list[tuple[str, np.ndarray]]:
        """The corrupted sides and the rows of the micro-batch that each holds for."""
        scheme = self.negative_sampler.corruption_scheme
        everything = np.arange(micro_batch)
        if scheme != "ht":
            return [(scheme, everything)]
        size = micro_batch // self.score_fn.sharding.n_shard
        first = everything % size < size // 2
        return [("h", everything[first]), ("t", everything[~first])]

    def _penalty(self, negative_mask: jax.Array, micro_batch: int) -> jax.Array:
        sets = negative_mask.shape[0]
        penalty = jnp.where(negative_mask, jnp.float32(0), jnp.float32(MASKED_SCORE)).reshape(sets, -1)
        flat = self.negative_sampler.flat_negative_format
        shared = self.score_fn.negative_sample_sharing
        sides = self._sides(micro_batch)
        blocks = []
        for number, (_, triples) in enumerate(sides):
            block = penalty[number][None] if flat else penalty[triples]  # (1 or rows, S * N)
            if self.augment_negative:
                n_own = len(triples) if flat else 1
                block = jnp.pad(block, ((0, 0), (n_own, 0)))
            if shared and not flat:
                block = block.reshape(1, -1)
            blocks.append(jnp.broadcast_to(block, (len(triples), block.shape[-1])))
        order = np.argsort(np.concatenate([triples for _, triples in sides]))
        return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks)[order]

    def _score_candidates(
        self, params: Params, side: str, known: jax.Array, relation: jax.Array, candidate: jax.Array
    ) -> jax.Array:
        """Scores (b, n) of candidates for `side` (1 or b, c, E) for rows (b, E) of the other side and relations (b,).

        Under `evaluation`, products have whole `LANES`, so that equal rows have equal scores, in every bit.
        """
        n_column = 0
        if self.evaluation is not None and self._meets_all(candidate):
            candidate = candidate.reshape(1, -1, candidate.shape[-1])
            n_column = candidate.shape[1]
            candidate = jnp.pad(candidate, ((0, 0), (0, whole_lanes(n_column) - n_column), (0, 0)))
        if side == "h":
            scores = self._apply(params, "score_heads", candidate, relation, known)
        else:
            scores = self._apply(params, "score_tails", known, relation, candidate)
        return scores[:, :n_column] if n_column else scores

    def _score_positives(self, params: Params, rows: Embedded) -> jax.Array:
        """Scores (B,) of the positives; under `evaluation` computed as those of the candidates they meet."""
        if self.evaluation is None or not self.score_fn.sides_agree:
            return self._apply(params, "score_triple", rows.head, rows.relation, rows.tail)
        scores = []
        sides = self._sides(len(rows.head))
        for side, triples in sides:
            own, known = (rows.head, rows.tail) if side == "h" else (rows.tail, rows.head)
            own = own[triples]
            flat = self.negative_sampler.flat_negative_format or self.score_fn.negative_sample_sharing
            candidate = own[None] if flat else own[:, None]
            block = self._score_candidates(params, side, known[triples], rows.relation[triples], candidate)
            scores.append(jnp.diagonal(block) if flat else block[:, 0])
        return jnp.concatenate(scores)[np.argsort(np.concatenate([triples for _, triples in sides]))]

    def _meets_all(self, candidate: jax.Array) -> bool:
        """True if every query meets all candidates (1 or b, c, E)."""
        return self.score_fn.negative_sample_sharing or candidate.shape[0] == 1

    def _apply(self, params: Params, method: str, *args: jax.Array) -> jax.Array:
        return cast(jax.Array, self.score_fn.apply(params.variables, *args, method=method))

    def _check_layout(
        self,
        head: jax.Array,
        relation: jax.Array,
        tail: jax.Array,
        negative: jax.Array,
        triple_mask: jax.Array | None,
        triple_weight: jax.Array | None,
        negative_mask: jax.Array | None,
    ) -> None:
        n_shard = self.score_fn.sharding.n_shard
        _checks.shape("head", head, (1, n_shard, None), "(1, S, P)")
        size = head.shape[-1]
        if self.negative_sampler.corruption_scheme == "ht" and size % 2:
            raise ValueError(f"head must hold an even number of triples per partition for corruption 'ht', got {size}")
        for name, ids in (("relation", relation), ("tail", tail), ("triple_mask", triple_mask)):
            if ids is not None:
                _checks.shape(name, ids, (1, n_shard, size), "(1, S, P)")
        sets = self.negative_sampler.n_set(n_shard * size)
        _checks.shape("negative", negative, (1, n_shard, sets, None), "(1, S, sets, N)")
        if negative_mask is not None:
            _checks.shape("negative_mask", negative_mask, (1, sets, n_shard, negative.shape[-1]), "(1, sets, S, N)")
        if triple_weight is not None and triple_weight.size > 1:
            _checks.shape("triple_weight", triple_weight, (1, n_shard * size), "(1, S * P)")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EmbeddingMovingBessKGE(BessKGE):
    """The shard of the head scores a triple: rows of tails and negatives are sent to it.

    Cattaneo et al. 2022 (BESS, arXiv 2211.12281), section 3. BESS-KGE: `EmbeddingMovingBessKGE`.
    """

    def score_batch(
        self, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array, negative: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `BessKGE.score_batch`.

        Columns of the negative scores, outermost first, q being the shard that holds the negative and x its number
        there: (q, x); where negatives are shared and not flat (row, q, x) over all rows corrupted on the same side.
        Augmentation puts the entities of those rows in front: of all columns (flat) or of the row's own block.
        """
        self._check_layout(head, relation, tail, negative, None, None, None)
        return self._score(params, self._embed(params, head, relation, tail, negative))

    def _score(self, params: Params, rows: Embedded) -> tuple[jax.Array, jax.Array]:
        sides = self._sides(len(rows.head))
        if (
            self.negative_sampler.corruption_scheme == "t" and self.evaluation is None
        ):  # one query serves the positive and the candidates
            args = (rows.head, rows.relation, rows.tail, self._candidates(rows, *sides[0], 0))
            positive, score = self._apply(params, "score_triple_and_tails", *args)
            return positive, self._hide_own(score)
        positive = self._score_positives(params, rows)
        scores = [self._score_side(params, rows, side, number, triples) for number, (side, triples) in enumerate(sides)]
        order = np.argsort(np.concatenate([triples for _, triples in sides]))
        return positive, scores[0] if len(scores) == 1 else jnp.concatenate(scores)[order]

    def _score_in_training(
        self, params: Params, rows: Embedded, dropout_key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        args = (rows.head, rows.relation, rows.tail, self._candidates(rows, "t", np.arange(len(rows.head)), 0))
        (positive, score), new = self.score_fn.in_training(self.axis_name).apply(
            params.variables,
            *args,
            method="score_triple_and_tails",
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        return positive, self._hide_own(score), dict(new.get("batch_stats", {}))

    def _score_side(self, params: Params, rows: Embedded, side: str, number: int, triples: np.ndarray) -> jax.Array:
        """Negative scores of the rows `triples`, all corrupted on `side`, the `number`-th of the scheme."""
        everything = len(triples) == len(rows.head)
        head, relation, tail = (x if everything else x[triples] for x in (rows.head, rows.relation, rows.tail))
        candidate = self._candidates(rows, side, triples, number)
        known = tail if side == "h" else head
        return self._hide_own(self._score_candidates(params, side, known, relation, candidate))

    def _candidates(self, rows: Embedded, side: str, triples: np.ndarray, number: int) -> jax.Array:
        """Candidates (1 or rows, n, E) of the rows `triples`, with their own entities in front if augmented."""
        everything = len(triples) == len(rows.head)
        flat = self.negative_sampler.flat_negative_format
        candidate = rows.negative[number][None] if flat else rows.negative if everything else rows.negative[triples]
        if not self.augment_negative:
            return candidate
        own = rows.head if side == "h" else rows.tail
        own = own if everything else own[triples]
        return jnp.concatenate([own[None] if flat else own[:, None], candidate], axis=1)

    def _hide_own(self, score: jax.Array) -> jax.Array:
        """Scores (rows, n) of `_candidates`, with a penalty on each row's own entity."""
        if not self.augment_negative:
            return score
        n_row, n = score.shape
        column = np.arange(n_row) * (1 if self.negative_sampler.flat_negative_format else n // n_row)
        is_own = np.arange(n)[None] == column[:, None]
        return score + jnp.where(is_own, jnp.asarray(MASKED_SCORE, score.dtype), jnp.zeros((), score.dtype))
