"""How far long work is: bars with the time left on a terminal that can draw them, elsewhere plain lines."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bess_jax.cli.output import visible
from bess_jax.data.files import watch_reading

LARGE = 32 * 2**20
"""Bytes of a file that takes seconds to read."""


@dataclasses.dataclass(frozen=True)
class Verbosity:
    """How much is printed."""

    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    """Print errors, warnings and the result alone."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Print also what is decided on the way: devices, seconds of compiling, checkpoints, the cache of programs."""

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise ValueError("give one of --quiet and --verbose, got both")

    def story(self, console: Console) -> Console:
        """Where what is done is told: nowhere if `quiet`."""
        return _silent(console) if self.quiet else console

    def details(self, console: Console) -> Console:
        """Where it is told with its details: nowhere unless `verbose`."""
        return console if self.verbose else _silent(console)


def _silent(console: Console) -> Console:
    return Console(stderr=console.stderr, quiet=True)


def line(console: Console, text: str) -> None:
    """Shows a line as it is, however long: paths, names and labels in it are no markup."""
    console.print(Text(visible(text)), soft_wrap=True)


@contextlib.contextmanager
def progress(console: Console, text: str, n_all: int | None = None) -> Iterator[Callable[..., None]]:
    """Tells that something is done, how far it is, and how long it took.

    Gives `advance(n_new, n_all=None)`.

    Args:
        console: where; on a terminal that can move its cursor a bar that goes away, else a line before and after.
        text: what is done.
        n_all: of how many, if known.
    """
    if not console.is_interactive:
        with _timed(console, text):
            yield lambda n_new, n_all=None: None
        return
    with _bar(console, MofNCompleteColumn()) as bar:
        task = bar.add_task(visible(text), total=n_all)
        yield lambda n_new, n_all=None: bar.update(task, advance=n_new, total=n_all)


@contextlib.contextmanager
def reading(console: Console) -> Iterator[None]:
    """Tells, of `LARGE` files that are read in the context, how far that is."""
    start, n_told = time.monotonic(), 0
    with _bar(console, DownloadColumn()) if console.is_interactive else contextlib.nullcontext() as bar:

        def opened(file: Path, n_byte: int) -> Callable[[int], object] | None:
            nonlocal n_told
            if n_byte < LARGE:
                return None
            n_told += 1
            if bar is None:
                line(console, f"reading {file.name}, {n_byte / 2**20:,.0f} MiB")
                return None
            task = bar.add_task(visible(f"reading {file.name}"), total=n_byte)
            return lambda n_new: bar.update(task, advance=n_new)

        with watch_reading(opened):
            yield
    if n_told and bar is None:
        line(console, f"reading: {time.monotonic() - start:,.1f} s")


def _bar(console: Console, count: ProgressColumn) -> Progress:
    """A bar that goes away, with a count and the time left."""
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, BarColumn(bar_width=10), count, TimeRemainingColumn(), console=console, transient=True)


@contextlib.contextmanager
def _timed(console: Console, text: str) -> Iterator[None]:
    line(console, f"{text} ...")
    start = time.monotonic()
    yield
    line(console, f"{text}: {time.monotonic() - start:,.1f} s")


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
