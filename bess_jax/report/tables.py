"""Tables of a report, as data: what stands in their cells, and which cells are numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bess_jax.ask.ranks import Metrics
from bess_jax.report.content import Content, differing
from bess_jax.report.examples import Prediction

N_RELATION = 50
"""Relations that are shown, those with the most triples."""
N_ENOUGH = 10
"""Triples that a relation needs to be called the most or the least accurate."""

_WORD = 18
"""Characters of the longest text that is set on one line, and of the longest word that is never broken."""

SIDES = {"head": "heads", "tail": "tails", "both": "both", "relation": "relations"}
METRICS = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10", "mean_rank": "Mean rank"}


class Cell(NamedTuple):
    """What stands in a cell."""

    text: str
    is_number: bool = False
    bar: float | None = None  # length of a bar beside it, 0 to 1

    @property
    def kind(self) -> str:
        """How it is set: a "number", "short" enough for one line, with "long" words that may be broken, or neither."""
        if self.is_number:
            return "number"
        if len(self.text) <= _WORD:
            return "short"
        return "long" if max(map(len, self.text.split()), default=0) > _WORD else ""


class Row(NamedTuple):
    """A row: its first cell is its name."""

    cells: Sequence[Cell]
    is_marked: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table for a page.

    Attributes:
        caption: what it is about.
        columns: their names.
        rows: theirs, each with a cell for each column.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]

    @classmethod
    def of(cls, caption: str, columns: Sequence[str], rows: Iterable[Iterable[Cell | str]]) -> Table:
        """A table of cells; a text is a cell that is no number."""
        made = [Row([cell if isinstance(cell, Cell) else Cell(cell) for cell in row]) for row in rows]
        return cls(caption, columns, made)

    @property
    def head(self) -> list[Cell]:
        """The names of the columns, over numbers to the right as these are; none if no column has one."""
        if not any(self.columns):
            return []
        return [Cell(name, any(row.cells[i].is_number for row in self.rows)) for i, name in enumerate(self.columns)]


def number(value: float, format: str = ".4f", bar: float | None = None) -> Cell:
    """A cell with a number; an empty one for what is none."""
    return Cell(f"{value:{format}}" if math.isfinite(value) else "", True, bar)


def duration(seconds: float) -> str:
    """A time for people: 3.2 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def metric(name: str, value: float) -> Cell:
    """A cell with a metric."""
    return number(value, ",.1f" if name == "mean_rank" else ".4f")


def metrics(metrics: Metrics, split: str) -> Table:
    """The metrics of each side."""
    rows = [[Cell(SIDES[side]), *(metric(name, values[name]) for name in METRICS)] for side, values in metrics.items()]
    return Table.of(f"Metrics of the {split} split", ["ranked", *METRICS.values()], rows)


def metrics_of_runs(names: Sequence[str], runs: Sequence[Content], split: str) -> Table:
    """The metrics of all sides together, a row for each run; empty cells for runs without."""
    rows = []
    for name, run in zip(names, runs, strict=True):
        values = None if run.metrics is None else run.metrics["both"]
        rows.append([Cell(name), *(metric(key, math.nan if values is None else values[key]) for key in METRICS)])
    return Table.of(f"Metrics of the {split} split, heads and tails together", ["run", *METRICS.values()], rows)


def facts(names: Sequence[str], runs: Sequence[Content]) -> Table:
    """What was trained on what, a column for each run."""
    columns = [_facts(run) for run in runs]
    rows = [[Cell(fact), *(Cell(of_run.get(fact, "")) for of_run in columns)] for fact in _FACTS]
    kept = [row for row in rows if any(cell.text for cell in row[1:])]
    return Table.of("What was trained", ["", *names] if len(runs) > 1 else ["", ""], kept)


_FACTS = (
    *("Folder", "Graph", "Entities", "Relations", "Triples", "Model", "Loss", "Optimizer", "Parameters"),
    *("State that was asked", "Epochs", "Time, all in all", "Metrics last written"),
)


def _facts(run: Content) -> dict[str, str]:
    config, dataset, history = run.config, run.dataset, run.history
    found = {
        "Folder": str(run.path),
        "Graph": config.dataset,
        "Entities": f"{dataset.n_entity:,}",
        "Relations": f"{dataset.n_relation_type:,}",
        "Triples": ", ".join(f"{len(triples):,} {split}" for split, triples in dataset.triples.items()),
        "Model": f"{config.model}, embedding size {config.embedding_size}",
        "Loss": config.loss,
        "Optimizer": f"{config.optimizer}, learning rate {config.learning_rate:g}",
        "Epochs": f"{history.n_epoch} of {config.n_epoch}",
    }
    if not isinstance(run.asked, str):
        found["Parameters"] = f"{run.asked.n_parameter:,}"
        found["State that was asked"] = run.asked.checkpoint
    if seconds := history.seconds():
        found["Time, all in all"] = duration(sum(seconds.values()))
    if run.written is not None:
        found["Metrics last written"] = f"{run.written:%Y-%m-%d %H:%M}"
    return found


