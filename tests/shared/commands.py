"""The command `train` on a small graph, and what it leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bess_jax.cli.main import main

SMALL = [
    *("--n-shard", "2", "--batch-size", "64", "--n-negative", "16"),
    *("--embedding-size", "16", "--regularization", "0.01"),
]
"""Options that train fast."""


def train(dataset: Path, run: Path, *options: str) -> int:
    """The exit code of `train`; later options override `SMALL`."""
    return main(["train", "--dataset", str(dataset), *SMALL, "--run", str(run), *options])


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


TIMED = ("positives_per_second", "waiting", "seconds", "compiling", "saving")
"""What is another one in every run of the metrics of a run."""


def untimed(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without what is timed."""
    return [{name: value for name, value in line.items() if name not in TIMED} for line in records(run)]
