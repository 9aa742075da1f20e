"""What one shard computes for queries: exact ranks, best answers and scores, window by window of its table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from bess_jax._compat import TypeAlias
from bess_jax._numerics import take_rows
from bess_jax._typing import AxisName, EntitySide
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.bess import Params
from bess_jax.step.collectives import shard_index, sum_shards

Carry = TypeVar("Carry")
Best: TypeAlias = "tuple[jax.Array, jax.Array]"
"""(Q, K) scores, best first, minus infinity where there are fewer answers, and the (Q, K) int32 answers."""


class Queries(NamedTuple):
    """Q queries as one shard sees them. On the host these are NumPy arrays with a leading shard axis."""

    known: Any  # (Q,) int32 entity_local id of the known entity, -1 where another shard holds it
    relation: Any  # (Q,) int32
    target: Any  # (Q,) int32 entity_local id of the answer to rank, -1 where another shard holds it
    group: Any = None  # (Q,) int32 group of entities among which the answer is, or None for all


class Omitted(NamedTuple):
    """Answers that do not compete, by the window that holds them. On the host with a leading shard axis."""

    query: Any  # (V, X) int32 number of the query; padding has Q, which does not exist
    place: Any  # (V, X) int32 entity_local id, or position among the relations of the shard


class Table(NamedTuple):
    """What a shard knows of its rows. On the host with a leading shard axis."""

    n_valid: Any  # () int32 rows that are not padding
    group: Any = None  # (M,) int32 group of each entity, if queries have one


class Counts(NamedTuple):
    """Where the targets of queries are among their candidates, over all shards."""

    better: jax.Array  # (Q,) int32 candidates with a higher score
    ties: jax.Array  # (Q,) int32 candidates with the same score
    score: jax.Array  # (Q,) score of the target


class Window(NamedTuple):
    """W rows of a table with the scores of all queries."""

    score: jax.Array  # (Q, W)
    entity: jax.Array  # (W,) int32 entity_local
    counts: jax.Array  # (1 or Q, W) bool, False for what is not a candidate
    omitted: tuple[jax.Array, jax.Array] | None  # (X,) int32 query, (X,) int32 column

    def without_omitted(self) -> jax.Array:
        """Scores (Q, W), minus infinity for omitted answers."""
        return self.score if self.omitted is None else hide(self.score, *self.omitted)

    def masked(self) -> jax.Array:
        """Scores (Q, W), minus infinity for all that is not a candidate."""
        return jnp.where(self.counts, self.without_omitted(), -jnp.inf)


def rank_entities(
    score_fn: BaseScoreFunction,
    axis_name: AxisName,
    side: EntitySide,
    window: int,
    tolerance: float,
    params: Params,
    table: Table,
    queries: Queries,
    omitted: Omitted,
) -> Counts:
    """Counts the entities that beat, and that tie with, the target of each query. Runs on one shard.

    Holds Q x W scores at a time. Targets are scored as their rivals are, bit by bit, so that ties are real.

    Args:
        score_fn: the score function.
        axis_name: name of the shard axis.
        side: the requested side.
        window: W, a multiple of `scoring.base.LANES`.
        tolerance: scores that differ by at most that much tie.
        params: parameters of the shard.
        table: what is known of its rows.
        queries: the queries.
        omitted: answers that do not compete; the targets must be among them.
    """
    known = gather_rows(params.entity, queries.known, axis_name)
    target = gather_rows(params.entity, queries.target, axis_name)
    score_rows = partial(score_window, score_fn, side, params, known, queries.relation)
    target_score = _score_targets(score_rows, window, target)
    low, high = target_score - tolerance, target_score + tolerance

    def count(carry: tuple[jax.Array, jax.Array], block: Window) -> tuple[jax.Array, jax.Array]:
        score = block.without_omitted()
        better = _count((score > high[:, None]) & block.counts)
        no_worse = _count((score >= low[:, None]) & block.counts)
        return carry[0] + better, carry[1] + no_worse

    zero = jnp.zeros(queries.known.shape, jnp.int32)
    found = over_windows(score_rows, window, params.entity, table, queries.group, omitted, count, (zero, zero))
    return _over_shards(axis_name, *found, target_score)


def top_entities(
    score_fn: BaseScoreFunction,
    axis_name: AxisName,
    side: EntitySide,
    window: int,
    k: int,
    params: Params,
    table: Table,
    queries: Queries,
    omitted: Omitted,
) -> Best:
    """The K best answers of each query on this shard, `entity_local` ids; arguments as in `rank_entities`."""
    known = gather_rows(params.entity, queries.known, axis_name)
    score_rows = partial(score_window, score_fn, side, params, known, queries.relation)

    def best(found: Best, block: Window) -> Best:
        return keep_best(found, _nan_first(block.masked()), block.entity)

    start = nothing_found(len(known), k, params.entity.dtype)
    return over_windows(score_rows, window, params.entity, table, queries.group, omitted, best, start)


def rank_lists(
    score_fn: BaseScoreFunction,
    axis_name: AxisName,
    side: EntitySide,
    tolerance: float,
    params: Params,
    queries: Queries,
    candidate: jax.Array,
) -> Counts:
    """Counts the entities of a list for each query that beat, and that tie with, its target. Nothing is omitted.

    Args:
        score_fn: the score function.
        axis_name: name of the shard axis.
        side: the requested side.
        tolerance: scores that differ by at most that much tie.
        params: parameters of the shard.
        queries: the queries.
        candidate: (Q, n) int32 `entity_local` candidates on this shard, -1 for padding.
    """
    known = gather_rows(params.entity, queries.known, axis_name)
    target = gather_rows(params.entity, queries.target, axis_name)
    rows = jnp.concatenate([target[:, None], take_rows(params.entity, jnp.maximum(candidate, 0))], axis=1)
    args = (known, queries.relation, rows) if side == "tail" else (rows, queries.relation, known)
    own = score_fn.clone(negative_sample_sharing=False)  # every query meets its own list
    score = cast("jax.Array", own.apply(params.variables, *args, method=f"score_{side}s"))
    target_score, score = score[:, 0], score[:, 1:]
    better = _count((score > target_score[:, None] + tolerance) & (candidate >= 0))
    no_worse = _count((score >= target_score[:, None] - tolerance) & (candidate >= 0))
    return _over_shards(axis_name, better, no_worse, target_score)


def rank_relations(
    score_fn: BaseScoreFunction,
    axis_name: AxisName,
    tolerance: float,
    params: Params,
    queries: Queries,
    omitted: Omitted,
) -> Counts:
    """Counts the relations that beat, and that tie with, the one of each triple. Every shard scores its part of them.

    Args:
        score_fn: the score function.
        axis_name: name of the shard axis.
        tolerance: scores that differ by at most that much tie.
        params: parameters of the shard.
        queries: `known` are heads and `target` tails; `relation` is the answer to rank.
        omitted: relations that do not compete, in one window (V = 1); the answers must be among them.
    """
    score, relation = _score_relations(score_fn, axis_name, params, queries)  # (n, Q), (n,)
    own = jnp.where(relation[:, None] == queries.relation[None], score, 0)
    target_score = sum_shards(jnp.sum(own, axis=0), axis_name)
    score = _mask_relations(score_fn, score, relation, omitted).T
    better = _count(score > target_score[:, None] + tolerance)
    no_worse = _count(score >= target_score[:, None] - tolerance)
    return _over_shards(axis_name, better, no_worse, target_score)


def top_relations(
    score_fn: BaseScoreFunction, axis_name: AxisName, k: int, params: Params, queries: Queries, omitted: Omitted
) -> Best:
    """The K best relations of each (h, ?, t) among those of this shard, relation ids; arguments as `rank_relations`."""
    score, relation = _score_relations(score_fn, axis_name, params, queries)
    best, position = jax.lax.top_k(_nan_first(_mask_relations(score_fn, score, relation, omitted)).T, k)
    return best, relation[position]


def score_triples(
    score_fn: BaseScoreFunction, axis_name: AxisName, params: Params, queries: Queries
) -> tuple[jax.Array]:
    """Scores (Q,) of triples: `known` are the heads and `target` the tails."""
    head = gather_rows(params.entity, queries.known, axis_name)
    tail = gather_rows(params.entity, queries.target, axis_name)
    return (_score_own(score_fn, params, head, queries.relation, tail),)


def _nan_first(score: jax.Array) -> jax.Array:
    """Scores with infinity for NaN, which some sort last: one that is among the best is seen."""
    return jnp.where(jnp.isnan(score), jnp.inf, score)


def relations_of_shard(score_fn: BaseScoreFunction) -> int:
    """Relations that each shard scores, one after the other; inverse ones are never requested."""
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


def _mask_relations(score_fn: BaseScoreFunction, score: jax.Array, relation: jax.Array, omitted: Omitted) -> jax.Array:
    score = jnp.where(relation[:, None] < score_fn.n_relation_type, score, -jnp.inf)
    return hide(score, omitted.place[0], omitted.query[0])


def hide(score: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """`score` (m, n) with minus infinity at rows and columns (X,) int32; places outside are left out.

    By one index a place: with two, the backend for IPU goes through the places one by one.

    Raises:
        ValueError: if there are more scores than an int32 can count.
    """
    n_row, n_column = score.shape
    if score.size >= 2**31:
        raise ValueError(f"queries times candidates of a window must be less than 2**31, got {n_row} * {n_column}")
    inside = (row >= 0) & (row < n_row) & (column >= 0) & (column < n_column)
    place = jnp.where(inside, row * n_column + column, score.size)
    return score.reshape(-1, 1).at[place].set(-jnp.inf, mode="drop").reshape(score.shape)


def _score_own(
    score_fn: BaseScoreFunction, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array
) -> jax.Array:
    return cast("jax.Array", score_fn.apply(params.variables, head, relation, tail, method="score_triple"))


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, axis=-1, dtype=jnp.int32)


def _over_shards(axis_name: AxisName, better: jax.Array, no_worse: jax.Array, score: jax.Array) -> Counts:
    better, no_worse = sum_shards((better, no_worse), axis_name)
    return Counts(better, no_worse - better, score)


def nothing_found(n_query: int, k: int, dtype: Any) -> Best:
    """What `keep_best` starts from: scores (Q, K) of minus infinity and ids 0."""
    return jnp.full((n_query, k), -jnp.inf, dtype), jnp.zeros((n_query, k), jnp.int32)


def keep_best(found: Best, score: jax.Array, entity: jax.Array) -> Best:
    """The K best of those `found` and of scores (Q, W) of ids (W,) or (Q, W); equal scores keep their order."""
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
    """Scores (Q, W) of rows (W, E) as the requested side of queries with known rows (Q, E) and relations (Q,).

    All queries meet the same rows, whatever `negative_sample_sharing` says of the training.
    """
    args = (known, relation, candidate[None]) if side == "tail" else (candidate[None], relation, known)
    return cast("jax.Array", score_fn.apply(params.variables, *args, method=f"score_{side}s"))


def _score_targets(score_rows: Callable[[jax.Array], jax.Array], window: int, target: jax.Array) -> jax.Array:
    """Scores (Q,) of one row (Q, E) for each query, in blocks of whole lanes, as a window of the table is.

    A matrix product of another shape may add up in another order, and a target would then not tie with its equals.
    """
    n_query, width = target.shape
    size = min(window, whole_lanes(n_query))
    n_piece = -(-n_query // size)
    pieces = jnp.pad(target, ((0, n_piece * size - n_query), (0, 0))).reshape(n_piece, size, width)
    scores = jax.lax.map(score_rows, pieces)
    query = jnp.arange(n_query)
    return cast("jax.Array", scores[query // size, query, query % size])


def over_windows(
    score_rows: Callable[[jax.Array], jax.Array],
    window: int,
    entity: jax.Array,
    table: Table,
    query_group: jax.Array | None,
    omitted: Omitted | None,
    body: Callable[[Carry, Window], Carry],
    init: Carry,
) -> Carry:
    """Folds `body(carry, window)` over the V windows of a table.

    The last window is moved back to end with the table; the rows it shares with the one before do not count again. A
    table with fewer rows than a window is filled up.

    Args:
        score_rows: gives scores (Q, W) of rows (W, E).
        window: W.
        entity: (M, E) rows of the shard.
        table: what is known of them.
        query_group: (Q,) int32 group of entities that may answer each query, or None for all.
        omitted: answers that do not compete, or None.
        body: takes the carry and a window.
        init: the first carry.
    """
    n_window, missing = -(-len(entity) // window), max(window - len(entity), 0)
    rows = jnp.pad(entity, ((0, missing), (0, 0)))
    group = None if query_group is None else jnp.pad(table.group, (0, missing))
    n_row = len(rows)

    def one(carry: Any, inputs: tuple[jax.Array, Omitted | None]) -> tuple[Any, None]:
        number, left_out = inputs
        start = jnp.minimum(number * window, n_row - window)
        local = start + jnp.arange(window, dtype=jnp.int32)
        score = score_rows(jax.lax.dynamic_slice_in_dim(rows, start, window))
        counts = ((local >= number * window) & (local < table.n_valid))[None]
        if group is not None and query_group is not None:
            counts &= jax.lax.dynamic_slice_in_dim(group, start, window)[None] == query_group[:, None]
        places = None if left_out is None else (left_out.query, left_out.place - start)
        return body(carry, Window(score, local, counts, places)), None

    carry, _ = jax.lax.scan(one, init, (jnp.arange(n_window, dtype=jnp.int32), omitted))
    return carry
