"""Ranking and prediction with a trained model: queries in global ids on the host, scores on the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import EntitySide, Int32Array, Side
from bess_jax.ask import shard as inference
from bess_jax.ask.known import COLUMNS, Answers, Candidates, KnownAnswers
from bess_jax.ask.layout import by_shard, lay_out_queries, most_on_a_shard, pad_places
from bess_jax.ask.ranks import Ranks, SideRanks
from bess_jax.ask.shard import Table
from bess_jax.data.sharding import Sharding
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import whole_lanes
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement

_MANY = 16  # known triples for each query, from which on only those near the queries are sorted
_LISTED = 2**22  # numbers in the candidate rows of a chunk of queries with candidates of their own


class NonFiniteScoreError(ArithmeticError):
    """A trained model gave a score that is not a number, so that ranks would mean nothing."""


class _Job(NamedTuple):
    """Queries, cut into chunks, and what competes in them."""

    side: Side
    triples: Int32Array  # (n, 3)
    chunk: int
    known: KnownAnswers | None = None
    among: Candidates | None = None
    rank: bool = False  # the answers are ranked: they do not compete with themselves
    width: int = 1  # answers to leave out of a window, at most

    @property
    def chunks(self) -> list[slice]:
        return [slice(i, i + self.chunk) for i in range(0, len(self.triples), self.chunk)]

    def excluded(self, rows: slice) -> tuple[NDArray[np.intp], Int32Array]:
        """Numbers of the queries of a chunk and ids of the answers to leave out, each pair once."""
        triples = self.triples[rows]
        query, answer = np.zeros(0, np.intp), np.zeros(0, np.int32)
        if self.known is not None:
            query, answer = self.known.of(self.side, triples)
        if not self.rank:
            return query, answer
        own = triples[:, COLUMNS[self.side]]
        other = answer != own[query]
        return np.append(query[other], np.arange(len(own))), np.append(answer[other], own)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ranker:
    """Scores queries against all entities or relations, exactly, without holding queries x entities.

    Queries are triples (n, 3) int32 in global ids, with one column that is asked for.

    Attributes:
        score_fn: the score function; heads are asked for as tails of the inverse relation where it has those.
        placement: where the shards run.
        chunk: queries per call.
        window: table rows of a shard scored at a time, rounded up to a multiple of 128.
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
        # Candidates are shared by all queries of a chunk, whatever the model was trained with.
        object.__setattr__(self, "score_fn", self.score_fn.clone(negative_sample_sharing=True))

    def ranks(
        self,
        params: Params,
        triples: Int32Array,
        known: KnownAnswers | None = None,
        progress: Callable[[int], None] = lambda n_done: None,
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
            job, n_candidate = self._job(_Job(side, triples, self.chunk, known, candidates, rank=True))
            better, ties, score = self._counts("counts", params, job, progress)
            ranked[side] = SideRanks(better, ties, n_candidate, score)
        return Ranks(triples, ranked)

    def ranks_among(
        self,
        params: Params,
        triples: Int32Array,
        lists: Mapping[Side, Int32Array],
        progress: Callable[[int], None] = lambda n_done: None,
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
            every = np.broadcast_to(listed, (len(triples), listed.shape[1]))
            chunk = max(1, min(self.chunk, _LISTED // (listed.shape[1] * self.score_fn.entity_width)))
            job = _Job(side, triples, chunk)
            width = max((most_on_a_shard(self._sharding, every[rows]) for rows in job.chunks), default=0)
            of_chunk = partial(by_shard, self._sharding, every, width)
            better, ties, score = self._counts("list_counts", params, job, progress, of_chunk)
            ranked[side] = SideRanks(better, ties, np.full(len(triples), 1 + listed.shape[1]), score)
        return Ranks(triples, ranked)

    def top_k(
        self,
        params: Params,
        side: Side,
        triples: Int32Array,
        k: int,
        skip: KnownAnswers | None = None,
        among: Candidates | None = None,
        progress: Callable[[int], None] = lambda n_done: None,
    ) -> Answers:
        """The `k` best answers for the column `side` of `triples` (Q, 3), which is not looked at.

        Args:
            params: parameters on the devices.
            side: what is asked for.
            triples: (Q, 3) int32 in global ids.
            k: how many; at most the number of entities or relations.
            skip: answers to leave out.
            among: the entities that may answer; default: all.
            progress: called with the number of queries done.

        Raises:
            ValueError: if `k` is out of range, or on a shape, an id or a side out of range.
        """
        _checks.one_of("side", side, tuple(COLUMNS))
        self._check(triples, side)
        n = self._n_answer(side)
        if not 1 <= k <= n:
            what = "relations" if side == "relation" else "entities"
            raise ValueError(f"k must be between 1 and the number of {what}, {n}, got {k}")
        triples = np.where(np.arange(3) == COLUMNS[side], 0, triples)
        job, _ = self._job(_Job(side, triples, self.chunk, skip, among))
        found = [(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))]
        for _, (score, position) in self._run("top_k", params, job, progress, k):  # (S, Q, k)
            ids = position
            if side != "relation":
                ids = np.take_along_axis(self._sharding.shard_and_idx_to_entity[:, None], position, axis=2)
            score, ids = (np.concatenate(list(x), axis=-1) for x in (score, ids))  # (Q, S * k)
            order = np.lexsort((ids, -score), axis=-1)[:, :k]
            score, ids = (np.take_along_axis(x, order, axis=-1) for x in (score, ids))
            found.append((np.where(score > -np.inf, ids, -1).astype(np.int32), score))
        return Answers(*(np.concatenate(x) for x in zip(*found, strict=True)))

    def score(
        self, params: Params, triples: Int32Array, progress: Callable[[int], None] = lambda n_done: None
    ) -> NDArray[np.float32]:
        """Scores (n,) float32 of `triples` (n, 3).

        Raises:
            ValueError: on a shape or an id out of range.
        """
        self._check(triples)
        run = self._run("score", params, _Job("relation", triples, self.chunk), progress)
        return np.concatenate([np.zeros(0, np.float32), *(result[0][0] for _, result in run)])

    def _check(self, triples: Int32Array, asked: Side | None = None) -> None:
        _checks.shape("triples", triples, (None, 3), "(n, 3)")
        for side, column in COLUMNS.items():
            if side != asked:
                what = "relation" if side == "relation" else "entity"
                _checks.ids("triples", triples, self._n_answer(side), what, columns=(column,))

    def _n_answer(self, side: Side) -> int:
        """Entities or relations that can be asked for."""
        return self.score_fn.n_relation_type if side == "relation" else self._sharding.n_entity

    def _n_position(self, side: Side) -> int:
        """The same of one shard, padding included."""
        return inference.relations_of_shard(self.score_fn) if side == "relation" else self._n_row

    def _job(self, job: _Job) -> tuple[_Job, NDArray[np.int64]]:
        """The same, checked and with its width; and the candidates of each query (n,), a ranked answer included."""
        _checks.one_of("side", job.side, tuple(COLUMNS))
        width, n_candidate = 1, np.full(len(job.triples), self._n_answer(job.side))
        if job.among is not None:
            if job.side == "relation":
                raise ValueError("candidates must be None where relations are asked for, got some entities")
            n_entity, n_query = (self._sharding.n_entity,), (len(job.triples),)
            _checks.shape("entity_group of the candidates", job.among.entity_group, n_entity, "(n_entity,)")
            _checks.shape("query_group of the candidates", job.among.query_group, n_query, "(Q,)")
            size = np.bincount(job.among.entity_group, minlength=1 + int(job.among.query_group.max(initial=0)))
            n_candidate = size[job.among.query_group]
        if job.known is not None and len(job.known) > _MANY * len(job.triples):
            job = job._replace(known=job.known.near(job.side, job.triples))
        group_of = self._places(job.side)[0]
        for rows in job.chunks:
            query, answer = job.excluded(rows)
            width = max(width, int(np.bincount(group_of[answer]).max(initial=0)))
            if job.among is not None:
                query = query[job.among.entity_group[answer] == job.among.query_group[rows][query]]
            n_candidate[rows] -= np.bincount(query, minlength=len(job.triples[rows]))
        return job._replace(width=_few_sizes(width)), n_candidate + job.rank

    def _counts(
        self,
        what: Literal["counts", "list_counts"],
        params: Params,
        job: _Job,
        progress: Callable[[int], None],
        listed: Callable[[slice, int], Int32Array] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Better candidates, ties and scores of the answers, (n,) each."""
        parts: list[Any] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        for rows, (better, ties, score) in self._run(what, params, job, progress, listed=listed):
            if not np.isfinite(score[0]).all():
                bad = job.triples[rows][np.argmin(np.isfinite(score[0]))]
                raise NonFiniteScoreError(f"the score of triple {bad.tolist()} is not finite; the model diverged")
            parts.append((better[0].astype(np.int64), ties[0].astype(np.int64), score[0]))
        better, ties, score = (np.concatenate(part) for part in zip(*parts, strict=True))
        return better, ties, score

    def _run(
        self,
        what: Literal["counts", "list_counts", "top_k", "score"],
        params: Params,
        job: _Job,
        progress: Callable[[int], None],
        k: int = 0,
        listed: Callable[[slice, int], Int32Array] | None = None,
    ) -> Iterator[tuple[slice, list[Any]]]:
        """Yields the rows and the results, (S, Q, ...) each, of every chunk of queries.

        The queries of a chunk are laid out while the devices work on the one before it.
        """
        if not job.chunks:
            return
        turned = self.score_fn.inverse_relations and job.side == "head"
        asked: Side = "tail" if turned else job.side
        compiled = self._compiled(what, asked, min(k, self._n_position(asked)))
        chunk = job.chunk if len(job.chunks) > 1 else _few_sizes(len(job.triples))
        table = self._table(job.among)

        def arguments(rows: slice) -> Any:
            triples = job.triples[rows]
            if turned:
                head, relation, tail = triples.T
                triples = np.stack([tail, relation + self.score_fn.n_relation_type, head], axis=1)
            query, answer = job.excluded(rows)
            group, position = self._places(job.side)
            size = (self._sharding.n_shard * (1 if job.side == "relation" else self._n_window), job.width)
            places = pad_places(self._sharding.n_shard, group[answer], query, position[answer], size, chunk)
            of_query = None if job.among is None else job.among.query_group[rows]
            queries = lay_out_queries(self._sharding, asked, triples, chunk, of_query, places)
            return self.placement.put((queries,) if listed is None else (queries, listed(rows, chunk)))

        ready = arguments(job.chunks[0])
        for number, rows in enumerate(job.chunks):
            result = compiled(params, table, *ready)
            if number + 1 < len(job.chunks):
                ready = arguments(job.chunks[number + 1])
            n = len(job.triples[rows])
            yield rows, [x[:, :n] for x in self.placement.get(result)]
            progress(n)

    def _places(self, side: Side) -> tuple[NDArray[np.intp], Int32Array]:
        """Of each possible answer the group, a window of a shard, and the position in the table of the shard."""
        if side == "relation":
            group, position = np.divmod(np.arange(self.score_fn.n_relation_type), self._n_position(side))
            return group, position.astype(np.int32)
        local = self._sharding.entity_to_idx
        return self._sharding.entity_to_shard * self._n_window + local // self._window, local

    def _table(self, among: Candidates | None) -> Any:
        group = None
        if among is not None:
            entity = np.minimum(self._sharding.shard_and_idx_to_entity, self._sharding.n_entity - 1)
            group = among.entity_group.astype(np.int32)[entity]
        return self.placement.put(Table(self._sharding.shard_counts, group))

    @property
    def _sharding(self) -> Sharding:
        return self.score_fn.sharding

    @property
    def _n_row(self) -> int:
        return self._sharding.max_entity_per_shard

    @property
    def _window(self) -> int:
        return whole_lanes(min(self.window, self._n_row))

    @property
    def _n_window(self) -> int:
        return -(-self._n_row // self._window)

    @cached_property
    def _programs(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def _compiled(self, what: Literal["counts", "list_counts", "top_k", "score"], side: Side, k: int) -> Any:
        """The device function of (params, table, queries), which `list_counts` takes candidates with."""
        key = what, side, k
        if key in self._programs:
            return self._programs[key]
        model, axis, asked = self.score_fn, self.placement.axis_name, cast(EntitySide, side)
        shard: Callable[..., Any]
        if what == "score":
            shard = partial(inference.score_triples, model, axis)
        elif what == "list_counts":
            own = model.clone(negative_sample_sharing=False)
            shard = partial(inference.list_counts, own, asked, self.tolerance, axis)
        elif what == "top_k" and side == "relation":
            shard = partial(inference.relation_top_k, model, k, axis)
        elif what == "top_k":
            shard = partial(inference.top_k, model, asked, self._window, k, axis)
        elif side == "relation":
            shard = partial(inference.relation_counts, model, self.tolerance, axis)
        else:
            shard = partial(inference.rank_counts, model, asked, self._window, self.tolerance, axis)
        return self._programs.setdefault(key, self.placement.map(shard))


def _few_sizes(n: int) -> int:
    """The least power of two that is at least `n`: programs are compiled for few sizes."""
    return 1 << max(n - 1, 0).bit_length()
