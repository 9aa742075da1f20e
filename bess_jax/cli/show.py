"""What the commands show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import HEAVY_HEAD, SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bess_jax.ask.ranks import Metrics, Ranks
from bess_jax.cli.output import visible
from bess_jax.cli.progress import line as line
from bess_jax.data.dataset import KGDataset
from bess_jax.data.findings import find_doubtful
from bess_jax.predict.examples import telling_examples
from bess_jax.predict.names import make_query
from bess_jax.predict.predictor import Predictor
from bess_jax.predict.table import AnswerTable, Columns
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment, Meter
from bess_jax.step.spmd import Placement


def plan(console: Console, experiment: Experiment) -> None:
    """Shows what is about to be trained, where, and what it takes."""
    config, dataset, placement = experiment.config, experiment.dataset, experiment.placement
    counts = ", ".join(f"{len(triples):,} {split}" for split, triples in dataset.triples.items())
    score_fn, sampler = experiment.model.score_fn, experiment.sampler
    rows = experiment.sharding.max_entity_per_shard
    memory = experiment.bytes_per_device
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in (
        ("graph", f"{config.dataset}: {dataset.n_entity:,} entities, {dataset.n_relation_type} relations; {counts}"),
        ("model", f"{config.model}, embedding size {config.embedding_size}, {config.loss} loss, {config.optimizer}"),
        (
            "tables",
            f"entity {dataset.n_entity:,} x {score_fn.entity_width}, relation {score_fn.n_relation} x "
            f"{score_fn.relation_width}: {experiment.model.n_embedding_parameters:,} parameters",
        ),
        ("shards", f"{config.n_shard} of {rows:,} rows, {devices(placement)}"),
        (
            "batch",
            f"{config.batch_size:,} positives a step, {_negatives(config)} each; "
            f"{sampler.calls_per_epoch * sampler.batches_per_step} steps an epoch, {config.n_epoch} epochs",
        ),
        ("memory", "per device " + ", ".join(f"{name} {n / 2**20:,.1f} MiB" for name, n in memory.items())),
    ):
        table.add_row(Text(name, style="bold"), Text(visible(text)))
    console.print(table)


def _negatives(config: TrainConfig) -> str:
    if config.negatives in ("random", "typed"):
        return f"{config.n_negative:,} {config.negatives} negatives"
    return "all entities as negatives" if config.negatives == "all" else "given negatives"


def devices(placement: Placement) -> str:
    """Where the shards are."""
    device, n = placement.devices[0], len(placement.devices)
    kind = f"{device.platform} device{'s' if n > 1 else ''} ({device.device_kind})"
    return f"{placement.shards_per_device} on each of {n} {kind}, by {placement.mapping}"


def speed(console: Console, meter: Meter) -> None:
    """Shows how fast training went, and the part of that time for which it waited for batches."""
    line(
        console,
        f"{meter.speed:,.0f} positives/s over {meter.seconds:,.1f} s, compilation and ranking left out; "
        f"waiting for batches: {meter.waiting:.1%} of the time",
    )


def warning(console: Console, text: str) -> None:
    """Shows a warning."""
    line(console, f"warning: {text}")


def findings(console: Console, dataset: KGDataset) -> None:
    """Shows what is doubtful about a graph, one line each."""
    for finding in find_doubtful(dataset):
        warning(console, str(finding))


SHORT = ("mrr", "hits@1", "hits@3", "hits@10", "mean_rank")
WITH_INDEX = (*SHORT, "adjusted_mean_rank_index")
_NARROW = ("mrr", "hits@1", "hits@10", "mean_rank", "adjusted_mean_rank_index")
_HEADERS = {"mrr": "MRR", "mean_rank": "mean rank", "adjusted_mean_rank_index": "AMRI"}
_NARROW_WIDTH = 72
_SIDES = {"head": "heads", "tail": "tails", "both": "both sides", "relation": "relations"}


_MOST_KNOWN = 100
"""Answers among which those of an example are found that are not known."""


def metrics(console: Console, title: str, values: Metrics, names: Sequence[str] = SHORT) -> None:
    """Shows the named metrics of each side."""
    table = _table(console, title)
    table.add_column("ranked", no_wrap=True)
    _add_metric_columns(table, names)
    for side, row in values.items():
        table.add_row(_SIDES[side], *(_metric(name, row[name]) for name in names))
    console.print(table)


def grouped_metrics(console: Console, title: str, what: str, groups: Mapping[str, Metrics]) -> None:
    """Shows metrics of groups of triples: of each side, or of both together for relations, which may be many."""
    sides = list(next(iter(groups.values())))
    if what == "relation" and "both" in sides:
        sides = [side for side in sides if side not in ("head", "tail")]
    names = [name for name in _NARROW if name != "mean_rank"]
    table = _table(console, f"{title}, {_SIDES[sides[0]]}" if len(sides) == 1 else title, SIMPLE_HEAD)
    table.add_column(what, overflow="fold")
    table.add_column("triples", justify="right")
    if len(sides) > 1:
        table.add_column("ranked", no_wrap=True)
    _add_metric_columns(table, names)
    for group, values in groups.items():
        for side in sides:
            cells = (_metric(name, values[side][name]) for name in names)
            ranked = [_SIDES[side]] if len(sides) > 1 else []
            table.add_row(Text(visible(group)), f"{values[side]['n']:,}", *ranked, *cells)
    console.print(table)


def intervals(console: Console, title: str, values: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Shows intervals of the metrics of each side."""
    table = _table(console, title, SIMPLE_HEAD)
    table.add_column("metric")
    for side in values:
        table.add_column(_SIDES[side], justify="right", no_wrap=True)
    for name in _NARROW:
        intervals = (of_side[name] for of_side in values.values())
        cells = (
            "-".join(f"{x:,.0f}" if name == "mean_rank" else f"{x:.3f}" for x in interval) for interval in intervals
        )
        table.add_row(_header(name), *cells)
    console.print(table)


