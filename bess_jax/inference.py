"""Exact ranks and best answers over all entities: what one shard computes, window by window of its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from bess_jax._numerics import take_rows
from bess_jax._typing import AxisName
from bess_jax.bess import Params
from bess_jax.scoring import BaseScoreFunction
from bess_jax.spmd import sum_shards

C = TypeVar("C")
Side = Literal["head", "tail"]


class Queries(NamedTuple):
    """Q queries as one shard sees them, and the answers they must not count. `W` windows cover its table.

    On the host these are NumPy arrays with a leading shard axis.
    """

    known: Any  # (Q,) int32 entity_local id of the known entity, -1 where another shard holds it
    relation: Any  # (Q,) int32
    target: Any  # (Q,) int32 entity_local id of the answer to rank, -1 where another shard holds it
    excluded_query: Any  # (W, F) int32 number of the query ...
    excluded_entity: Any  # (W, F) int32 ... and entity_local id of an answer to leave out; padding: query Q


def rank_counts(
    score_fn: BaseScoreFunction,
    side: Side,
    window: int,
    axis_name: AxisName,
    params: Params,
    n_valid: jax.Array,
    queries: Queries,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Counts the entities that beat, and that tie with, the target of each query. Runs on one shard.

    Holds Q x window scores at a time. Targets are scored as their rivals are, bit by bit, so that ties are real.

    Args:
        score_fn: the score function, with shared negatives.
        side: the side that is asked for.
        window: table rows scored at a time, a multiple of `scoring.combine.LANES`.
        axis_name: name of the shard axis.
        params: parameters of the shard.
        n_valid: () int32 rows of the shard that are not padding.
        queries: the queries; the targets must be among the excluded answers.

    Returns:
        (Q,) int32 better entities and (Q,) int32 ties, over all shards, excluded ones left out; (Q,) float32 scores of
        the targets.
    """
    known, target = _gather(params.entity, queries.known, axis_name), _gather(params.entity, queries.target, axis_name)
    target_score = _score_targets(score_fn, side, window, params, known, queries.relation, target)

    def count(carry: tuple[jax.Array, jax.Array], score: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        better = jnp.sum(score > target_score[:, None], axis=-1, dtype=jnp.int32)
        ties = jnp.sum(score == target_score[:, None], axis=-1, dtype=jnp.int32)
        return carry[0] + better, carry[1] + ties

    zero = jnp.zeros(queries.known.shape, jnp.int32)
    counts = over_windows(score_fn, side, window, params, known, n_valid, queries, count, (zero, zero))
    better, ties = sum_shards(counts, axis_name)
    return better, ties, target_score


def top_k(
    score_fn: BaseScoreFunction,
    side: Side,
    window: int,
    k: int,
    axis_name: AxisName,
    params: Params,
    n_valid: jax.Array,
    queries: Queries,
) -> tuple[jax.Array, jax.Array]:
    """The k best answers of each query on this shard; arguments as in `rank_counts`, targets are not used.

    Returns:
        (Q, k) float32 scores, best first, minus infinity where there are fewer than k answers, and (Q, k) int32
        `entity_local` ids.
    """
    known = _gather(params.entity, queries.known, axis_name)
    start = nothing_found(len(known), k, params.entity.dtype)
    return over_windows(score_fn, side, window, params, known, n_valid, queries, keep_best, start)


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


def _gather(table: jax.Array, local: jax.Array, axis_name: AxisName) -> jax.Array:
    """Rows (Q, E) of entities that one shard each holds, on every shard."""
    rows = jnp.where(local[:, None] >= 0, take_rows(table, jnp.maximum(local, 0)), jnp.zeros((), table.dtype))
    return sum_shards(rows, axis_name)


def score_window(
    score_fn: BaseScoreFunction,
    side: Side,
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
    side: Side,
    window: int,
    params: Params,
    known: jax.Array,
    relation: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """Scores (Q,) of one row (Q, E) for each query, by operations of the same shape as for a window of the table.

    A matrix product of another shape may add up in another order, and a target would then not tie with its equals.
    """
    n_query, width = target.shape
    n_piece = -(-n_query // window)
    pieces = jnp.pad(target, ((0, n_piece * window - n_query), (0, 0))).reshape(n_piece, window, width)
    scores = jax.lax.map(lambda rows: score_window(score_fn, side, params, known, relation, rows), pieces)
    query = jnp.arange(n_query)
    return cast(jax.Array, scores[query // window, query, query % window])


def over_windows(
    score_fn: BaseScoreFunction,
    side: Side,
    window: int,
    params: Params,
    known: jax.Array,
    n_valid: jax.Array,
    queries: Queries,
    body: Callable[[C, jax.Array, jax.Array], C],
    init: C,
) -> C:
    """Folds `body(carry, scores (Q, window), entity_local ids (window,))`; what must not count scores -inf.

    The last window is moved back to end with the table; the rows it shares with the one before do not count again. A
    table with fewer rows than a window is filled up.
    """
    table = params.entity
    table = jnp.pad(table, ((0, max(window - table.shape[0], 0)), (0, 0)))
    n_row = table.shape[0]

    def one(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
        number, excluded_query, excluded_entity = inputs
        start = jnp.minimum(number * window, n_row - window)
        entity = start + jnp.arange(window, dtype=jnp.int32)
        rows = jax.lax.dynamic_slice_in_dim(table, start, window)
        score = score_window(score_fn, side, params, known, queries.relation, rows)
        counts = (entity >= number * window) & (entity < n_valid)
        score = jnp.where(counts[None], score, -jnp.inf)
        score = score.at[excluded_query, excluded_entity - start].set(-jnp.inf, mode="drop")
        return body(carry, score, entity), None

    n_window = queries.excluded_query.shape[0]
    inputs = (jnp.arange(n_window, dtype=jnp.int32), queries.excluded_query, queries.excluded_entity)
    carry, _ = jax.lax.scan(one, init, inputs)
    return carry
