"""What `train --recipe list` prints: the recipes, and what was measured of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bess_jax.cli.output import print_json
from bess_jax.data.text import read_toml
from bess_jax.run.recipes import headline, recipe_file, recipe_names, results


@dataclasses.dataclass(frozen=True)
class Recipes:
    """Show the recipes: what each is, the MRR of the test split that it gave, and minutes from start to end."""

    recipe: str
    """list."""
    json: bool = False
    """Print one JSON document."""

    def __call__(self, console: Console) -> int:
        """Shows."""
        measured = results()
        found = [_about(name, measured.get(name)) for name in recipe_names()]
        if self.json:
            print_json({"recipes": found})
            return 0
        table = Table(box=SIMPLE_HEAD)
        for title in ("recipe", "graph"):
            table.add_column(title, no_wrap=True)
        for title in ("MRR", "minutes"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("what it is")
        for row in found:
            mrr = "" if row["mrr"] is None else f"{row['mrr']:.4f}"
            spread = "" if row["spread"] is None else f" ± {row['spread']:.4f}"
            minutes = "" if row["minutes"] is None else f"{row['minutes']:.1f}"
            table.add_row(row["recipe"], row["graph"] or "any", mrr + spread, minutes, row["about"])
        console.print(table)
        return 0


def _about(name: str, measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """A recipe, and the mean of what its seeds gave, with half of the range of their MRR if there are several."""
    document = read_toml(recipe_file(name))
    mrr = [] if measured is None else measured["mrr"]
    return {
        "recipe": name,
        "model": document["model"]["model"],
        "graph": document.get("data", {}).get("dataset"),
        "mrr": fmean(mrr) if mrr else None,
        "spread": (max(mrr) - min(mrr)) / 2 if len(mrr) > 1 else None,
        "seeds": len(mrr),
        "minutes": fmean(measured["minutes"]) if measured is not None else None,
        "about": headline(name),
    }
