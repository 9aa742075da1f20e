"""Exact ranks and best answers over all entities or relations: what one shard computes, block by block of its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from bess_jax._numerics import take_rows
from bess_jax._typing import AxisName, EntitySide
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.bess import Params
from bess_jax.step.spmd import shard_index, sum_shards

C = TypeVar("C")
Counts = tuple[jax.Array, jax.Array, jax.Array]
"""(Q,) int32 better candidates and (Q,) int32 ties, over all shards, excluded ones left out; (Q,) float32 scores of the
answers to rank."""


class Queries(NamedTuple):
    """Q queries as one shard sees them, and the answers they must not count. `W` windows cover its table.

    On the host these are NumPy arrays with a leading shard axis.
    """

    known: Any  # (Q,) int32 entity_local id of the known entity, -1 where another shard holds it
    relation: Any  # (Q,) int32
    target: Any  # (Q,) int32 entity_local id of the answer to rank, -1 where another shard holds it
    excluded_query: Any  # (W, F) int32 number of the query ...
    excluded_entity: Any  # (W, F) int32 ... and entity_local id of an answer to leave out; padding: query Q
    group: Any = None  # (Q,) int32 group of entities among which the answer is, or None for all


class Table(NamedTuple):
    """What a shard knows of its rows."""

    n_valid: Any  # () int32 rows that are not padding
    group: Any = None  # (M,) int32 group of each entity, if queries have one


class Window(NamedTuple):
    """A block of a table with the scores of all queries."""

    score: jax.Array  # (Q, n)
    entity: jax.Array  # (n,) int32 entity_local
    counts: jax.Array  # (1 or Q, n) bool, False for what is not a candidate
    excluded: tuple[jax.Array, jax.Array]  # (F,) int32 query, (F,) int32 column

    def without_excluded(self) -> jax.Array:
        """The scores, minus infinity where an answer is left out."""
        return self.score.at[self.excluded].set(-jnp.inf, mode="drop")

    def masked(self) -> jax.Array:
        """The scores, minus infinity where there is no candidate."""
        return jnp.where(self.counts, self.without_excluded(), -jnp.inf)


def rank_counts(
    score_fn: BaseScoreFunction,
    side: EntitySide,
    window: int,
    tolerance: float,
    axis_name: AxisName,
    params: Params,
    table: Table,
    queries: Queries,
) -> Counts:
    """Counts the entities that beat, and that tie with, the target of each query. Runs on one shard.

    Holds Q x window scores at a time. Targets are scored as their rivals are, bit by bit, so that ties are real.

    Args:
        score_fn: the score function, with shared negatives.
        side: the side that is asked for.
        window: table rows scored at a time, a multiple of `scoring.base.LANES`.
        tolerance: scores that differ by at most that much tie.
        axis_name: name of the shard axis.
        params: parameters of the shard.
        table: what is known of its rows.
        queries: the queries; the targets must be among the excluded answers.
    """
    known = gather_rows(params.entity, queries.known, axis_name)
    target = gather_rows(params.entity, queries.target, axis_name)
    target_score = _score_targets(score_fn, side, window, params, known, queries.relation, target)
    low, high = target_score - tolerance, target_score + tolerance

    def count(carry: tuple[jax.Array, jax.Array], block: Window) -> tuple[jax.Array, jax.Array]:
        score = block.without_excluded()
        better = _count((score > high[:, None]) & block.counts)
        no_worse = _count((score >= low[:, None]) & block.counts)
        return carry[0] + better, carry[1] + no_worse

    zero = jnp.zeros(queries.known.shape, jnp.int32)
    better, no_worse = over_windows(score_fn, side, window, params, known, table, queries, count, (zero, zero))
    better, no_worse = sum_shards((better, no_worse), axis_name)
    return better, no_worse - better, target_score


def top_k(
    score_fn: BaseScoreFunction,
    side: EntitySide,
    window: int,
    k: int,
    axis_name: AxisName,
    params: Params,
    table: Table,
    queries: Queries,
) -> tuple[jax.Array, jax.Array]:
    """The k best answers of each query on this shard; arguments as in `rank_counts`, targets are not used.

    Returns:
        (Q, k) float32 scores, best first, minus infinity where there are fewer than k answers, and (Q, k) int32
        `entity_local` ids.
    """
    known = gather_rows(params.entity, queries.known, axis_name)

    def best(found: tuple[jax.Array, jax.Array], block: Window) -> tuple[jax.Array, jax.Array]:
        return keep_best(found, block.masked(), block.entity)

    start = nothing_found(len(known), k, params.entity.dtype)
    return over_windows(score_fn, side, window, params, known, table, queries, best, start)


def list_counts(
    score_fn: BaseScoreFunction,
    side: EntitySide,
    tolerance: float,
    axis_name: AxisName,
    params: Params,
    table: Table,
    queries: Queries,
    candidate: jax.Array,
) -> Counts:
    """The same as `rank_counts` among given candidates of each query; nothing is left out.

    Args:
        score_fn: the score function, with negatives that are not shared.
        side: the side that is asked for.
        tolerance: scores that differ by at most that much tie.
        axis_name: name of the shard axis.
        params: parameters of the shard.
        table: not used.
        queries: the queries.
        candidate: (Q, n) int32 `entity_local` candidates on this shard, -1 for padding.
    """
    known = gather_rows(params.entity, queries.known, axis_name)
    target = gather_rows(params.entity, queries.target, axis_name)
    rows = jnp.concatenate([target[:, None], take_rows(params.entity, jnp.maximum(candidate, 0))], axis=1)
    args = (known, queries.relation, rows) if side == "tail" else (rows, queries.relation, known)
    score = cast(jax.Array, score_fn.apply(params.variables, *args, method=f"score_{side}s"))
    target_score, score = score[:, 0], score[:, 1:]
    better = _count((score > target_score[:, None] + tolerance) & (candidate >= 0))
    no_worse = _count((score >= target_score[:, None] - tolerance) & (candidate >= 0))
    better, no_worse = sum_shards((better, no_worse), axis_name)
    return better, no_worse - better, target_score


def relation_counts(
    score_fn: BaseScoreFunction, tolerance: float, axis_name: AxisName, params: Params, table: Table, queries: Queries
) -> Counts:
    """The same as `rank_counts` for (h, ?, t), among the relations. Every shard scores its part of them.

    Args:
        score_fn: the score function.
        tolerance: scores that differ by at most that much tie.
        axis_name: name of the shard axis.
        params: parameters of the shard.
        table: not used.
        queries: `known` are heads and `target` tails; `relation` is the answer to rank; `excluded_entity` (1, F) are
            positions among the relations of this shard, see `relations_of_shard`.
    """
    score, relation = _score_relations(score_fn, axis_name, params, queries)  # (n, Q), (n,)
    own = jnp.where(relation[:, None] == queries.relation[None], score, 0)
    target_score = sum_shards(jnp.sum(own, axis=0), axis_name)
    score = _mask_relations(score_fn, score, relation, queries).T
    better = _count(score > target_score[:, None] + tolerance)
    no_worse = _count(score >= target_score[:, None] - tolerance)
    better, no_worse = sum_shards((better, no_worse), axis_name)
    return better, no_worse - better, target_score


def relation_top_k(
    score_fn: BaseScoreFunction, k: int, axis_name: AxisName, params: Params, table: Table, queries: Queries
) -> tuple[jax.Array, jax.Array]:
    """The same as `top_k` for (h, ?, t): scores (Q, k) and relation ids (Q, k); arguments as in `relation_counts`."""
    score, relation = _score_relations(score_fn, axis_name, params, queries)
    best, position = jax.lax.top_k(_mask_relations(score_fn, score, relation, queries).T, k)
    return best, relation[position]


def score_triples(
    score_fn: BaseScoreFunction, axis_name: AxisName, params: Params, table: Table, queries: Queries
) -> tuple[jax.Array]:
    """Scores (Q,) of triples: `known` are the heads and `target` the tails. `table` is not used."""
    head = gather_rows(params.entity, queries.known, axis_name)
    tail = gather_rows(params.entity, queries.target, axis_name)
    return (_score_own(score_fn, params, head, queries.relation, tail),)


def relations_of_shard(score_fn: BaseScoreFunction) -> int:
    """Relations that each shard scores, one after the other; inverse ones are not asked for."""
    return -(-score_fn.n_relation_type // score_fn.sharding.n_shard)


def _score_relations(
    score_fn: BaseScoreFunction, axis_name: AxisName, params: Params, queries: Queries
) -> tuple[jax.Array, jax.Array]:
    """Scores (n, Q) of the relations of this shard, and their ids (n,); those past the last one are out of range."""
    head = gather_rows(params.entity, queries.known, axis_name)
    tail = gather_rows(params.entity, queries.target, axis_name)
    n = relations_of_shard(score_fn)
    relation = shard_index(axis_name) * n + jnp.arange(n, dtype=jnp.int32)

    def one(number: jax.Array) -> jax.Array:
        safe = jnp.minimum(number, score_fn.n_relation_type - 1)
        return _score_own(score_fn, params, head, jnp.broadcast_to(safe, queries.known.shape), tail)

    return jax.lax.map(one, relation), relation


def _mask_relations(score_fn: BaseScoreFunction, score: jax.Array, relation: jax.Array, queries: Queries) -> jax.Array:
    score = jnp.where(relation[:, None] < score_fn.n_relation_type, score, -jnp.inf)
    return score.at[queries.excluded_entity[0], queries.excluded_query[0]].set(-jnp.inf, mode="drop")


def _score_own(
    score_fn: BaseScoreFunction, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array
) -> jax.Array:
    return cast(jax.Array, score_fn.apply(params.variables, head, relation, tail, method="score_triple"))


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, axis=-1, dtype=jnp.int32)


def nothing_found(n_query: int, k: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """What `keep_best` starts from: scores (Q, k) of minus infinity and ids 0."""
    return jnp.full((n_query, k), -jnp.inf, dtype), jnp.zeros((n_query, k), jnp.int32)


def keep_best(found: tuple[jax.Array, jax.Array], score: jax.Array, entity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The k best of those `found`, scores and ids (Q, k), and of a window, scores (Q, n) and ids (n,) or (Q, n).

    Equal scores keep their order.
    """
    entity = jnp.broadcast_to(entity if entity.ndim == 2 else entity[None], score.shape)
    scores = jnp.concatenate([found[0], score], axis=-1)
    entities = jnp.concatenate([found[1], entity], axis=-1)
    best, position = jax.lax.top_k(scores, found[0].shape[-1])
    return best, jnp.take_along_axis(entities, position, axis=-1)


