"""The command `train`: settings from command line and files, a new run or one to go on with, and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from bess_jax.cli import show
from bess_jax.cli.output import shell_word
from bess_jax.cli.progress import Verbosity, progress, reading
from bess_jax.cli.settings import SettingFiles, Settings
from bess_jax.cli.signals import stop_on_signals
from bess_jax.data.dataset import KGDataset
from bess_jax.data.formats.sources import is_triples_file
from bess_jax.data.graphs import SHIPPED, is_named
from bess_jax.data.split import SPLIT_NAMES
from bess_jax.predict.predictor import Predictor
from bess_jax.run.build import read_graph
from bess_jax.run.checkpoint import BEST, LAST
from bess_jax.run.config import TrainConfig, free_settings
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder, differing_parts
from bess_jax.run.hosts import Processes
from bess_jax.run.loop import Hooks, Run, Start, restored
from bess_jax.run.start import find_given, start_from
from bess_jax.run.state import Reader
from bess_jax.run.team import ALONE, Team
from bess_jax.step.spmd import request_devices
from bess_jax.update.train import TrainState


@dataclasses.dataclass(frozen=True)
class Train(SettingFiles):
    """Train a model, rank the test split, show a few predictions. Without arguments: ComplEx on WN18RR, 4 shards."""

    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """New folder for the run. Default: runs/DATASET-MODEL-TIME."""
    checkpoint: str = LAST
    """Checkpoint that --resume goes on from: last, best, or a name. What came after it is removed."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = dataclasses.field(default_factory=Processes)
    verbosity: tyro.conf.OmitArgPrefixes[Verbosity] = dataclasses.field(default_factory=Verbosity)
    settings: tyro.conf.OmitArgPrefixes[tyro.conf.FlagConversionOff[Settings]] = dataclasses.field(
        default_factory=Settings
    )

    @classmethod
    def with_defaults_of_files(cls, args: Sequence[str]) -> Train:
        """The command whose defaults are the settings in the files that the arguments name.

        Raises:
            ValueError: if a file is not as it must be.
        """
        files, _ = tyro.cli(
            SettingFiles, args=args, return_unknown_args=True, add_help=False, prog="python -m bess_jax train"
        )
        return cls(settings=files.read())

    def __call__(self, console: Console, team: Team = ALONE) -> int:
        """Trains."""
        if self.resume is not None and self.folder is not None:
            raise ValueError(f"give one of --run, a new folder, and --resume, which goes on in {self.resume}; got both")
        config, story = self.settings.checked(), self.verbosity.story(console)
        with stop_on_signals() as stop:
            with reading(story):
                folder, dataset = self._open(config, team)
            request_devices(config.n_device or config.n_shard)
            experiment = Experiment.create(config, dataset)
            if self.resume is None and not is_named(config.dataset):
                show.findings(console, dataset)
            show.plan(story, experiment)
            with folder.locked() if team.is_first else contextlib.nullcontext():
                loop = self._start(story, folder, experiment, team)
                stop.is_looked_at = True
                with show.training(story, config.n_epoch, loop.calls_per_epoch, loop.n_call) as advance:
                    loop.run(Hooks(advance, partial(show.warning, console), lambda: stop.is_requested))
                stop.is_looked_at = False
                show.speed(story, loop.meter)
                if number := team.agree(stop.number or 0):
                    go_on = f"python -m bess_jax train --resume {shell_word(folder.path)}"
                    show.line(console, f"stopped; the state is saved. To go on: {go_on}")
                    return 128 + number
                _show_test(console, story, loop)
        show.line(console, f"run folder: {folder.path} (python -m bess_jax evaluate {shell_word(folder.path)})")
        return 0

    def _open(self, config: TrainConfig, team: Team) -> tuple[RunFolder, KGDataset]:
        """The folder of the run, which is not touched yet, and its graph."""
        if self.resume is not None:
            folder = RunFolder.open(self.resume)
            _check_free(folder.config(), config)
            if folder.checkpoints.points():
                folder.checkpoint(self.checkpoint, config)
            return folder, _graph_of_run(folder, config)
        folder = RunFolder(Path(team.share(str(self.folder or _default_folder(config)))))
        if team.is_first:
            folder.check_new()
        dataset = read_graph(config)
        missing = [split for split in SPLIT_NAMES if split not in dataset.triples]
        if missing:
            raise ValueError(f"dataset {config.dataset} has no {' and no '.join(missing)}, which train needs")
        return folder, dataset

    def _start(self, console: Console, folder: RunFolder, experiment: Experiment, team: Team) -> Run:
        """The run, new or where it goes on, in its folder; the first process alone writes there."""
        config, dataset = experiment.config, experiment.dataset
        if self.resume is None:
            start = Start(_initial_state(console, experiment))
            if team.is_first:
                folder.begin(config, dataset)
            return Run(experiment, folder, start, team)
        checkpoint = None
        if team.is_first:
            folder.checkpoints.tidy()
        team.barrier("tidy")
        if folder.checkpoints.points():
            checkpoint = folder.checkpoint(self.checkpoint, config, dataset.digest())
            start = restored(experiment, checkpoint)
            n_old = checkpoint.about.settings["n_shard"]
            others = (
                "" if n_old == config.n_shard else f", which has {n_old} shards: from here on the batches are others"
            )
            show.line(console, f"goes on from {checkpoint.path.name}{others}")
        else:
            show.line(console, "there is no checkpoint yet: the run starts from the beginning")
            start = Start(_initial_state(console, experiment))
        team.barrier("restored")
        if team.is_first:
            folder.write_config(config)
            if not folder.has_graph:
                dataset.save(folder.graph_file)
            if checkpoint is not None:
                folder.checkpoints.tidy(checkpoint.about.point)
        team.barrier("begun")
        return Run(experiment, folder, start, team)


