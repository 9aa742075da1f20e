"""What can be asked of a model: for each kind of question what a shard computes, what it is given, what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import TypeAlias
from bess_jax._typing import Int32Array
from bess_jax.ask import shard
from bess_jax.ask.known import Candidates
from bess_jax.ask.layout import HostLists, HostOmitted, HostQueries
from bess_jax.ask.shard import Table

Arrays: TypeAlias = "tuple[Any, ...]"
Results: TypeAlias = "Sequence[NDArray[Any]]"


class Program(NamedTuple):
    """A function of one shard and what it is compiled for; equal ones are compiled once."""

    fn: Callable[..., Any]  # of (score_fn, axis_name, *settings, params, *table, *arrays)
    settings: tuple[Any, ...] = ()


class Task(NamedTuple):
    """Queries of one kind, ready to be answered chunk by chunk."""

    queries: HostQueries
    program: Program  # what a shard computes
    table: Arrays  # what the shards are given for all chunks, (S, ...) each
    arrays: Callable[[slice], Arrays]  # what they are given for a chunk, (S, ...) each
    answers: Callable[[Results], Arrays]  # from results for b queries, (S, b, ...) each, to answers, (b, ...) each


def rank_entities(
    queries: HostQueries, omitted: HostOmitted, among: Candidates | None, window: int, tolerance: float
) -> Task:
    """Ranks heads or tails among all entities, or among `among`: better candidates, ties and scores (b,)."""
    program = Program(shard.rank_entities, (queries.model_side, window, tolerance))
    return _of_entities(queries, omitted, among, program, _counts)


def top_entities(queries: HostQueries, omitted: HostOmitted, among: Candidates | None, window: int, k: int) -> Task:
    """Finds the best heads or tails among all entities, or among `among`: ids and scores (b, K)."""
    sharding = queries.sharding

    def answers(results: Results) -> Arrays:
        score, local = results
        return _best(k, (score, np.take_along_axis(sharding.shard_and_idx_to_entity[:, None], local, axis=2)))

    program = Program(shard.top_entities, (queries.model_side, window, min(k, sharding.max_entity_per_shard)))
    return _of_entities(queries, omitted, among, program, answers)


def rank_lists(queries: HostQueries, lists: HostLists, tolerance: float) -> Task:
    """Ranks heads or tails among the entities listed for each query: better candidates, ties and scores (b,)."""

    def arrays(rows: slice) -> Arrays:
        return queries.lay_out(rows), lists.lay_out(rows)

    return Task(queries, Program(shard.rank_lists, (queries.model_side, tolerance)), (), arrays, _counts)


def rank_relations(queries: HostQueries, omitted: HostOmitted, tolerance: float) -> Task:
    """Ranks relations among all relations: better candidates, ties and scores (b,)."""
    program = Program(shard.rank_relations, (tolerance,))
    return Task(queries, program, (), partial(_with_omitted, queries, omitted), _counts)


def top_relations(queries: HostQueries, omitted: HostOmitted, k: int) -> Task:
    """Finds the best relations: ids and scores (b, K)."""
    program = Program(shard.top_relations, (min(k, shard.relations_of_shard(queries.score_fn)),))
    return Task(queries, program, (), partial(_with_omitted, queries, omitted), partial(_best, k))


def score_triples(queries: HostQueries) -> Task:
    """Scores triples: scores (b,)."""

    def arrays(rows: slice) -> Arrays:
        return (queries.lay_out(rows),)

    def answers(results: Results) -> Arrays:
        return (results[0][0],)

    return Task(queries, Program(shard.score_triples), (), arrays, answers)


def _of_entities(
    queries: HostQueries,
    omitted: HostOmitted,
    among: Candidates | None,
    program: Program,
    answers: Callable[[Results], Arrays],
) -> Task:
    """A task over the windows of the shards' tables."""
    sharding, group = queries.sharding, None
    if among is not None:
        entity = np.minimum(sharding.shard_and_idx_to_entity, sharding.n_entity - 1)
        group = among.entity_group.astype(np.int32)[entity]
    table = (Table(sharding.shard_counts, group),)
    return Task(queries, program, table, partial(_with_omitted, queries, omitted, among=among), answers)


def _with_omitted(
    queries: HostQueries, omitted: HostOmitted, rows: slice, among: Candidates | None = None
) -> tuple[shard.Queries, shard.Omitted]:
    group = None if among is None else among.query_group[rows]
    return queries.lay_out(rows, group), omitted.lay_out(rows)


def _counts(results: Results) -> Arrays:
    """Better candidates, ties and scores (b,) of the answers; all shards have the sums."""
    better, ties, score = (x[0] for x in results)
    return better.astype(np.int64), ties.astype(np.int64), score


def _best(k: int, results: Results) -> tuple[Int32Array, NDArray[Any]]:
    """Ids and scores (b, K) of the best answers, from scores and ids of the best of each shard; equal scores by id."""
    score, answer = (np.concatenate(list(x), axis=-1) for x in results)
    order = np.lexsort((answer, -score), axis=-1)[:, :k]
    score, answer = (np.take_along_axis(x, order, axis=-1) for x in (score, answer))
    return np.where(score > -np.inf, answer, -1).astype(np.int32), score
