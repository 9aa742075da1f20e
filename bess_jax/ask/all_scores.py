"""Scores of all entities for every query, as BESS-KGE has them: on the devices, and filtered and ranked on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import dataclass
from bess_jax._numerics import take_rows
from bess_jax._typing import SIDE_OF, AxisName, EntitySide, Int32Array
from bess_jax.ask.known import KnownAnswers, check_k
from bess_jax.ask.shard import score_window
from bess_jax.ask.topk import check_kind, check_scheme, gather_queries
from bess_jax.data.batch_sampler import RigidShardedBatchSampler, ShardedBatchSampler
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.bess import Params
from bess_jax.step.collectives import AXIS_NAME, exchange
from bess_jax.step.metric import Evaluation
from bess_jax.step.spmd import Placement

_LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True, eq=False, kw_only=True)
class AllScoresBESS:
    """Scores of queries (h, r, ?) or (?, r, t) against all rows of all shards, block by block of the tables.

    Attributes:
        candidate_sampler: its scheme is the requested side.
        score_fn: the score function.
        window_size: W, rows of a shard in a block.
        axis_name: name of the mapped shard axis.

    Raises:
        TypeError: on a sampler of another kind.
        ValueError: on a sampler of scheme "ht", or "h" for a model that scores only tails; or if `window_size` is less
            than 1.

    BESS-KGE: `AllScoresBESS`.
    """

    candidate_sampler: PlaceholderNegativeSampler
    score_fn: BaseScoreFunction
    window_size: int = 1000
    axis_name: AxisName = AXIS_NAME

    def __post_init__(self) -> None:
        check_kind(self.candidate_sampler, PlaceholderNegativeSampler)
        check_scheme(self.candidate_sampler.corruption_scheme, self.score_fn)
        _checks.at_least("window_size", self.window_size, 1)

    @property
    def n_step(self) -> int:
        """V, blocks that cover the rows of a shard."""
        return -(-self.score_fn.sharding.max_entity_per_shard // self.window_size)

    def forward(
        self,
        params: Params,
        step: jax.Array,
        relation: jax.Array,
        head: jax.Array | None = None,
        tail: jax.Array | None = None,
    ) -> jax.Array:
        """Scores (Q, S W) of the queries of one shard against block `step` of every shard.

        Args:
            params: parameters of this shard.
            step: () int32 number of the block.
            relation: (1, Q) int32 relation ids of the queries whose known entity this shard holds.
            head: (1, Q) int32 `entity_local` heads, if tails are requested.
            tail: (1, Q) int32 `entity_local` tails, if heads are.

        Returns:
            Columns shard by shard: row `step * W + n` of shard s at `s * W + n`. Rows of padding are scored like
            others; past the last row of the shard, that row is repeated.

        Raises:
            ValueError: if an array is missing or a shape is not the one above.

        BESS-KGE: `AllScoresBESS.forward`.
        """
        side = SIDE_OF[self.candidate_sampler.corruption_scheme]
        known, relations = gather_queries(params, side, relation, head, tail, self.axis_name)
        window = whole_lanes(self.window_size)  # scores beyond W are dropped; see `LANES`
        local = jnp.minimum(step * self.window_size + jnp.arange(window, dtype=jnp.int32), len(params.entity) - 1)
        score = score_window(self.score_fn, side, params, known, relations, take_rows(params.entity, local))
        n_shard = self.score_fn.sharding.n_shard
        arrived = exchange(score[:, : self.window_size].reshape(n_shard, -1, self.window_size), self.axis_name)
        return jnp.swapaxes(arrived, 0, 1).reshape(relation.shape[1], -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class AllScoresPipeline:
    """Scores queries (h, r, ?) or (?, r, t) against all entities, and ranks the ground truth among them.

    The host holds one call of the batch sampler at a time, queries x n_entity scores, unless `return_scores` keeps all;
    `Ranker` does without. The devices hold queries x S x W.

    Attributes:
        batch_sampler: a rigid sampler of triples partitioned by "h_shard" (for scheme "t") or "t_shard" (for "h"); it
            is run in order, whatever its `shuffle`, and its negative sampler is not used.
        corruption_scheme: "h" to score heads, "t" to score tails.
        score_fn: the score function.
        placement: where the shards run.
        evaluation: metrics of the ground truth's rank, if any.
        filter_triples: arrays (n, 3) of triples in global ids; answers found there score minus infinity, but for the
            ground truth itself. Looked up by (relation, known entity).
        candidate_ents: (n,) `entity_global` ids; all others score minus infinity. Default: all entities.
        return_scores: return the filtered scores of all queries.
        return_topk: return the best answers.
        k: K, how many.
        window_size: W, rows of a shard scored at a time.
        as_reference: let a ground truth outside `candidate_ents` score -3.4e38 in what `evaluation` leaves behind.

    Raises:
        TypeError: on a batch sampler that is not rigid.
        ValueError: if nothing would be returned; if sampler, scheme, score function or placement do not fit each other;
            if `evaluation` lacks a ground truth; or on ids or a `k` out of range.

    BESS-KGE: `AllScoresPipeline`. Differs from BESS-KGE: a ground truth outside the candidates scores minus infinity
    (its rank is the same: behind all candidates); filters need no triple indices; top-k never returns an entity that
    is filtered out.
    """

    batch_sampler: ShardedBatchSampler
    corruption_scheme: Literal["h", "t"]
    score_fn: BaseScoreFunction
    placement: Placement
    evaluation: Evaluation | None = None
    filter_triples: Sequence[Int32Array] | None = dataclasses.field(default=None, repr=False)
    candidate_ents: Int32Array | None = dataclasses.field(default=None, repr=False)
    return_scores: bool = False
    return_topk: bool = False
    k: int = 10
    window_size: int = 1000
    as_reference: bool = False

    def __post_init__(self) -> None:
        if not (self.evaluation or self.return_scores or self.return_topk):
            raise ValueError(
                "give at least one of evaluation, return_scores and return_topk: nothing would be returned"
            )
        _checks.one_of("corruption_scheme", self.corruption_scheme, ("h", "t"))
        _checks.at_least("window_size", self.window_size, 1)
        check_scheme(self.corruption_scheme, self.score_fn)
        self._check_sampler()
        sharding = self.score_fn.sharding
        if self.placement.n_shard != sharding.n_shard:
            raise ValueError(
                f"placement must have {sharding.n_shard} shards, as score_fn, got {self.placement.n_shard}"
            )
        check_k(self.k, sharding.n_entity, "entities")
        for number, triples in enumerate(() if self.filter_triples is None else self.filter_triples):
            name = f"filter_triples[{number}]"
            _checks.shape(name, triples, (None, 3), "(n, 3)")
            _checks.ids(name, triples, sharding.n_entity, "entity", columns=(0, 2))
            _checks.ids(name, triples, self.score_fn.n_relation, "relation", columns=(1,))
        if self.candidate_ents is not None:
            _checks.shape("candidate_ents", self.candidate_ents, (None,), "(n,)")
            _checks.ids("candidate_ents", self.candidate_ents, sharding.n_entity, "entity")

    def forward(self, params: Params) -> dict[str, Any]:
        """Runs over all queries, in the order of the batch sampler: call, step, shard, position.

        Args:
            params: parameters on the devices, as `Placement.put` or a train step leaves them.

        Returns:
            NumPy arrays, those requested of: "scores" (n, n_entity) float32; "topk_global_id" (n, K) int32, best first,
            equal scores in the order of the ids, -1 where fewer than K entities are left; "triple_idx" (n,) rows of the
            partitioned set, if the sampler returns them; "metrics", name -> (n,) or their sum ();
            "metrics_avg", name -> mean over queries (); "ranks" (n,) float32.

        BESS-KGE: `AllScoresPipeline.forward`.
        """
        calls = [self._call(params, number) for number in range(self._sampler.calls_per_epoch)]
        out: dict[str, Any] = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
        if self.evaluation is not None:
            ranks = out["ranks"] if self.evaluation.return_ranks else out.pop("ranks")
            metrics = self.evaluation.dict_metrics_from_ranks(jnp.asarray(ranks))
            out["metrics"] = {name: np.asarray(values) for name, values in metrics.items()}
            out["metrics_avg"] = {name: np.sum(values) / len(ranks) for name, values in out["metrics"].items()}
        return out

    def _call(self, params: Params, number: int) -> dict[str, NDArray[Any]]:
        """Results for the queries of one call of the sampler, padding left out."""
        rows, mask = self._sampler.positions(0, number)
        head, relation, tail = np.moveaxis(self._sampler.partitioned_triple_set.triples[rows], -1, 0)  # (T, S, P) each
        known, answer = (head, tail) if self._side == "tail" else (tail, head)
        scores = self._all_scores(params, relation, known)
        known = self.score_fn.sharding.shard_and_idx_to_entity[np.arange(self.placement.n_shard)[:, None], known]
        out = self._filtered(scores, known.ravel(), relation.ravel(), answer.ravel())
        if self._sampler.return_triple_idx:
            out["triple_idx"] = rows.ravel()
        keep = slice(None) if mask is None else mask.ravel()
        return {name: array[keep] for name, array in out.items()}

    def _filtered(
        self, scores: NDArray[np.float32], known: Int32Array, relation: Int32Array, answer: Int32Array
    ) -> dict[str, NDArray[Any]]:
        """Filters scores (Q, n_entity), in place, of queries (Q,) in global ids, and evaluates them."""
        query = np.arange(len(scores))
        if self.candidate_ents is not None:
            scores[:, np.delete(np.arange(scores.shape[1]), self.candidate_ents)] = -np.inf
        true_score = scores[query, answer]
        if self._known is not None:
            column = np.stack([known, relation, known], axis=1)  # that of the side is not looked at
            scores[self._known.of(self._side, column)] = -np.inf
        out: dict[str, NDArray[Any]] = {}
        if self.evaluation is not None:
            scores[query, answer] = -np.inf
            ranks = self.evaluation.ranks_from_scores(jnp.asarray(true_score), jnp.asarray(scores))
            out["ranks"] = np.asarray(ranks)
            if self.as_reference:
                true_score = np.maximum(true_score, _LOWEST)
        if self._has_truth:
            scores[query, answer] = true_score
        if self.return_topk:
            best, entity = jax.lax.top_k(np.where(np.isnan(scores), -np.inf, scores), self.k)
            out["topk_global_id"] = np.where(np.asarray(best) > -np.inf, np.asarray(entity), -1).astype(np.int32)
        if self.return_scores:
            out["scores"] = scores
        return out

    def _all_scores(self, params: Params, relation: Int32Array, known: Int32Array) -> NDArray[np.float32]:
        """Scores (T S P, n_entity) by `entity_global` of queries (T, S, P) with `entity_local` known entities."""
        sharding, module = self.score_fn.sharding, self._module
        n_shard, window = sharding.n_shard, module.window_size
        scores = np.empty((relation.size, sharding.n_entity), np.float32)
        queries = self.placement.put((np.swapaxes(relation, 0, 1), np.swapaxes(known, 0, 1)))
        for step in range(module.n_step):
            number = self.placement.put(np.full(n_shard, step, np.int32))
            block = self.placement.get(self._compiled(params, number, *queries))  # (S, T, P, S W)
            entity = sharding.shard_and_idx_to_entity[:, step * window : (step + 1) * window]
            block = np.swapaxes(block, 0, 1).reshape(relation.size, n_shard, window)[:, :, : entity.shape[1]]
            real = entity < sharding.n_entity
            scores[:, entity[real]] = block[:, real]
        return scores

    @property
    def _side(self) -> EntitySide:
        return SIDE_OF[self.corruption_scheme]

    @property
    def _has_truth(self) -> bool:
        return self.batch_sampler.partitioned_triple_set.dummy is None

    @cached_property
    def _sampler(self) -> RigidShardedBatchSampler:
        return dataclasses.replace(cast(RigidShardedBatchSampler, self.batch_sampler), shuffle=False)

    @cached_property
    def _known(self) -> KnownAnswers | None:
        if self.filter_triples is None or not len(self.filter_triples):
            return None
        return KnownAnswers(np.concatenate(self.filter_triples), self.score_fn.n_relation)

    @cached_property
    def _module(self) -> AllScoresBESS:
        return AllScoresBESS(
            candidate_sampler=PlaceholderNegativeSampler(corruption_scheme=self.corruption_scheme),
            score_fn=self.score_fn,
            window_size=min(self.window_size, self.score_fn.sharding.max_entity_per_shard),
            axis_name=self.placement.axis_name,
        )

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        module = self._module
        known_side = "tail" if self._side == "head" else "head"

        def block(params: Params, step: jax.Array, relation: jax.Array, known: jax.Array) -> jax.Array:
            def one(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
                return module.forward(params, step, batch[0][None], **{known_side: batch[1][None]})

            scores: jax.Array = jax.lax.map(one, (relation, known))
            return scores

        return self.placement.map(block)

    def _check_sampler(self) -> None:
        sampler = self.batch_sampler
        if not isinstance(sampler, RigidShardedBatchSampler):
            raise TypeError(
                "batch_sampler must be a RigidShardedBatchSampler, which visits every query once, got a "
                f"{type(sampler).__name__}"
            )
        if sampler.duplicate_batch:
            raise ValueError("batch_sampler must have duplicate_batch=False, for queries to count once, got True")
        triples = sampler.partitioned_triple_set
        if triples.sharding is not self.score_fn.sharding:
            raise ValueError(
                "score_fn must use the sharding object of the batch_sampler's triples, got another; pass one Sharding"
            )
        wanted = "t_shard" if self._side == "head" else "h_shard"
        if triples.partition_mode != wanted:
            raise ValueError(
                f"batch_sampler must have triples of partition_mode {wanted!r} for corruption_scheme "
                f"{self.corruption_scheme!r}, got {triples.partition_mode!r}"
            )
        if not len(triples.triples):
            raise ValueError("batch_sampler must have at least one triple, got none")
        if self.evaluation is not None and not self._has_truth:
            raise ValueError(
                f"evaluation needs the ground truth, but the queries have no {triples.dummy}s; pass ground_truth to "
                "PartitionedTripleSet.create_from_queries, or leave evaluation out"
            )


def get_entity_filter(
    triples: Int32Array, filter_triples: Int32Array, filter_mode: Literal["h", "t"]
) -> NDArray[np.int64]:
    """All (row i, entity) such that `entity` in place of the head or tail of triple i is in `filter_triples`.

    Args:
        triples: (n, 3) int32 in global ids.
        filter_triples: (m, 3) int32 in global ids.
        filter_mode: "h" to look for heads, "t" for tails.

    Returns:
        (n_found, 2), ordered by row, then by position in `filter_triples`; each pair once.

    Raises:
        ValueError: on another shape or mode.

    BESS-KGE: `get_entity_filter`, without the n x m comparison.
    """
    _checks.one_of("filter_mode", filter_mode, ("h", "t"))
    _checks.shape("triples", triples, (None, 3), "(n, 3)")
    _checks.shape("filter_triples", filter_triples, (None, 3), "(m, 3)")
    n_relation = 1 + max(int(x[:, 1].max(initial=0)) for x in (triples, filter_triples))
    known = KnownAnswers(filter_triples, n_relation)
    return np.stack(known.of(SIDE_OF[filter_mode], triples), axis=1)
