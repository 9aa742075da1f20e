"""The command that writes what came of runs as an HTML page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import tyro
from rich.console import Console

from bess_jax.cli.progress import Verbosity, line, progress
from bess_jax.data.files import DataError
from bess_jax.report.content import Content, read
from bess_jax.report.runs import check, write
from bess_jax.run.checkpoint import BEST
from bess_jax.run.hosts import Processes


@dataclasses.dataclass(frozen=True)
class Report:
    """Write what came of one or several runs as an HTML page that stands alone: curves, ranks, relations, examples."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders; several are shown side by side."""
    out: Path = Path("report.html")
    """File for the page."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to rank."""
    checkpoint: str = BEST
    """Checkpoint of the runs: best, by validation, last, or a name."""
    dataset: str | None = None
    """Where the graph is, if its copy was removed from the run folders."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = dataclasses.field(default_factory=Processes)
    verbosity: tyro.conf.OmitArgPrefixes[Verbosity] = dataclasses.field(default_factory=Verbosity)

    def __call__(self, console: Console) -> int:
        """Writes it."""
        if not self.runs:
            raise ValueError("give at least one run folder")
        if self.out.exists() and not self.out.is_file():  # a device or a pipe would be replaced by a file
            kind = "a folder" if self.out.is_dir() else "a device, a pipe or a socket"
            raise DataError(f"expected a file for the page, got {kind}", self.out)
        if not self.out.absolute().parent.is_dir():
            raise DataError("there is no such folder to write the page to", self.out.parent)
        check()
        contents = [self._read(console, run) for run in self.runs]
        if jax.process_index() == 0:
            write(contents, self.split, self.out)
        line(console, f"report: {self.out}")
        return 0

    def _read(self, console: Console, run: Path) -> Content:
        with progress(self.verbosity.story(console), f"ranking the {self.split} split of {run.name}") as advance:
            return read(run, self.split, self.checkpoint, self.dataset, advance)
