"""Evaluation and prediction with a trained model: queries in global ids on the host, scores on the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array
from bess_jax.bess import Params
from bess_jax.inference import Queries, Side, rank_counts, top_k
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.combine import whole_lanes
from bess_jax.spmd import Placement

SIDES: tuple[Side, Side] = ("head", "tail")


class NonFiniteScoreError(ArithmeticError):
    """A trained model gave a score that is not a number, so that ranks would mean nothing."""


class KnownAnswers:
    """Looks up the true answers of queries among given triples.

    Args:
        triples: (n, 3) int32, `entity_global` head, relation, `entity_global` tail.
        n_relation: number of relation ids.
    """

    def __init__(self, triples: Int32Array, n_relation: int) -> None:
        self._n_relation = n_relation
        self._sorted = {side: self._sort(triples, side) for side in SIDES}

    def _sort(self, triples: Int32Array, side: Side) -> tuple[NDArray[np.int64], Int32Array]:
        answer, known = (2, 0) if side == "tail" else (0, 2)
        key = triples[:, known].astype(np.int64) * self._n_relation + triples[:, 1]
        order = np.argsort(key, kind="stable")
        return key[order], triples[order, answer]

    def of(self, side: Side, known: Int32Array, relation: Int32Array) -> tuple[NDArray[np.intp], Int32Array]:
        """All (number of the query, `entity_global` answer) of queries with `known` (Q,) and `relation` (Q,)."""
        keys, answers = self._sorted[side]
        wanted = known.astype(np.int64) * self._n_relation + relation
        low, high = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        count = high - low
        query = np.repeat(np.arange(len(wanted)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return query, answers[np.repeat(low, count) + within]


class Ranks(NamedTuple):
    """Filtered ranks of both sides of some triples, ties at the mean of the places they share."""

    head: NDArray[np.float64]  # (n,) rank of the head in (?, r, t)
    tail: NDArray[np.float64]  # (n,) rank of the tail in (h, r, ?)

    def metrics(self, hits: tuple[int, ...] = (1, 3, 10)) -> dict[str, dict[str, float]]:
        """Side ("head", "tail", "both") -> mrr, hits@k, mean_rank."""
        sides = {"head": self.head, "tail": self.tail, "both": np.concatenate(self)}
        return {
            side: {
                "mrr": float(np.mean(1 / rank)),
                **{f"hits@{k}": float(np.mean(rank <= k)) for k in hits},
                "mean_rank": float(np.mean(rank)),
            }
            for side, rank in sides.items()
        }


class Answers(NamedTuple):
    """The best answers of queries, best first; equal scores in the order of the ids."""

    entity: Int32Array  # (Q, k) entity_global, -1 where there are fewer than k answers
    score: NDArray[np.float32]  # (Q, k)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ranker:
    """Scores queries against all entities, exactly, without holding queries x entities.

    Attributes:
        score_fn: the score function; heads are asked for as tails of the inverse relation where it has those.
        placement: where the shards run.
        chunk: queries per call.
        window: table rows of a shard scored at a time, rounded up to a multiple of 128.
    """

    score_fn: BaseScoreFunction
    placement: Placement
    chunk: int = 512
    window: int = 1024

    def __post_init__(self) -> None:
        _checks.at_least("chunk", self.chunk, 1)
        _checks.at_least("window", self.window, 1)
        # Candidates are shared by all queries of a chunk, whatever the model was trained with.
        object.__setattr__(self, "score_fn", self.score_fn.clone(negative_sample_sharing=True))

    def ranks(
        self,
        params: Params,
        triples: Int32Array,
        known: KnownAnswers,
        progress: Callable[[int], None] = lambda n_done: None,
    ) -> Ranks:
        """Ranks of both sides of `triples` (n, 3), other answers in `known` left out.

        Args:
            params: parameters on the devices, as `Placement.put` or a train step leaves them.
            triples: (n, 3) int32 in global ids.
            known: the answers to leave out of each other's ranks, usually those of all splits.
            progress: called with the number of queries done.

        Raises:
            NonFiniteScoreError: if the score of a triple is NaN or infinite.
        """
        ranks = []
        for side in SIDES:
            target, source = (triples[:, 2], triples[:, 0]) if side == "tail" else (triples[:, 0], triples[:, 2])
            done = []
            for rows, (better, ties, score) in self._run(
                "rank", params, side, source, triples[:, 1], target, known, progress
            ):
                if not np.isfinite(score).all():
                    bad = triples[rows][np.argmin(np.isfinite(score))]
                    raise NonFiniteScoreError(f"the score of triple {bad.tolist()} is not finite; the model diverged")
                done.append(1 + better + ties / 2)
            ranks.append(np.concatenate(done))
        return Ranks(*ranks)

    def top_k(
        self,
        params: Params,
        side: Side,
        known: Int32Array,
        relation: Int32Array,
        k: int,
        skip: KnownAnswers | None = None,
    ) -> Answers:
        """The `k` best answers for `side` of queries with `known` (Q,) entities and `relation` (Q,), in global ids.

        Args:
            params: parameters on the devices.
            side: the side that is asked for.
            known: (Q,) int32 `entity_global`.
            relation: (Q,) int32.
            k: how many; at most the number of entities.
            skip: answers to leave out.

        Raises:
            ValueError: if `k` is not between 1 and the number of entities.
        """
        sharding = self.score_fn.sharding
        if not 1 <= k <= sharding.n_entity:
            raise ValueError(f"k must be between 1 and the number of entities, {sharding.n_entity}, got {k}")
        found = []
        for _, (score, local) in self._run("top_k", params, side, known, relation, None, skip, lambda n: None, k):
            entity = np.take_along_axis(sharding.shard_and_idx_to_entity[:, None], local, axis=2)
            score, entity = (np.concatenate(list(x), axis=-1) for x in (score, entity))  # (Q, S * k)
            order = np.lexsort((entity, -score), axis=-1)[:, :k]
            score, entity = (np.take_along_axis(x, order, axis=-1) for x in (score, entity))
            found.append((np.where(score > -np.inf, entity, -1), score))
        return Answers(*(np.concatenate(x) for x in zip(*found, strict=True)))

    def _run(
        self,
        what: Literal["rank", "top_k"],
        params: Params,
        side: Side,
        known: Int32Array,
        relation: Int32Array,
        target: Int32Array | None,
        skip: KnownAnswers | None,
        progress: Callable[[int], None],
        k: int = 0,
    ) -> Iterator[tuple[slice, Any]]:
        """Yields the rows and the results of each chunk of queries."""
        asked = side
        chunk = min(self.chunk, len(known))
        chunks = [slice(i, i + chunk) for i in range(0, len(known), chunk)]
        excluded = [self._excluded(rows, side, known, relation, target, skip) for rows in chunks]
        width = max(1, *(int(counts.max()) for counts, *_ in excluded))
        if self.score_fn.inverse_relations and side == "head":
            asked, relation = "tail", relation + self.score_fn.n_relation_type
        compiled = self._rank(asked) if what == "rank" else self._top_k(asked, min(k, self._n_row))
        for rows, out in zip(chunks, excluded, strict=True):
            n = len(known[rows])
            queries = self._queries(chunk, known[rows], relation[rows], None if target is None else target[rows])
            queries = queries._replace(**self._layout(*out, width, chunk))
            result = self.placement.get(compiled(params, self._n_valid, self.placement.put(queries)))
            yield rows, [x[0, :n] if what == "rank" else x[:, :n] for x in result]
            progress(n)

    def _queries(self, chunk: int, known: Int32Array, relation: Int32Array, target: Int32Array | None) -> Queries:
        """Queries (S, chunk), the last chunk filled up with its last query."""
        sharding = self.score_fn.sharding
        shards = np.arange(sharding.n_shard)[:, None]

        def fill(x: Int32Array) -> Int32Array:
            return np.pad(x, (0, chunk - len(x)), mode="edge").astype(np.int32)

        def local(entity: Int32Array) -> Int32Array:
            here = sharding.entity_to_shard[entity][None] == shards
            return np.where(here, sharding.entity_to_idx[entity][None], -1).astype(np.int32)

        known_local = local(fill(known))
        shared_relation = np.broadcast_to(fill(relation), known_local.shape)
        nothing = np.zeros(0, np.int32)
        target_local = known_local if target is None else local(fill(target))
        return Queries(known_local, shared_relation, target_local, nothing, nothing)

    def _excluded(
        self,
        rows: slice,
        side: Side,
        known: Int32Array,
        relation: Int32Array,
        target: Int32Array | None,
        skip: KnownAnswers | None,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Answers to leave out of one chunk: count of each (shard, window), and that group, query and local id."""
        query, answer = np.zeros(0, np.intp), np.zeros(0, np.int32)
        if skip is not None:
            query, answer = skip.of(side, known[rows], relation[rows])
        if target is not None:  # a target never competes with itself, known or not
            n = len(target[rows])
            query, answer = np.concatenate([query, np.arange(n)]), np.concatenate([answer, target[rows]])
        sharding = self.score_fn.sharding
        local = sharding.entity_to_idx[answer].astype(np.intp)
        group = sharding.entity_to_shard[answer] * self._n_window + local // self._window
        order = np.argsort(group, kind="stable")
        counts = np.bincount(group, minlength=sharding.n_shard * self._n_window)
        return counts, group[order], query[order], local[order]

    def _layout(
        self,
        counts: NDArray[np.intp],
        group: NDArray[np.intp],
        query: NDArray[np.intp],
        local: NDArray[np.intp],
        width: int,
        chunk: int,
    ) -> dict[str, Int32Array]:
        """Answers to leave out, as (S, windows, width); padding names a query that does not exist."""
        place = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
        size = (self.score_fn.sharding.n_shard, self._n_window, width)
        arrays = {}
        for name, values, padding in (("excluded_query", query, chunk), ("excluded_entity", local, 0)):
            array = np.full((len(counts), width), padding, dtype=np.int32)
            array[group, place] = values
            arrays[name] = array.reshape(size)
        return arrays

    @property
    def _n_row(self) -> int:
        return self.score_fn.sharding.max_entity_per_shard

    @property
    def _window(self) -> int:
        return whole_lanes(min(self.window, self._n_row))

    @property
    def _n_window(self) -> int:
        return -(-self._n_row // self._window)

    @cached_property
    def _n_valid(self) -> Any:
        return self.placement.put(self.score_fn.sharding.shard_counts)

    @cached_property
    def _compiled(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def _rank(self, side: Side) -> Callable[..., Any]:
        fn = partial(rank_counts, self.score_fn, side, self._window, self.placement.axis_name)
        return self._compiled.setdefault(side, self.placement.map(fn))

    def _top_k(self, side: Side, k: int) -> Callable[..., Any]:
        fn = partial(top_k, self.score_fn, side, self._window, k, self.placement.axis_name)
        return self._compiled.setdefault((side, k), self.placement.map(fn))
