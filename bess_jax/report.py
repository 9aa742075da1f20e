"""What the commands show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bess_jax.dataset import KGDataset
from bess_jax.experiment import Experiment, Meter
from bess_jax.inference import Side
from bess_jax.pipeline import Answers


def plan(console: Console, experiment: Experiment) -> None:
    """Shows what is about to be trained, where, and what it takes."""
    config, dataset, placement = experiment.config, experiment.dataset, experiment.placement
    counts = ", ".join(f"{len(triples):,} {split}" for split, triples in dataset.triples.items())
    score_fn, sampler = experiment.model.score_fn, experiment.sampler
    rows = experiment.sharding.max_entity_per_shard
    device = placement.devices[0]
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
        (
            "shards",
            f"{config.n_shard} of {rows:,} rows, {placement.shards_per_device} on each of "
            f"{len(placement.devices)} {device.platform} devices ({device.device_kind}), by {config.mapping}",
        ),
        (
            "batch",
            f"{config.batch_size:,} positives a step, {config.n_negative:,} sampled negatives each; "
            f"{sampler.calls_per_epoch * sampler.batches_per_step} steps an epoch, {config.n_epoch} epochs",
        ),
        ("memory", "per device " + ", ".join(f"{name} {n / 2**20:,.1f} MiB" for name, n in memory.items())),
    ):
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)


def progress_bar(console: Console) -> Progress:
    """Progress of training, with the last loss, speed and validation MRR, and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    return Progress(*columns, console=console)


def speed(console: Console, meter: Meter) -> None:
    """Shows how fast training went, and the part of that time for which it waited for batches."""
    console.print(
        f"{meter.speed:,.0f} positives/s over {meter.seconds:,.1f} s, compilation and ranking left out; "
        f"waiting for batches: {meter.waiting:.1%} of the time"
    )


def metrics(console: Console, title: str, values: dict[str, dict[str, float]]) -> None:
    """Shows filtered metrics of both sides."""
    names = list(next(iter(values.values())))
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("ranked")
    for name in names:
        table.add_column({"mrr": "MRR", "mean_rank": "mean rank"}.get(name, name.capitalize()), justify="right")
    for side, row in values.items():
        cells = (f"{row[name]:,.1f}" if name == "mean_rank" else f"{row[name]:.4f}" for name in names)
        table.add_row({"both": "both sides"}.get(side, f"{side}s"), *cells)
    console.print(table)


def answers(
    console: Console,
    dataset: KGDataset,
    side: Side,
    known: int,
    relation: int,
    found: Answers,
    truth: int | None = None,
) -> None:
    """Shows the best answers of one query, `found` holding one row, and the answer that was held out, if any."""
    entity, link = dataset.entity_label(known), dataset.relation_label(relation)
    title = f"({entity}, {link}, ?)" if side == "tail" else f"(?, {link}, {entity})"
    if truth is not None:
        title += f"   held out: {dataset.entity_label(truth)}"
    console.print(title, style="bold", markup=False, highlight=False)
    table = Table()
    for name, justify in (("", "right"), ("answer", "left"), ("name", "left"), ("score", "right"), ("in", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for place, (answer, score) in enumerate(zip(found.entity[0], found.score[0], strict=True), 1):
        if answer < 0:
            continue
        triple = (known, relation, int(answer)) if side == "tail" else (int(answer), relation, known)
        style = "green" if answer == truth else None
        name = "" if dataset.entity_dict is None else dataset.entity_dict[answer]
        splits = ", ".join(_splits(dataset, triple))
        table.add_row(str(place), dataset.entity_label(int(answer)), name, f"{score:.3f}", splits, style=style)
    console.print(table)


def _splits(dataset: KGDataset, triple: Sequence[int]) -> list[str]:
    """Names of the splits that hold a triple."""
    wanted: Any = list(triple)
    return [split for split, triples in dataset.triples.items() if (triples == wanted).all(axis=1).any()]
