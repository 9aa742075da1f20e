"""The command `tune`: the search for settings."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console

from bess_jax.cli.output import print_json, shell_word
from bess_jax.cli.progress import Verbosity, line
from bess_jax.run.hosts import Processes
from bess_jax.run.signals import StoppedError, stop_on_signals
from bess_jax.tune.page import PAGE
from bess_jax.tune.results import BEST, as_json
from bess_jax.tune.search import search


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search for settings: train trials, end those early that are worse than others, keep the best one.

    The same command goes on with a search that was stopped or killed; several at once share one.
    """

    space: tyro.conf.Positional[Path]
    """TOML file with settings, those to search in a table [space], and how in a table [study]; see docs/tune.md."""
    study: Path
    """Folder of the search, new or to go on with."""
    json: bool = False
    """Print one JSON document at the end."""
    verbosity: tyro.conf.OmitArgPrefixes[Verbosity] = dataclasses.field(default_factory=Verbosity)

    @property
    def processes(self) -> Processes:
        """This one: others that search in the folder know nothing of it."""
        return Processes()

    def __call__(self, console: Console) -> int:
        """Searches."""
        story = self.verbosity.story(console)
        with stop_on_signals() as stop:
            try:
                study = search(self.space, self.study, show=partial(line, story), stop=stop)
            except StoppedError:
                words = f"{shell_word(self.space)} --study {shell_word(self.study)}"
                line(story, f"stopped; to go on: python -m bess_jax tune {words}")
                raise
        if self.json:
            print_json(as_json(study))
            return 0
        best = study.best()
        if best is None:
            line(console, "no trial is complete yet")
        else:
            line(console, f"best: trial {best.number} of {len(study.trials())}, valid {study.metric} {best.value:.4f}")
            line(console, f"settings: python -m bess_jax train --config {shell_word(study.path / BEST)}")
            line(console, f"run: {study.run_folder(best.number).path}; page: {study.path / PAGE}")
        return 0