def _header(name: str) -> str:
    return _HEADERS.get(name, name.capitalize())


def _add_metric_columns(table: Table, names: Sequence[str]) -> None:
    for name in names:
        table.add_column(_header(name), justify="right", no_wrap=True)


def _metric(name: str, value: float) -> str:
    return f"{value:,.1f}" if name == "mean_rank" else f"{value:.4f}"


def accuracy(console: Console, found: Mapping[str, Any], by_relation: bool) -> None:
    """Shows how often triple classification is right, as `Classifier.accuracy` gives it."""
    false = "corrupted" if found["negatives"] == "corrupted" else "given as false"
    console.print(
        f"[bold]{found['split']}, classification[/]: {found['accuracy']:.2%} of {found['n']:,} triples, "
        f"{found['n_false']:,} of them {false}"
    )
    if by_relation:
        rows = found["by_relation"]
        columns = {"relation": [row["relation"] for row in rows], "triples": [f"{row['n']:,}" for row in rows]}
        columns["accuracy"] = [f"{row['accuracy']:.2%}" for row in rows]
        _rows(console, columns | {"threshold": [row["threshold"] for row in rows]}, box=SIMPLE_HEAD)


def examples(console: Console, predictor: Predictor, ranks: Ranks) -> None:
    """Shows a query of each kind whose tail was held out: its best answers but for others that are known."""
    dataset = predictor.dataset
    for example in telling_examples(ranks):
        kind, _, (head, relation, tail), rank, _ = example
        query = predictor.answer(make_query(dataset, head, relation, None), min(_MOST_KNOWN, dataset.n_entity))
        record = query.by_query()[0]
        new = [row for row in record["answers"] if not row["splits"] or row["id"] == tail]
        shown = [row | {"place": i} for i, row in enumerate(new, 1)][: max(5, int(rank)) if kind == "near" else 5]
        line(console, _title(record), "bold")
        line(console, f"{kind}: {dataset.entity_label(tail)} was held out, and ranks {example.place}")
        _answers(console, shown, tail)


def answers(console: Console, table: AnswerTable) -> None:
    """Shows the best answers to each query."""
    for record in table.by_query():
        line(console, _title(record), "bold")
        _answers(console, record["answers"])


def _title(record: Mapping[str, Any]) -> str:
    """A query as (head, relation, ?)."""
    return "({})".format(", ".join(record[name] or "?" for name in ("head", "relation", "tail")))


def _answers(console: Console, found: Sequence[Mapping[str, Any]], truth: int | None = None) -> None:
    """Shows answers to a query, the one with the id `truth` green."""
    if not found:
        line(console, "no answer is left")
        return
    columns = {name: [row[name] for row in found] for name in found[0]}
    shown = {"": columns["place"], "answer": columns["label"]}
    others = ("name", "score", "probability") if columns["name"] != columns["label"] else ("score", "probability")
    shown |= {name: columns[name] for name in others if name in columns}
    _rows(console, shown | {"in": columns["splits"]}, [i == truth for i in columns["id"]])


def neighbours(console: Console, columns: Columns, measure: str) -> None:
    """Shows what is most like one entity or relation."""
    console.print(Text(visible(f"most like {columns['of'][0]}"), style="bold"))
    shown = {"": columns["place"], "is": columns["label"]}
    if columns["name"] != columns["label"]:
        shown["name"] = columns["name"]
    _rows(console, shown | {measure: columns[measure]})


def scored(console: Console, columns: Columns) -> None:
    """Shows scored triples."""
    _rows(console, {{"splits": "in"}.get(name, name): values for name, values in columns.items()}, box=SIMPLE_HEAD)


def _rows(
    console: Console, columns: Mapping[str, Any], is_green: Sequence[bool] | None = None, box: Box = HEAVY_HEAD
) -> None:
    """Shows columns as a table: numbers to the right, the rows in `is_green` green."""
    table = _table(console, "", box)
    for name, values in columns.items():
        is_number = len(values) > 0 and not isinstance(values[0], str)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for number, row in enumerate(zip(*columns.values(), strict=True)):
        style = "green" if is_green is not None and is_green[number] else None
        table.add_row(*(Text(visible(_cell(value))) for value in row), style=style)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)


def _table(console: Console, title: str, box: Box = HEAVY_HEAD) -> Table:
    """An empty table; without lines where the terminal is narrow, so that the columns of most tables fit 60."""
    is_narrow = console.width < _NARROW_WIDTH
    return Table(
        title=Text(visible(title)) if title else None,
        title_justify="left",
        title_style="bold",
        box=None if is_narrow else box,
        padding=(0, 1, 0, 0) if is_narrow else (0, 1),
    )