def _initial_state(console: Console, experiment: Experiment) -> TrainState:
    if experiment.config.start_from is None:
        return experiment.init()
    given = find_given(Path(experiment.config.start_from), experiment)
    show.line(console, f"starts from {experiment.config.start_from}: {given}")
    return start_from(given, experiment)


def _check_free(old: TrainConfig, new: TrainConfig) -> None:
    free = free_settings(old.n_shard, new.n_shard)
    for name, value in dataclasses.asdict(old).items():
        if name not in free and getattr(new, name) != value:
            raise ValueError(
                f"{name} cannot change when a run is continued: it was {value!r}, got {getattr(new, name)!r}; "
                f"what can: {', '.join(free)}"
            )


def _default_folder(config: TrainConfig) -> Path:
    model = config.model.rpartition(":")[2]
    graph = Path(config.dataset).name
    if is_triples_file(graph):
        graph = graph.partition(".")[0]
    return Path("runs") / f"{graph}-{model}-{datetime.datetime.now():%Y%m%d-%H%M%S}".lower()


def _graph_of_run(folder: RunFolder, config: TrainConfig) -> KGDataset:
    """The graph of a run that goes on: its own copy, if that of the settings is gone or still the same.

    Raises:
        ValueError: if it has changed since the run began.
    """
    there = config.dataset in SHIPPED or Path(config.dataset).exists()
    named = is_named(config.dataset)  # what is downloaded is compared when it is read
    graph = folder.graph(config.dataset if (there or named) and not folder.has_graph else None)
    if there and folder.has_graph:
        as_it_was = f"to go on with what it was: --dataset {shell_word(folder.graph_file)}"
        try:
            was, now = graph.digest(), read_graph(config).digest()
        except ValueError as error:
            raise ValueError(f"{error}; {as_it_was}") from None
        if differing := ", ".join(differing_parts(was, now)):
            raise ValueError(f"dataset {config.dataset} has changed since the run began, in {differing}; {as_it_was}")
    return graph


def _show_test(console: Console, story: Console, loop: Run) -> None:
    """Ranks the test split by the best state, logs it and shows it with predictions for three of its triples."""
    experiment, dataset = loop.experiment, loop.experiment.dataset
    best = loop.folder.checkpoints.pick(BEST)
    params = loop.state.inference_params
    if best.about.point.progress != loop.n_call / loop.calls_per_epoch:
        del loop.state  # there may be no room for both
        score_fn = experiment.model.score_fn
        params = Reader.of_run(best, experiment.sharding, experiment.placement).params(score_fn)
    test = dataset.triples["test"]
    with progress(story, f"ranking {len(test):,} test triples", 2 * len(test)) as advance:
        ranks = experiment.ranker.ranks(params, test, experiment.known, advance)
    values = ranks.metrics()
    loop.log("test", checkpoint=best.path.name, **values)
    show.metrics(console, f"test, filtered, {best.path.name}", values)
    predictor = Predictor(dataset=dataset, ranker=experiment.ranker, params=params)
    show.examples(story, predictor, ranks)
