"""The command that writes the embeddings of a trained model to a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from bess_jax.cli.ask import Trained
from bess_jax.cli.output import print_json
from bess_jax.cli.progress import line, progress
from bess_jax.predict.export import Format, check_export, export, format_of, holds_both


@dataclasses.dataclass(frozen=True)
class Export(Trained):
    """Write the embeddings of a trained model, with names and labels, to a file that other programs read."""

    out: tyro.conf.Positional[Path] = tyro.MISSING
    """File: .npz, .safetensors, .parquet, .csv, .tsv or .vec (word2vec text); without an ending, a new folder for
    TensorBoard's projector."""
    what: Literal["entities", "relations", "both"] | None = None
    """What to write. Default: both where the format holds both (npz, safetensors, projector), else entities."""
    format: Format | None = None
    """Format of the file, where its ending does not tell."""
    json: bool = False
    """Print one JSON document."""

    def __call__(self, console: Console) -> int:
        """Exports."""
        kind = format_of(self.out, self.format)
        what = self.what or ("both" if holds_both(kind) else "entities")
        check_export(self.out, kind, 2 if what == "both" else 1)
        predictor = self.load(console)
        makers = {"entities": predictor.entity_table, "relations": predictor.relation_table}
        tables = [make() for name, make in makers.items() if what in (name, "both")]
        if predictor.ranker.placement.is_first:
            with progress(self.verbosity.story(console), f"writing {self.out.name}", sum(map(len, tables))) as advance:
                export(tables, self.out, kind, advance)
        if self.json:
            shapes = {table.what: {"n": len(table), "width": table.width, "parts": table.parts} for table in tables}
            document = {"run": str(self.run), "checkpoint": predictor.checkpoint, "out": str(self.out), "format": kind}
            print_json(document | shapes)
        else:
            for table in tables:
                parts = ", ".join(f"{name} {width}" for name, width in table.parts.items())
                line(console, f"{table.what}: {len(table):,} rows of {table.width} numbers ({parts})")
            line(console, f"embeddings: {self.out}")
        return 0
