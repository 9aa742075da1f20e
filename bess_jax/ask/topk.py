"""The best answers to the queries of a batch, as BESS-KGE finds them. What one shard computes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import dataclass
from bess_jax._numerics import take_rows
from bess_jax._typing import SIDE_OF, AxisName, CorruptionScheme, EntitySide
from bess_jax.ask.known import check_k
from bess_jax.ask.shard import Best, Table, Window, keep_best, nothing_found, over_windows, score_window
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, TripleBasedShardedNegativeSampler
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.bess import Params
from bess_jax.step.collectives import AXIS_NAME, exchange, gather_shards, shard_index
from bess_jax.step.metric import Evaluation


@dataclass(frozen=True, eq=False, kw_only=True)
class TopKQueryBessKGE:
    """The K best answers to queries (h, r, ?) or (?, r, t), among all entities or given candidates.

    Every shard scores the queries of all shards against the candidates it holds, window by window, keeps its K best of
    each and sends them back; `forward` runs on one shard, under any mapping that names the shard axis.

    Attributes:
        k: K, at most the number of entities.
        candidate_sampler: `PlaceholderNegativeSampler` (all entities) or `TripleBasedShardedNegativeSampler` with
            `mask_on_gather` (one list for all queries, or one for each); its scheme is the
            requested side.
        score_fn: the score function.
        evaluation: metrics of the ground truth's place among the answers, if any.
        return_scores: also return the scores of the answers.
        window_size: W, candidates of a shard scored at a time; rounded up to a multiple of 128 unless every query has
            candidates of its own.
        axis_name: name of the mapped shard axis.

    Raises:
        TypeError: on a sampler of another kind.
        ValueError: if `k` or `window_size` is out of range, or on a sampler of scheme "ht", or "h" for a model that
            scores only tails, without `mask_on_gather`, of another sharding, or with lists for each query and shared
            negatives.

    BESS-KGE: `TopKQueryBessKGE`. Differs from BESS-KGE: a shard keeps its K best candidates whatever its padding (the
    reference keeps K + 1 rows, padding included, and reads out of range where there are fewer).
    """

    k: int
    candidate_sampler: TripleBasedShardedNegativeSampler | PlaceholderNegativeSampler
    score_fn: BaseScoreFunction
    evaluation: Evaluation | None = None
    return_scores: bool = False
    window_size: int = 100
    axis_name: AxisName = AXIS_NAME

    def __post_init__(self) -> None:
        check_kind(self.candidate_sampler, PlaceholderNegativeSampler, TripleBasedShardedNegativeSampler)
        check_scheme(self.candidate_sampler.corruption_scheme, self.score_fn)
        _checks.at_least("window_size", self.window_size, 1)
        check_k(self.k, self.score_fn.sharding.n_entity, "entities")
        sampler = self.candidate_sampler
        if not isinstance(sampler, TripleBasedShardedNegativeSampler):
            return
        if sampler.sharding is not self.score_fn.sharding:
            raise ValueError(
                "candidate_sampler must use the sharding object of score_fn, got another; pass one Sharding to both"
            )
        if not sampler.mask_on_gather:
            raise ValueError(
                "candidate_sampler must have mask_on_gather=True, so that masks are where candidates are scored, got "
                "False"
            )
        if self.score_fn.negative_sample_sharing and not sampler.flat_negative_format:
            raise ValueError(
                "score_fn must have negative_sample_sharing=False where every query has candidates of its own, got "
                "True; or give one list for all queries"
            )

    def forward(
        self,
        params: Params,
        relation: jax.Array,
        head: jax.Array | None = None,
        tail: jax.Array | None = None,
        negative: jax.Array | None = None,
        triple_mask: jax.Array | None = None,
        negative_mask: jax.Array | None = None,
        entity_id: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Answers of the queries of one shard.

        Args:
            params: parameters of this shard.
            relation: (1, Q) int32 relation ids of the queries whose known entity this shard holds.
            head: (1, Q) int32 heads: `entity_local` ids if tails are requested, else the `entity_global` ground truth,
                which only `evaluation` needs.
            tail: (1, Q) int32 tails, the mirror image.
            negative: (1, S, L, N) int32 `entity_local` candidates on this shard, by shard of the query; L is 1 or Q.
                None where all entities are candidates. A candidate listed twice is answered twice.
            triple_mask: (1, Q) bool, False for queries that metrics leave out.
            negative_mask: (1, S, L, N) bool, False for padding.
            entity_id: (M,) int32 `entity_global` ids of the shard's rows, its part of
                `Sharding.shard_and_idx_to_entity`; default: the whole of it is compiled into the program.

        Returns:
            "topk_global_id" (Q, K) int32, best first, equal scores in the order of the ids, -1 where there are fewer
            than K candidates; and those requested of "topk_scores" (Q, K), minus infinity there; "metrics"; "ranks"
            (Q,).

        Raises:
            ValueError: if an array is missing or a shape is not the one above.

        BESS-KGE: `TopKQueryBessKGE.forward`.
        """
        side = SIDE_OF[self.candidate_sampler.corruption_scheme]
        known, relations = gather_queries(params, side, relation, head, tail, self.axis_name)
        if isinstance(self.candidate_sampler, PlaceholderNegativeSampler):
            if negative is not None or negative_mask is not None:
                raise ValueError("negative must be None where all entities are candidates, got an array")
            score, local = self._best_of_all(params, side, known, relations)
        else:
            candidates = self._candidates(relation.shape[1], negative, negative_mask)
            score, local = self._best_of_lists(params, side, known, relations, *candidates)
        score, entity = self._merge(score, local, entity_id)
        out = {"topk_global_id": entity}
        if self.return_scores:
            out["topk_scores"] = score
        if self.evaluation is not None:
            answer = head if side == "head" else tail
            if answer is None:
                raise ValueError(f"{side} must be given, the ground truth that evaluation needs, got None")
            _checks.shape(side, answer, relation.shape, "(1, Q)")
            ranks = self.evaluation.ranks_from_indices(answer[0], entity)
            mask = None if triple_mask is None else triple_mask[0]
            out["metrics"] = self.evaluation.stacked_metrics_from_ranks(ranks, mask)[0]
            if self.evaluation.return_ranks:
                out["ranks"] = ranks
        return out

    def _best_of_all(self, params: Params, side: EntitySide, known: jax.Array, relation: jax.Array) -> Best:
        """The K best rows of this shard for queries of all shards: scores and `entity_local` ids (S Q, K)."""
        window = whole_lanes(min(self.window_size, len(params.entity)))
        n_valid = jnp.asarray(self.score_fn.sharding.shard_counts)[shard_index(self.axis_name)]
        score_rows = partial(score_window, self.score_fn, side, params, known, relation)

        def best(found: Best, block: Window) -> Best:
            return keep_best(found, block.masked(), block.entity)

        start = nothing_found(len(known), self.k, params.entity.dtype)
        return over_windows(score_rows, window, params.entity, Table(n_valid), None, None, best, start)

    def _best_of_lists(
        self,
        params: Params,
        side: EntitySide,
        known: jax.Array,
        relation: jax.Array,
        negative: jax.Array,
        mask: jax.Array,
    ) -> Best:
        """The K best candidates (S, L, N) of this shard, as `_best_of_all`; each list has queries of its own."""
        n_list, n, n_query = negative.shape[0] * negative.shape[1], negative.shape[2], len(relation)
        window = min(self.window_size, n)
        if self.candidate_sampler.flat_negative_format:
            window = whole_lanes(window)
        n_window = -(-n // window)

        def windows(x: jax.Array) -> jax.Array:  # (V, S L, W)
            x = jnp.pad(x.reshape(n_list, n), ((0, 0), (0, n_window * window - n)))
            return jnp.swapaxes(x.reshape(n_list, n_window, window), 0, 1)

        grouped = known.reshape(n_list, -1, known.shape[-1]), relation.reshape(n_list, -1)
        score_lists = jax.vmap(partial(score_window, self.score_fn, side, params))

        def one(found: Best, block: tuple[jax.Array, jax.Array]) -> tuple[Best, None]:
            local, counts = block
            score = score_lists(*grouped, take_rows(params.entity, local))  # (S L, queries of a list, W)
            score = jnp.where(counts[:, None], score, -jnp.inf)
            ids = jnp.broadcast_to(local[:, None], score.shape)
            return keep_best(found, score.reshape(n_query, window), ids.reshape(n_query, window)), None

        start = nothing_found(n_query, self.k, params.entity.dtype)
        best, _ = jax.lax.scan(one, start, (windows(negative), windows(mask)))
        return best

    def _merge(self, score: jax.Array, local: jax.Array, entity_id: jax.Array | None) -> Best:
        """The K best of all shards, scores and `entity_global` ids (Q, K), from what each found, (S Q, K)."""
        if entity_id is None:
            entity_id = jnp.asarray(self.score_fn.sharding.shard_and_idx_to_entity)[shard_index(self.axis_name)]
        entity = entity_id.at[local].get(mode="promise_in_bounds")
        n_shard = self.score_fn.sharding.n_shard
        score, entity = (
            jnp.swapaxes(exchange(x.reshape(n_shard, -1, self.k), self.axis_name), 0, 1).reshape(-1, n_shard * self.k)
            for x in (score, entity)
        )
        entity, score = jax.lax.sort_key_val(entity, score)
        loss, entity = (x[:, : self.k] for x in jax.lax.sort_key_val(-score, entity))  # stable: equal scores by id
        return -loss, jnp.where(loss < jnp.inf, entity, -1)

    def _candidates(
        self, n_query: int, negative: jax.Array | None, negative_mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Candidates and mask (S, L, N), checked."""
        if negative is None:
            raise ValueError("negative must be given, the candidates of candidate_sampler, got None")
        n_list = 1 if self.candidate_sampler.flat_negative_format else n_query
        _checks.shape("negative", negative, (1, self.score_fn.sharding.n_shard, n_list, None), "(1, S, L, N)")
        if negative_mask is None:
            return negative[0], jnp.ones(negative.shape[1:], bool)
        _checks.shape("negative_mask", negative_mask, negative.shape, "(1, S, L, N)")
        return negative[0], negative_mask[0]


def check_scheme(scheme: CorruptionScheme, score_fn: BaseScoreFunction) -> None:
    """Checks that a model can be asked for the side that a corruption scheme replaces.

    Raises:
        ValueError: on "ht", or on "h" for a model that scores only tails.
    """
    if scheme == "ht":
        raise ValueError("corruption_scheme must be 'h' or 't', got 'ht'; a query asks for one side")
    if scheme == "h" and not score_fn.scores_heads:
        raise ValueError(
            f"corruption_scheme must be 't' for {type(score_fn).__name__}, which scores only tails, got 'h'; ask for "
            "heads as tails of inverse relations"
        )


def check_kind(sampler: object, *kinds: type) -> None:
    """Raises TypeError unless a candidate sampler is of one of the kinds."""
    if not isinstance(sampler, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"candidate_sampler must be a {names}, got a {type(sampler).__name__}")


def gather_queries(
    params: Params,
    side: EntitySide,
    relation: jax.Array,
    head: jax.Array | None,
    tail: jax.Array | None,
    axis_name: AxisName,
) -> tuple[jax.Array, jax.Array]:
    """Known rows (S Q, E) and relations (S Q,) of the queries of all shards, on every shard.

    Args:
        params: parameters of this shard.
        side: the requested side.
        relation: (1, Q) int32 relation ids of the queries of this shard.
        head: (1, Q) int32 `entity_local` known heads, if tails are requested.
        tail: (1, Q) int32 `entity_local` known tails, if heads are.
        axis_name: name of the shard axis.

    Raises:
        ValueError: if the known entities are missing or a shape is not the one above.
    """
    name, known = ("tail", tail) if side == "head" else ("head", head)
    _checks.shape("relation", relation, (1, None), "(1, Q)")
    if known is None:
        raise ValueError(f"{name} must be given, the known entities of queries for a {side}, got None")
    _checks.shape(name, known, relation.shape, "(1, Q)")
    rows = gather_shards(take_rows(params.entity, known[0]), axis_name)
    return rows.reshape(-1, rows.shape[-1]), gather_shards(relation[0], axis_name).reshape(-1)
