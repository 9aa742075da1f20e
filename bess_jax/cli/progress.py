"""How far long work is: bars with the time left on a terminal that can draw them, elsewhere plain lines."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console, ConsoleDimensions
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bess_jax.cli.output import visible
from bess_jax.data.files import watch_reading
from bess_jax.run.callbacks import GAP, Callback, EpochLines
from bess_jax.run.log import Record

if TYPE_CHECKING:
    from bess_jax.run.loop import Run

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


def make_console(stderr: bool, quiet: bool = False) -> Console:
    """A console as wide as the terminal; rich takes one that cannot move its cursor for 80 columns wide."""
    console = Console(stderr=stderr, quiet=quiet)
    if console.is_dumb_terminal:
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console


def _silent(console: Console) -> Console:
    return Console(stderr=console.stderr, quiet=True)


def line(console: Console, text: str, style: str = "") -> None:
    """Shows a line as it is, however long: paths, names and labels in it are no markup."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


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
    start, bar = time.monotonic(), _bar(console, DownloadColumn())
    tasks: dict[Path, TaskID] = {}  # some files are looked into before they are read

    def opened(file: Path, n_byte: int) -> Callable[[int], object] | None:
        if n_byte < LARGE:
            return None
        is_first, task = file not in tasks, tasks.setdefault(file, bar.add_task("", visible=False))
        if not console.is_interactive:
            if is_first:
                line(console, f"reading {file.name}, {n_byte / 2**20:,.0f} MiB ...")
            return None
        bar.start()
        bar.reset(task, total=n_byte, visible=True, description=visible(f"reading {file.name}"))
        return lambda n_new: bar.update(task, advance=n_new)

    try:
        with watch_reading(opened):
            yield
    finally:
        if tasks and console.is_interactive:
            bar.stop()
    if tasks and not console.is_interactive:
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


def training(console: Console, verbosity: Verbosity) -> list[Callback]:
    """What tells how far a run is: a bar, where one can be drawn, else a line for each epoch; with details both."""
    if verbosity.quiet or console.quiet:
        return []
    lines = EpochLines(functools.partial(_print_parts, console))
    details = [SaveLines(console), lines] if verbosity.verbose else []
    if console.is_interactive:
        return [*details, TrainingBar(console)]
    return details or [lines]


class TrainingBar(Callback):
    """A bar of a run, with as much of loss, validation and speed as fits, and the time left."""

    def __init__(self, console: Console) -> None:
        text = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=10)]
        left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        self._console = console
        self._bar = Progress(*text, TextColumn("{task.fields[status]}", markup=False), left, console=console)
        self._task = self._bar.add_task("compiling", status="")

    def start(self, run: Run) -> None:
        """Draws it."""
        self._bar.update(self._task, total=run.experiment.n_call, completed=run.n_call)
        self._bar.start()
        if run.note:
            line(self._console, run.note)

    def call(self, run: Run) -> None:
        """Moves it."""
        description = f"epoch {run.epoch}/{run.experiment.config.n_epoch}"
        room, status = self._console.width - len(description) - 20, ""
        for part in _status(run):
            longer = f"{status}  {part}" if status else part
            status = longer if len(longer) <= room else status
        self._bar.update(self._task, completed=run.n_call, description=description, status=status)

    def record(self, run: Run, record: Record) -> None:
        """Tells that the validation split is ranked, if that is what comes next."""
        config = run.experiment.config
        is_ranked = config.eval_every and (run.epoch % config.eval_every == 0 or run.epoch == config.n_epoch)
        if "split" not in record and is_ranked:
            self._bar.update(self._task, description="ranking valid")

    def end(self, run: Run) -> None:
        """Leaves it as it is, with why the run was stopped, if it was."""
        self._bar.stop()
        if run.stopped is not None and run.error is None:
            line(self._console, run.stopped)


def _status(run: Run) -> Iterator[str]:
    """How it stands, what matters most first."""
    if run.loss is not None:
        yield f"loss {run.loss:.4f}"
    if run.valid is not None:
        yield f"valid {run.metric} {run.metric.value(run.valid):.4f}"
    if run.meter.seconds:
        yield f"{run.meter.speed:,.0f} positives/s"


class SaveLines(Callback):
    """Prints a line for every checkpoint that is there since the last call."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._known: set[str] = set()

    def start(self, run: Run) -> None:
        """Notes those that are there."""
        self._known = self._names(run)

    def call(self, run: Run) -> None:
        """Prints the new ones."""
        names = self._names(run)
        for name in sorted(names - self._known):
            line(self._console, f"saved {name}")
        self._known = names

    def end(self, run: Run) -> None:
        """Prints the last one."""
        self.call(run)

    def _names(self, run: Run) -> set[str]:
        return {str(point) for point in run.folder.checkpoints.points()}


def _print_parts(console: Console, text: str) -> None:
    """Prints a line, on a terminal that is too narrow broken between its parts."""
    if not console.is_terminal:
        line(console, text)
        return
    shown = ""
    for part in text.split(GAP):
        longer = f"{shown}{GAP}{part}" if shown else part
        if shown and len(longer) > console.width:
            line(console, shown)
            longer = f"{GAP}{part}"
        shown = longer
    line(console, shown)


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
