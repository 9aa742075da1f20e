"""Answers and scored triples with names: as columns for frames and files, and as plain records for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bess_jax._typing import Int32Array
from bess_jax.ask.known import COLUMNS, Answers
from bess_jax.data.dataset import KGDataset

Columns: TypeAlias = dict[str, Sequence[Any] | NDArray[Any]]
"""Name -> values of all rows."""


class Part(NamedTuple):
    """Answers of a table, one behind the other."""

    query: NDArray[np.intp]  # (n,) number of the query
    place: NDArray[np.intp]  # (n,) from 1, the best answer
    id: Int32Array  # (n,)
    triple: Int32Array  # (n, 3), the answer put in


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerTable:
    """The best answers of some queries.

    Attributes:
        dataset: gives the names.
        triples: (Q, 3) int32 in global ids; the column that is asked for means nothing.
        asked: (Q,) column that each query asks for, 0 for heads, 1 for relations, 2 for tails.
        answers: (Q, k).
        probability: (Q, k) float64 calibrated probabilities, or None.
    """

    dataset: KGDataset
    triples: Int32Array
    asked: NDArray[np.intp]
    answers: Answers
    probability: NDArray[np.float64] | None = None

    @cached_property
    def part(self) -> Part:
        """The answers there are, query by query."""
        query, place = np.nonzero(self.answers.id >= 0)
        ids = self.answers.id[query, place]
        triple = self.triples[query]
        triple[np.arange(len(query)), self.asked[query]] = ids
        return Part(query, place + 1, ids, triple)

    def columns(self) -> Columns:
        """One row for each answer; a query without any has no row.

        query (from 0), place (from 1), head, relation and tail as labels, score, probability if there is one, the
        splits that hold the triple, and id and name of the answer: labels need not be unique.
        """
        part = self.part
        here = part.query, part.place - 1
        return {
            "query": part.query,
            "place": part.place,
            **label_columns(self.dataset, part.triple),
            "score": self.answers.score[here],
            **({} if self.probability is None else {"probability": self.probability[here]}),
            "splits": splits_of(self.dataset, part.triple),
            "id": part.id,
            "name": self._names(),
        }

    def records(self) -> list[dict[str, Any]]:
        """One record for each query: head, relation and tail (None for what is asked) and the list of its answers."""
        columns = self.columns()
        labels = np.array([columns.pop(name) for name in COLUMNS], dtype=object)
        asked = self.asked[self.part.query]
        answers = rows({**columns, "label": labels[asked, np.arange(len(asked))].tolist()})
        ends = np.cumsum(np.bincount(self.part.query, minlength=len(self.triples))).tolist()
        known = rows(label_columns(self.dataset, self._asked_triples()))
        found = []
        for query, column in enumerate(self.asked.tolist()):
            first = ends[query - 1] if query else 0
            of_query = [{name: row[name] for name in row if name != "query"} for row in answers[first : ends[query]]]
            found.append(known[query] | {list(COLUMNS)[column]: None, "answers": of_query})
        return found

    def _asked_triples(self) -> Int32Array:
        """The triples, with an id that exists in the column that is asked for."""
        triples = self.triples.copy()
        triples[np.arange(len(triples)), self.asked] = 0
        return triples

    def _names(self) -> list[str]:
        dataset, part = self.dataset, self.part
        is_relation = self.asked[part.query] == COLUMNS["relation"]
        return [
            _name(dataset.relation_dict if relation else dataset.entity_dict, i)
            for i, relation in zip(part.id.tolist(), is_relation.tolist(), strict=True)
        ]


def neighbour_columns(
    dataset: KGDataset, what: Literal["entity", "relation"], ids: Int32Array, found: Answers, measure: str
) -> Columns:
    """One row for each neighbour: query, place, of (whose), label, id, name, and the measure by its name.

    Args:
        dataset: gives the names.
        what: what the ids are of.
        ids: (Q,) whose neighbours.
        found: (Q, k).
        measure: name of the measure.
    """
    label, names = (
        (dataset.entity_label, dataset.entity_dict)
        if what == "entity"
        else (dataset.relation_label, dataset.relation_dict)
    )
    query, place = np.nonzero(found.id >= 0)
    near = found.id[query, place]
    return {
        "query": query,
        "place": place + 1,
        "of": [label(i) for i in ids[query].tolist()],
        "label": [label(i) for i in near.tolist()],
        "id": near,
        "name": [_name(names, i) for i in near.tolist()],
        measure: found.score[query, place],
    }


def label_columns(dataset: KGDataset, triples: Int32Array) -> Columns:
    """Labels of the heads, relations and tails of triples (n, 3)."""
    of = {"head": dataset.entity_label, "relation": dataset.relation_label, "tail": dataset.entity_label}
    return {name: [label(i) for i in triples[:, column].tolist()] for column, (name, label) in enumerate(of.items())}


def rows(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> list[dict[str, Any]]:
    """One dictionary of plain Python values for each row."""
    plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def splits_of(dataset: KGDataset, triples: Int32Array) -> list[str]:
    """Names of the splits that hold each of the triples (n, 3), joined by commas; "" if none does."""
    found = [""] * len(triples)
    for split, held in dataset.triples.items():
        for i in np.flatnonzero(is_among(triples, held)).tolist():
            found[i] = f"{found[i]},{split}" if found[i] else split
    return found


def is_among(triples: Int32Array, others: Int32Array) -> NDArray[np.bool_]:
    """Which of the triples (n, 3) are among others (m, 3)."""
    similar = np.isin(others[:, 0], triples[:, 0]) & np.isin(others[:, 2], triples[:, 2])
    both = np.concatenate([others[similar], triples])
    order = np.lexsort(both.T)
    group = np.zeros(len(both), np.intp)
    group[order[1:]] = np.cumsum((both[order[1:]] != both[order[:-1]]).any(axis=1))
    n_other = len(both) - len(triples)
    held = np.zeros(len(both), bool)
    held[group[:n_other]] = True
    return held[group[n_other:]]


def _name(names: Sequence[str] | None, index: int) -> str:
    return str(index) if names is None else names[index]