def gather_rows(table: jax.Array, local: jax.Array, axis_name: AxisName) -> jax.Array:
    """Rows (Q, E) of entities that one shard each holds, (Q,) `entity_local` or -1, on every shard."""
    rows = jnp.where(local[:, None] >= 0, take_rows(table, jnp.maximum(local, 0)), jnp.zeros((), table.dtype))
    return sum_shards(rows, axis_name)


def score_window(
    score_fn: BaseScoreFunction,
    side: EntitySide,
    params: Params,
    known: jax.Array,
    relation: jax.Array,
    candidate: jax.Array,
) -> jax.Array:
    """Scores (Q, n) of rows (n, E) as the asked side of queries with known rows (Q, E)."""
    args = (known, relation, candidate[None]) if side == "tail" else (candidate[None], relation, known)
    return cast(jax.Array, score_fn.apply(params.variables, *args, method=f"score_{side}s"))


def _score_targets(
    score_fn: BaseScoreFunction,
    side: EntitySide,
    window: int,
    params: Params,
    known: jax.Array,
    relation: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """Scores (Q,) of one row (Q, E) for each query, in blocks of whole lanes, as a window of the table is.

    A matrix product of another shape may add up in another order, and a target would then not tie with its equals.
    """
    n_query, width = target.shape
    size = min(window, whole_lanes(n_query))
    n_piece = -(-n_query // size)
    pieces = jnp.pad(target, ((0, n_piece * size - n_query), (0, 0))).reshape(n_piece, size, width)
    scores = jax.lax.map(lambda rows: score_window(score_fn, side, params, known, relation, rows), pieces)
    query = jnp.arange(n_query)
    return cast(jax.Array, scores[query // size, query, query % size])


def over_windows(
    score_fn: BaseScoreFunction,
    side: EntitySide,
    window: int,
    params: Params,
    known: jax.Array,
    table: Table,
    queries: Queries,
    body: Callable[[C, Window], C],
    init: C,
) -> C:
    """Folds `body(carry, window)` over the table of a shard.

    The last window is moved back to end with the table; the rows it shares with the one before do not count again. A
    table with fewer rows than a window is filled up.
    """
    missing = max(window - params.entity.shape[0], 0)
    entity_rows = jnp.pad(params.entity, ((0, missing), (0, 0)))
    group = None if queries.group is None else jnp.pad(table.group, (0, missing))
    n_row = entity_rows.shape[0]

    def one(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
        number, excluded_query, excluded_entity = inputs
        start = jnp.minimum(number * window, n_row - window)
        entity = start + jnp.arange(window, dtype=jnp.int32)
        rows = jax.lax.dynamic_slice_in_dim(entity_rows, start, window)
        score = score_window(score_fn, side, params, known, queries.relation, rows)
        counts = ((entity >= number * window) & (entity < table.n_valid))[None]
        if group is not None:
            counts &= jax.lax.dynamic_slice_in_dim(group, start, window)[None] == queries.group[:, None]
        return body(carry, Window(score, entity, counts, (excluded_query, excluded_entity - start))), None

    n_window = queries.excluded_query.shape[0]
    inputs = (jnp.arange(n_window, dtype=jnp.int32), queries.excluded_query, queries.excluded_entity)
    carry, _ = jax.lax.scan(one, init, inputs)
    return carry
