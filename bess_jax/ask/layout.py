"""Queries and the answers that they omit, from global ids to what each shard is given, chunk by chunk. On the host."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax._typing import EntitySide, Int32Array, Side
from bess_jax.ask.known import COLUMNS, Candidates, KnownAnswers
from bess_jax.ask.shard import Omitted, Queries, relations_of_shard
from bess_jax.data.sharding import Sharding
from bess_jax.scoring import BaseScoreFunction

_MANY = 16
"""Known triples for each query, from which on only those near the queries are sorted."""


def few_sizes(n: int) -> int:
    """The least power of two that is at least `n`: programs are compiled for few sizes."""
    return 1 << max(n - 1, 0).bit_length()


@dataclasses.dataclass(frozen=True, eq=False)
class HostQueries:
    """Queries that ask for one side of triples, in chunks.

    Attributes:
        score_fn: the model; heads are requested as tails of the inverse relation, where it has those.
        side: the requested side.
        triples: (n, 3) int32 in global ids; the requested column holds the answers to rank, or any ids.
        chunk: queries of a chunk, at most.
    """

    score_fn: BaseScoreFunction
    side: Side
    triples: Int32Array
    chunk: int

    @property
    def sharding(self) -> Sharding:
        """Sharding of the entities."""
        return self.score_fn.sharding

    @property
    def chunks(self) -> list[slice]:
        """Rows of each chunk; one without any if there is no query."""
        return [slice(i, i + self.chunk) for i in range(0, max(len(self.triples), 1), self.chunk)]

    @property
    def n_padded(self) -> int:
        """Q, queries of a chunk as the devices see it.

        At least two: a single query and its list would be scored as a matrix product, the last columns of which may add
        up in another order than the first one, that of the target.
        """
        return max(2, self.chunk if len(self.triples) > self.chunk else few_sizes(len(self.triples)))

    @property
    def model_side(self) -> EntitySide:
        """The side that is requested of the model, if not relations."""
        return "head" if self.side == "head" and not self._as_inverse else "tail"

    @property
    def _as_inverse(self) -> bool:
        return self.side == "head" and self.score_fn.inverse_relations

    def lay_out(self, rows: slice, group: Int32Array | None = None) -> Queries:
        """The queries of a chunk as the shards are given them, (S, Q), filled up with a query of zeros.

        Args:
            rows: the chunk.
            group: (b,) int32 group of the entities that may answer each of its queries.
        """
        shards = np.arange(self.sharding.n_shard)[:, None]

        def fill(x: Int32Array) -> Int32Array:
            return np.pad(x, (0, self.n_padded - len(x))).astype(np.int32)

        def local(entity: Int32Array) -> Int32Array:
            here = self.sharding.entity_to_shard[entity][None] == shards
            return np.where(here, self.sharding.entity_to_idx[entity][None], -1).astype(np.int32)

        def shared(x: Int32Array) -> Int32Array:
            return np.broadcast_to(x, (len(shards), self.n_padded))

        head, relation, tail = self.triples[rows].T
        if self._as_inverse:
            relation = relation + self.score_fn.n_relation_type
        known, target = (tail, head) if self.side == "head" else (head, tail)
        return Queries(
            known=local(fill(known)),
            relation=shared(fill(relation)),
            target=local(fill(target)),
            group=None if group is None else shared(fill(group)),
        )


class Places(NamedTuple):
    """Where the shards hold each of `n` possible answers."""

    window: NDArray[np.intp]  # (n,) number of the window, shard after shard
    place: Int32Array  # (n,) entity_local id, or position among the relations of the shard
    n_window: int  # V, windows of a shard

    @classmethod
    def of_entities(cls, sharding: Sharding, window: int) -> Places:
        """Entities, in windows of `window` rows."""
        n_window, local = -(-sharding.max_entity_per_shard // window), sharding.entity_to_idx
        return cls(sharding.entity_to_shard * n_window + local // window, local, n_window)

    @classmethod
    def of_relations(cls, score_fn: BaseScoreFunction) -> Places:
        """Relations, those of a shard in one window."""
        shard, place = np.divmod(np.arange(score_fn.n_relation_type), relations_of_shard(score_fn))
        return cls(shard, place.astype(np.int32), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class HostOmitted:
    """Answers that queries omit, looked up chunk by chunk, to count them and to lay them out, and never held for all.

    Attributes:
        queries: the queries.
        places: where the shards hold the answers.
        known: true answers, which are omitted.
        ranked: the answers that the triples hold are ranked: they do not compete with themselves.
        n_of_query: (n,) int64 candidates that each query omits.
        width: X, answers omitted in a window, at most.
    """

    queries: HostQueries
    places: Places
    known: KnownAnswers | None
    ranked: bool
    n_of_query: NDArray[np.int64]
    width: int

    @classmethod
    def create(
        cls,
        queries: HostQueries,
        places: Places,
        known: KnownAnswers | None,
        among: Candidates | None = None,
        ranked: bool = False,
    ) -> HostOmitted:
        """Counts what is omitted.

        Args:
            queries: the queries.
            places: where the shards hold the answers.
            known: true answers, which are omitted, or None.
            among: the candidates; default: all. Other answers are omitted, but do not count.
            ranked: see the class.
        """
        n = len(queries.triples)
        if known is not None and len(known) > _MANY * n:
            known = known.near(queries.side, queries.triples)
        n_of_query, width = np.zeros(n, np.int64), 1
        for rows in queries.chunks:
            query, answer = _omitted(queries, rows, known, ranked)
            width = max(width, int(np.bincount(places.window[answer]).max(initial=0)))
            if among is not None:
                query = query[among.entity_group[answer] == among.query_group[rows][query]]
            n_of_query[rows] = np.bincount(query, minlength=len(queries.triples[rows]))
        return cls(queries, places, known, ranked, n_of_query, few_sizes(width))

    def lay_out(self, rows: slice) -> Omitted:
        """What the queries of a chunk omit as the shards are given it, (S, V, X)."""
        query, answer = _omitted(self.queries, rows, self.known, self.ranked)
        n_shard = self.queries.sharding.n_shard
        size = n_shard * self.places.n_window, self.width
        window = self.places.window[answer]
        if size[0] <= 2**16:
            window = window.astype(np.uint16)  # is sorted by radix
        order = np.argsort(window, kind="stable")
        window = window[order]
        counts = np.bincount(window, minlength=size[0])
        column = np.arange(len(window)) - np.repeat(np.cumsum(counts) - counts, counts)
        queries, places = np.full(size, self.queries.n_padded, np.int32), np.zeros(size, np.int32)
        queries[window, column], places[window, column] = query[order], self.places.place[answer[order]]
        return Omitted(*(x.reshape(n_shard, -1, self.width) for x in (queries, places)))


def _omitted(
    queries: HostQueries, rows: slice, known: KnownAnswers | None, ranked: bool
) -> tuple[NDArray[np.intp], Int32Array]:
    """Numbers of the queries of a chunk and ids of the answers that they omit, each pair once."""
    triples = queries.triples[rows]
    query, answer = np.zeros(0, np.intp), np.zeros(0, np.int32)
    if known is not None:
        query, answer = known.of(queries.side, triples)
    if not ranked:
        return query, answer
    own = triples[:, COLUMNS[queries.side]]
    other = answer != own[query]
    return np.append(query[other], np.arange(len(own))), np.append(answer[other], own)


@dataclasses.dataclass(frozen=True, eq=False)
class HostLists:
    """Candidates of each query.

    Attributes:
        queries: the queries.
        listed: (1 or n, c) int32 `entity_global` candidates, of all queries or of each.
        width: candidates of a query on one shard, at most.
    """

    queries: HostQueries
    listed: Int32Array
    width: int

    @classmethod
    def create(cls, queries: HostQueries, listed: Int32Array) -> HostLists:
        """Finds the width; arguments as in the class."""
        width = 0
        for rows in queries.chunks:
            shard = queries.sharding.entity_to_shard[_of_chunk(queries, listed, rows)]
            for number in range(queries.sharding.n_shard):
                width = max(width, int(np.sum(shard == number, axis=1).max(initial=0)))
        return cls(queries, listed, width)

    def lay_out(self, rows: slice) -> Int32Array:
        """Candidates of a chunk as the shards are given them, (S, Q, `width`) `entity_local` ids, -1 for padding."""
        sharding, listed = self.queries.sharding, _of_chunk(self.queries, self.listed, rows)
        shard = sharding.entity_to_shard[listed]
        out = np.full((sharding.n_shard, self.queries.n_padded, self.width), -1, np.int32)
        for number in range(sharding.n_shard):
            query, place = np.nonzero(shard == number)
            column = (np.cumsum(shard == number, axis=1) - 1)[query, place]
            out[number, query, column] = sharding.entity_to_idx[listed[query, place]]
        return out


def _of_chunk(queries: HostQueries, listed: Int32Array, rows: slice) -> Int32Array:
    """Candidates (b, c) of the queries of a chunk."""
    return np.broadcast_to(listed, (len(queries.triples), listed.shape[1]))[rows]
