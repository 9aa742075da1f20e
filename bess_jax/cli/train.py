"""The command `train`: settings from command line and files, a new run or one to go on with, and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from bess_jax.cli import show
from bess_jax.cli.output import shell_word
from bess_jax.cli.parse import parse, without_none
from bess_jax.cli.progress import Verbosity, progress, reading, training
from bess_jax.cli.settings import GivenSettings, SettingFiles, Settings, settings_given, settings_of
from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs import is_named
from bess_jax.predict.predictor import Predictor
from bess_jax.run.build import read_graph
from bess_jax.run.callbacks import Callback
from bess_jax.run.checkpoint import LAST
from bess_jax.run.config import BESIDE, TrainConfig, whole_paths
from bess_jax.run.fit import fit
from bess_jax.run.hosts import Processes
from bess_jax.run.loop import Run
from bess_jax.run.recipes import own_recipe, recipe_for
from bess_jax.run.signals import Stop, stop_on_signals
from bess_jax.run.team import ALONE, Team


@dataclasses.dataclass(frozen=True)
class Train(SettingFiles):
    """Train a model, rank the test split, show a few predictions.

    Without settings of model, negatives, loss or optimizer, a recipe is taken that suits the graph. Default: WN18RR.
    """

    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """New folder for the run. Default: runs/DATASET-MODEL-TIME."""
    checkpoint: str = LAST
    """Checkpoint that --resume goes on from: last, best, or a name. What came after it is removed."""
    settings: GivenSettings = dataclasses.field(default_factory=Settings)
    verbosity: tyro.conf.OmitArgPrefixes[Verbosity] = dataclasses.field(default_factory=Verbosity)
    processes: tyro.conf.OmitArgPrefixes[Processes] = dataclasses.field(default_factory=Processes)
    beside: tyro.conf.Suppress[Any] = None  # settings that were given, where the graph tells the recipe

    @classmethod
    def from_args(cls, args: Sequence[str], prog: str) -> Train:
        """The command that the arguments tell, with the settings in the files that they name.

        Raises:
            ValueError: if the arguments are not understood, or a file is not as it must be.
        """
        files, _ = parse(SettingFiles, args, prog, return_unknown_args=True, add_help=False)
        given = settings_given(files.config, args, prog)
        if files.resume is not None and given.get("recipe") is not None:
            raise ValueError(f"give one of --recipe, for a new run, and --resume, which goes on in {files.resume}")
        beside = given if files.resume is None and given.keys() <= {*BESIDE} else None
        default = cls(settings=settings_of(given, files.resume), beside=beside)
        command: Train = parse(without_none(cls), args, prog, default=default)
        return command

    def __call__(self, console: Console, team: Team = ALONE) -> int:
        """Trains."""
        if self.resume is not None and self.folder is not None:
            raise ValueError(f"give one of --run, a new folder, and --resume, which goes on in {self.resume}; got both")
        with stop_on_signals() as stop, contextlib.ExitStack() as opening:
            story = self.verbosity.story(console)
            opening.enter_context(reading(story))
            result = _Result(console, story, opening, stop)
            config, dataset = self._picked(story)
            run = fit(
                config,
                dataset=dataset,
                run=self.folder,
                resume=self.resume,
                checkpoint=self.checkpoint,
                callbacks=[result, stop, *training(console, self.verbosity)],  # which end the other way round
                team=team,
            )
        folder = shell_word(run.folder.path)
        if result.signal:
            go_on = f"python -m bess_jax train --resume {folder}"
            show.line(console, f"stopped; the state is saved. To go on: {go_on}")
            return 128 + result.signal
        show.line(console, f"run folder: {run.folder.path} (python -m bess_jax evaluate {folder})")
        return 0

    def _picked(self, story: Console) -> tuple[TrainConfig, KGDataset | None]:
        """The settings, where none were given those of a recipe; and the graph, if that was read to find one."""
        config = self.settings.checked()
        if self.beside is None:
            return config, None
        name, why, dataset = own_recipe(config.dataset), config.dataset, None
        if name is None:
            dataset = read_graph(config)
            name, why = recipe_for(dataset), f"{dataset.n_entity:,} entities"
        show.line(story, f"recipe {name}, for {why} (settings of your own: docs/recipes.md)")
        return TrainConfig.from_recipe(name, **whole_paths({"dataset": config.dataset, **self.beside})), dataset


class _Result(Callback):
    """What is shown before and after training: the plan, then speed, test metrics and a few predictions.

    Attributes:
        signal: number of the one that has stopped any of the processes, or 0.
    """

    def __init__(self, console: Console, story: Console, opening: contextlib.ExitStack, stop: Stop) -> None:
        self.console, self.story, self.opening, self.stop, self.signal = console, story, opening, stop, 0

    def start(self, run: Run) -> None:
        """Shows the plan."""
        self.opening.close()
        if run.is_new and not is_named(run.experiment.config.dataset):
            show.findings(self.console, run.experiment.dataset)
        show.plan(self.story, run.experiment)

    def end(self, run: Run) -> None:
        """Shows what came of it, unless it ended by an error or a signal."""
        if run.error is not None:
            return
        show.speed(self.story, run.meter)
        self.signal = run.team.agree(self.stop.number or 0)
        if self.signal:
            return
        _show_test(self.console, self.story, run)


def _show_test(console: Console, story: Console, run: Run) -> None:
    """Ranks the test split by the best state, logs it and shows it with predictions for a few of its triples."""
    experiment, dataset, best = run.experiment, run.experiment.dataset, run.best()
    params = run.state.inference_params
    if best.about.point.progress != run.n_call / run.calls_per_epoch:
        del run.state  # there may be no room for both
        params = run.best_params()
    n, start = len(dataset.triples["test"]), time.perf_counter()
    with progress(story, f"ranking {n:,} test triples", 2 * n) as advance:
        ranks = run.ranks("test", params, advance)
    values = ranks.metrics()
    run.log("test", checkpoint=best.path.name, seconds=time.perf_counter() - start, **values)
    show.metrics(console, f"test, filtered, {best.path.name}", values)
    show.examples(story, Predictor(dataset=dataset, ranker=experiment.ranker, params=params), ranks)
