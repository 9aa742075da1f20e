"""Ranks, best answers and scores with a trained model: queries in global ids on the host, scores on the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import TypeAlias, dataclass, zip
from bess_jax._typing import Int32Array, Side
from bess_jax.ask import tasks
from bess_jax.ask.known import COLUMNS, Answers, Candidates, KnownAnswers, check_k
from bess_jax.ask.layout import HostLists, HostOmitted, HostQueries, Places
from bess_jax.ask.ranks import Ranks, SideRanks
from bess_jax.ask.tasks import Program, Task
from bess_jax.data.sharding import Sharding
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement

_LISTED = 2**22
"""Numbers in the candidate rows of a chunk of queries with candidates of their own."""

Progress: TypeAlias = "Callable[[int], None]"
"""Is called with the number of queries done since the last time."""


class NonFiniteScoreError(ArithmeticError):
    """A trained model gave a score that is not a number, so that ranks would mean nothing."""


def check_finite(triples: Int32Array, score: NDArray[np.float32]) -> None:
    """Checks scores (n,) of triples (n, 3).

    Raises:
        NonFiniteScoreError: if one is NaN or infinite, naming the first such triple.
    """
    finite = np.isfinite(score)
    if not finite.all():
        bad = triples[np.argmin(finite)].tolist()
        raise NonFiniteScoreError(f"the score of triple {bad} is not finite; the model diverged")


def check_answers(side: Side, triples: Int32Array, found: Answers, n_answer: NDArray[np.int64]) -> None:
    """Checks the best answers to queries, triples (n, 3) of which `side` is requested.

    Args:
        side: the requested side.
        triples: (n, 3) the queries.
        found: their answers (n, K).
        n_answer: (n,) how many answers each must have, if all scores are finite.

    Raises:
        NonFiniteScoreError: if one has a score that is NaN or infinite, naming the first such query.
    """
    finite = np.isfinite(found.score).sum(axis=1) == np.minimum(n_answer, found.score.shape[1])
    if not finite.all():
        query: list[int | str] = triples[np.argmin(finite)].tolist()
        query[COLUMNS[side]] = "?"
        raise NonFiniteScoreError(f"scores of query ({', '.join(map(str, query))}) are not finite; the model diverged")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranker:
    """Scores queries against all entities or relations, exactly, without holding queries x entities.

    Queries are triples (n, 3) int32 in global ids, with one requested column. A chunk of them is laid out on the
    host while the devices work on the one before it; programs are compiled once, for few sizes.

    Attributes:
        score_fn: the score function; heads are requested as tails of the inverse relation, where it has those.
        placement: where the shards run.
        chunk: queries of a chunk.
        window: W, table rows of a shard scored at a time, rounded up to a multiple of 128.
        tolerance: scores that differ by at most that much tie.
    """

    score_fn: BaseScoreFunction
    placement: Placement
    chunk: int = 512
    window: int = 1024
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        _checks.at_least("chunk", self.chunk, 1)
        _checks.at_least("window", self.window, 1)
        _checks.at_least("tolerance", self.tolerance, 0)

    def __repr__(self) -> str:
        where = f"{self.placement.n_shard} shards on {len(self.placement.devices)} devices"
        settings = f"chunk={self.chunk}, window={self.window}, tolerance={self.tolerance}"
        return f"Ranker({type(self.score_fn).__name__}, {where}, {settings})"

    def ranks(
        self,
        params: Params,
        triples: Int32Array,
        known: KnownAnswers | None = None,
        progress: Progress = lambda n_done: None,
        sides: Sequence[Side] = ("head", "tail"),
        among: Mapping[Side, Candidates] | None = None,
    ) -> Ranks:
        """Ranks of the answers that `triples` (n, 3) hold.

        Args:
            params: parameters on the devices, as `Placement.put` or a train step leaves them.
            triples: (n, 3) int32 in global ids.
            known: answers to leave out of each other's ranks, usually those of all splits; default: none (raw ranks).
            progress: called with the number of queries done.
            sides: what to rank.
            among: side -> the entities that compete; default: all. The answer itself always does.

        Raises:
            ValueError: on a shape, an id or a side out of range.
            NonFiniteScoreError: if the score of a triple is NaN or infinite.
        """
        self._check(triples)
        ranked = {}
        for side in sides:
            candidates = (among or {}).get(side)
            self._check_side(side, len(triples), candidates)
            queries = HostQueries(self.score_fn, side, triples, self.chunk)
            omitted = HostOmitted.create(queries, self._places(side), known, candidates, ranked=True)
            if side == "relation":
                task = tasks.rank_relations(queries, omitted, self.tolerance)
            else:
                task = tasks.rank_entities(queries, omitted, candidates, self._window, self.tolerance)
            n_candidate = self.n_answer(side) if candidates is None else candidates.n_candidate
            ranked[side] = self._rank(task, params, n_candidate - omitted.n_of_query + 1, progress)
        return Ranks(triples, ranked)

    def ranks_among(
        self,
        params: Params,
        triples: Int32Array,
        lists: Mapping[Side, Int32Array],
        progress: Progress = lambda n_done: None,
    ) -> Ranks:
        """Ranks of the answers that `triples` (n, 3) hold among given entities; nothing is left out.

        OGB's protocol: `lists` are the "head_neg" and "tail_neg" of its splits (Hu et al. 2020, arXiv 2005.00687).

        Args:
            params: parameters on the devices.
            triples: (n, 3) int32 in global ids.
            lists: "head" or "tail" -> (n, c) int32 `entity_global` candidates of each query, or (1, c) for all.
            progress: called with the number of queries done.

        Raises:
            ValueError: on a shape, an id or a side out of range.
            NonFiniteScoreError: if the score of a triple is NaN or infinite.
        """
        self._check(triples)
        ranked: dict[Side, SideRanks] = {}
        for side, listed in lists.items():
            _checks.one_of("lists", side, ("head", "tail"))
            _checks.shape(f"lists[{side!r}]", listed, (None, None), "(n, c)")
            if len(listed) not in (1, len(triples)):
                raise ValueError(f"lists[{side!r}] must have one row for all or {len(triples)}, got {len(listed)}")
            _checks.ids(f"lists[{side!r}]", listed, self._sharding.n_entity, "entity")
            n = listed.shape[1]
            chunk = max(1, min(self.chunk, _LISTED // (max(n, 1) * self.score_fn.entity_width)))
            queries = HostQueries(self.score_fn, side, triples, chunk)
            task = tasks.rank_lists(queries, HostLists.create(queries, listed), self.tolerance)
            ranked[side] = self._rank(task, params, np.full(len(triples), 1 + n), progress)
        return Ranks(triples, ranked)

    def top_k(
        self,
        params: Params,
        side: Side,
        triples: Int32Array,
        k: int,
        known: KnownAnswers | None = None,
        among: Candidates | None = None,
        progress: Progress = lambda n_done: None,
    ) -> Answers:
        """The `k` best answers for the column `side` of `triples` (Q, 3), which is not looked at.

        Args:
            params: parameters on the devices.
            side: the requested side.
            triples: (Q, 3) int32 in global ids.
            k: K, at most the number of entities or relations.
            known: answers to leave out; default: none.
            among: the entities that may answer; default: all.
            progress: called with the number of queries done.

        Raises:
            ValueError: if `k` is out of range, or on a shape, an id or a side out of range.
            NonFiniteScoreError: if an answer's score is NaN or infinite, or too few others are left because one is.
        """
        self._check_side(side, len(triples), among)
        self._check(triples, side)
        self.check_k(side, k)
        asked = np.where(np.arange(3) == COLUMNS[side], 0, triples)
        queries = HostQueries(self.score_fn, side, asked, self.chunk)
        omitted = HostOmitted.create(queries, self._places(side), known, among)
        if side == "relation":
            task = tasks.top_relations(queries, omitted, k)
        else:
            task = tasks.top_entities(queries, omitted, among, self._window, k)
        n_answer = (self.n_answer(side) if among is None else among.n_candidate) - omitted.n_of_query
        parts = []
        for rows, answers in self._run(task, params, progress):
            parts.append(Answers(*answers))
            check_answers(side, triples[rows], parts[-1], n_answer[rows])
        return Answers(*_concatenate(parts))

    def score(
        self, params: Params, triples: Int32Array, progress: Progress = lambda n_done: None
    ) -> NDArray[np.float32]:
        """Scores (n,) float32 of `triples` (n, 3).

        Raises:
            ValueError: on a shape or an id out of range.
        """
        self._check(triples)
        task = tasks.score_triples(HostQueries(self.score_fn, "tail", triples, self.chunk))
        return _concatenate(answers for _, answers in self._run(task, params, progress))[0]

    def check_k(self, side: Side, k: int) -> None:
        """Checks that the best `k` answers for a side can be given.

        Raises:
            ValueError: if `k` is not between 1 and the number of entities or relations.
        """
        check_k(k, self.n_answer(side), "relations" if side == "relation" else "entities")

    def whole_chunks(self, n: int) -> int:
        """The largest number of queries up to `n` that fills chunks, but at least those of one chunk."""
        return max(1, n // self.chunk) * self.chunk

    def _rank(self, task: Task, params: Params, n_candidate: NDArray[np.int64], progress: Progress) -> SideRanks:
        """Ranks of one side, of which there are (n,) candidates, the answer included."""
        parts = []
        for rows, (better, ties, score) in self._run(task, params, progress):
            check_finite(task.queries.triples[rows], score)
            parts.append((better, ties, score))
        better, ties, score = _concatenate(parts)
        return SideRanks(better, ties, n_candidate, score)

    def _run(self, task: Task, params: Params, progress: Progress) -> Iterator[tuple[slice, tuple[NDArray[Any], ...]]]:
        """Yields the rows and the answers of every chunk of queries."""
        compiled = self._compile(task.program)
        table = self.placement.put(task.table)
        chunks = task.queries.chunks
        ready = self.placement.put(task.arrays(chunks[0]))
        for number, rows in enumerate(chunks):
            result = compiled(params, *table, *ready)
            if number + 1 < len(chunks):  # while the devices work
                ready = self.placement.put(task.arrays(chunks[number + 1]))
            n = len(task.queries.triples[rows])
            yield rows, task.answers([x[:, :n] for x in self.placement.get(result)])
            progress(n)

    def _compile(self, program: Program) -> Callable[..., Any]:
        if program not in self._compiled:
            on_shard = partial(program.fn, self.score_fn, self.placement.axis_name, *program.settings)
            self._compiled[program] = self.placement.map(on_shard)
        return self._compiled[program]

    @cached_property
    def _compiled(self) -> dict[Program, Callable[..., Any]]:
        return {}

    def _check(self, triples: Int32Array, requested: Side | None = None) -> None:
        """Checks all columns but the requested one."""
        _checks.shape("triples", triples, (None, 3), "(n, 3)")
        for side, column in COLUMNS.items():
            if side != requested:
                what = "relation" if side == "relation" else "entity"
                _checks.ids("triples", triples, self.n_answer(side), what, columns=(column,))

    def _check_side(self, side: Side, n_query: int, among: Candidates | None) -> None:
        _checks.one_of("side", side, tuple(COLUMNS))
        if among is None:
            return
        if side == "relation":
            raise ValueError("candidates must be None where relations are requested, got some entities")
        n_entity = self._sharding.n_entity
        _checks.shape("entity_group of the candidates", among.entity_group, (n_entity,), "(n_entity,)")
        _checks.shape("query_group of the candidates", among.query_group, (n_query,), "(Q,)")

    def n_answer(self, side: Side) -> int:
        """Entities or relations that can be requested."""
        return self.score_fn.n_relation_type if side == "relation" else self._sharding.n_entity

    def _places(self, side: Side) -> Places:
        if side == "relation":
            return Places.of_relations(self.score_fn)
        return Places.of_entities(self._sharding, self._window)

    @property
    def _sharding(self) -> Sharding:
        return self.score_fn.sharding

    @property
    def _window(self) -> int:
        """W."""
        return whole_lanes(min(self.window, self._sharding.max_entity_per_shard))


def _concatenate(parts: Iterable[tuple[NDArray[Any], ...]]) -> list[NDArray[Any]]:
    """Columns of all chunks from those of each."""
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
