"""The command that shows a graph before it is trained on, and writes it in another form. It needs no JAX."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bess_jax.cli.output import print_json, visible
from bess_jax.cli.progress import Verbosity, line, reading
from bess_jax.data.card import Card, Degrees, describe
from bess_jax.data.dataset import KGDataset
from bess_jax.data.formats.folder_writer import write_folder
from bess_jax.data.formats.sources import is_triples_file
from bess_jax.data.graphs import load_dataset
from bess_jax.data.options import parse_columns, parse_split

_PLACES = {"out": "as head", "in": "as tail", "all": "either"}

_MOST_TYPES = 10
"""Types that are shown."""

_WIDEST_BAR = 40


@dataclasses.dataclass(frozen=True)
class Data:
    """Show a graph: counts, degrees, categories of relations, and what is doubtful about it. Convert and split it."""

    dataset: tyro.conf.Positional[str]
    """A graph by name, a folder, a file of triples, or an .npz that KGDataset.save wrote."""
    columns: str | None = None
    """Columns of head, relation and tail in a file, by name or number, as in source,type,target."""
    split: str = "0.7,0.15,0.15"
    """Parts of train, valid and test, where they have to be drawn."""
    seed: int = 1234
    """Of the draw."""
    out: Path | None = None
    """Write the graph here: an .npz file, else a new folder of .tsv files."""
    json: bool = False
    """Print one JSON document instead of tables."""
    verbosity: tyro.conf.OmitArgPrefixes[Verbosity] = dataclasses.field(default_factory=Verbosity)

    def __call__(self, console: Console) -> int:
        """Shows and writes."""
        if self.out is not None and os.path.lexists(self.out):
            raise ValueError(f"{self.out} exists already: --out must be a new file or folder")
        if self.out is not None:
            check_out(self.out)
        with reading(self.verbosity.story(console)):
            dataset = load_dataset(self.dataset, parse_columns(self.columns), parse_split(self.split), self.seed)
        card = describe(dataset)
        if self.out is not None:
            dataset = _write(dataset, self.out)
        if self.json:
            document: dict[str, Any] = {"dataset": self.dataset, **card.record(), "digest": dataset.digest()}
            print_json(document | ({} if self.out is None else {"out": str(self.out)}))
            return 0
        show(console, self.dataset, card)
        if self.out is not None:
            line(console, f"written: {self.out}")
        return 0


def check_out(out: Path) -> None:
    """Checks where a graph is to be written, before it is read.

    Raises:
        ValueError: if it is not in a folder, or called like a file of another format.
    """
    if not out.parent.is_dir():
        raise ValueError(f"--out must be a new file or folder in an existing folder, got {out}")
    if out.suffix != ".npz" and is_triples_file(out):
        raise ValueError(
            f"--out must end with .npz, or be a folder for files of triples, got {out}: leave out its ending"
        )


def _write(dataset: KGDataset, out: Path) -> KGDataset:
    """Writes the graph; gives it with the ids that it is read back with."""
    if out.suffix == ".npz":
        dataset.save(out)
        return dataset
    return write_folder(dataset, out)


def show(console: Console, name: str, card: Card) -> None:
    """Shows a card in tables that fit 60 columns."""
    console.print(Text(visible(name), style="bold"))
    _counts(console, card)
    _degrees(console, card)
    _histogram(console, card.degrees["all"])
    console.print()
    for finding in card.findings:
        console.print(Text.assemble((f"{finding.kind}: ", "bold"), visible(finding)))
    if not card.findings:
        console.print("nothing doubtful was found")


def _counts(console: Console, card: Card) -> None:
    table = Table.grid(padding=(0, 2))
    rows = {
        "entities": f"{card.n_entity:,}" + _labelled(card.n_entity_label),
        "relations": f"{card.n_relation_type:,}" + _labelled(card.n_relation_label),
        "triples": ", ".join(f"{split} {n:,}" for split, n in card.n_triple.items()),
        "false triples": ", ".join(f"{split} {n:,}" for split, n in card.n_negative.items()),
        "categories": ", ".join(f"{name}: {n:,}" for name, n in card.categories.items()),
        "types": _types(card),
    }
    for what, text in rows.items():
        if text:
            table.add_row(Text(what, style="bold"), Text(visible(text)))
    console.print(table)


def _labelled(n: int) -> str:
    return f", {n:,} with labels" if n else ""


def _types(card: Card) -> str:
    shown = sorted(card.types.items(), key=lambda of_type: -of_type[1])[:_MOST_TYPES]
    rest = f", and {len(card.types) - len(shown):,} more" if len(card.types) > len(shown) else ""
    return ", ".join(f"{name} {n:,}" for name, n in shown) + rest


def _degrees(console: Console, card: Card) -> None:
    console.print("\ntriples of train that an entity stands in:")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for header in ("median", "90%", "99%", "max", "top 1%"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("most", overflow="ellipsis", no_wrap=True)
    for place, what in _PLACES.items():
        of = card.degrees[place]
        numbers = (f"{n:,.0f}" for n in (of.median, of.percentile_90, of.percentile_99, of.max))
        table.add_row(what, *numbers, f"{of.top_share:.0%}", Text(visible(of.entity)))
    console.print(table)


def _histogram(console: Console, degrees: Degrees) -> None:
    """A bar for the number of entities with 0, 1, 2 to 3, ... triples."""
    console.print()
    block = "█" if "utf" in console.encoding.lower() else "#"
    widest = min(_WIDEST_BAR, max(10, console.width - 35))
    table = Table(box=None, pad_edge=False)
    table.add_column("triples", justify="right", no_wrap=True)
    table.add_column("entities", justify="right", no_wrap=True)
    table.add_column("")
    for exponent, n in enumerate(degrees.histogram):
        low, high = 2**exponent // 2, 2**exponent - 1
        bar = block * max(1, round(widest * n / max(degrees.histogram))) if n else ""
        table.add_row(f"{low:,}" if low >= high else f"{low:,} to {high:,}", f"{n:,}", bar)
    console.print(table)