def settings(run: Content) -> Table:
    """The settings that differ from the defaults."""
    rows = [[name, setting(value), setting(default)] for name, value, default in differing(run.config)]
    return Table.of("Settings that differ from the defaults", ["setting", "value", "default"], rows)


def settings_between(names: Sequence[str], runs: Sequence[Content]) -> Table:
    """The settings in which runs differ, a column for each run."""
    values = [dataclasses.asdict(run.config) for run in runs]
    differ = [name for name in values[0] if any(of_run[name] != values[0][name] for of_run in values)]
    rows = [[Cell(name), *(Cell(setting(of_run[name])) for of_run in values)] for name in differ]
    return Table.of("Settings in which the runs differ", ["setting", *names], rows)


def setting(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "none"
    return "none" if value is None else str(value)


def times(names: Sequence[str], runs: Sequence[Content]) -> Table | None:
    """Where the time of each run went; None if no run has recorded it."""
    found = [run.history.seconds() for run in runs]
    if not any(found):
        return None
    rows = []
    for what in dict.fromkeys(what for of_run in found for what in of_run):
        row = [Cell(what)]
        for of_run in found:
            seconds, total = of_run.get(what, math.nan), sum(of_run.values()) or 1.0
            share = 0.0 if math.isnan(seconds) else seconds / total
            row.append(Cell(f"{duration(seconds)} ({share:.0%})" if what in of_run else "", True, share))
        rows.append(row)
    return Table.of("Parts of the time", ["", *names] if len(runs) > 1 else ["", ""], rows)


def categories(names: Sequence[str], runs: Sequence[Mapping[str, Metrics]]) -> Table:
    """Metrics of the categories of relations: of one run by side, of several both sides together."""
    return _grouped("Categories of relations", "category", names, runs, list(runs[0]))


def relations(names: Sequence[str], runs: Sequence[Mapping[int, Metrics]], labels: Mapping[int, str]) -> Table:
    """Metrics of the relations with the most triples, the most frequent first."""
    n_of = {relation: _n(metrics) for relation, metrics in runs[0].items()}
    order = sorted(n_of, key=lambda relation: (-n_of[relation], relation))[:N_RELATION]
    return _grouped("Relations", "relation", names, runs, order, labels)


def _grouped(
    caption: str,
    what: str,
    names: Sequence[str],
    runs: Sequence[Mapping[Any, Metrics]],
    keys: Sequence[Any],
    labels: Mapping[Any, str] | None = None,
) -> Table:
    rows = []
    for key in keys:
        row = [Cell(str(key) if labels is None else labels[key]), number(_n(runs[0][key]), ",d")]
        row += [number(mrr := of_run[key]["both"]["mrr"], ".3f", mrr) for of_run in runs]
        if len(runs) == 1:
            of_key = runs[0][key]
            row += [number(of_key[side]["mrr"], ".3f") for side in ("head", "tail")]
            row += [number(of_key["both"][name], ".3f") for name in ("hits@1", "hits@10")]
        rows.append(row)
    if len(runs) > 1:
        return Table.of(f"{caption}: MRR of each run", [what, "triples", *names], rows)
    columns = [what, "triples", "MRR", "of heads", "of tails", "Hits@1", "Hits@10"]
    return Table.of(f"{caption}: metrics", columns, rows)


def extremes(relations: Mapping[int, Metrics], labels: Mapping[int, str]) -> str:
    """A sentence on the relations that are the most and the least accurate, among those with enough triples."""
    enough = {relation: metrics["both"]["mrr"] for relation, metrics in relations.items() if _n(metrics) >= N_ENOUGH}
    if len(enough) < 2:
        return ""
    best, worst = max(enough, key=lambda i: enough[i]), min(enough, key=lambda i: enough[i])
    return (
        f"Of the relations with at least {N_ENOUGH} triples, {labels[best]} is the most accurate (MRR "
        f"{enough[best]:.3f}), and {labels[worst]} the least (MRR {enough[worst]:.3f})."
    )


def prediction(found: Prediction) -> Table:
    """The best answers to a query."""
    rows = [
        Row([Cell(answer.place), Cell(answer.label), number(answer.score, ".3f"), Cell(answer.mark)], answer.is_asked)
        for answer in found.answers
    ]
    caption = f"{found.example.kind.capitalize()}: {found.query}, rank {found.example.place}"
    return Table(caption, ["", "answer", "score", "in the graph"], rows)


def _n(metrics: Metrics) -> int:
    return int(metrics["both"]["n"])
