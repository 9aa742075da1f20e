"""Results with names: columns for files, records for JSON, frames for notebooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import require
from bess_jax._typing import Int32Array
from bess_jax.ask import markup
from bess_jax.ask.known import COLUMNS, Answers
from bess_jax.data.dataset import KGDataset
from bess_jax.predict.names import Query

if TYPE_CHECKING:
    import pandas

Columns: TypeAlias = dict[str, Sequence[Any] | NDArray[Any]]
"""Name -> values of all rows."""

_SHOWN = 10
"""Rows that a table shows when it is printed."""
_CELL, _LINE = 24, 120
"""Characters of a cell and of a line, at most."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A table of results, without pandas.

    Attributes:
        columns: name -> values of all rows, a list or a NumPy array.
    """

    columns: Columns

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def records(self) -> list[dict[str, Any]]:
        """One dictionary of plain Python values for each row."""
        return rows(self.columns)

    def frame(self) -> pandas.DataFrame:
        """A pandas table of the same rows and columns.

        Raises:
            MissingExtraError: without pandas.
        """
        frame: pandas.DataFrame = require("pandas", "frames", "a frame").DataFrame(self.columns)
        return frame

    def __repr__(self) -> str:
        """The first rows, as text."""
        shown = [list(self.columns)]
        shown += [[_cell(value) for value in row] for row in islice(zip(*self.columns.values(), strict=True), _SHOWN)]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in shown]
        if len(self) > _SHOWN:
            lines.append("...")
        lines = [line if len(line) <= _LINE else line[: _LINE - 1] + "…" for line in lines]
        return "\n".join([*lines, f"{type(self).__name__}: {len(self):,} rows"])

    def _repr_html_(self) -> str:
        """The first rows, as notebooks show them."""
        rows = islice(zip(*self.columns.values(), strict=True), _SHOWN)
        shown = f"{len(self):,} rows" if len(self) <= _SHOWN else f"The first {_SHOWN} of {len(self):,} rows"
        return markup.table(shown, list(self.columns), ([_cell(value) for value in row] for row in rows))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AnswerTable(Table):
    """The best answers to some queries, a row for each; a query without any has no row.

    Columns: query (from 0), place (from 1), head, relation and tail as labels, score, probability if it was requested,
    the splits that hold the triple (joined by commas), and id and name of the answer: labels need not be unique.

    Attributes:
        columns: see above.
        queries: head, relation and tail of each query, as labels; None for what is asked.
    """

    queries: Sequence[Mapping[str, str | None]]

    def by_query(self) -> list[dict[str, Any]]:
        """One dictionary for each query: head, relation, tail (None for what is asked) and answers, a list of records.

        The record of an answer has its label, and the columns but query, head, relation and tail.
        """
        found: list[dict[str, Any]] = [{**query, "answers": []} for query in self.queries]
        for row in self.records():
            query = found[row.pop("query")]
            names = {name: row.pop(name) for name in COLUMNS}
            label = next(names[name] for name in COLUMNS if query[name] is None)
            query["answers"].append({**row, "label": label})
        return found


def answer_table(
    dataset: KGDataset, query: Query, found: Answers, probability: Callable[[Int32Array], NDArray[np.float64]] | None
) -> AnswerTable:
    """Answers with names.

    Args:
        dataset: gives the names.
        query: the queries.
        found: their answers (Q, K).
        probability: gives probabilities (n,) of triples (n, 3), for a column of them.
    """
    number, place = np.nonzero(found.id >= 0)
    ids, asked = found.id[number, place], query.asked[number]
    triples = query.triples[number]
    triples[np.arange(len(number)), asked] = ids
    names = dataset.entity_dict, dataset.relation_dict, dataset.entity_dict
    columns: Columns = {
        "query": number,
        "place": place + 1,
        **label_columns(dataset, triples),
        "score": found.score[number, place],
        **({} if probability is None else {"probability": probability(triples)}),
        "splits": splits_of(dataset, triples),
        "id": ids,
        "name": [_name(names[column], i) for column, i in zip(asked.tolist(), ids.tolist(), strict=True)],
    }
    known = query.triples.copy()
    known[np.arange(len(known)), query.asked] = 0  # an id that exists
    queries = [
        {name: None if column == asked else label for column, (name, label) in enumerate(row.items())}
        for row, asked in zip(rows(label_columns(dataset, known)), query.asked.tolist(), strict=True)
    ]
    return AnswerTable(columns, queries)


def neighbour_table(
    dataset: KGDataset, what: Literal["entity", "relation"], ids: Int32Array, found: Answers, measure: str
) -> Table:
    """One row for each neighbour: query, place, of (whose), label, id, name, and the measure by its name.

    Args:
        dataset: gives the names.
        what: what the ids are of.
        ids: (Q,) whose neighbours.
        found: (Q, K).
        measure: name of the measure.
    """
    is_entity = what == "entity"
    label = dataset.entity_label if is_entity else dataset.relation_label
    names = dataset.entity_dict if is_entity else dataset.relation_dict
    query, place = np.nonzero(found.id >= 0)
    near = found.id[query, place]
    return Table(
        {
            "query": query,
            "place": place + 1,
            "of": [label(i) for i in ids[query].tolist()],
            "label": [label(i) for i in near.tolist()],
            "id": near,
            "name": [_name(names, i) for i in near.tolist()],
            measure: found.score[query, place],
        }
    )


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


_ESCAPES = {**{i: f"\\x{i:02x}" for i in (*range(32), 127, 0x85)}, 9: "\\t", 10: "\\n", 13: "\\r", 0x2028: "\\u2028"}
_ESCAPES[0x2029] = "\\u2029"


def on_one_line(text: str) -> str:
    r"""A text with escapes, as \t, in place of tabs, line breaks and other control characters."""
    return text if text.isprintable() else text.translate(_ESCAPES)


def _name(names: Sequence[str] | None, index: int) -> str:
    return str(index) if names is None else names[index]


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
