"""What is known of queries and their answers, in global ids, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array, Side

COLUMNS: dict[Side, int] = {"head": 0, "relation": 1, "tail": 2}


class KnownAnswers:
    """Looks up the true answers of queries among given triples.

    Args:
        triples: (n, 3) int32, `entity_global` head, relation, `entity_global` tail.
        n_relation: number of relation ids.

    Raises:
        ValueError: on another shape, or a relation out of range.
    """

    def __init__(self, triples: Int32Array, n_relation: int) -> None:
        _checks.shape("triples", triples, (None, 3), "(n, 3)")
        _checks.ids("triples", triples, n_relation, "relation", columns=(1,))
        self._triples = triples
        self._size = (0, n_relation, 1 + int(triples[:, 2].max(initial=0)))
        self._sorted: dict[Side, tuple[NDArray[np.int64], Int32Array]] = {}

    def __len__(self) -> int:
        """Number of triples."""
        return len(self._triples)

    def __repr__(self) -> str:
        return f"KnownAnswers({len(self):,} triples)"

    def near(self, side: Side, triples: Int32Array) -> KnownAnswers:
        """Only those triples that may answer queries (Q, 3): far fewer to sort, if few of many are requested."""
        first, second = (column for column in range(3) if column != COLUMNS[side])
        kept = np.isin(self._triples[:, first], triples[:, first])
        kept &= np.isin(self._triples[:, second], triples[:, second])
        return KnownAnswers(self._triples[kept], self._size[1])

    def of(self, side: Side, triples: Int32Array) -> tuple[NDArray[np.intp], Int32Array]:
        """All (number of the query, id of an answer) of queries (Q, 3), whose column `side` is not looked at.

        Ordered by query, then by first position among the given triples; each answer once.
        """
        if side not in self._sorted:
            key, answer = self._key(side, self._triples), self._triples[:, COLUMNS[side]]
            order = np.lexsort((answer, key))
            new = np.append(True, (np.diff(key[order]) != 0) | (np.diff(answer[order]) != 0))[: len(key)]
            kept = np.sort(order[new])  # first of equal triples
            kept = kept[np.argsort(key[kept], kind="stable")]
            self._sorted[side] = key[kept], answer[kept]
        keys, answers = self._sorted[side]
        wanted = self._key(side, triples)
        low, high = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        count = high - low
        query = np.repeat(np.arange(len(wanted)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return query, answers[np.repeat(low, count) + within]

    def _key(self, side: Side, triples: Int32Array) -> NDArray[np.int64]:
        """One number for the two columns that are known, -1 where no triple can have them."""
        first, second = (column for column in range(3) if column != COLUMNS[side])
        key = triples[:, first].astype(np.int64) * self._size[second] + triples[:, second]
        return np.where(triples[:, second] < self._size[second], key, -1)


class Candidates(NamedTuple):
    """The entities that may answer each query: those of its group."""

    entity_group: Int32Array  # (n_entity,) group of each entity
    query_group: Int32Array  # (Q,) group that the answers of each query are in

    @classmethod
    def listed(cls, entity: Sequence[int] | NDArray[Any], n_entity: int, n_query: int) -> Candidates:
        """One list of entities for all queries.

        Args:
            entity: (n,) `entity_global` ids.
            n_entity: number of entities.
            n_query: Q.

        Raises:
            ValueError: if there is none, or an id is out of range.
        """
        ids = np.asarray(entity)
        if ids.ndim != 1 or not len(ids):
            raise ValueError(f"candidates must be a list of at least one entity, got shape {ids.shape}")
        _checks.ids("candidates", ids, n_entity, "entity")
        group = np.zeros(n_entity, np.int32)
        group[ids] = 1
        return cls(group, np.ones(n_query, np.int32))

    @classmethod
    def of_types(cls, type_offsets: Sequence[int] | NDArray[Any], n_entity: int, types: NDArray[Any]) -> Candidates:
        """The entities of one type for each query.

        Args:
            type_offsets: (n_type,) first `entity_global` id of each type; entities are ordered by type.
            n_entity: number of entities.
            types: (Q,) type of the answers of each query.

        Raises:
            ValueError: if a type is out of range.
        """
        offsets = np.asarray(type_offsets)
        _checks.ids("types", np.asarray(types), len(offsets), "type")
        group = np.searchsorted(offsets, np.arange(n_entity), side="right") - 1
        return cls(group.astype(np.int32), np.asarray(types, np.int32))

    @property
    def n_candidate(self) -> NDArray[np.int64]:
        """Entities that may answer each query, (Q,) int64."""
        size = np.bincount(self.entity_group, minlength=1 + int(self.query_group.max(initial=0)))
        return size[self.query_group]


class Answers(NamedTuple):
    """The best answers of queries, best first; equal scores in the order of the ids."""

    id: Int32Array  # (Q, K) entity_global or relation ids, -1 where there are fewer than K answers
    score: NDArray[np.float32]  # (Q, K), minus infinity there


def check_k(k: int, n: int, what: str) -> None:
    """Checks that of `n` answers, `what` names them, the best `k` can be given.

    Raises:
        ValueError: if `k` is not between 1 and `n`.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of {what}, {n}, got {k}")
