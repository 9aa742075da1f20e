"""Training as a function: a new run in its folder, or one that goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path

from bess_jax.data.dataset import KGDataset
from bess_jax.data.formats.sources import is_triples_file
from bess_jax.data.graphs import SHIPPED, is_named
from bess_jax.data.split import SPLIT_NAMES
from bess_jax.data.text import shorten
from bess_jax.run.build import read_graph
from bess_jax.run.callbacks import Callback, EpochLines
from bess_jax.run.checkpoint import LAST, Checkpoint
from bess_jax.run.config import TrainConfig, free_settings, whole_paths
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder, differing_parts
from bess_jax.run.loop import Run, Start, restored
from bess_jax.run.signals import ctrl_c_saves
from bess_jax.run.start import find_given, start_from
from bess_jax.run.team import ALONE, Team
from bess_jax.run.trackers import make_trackers
from bess_jax.step.spmd import request_devices


def fit(
    config: TrainConfig | Experiment | None = None,
    *,
    dataset: KGDataset | None = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    checkpoint: str = LAST,
    callbacks: Sequence[Callback] | None = None,
    team: Team = ALONE,
) -> Run:
    """Trains a model in a run folder, as the command `train` does.

    Ctrl-C, or a notebook's stop button, saves the state before it raises KeyboardInterrupt; a second one does not wait.

    Args:
        config: the settings, or an experiment made of them. Default: those of the run that goes on, else the defaults.
        dataset: the graph of a new run, where it was read before. Default: the one that the settings name.
        run: new folder for the run. Default: runs/DATASET-MODEL-TIME.
        resume: folder of a run to go on with, instead.
        checkpoint: checkpoint that `resume` goes on from: "last", "best", or a name. What came after it is removed.
        callbacks: what is called while it is under way, see `Callback`. Default: a line for each epoch; (): silence.
        team: the processes, see `Processes`.

    Returns:
        The run that has ended. `run.state` is the last state, on the devices; the best one by validation is in the
        folder, from where `Predictor.load(run)` and `run.best_params()` take it.

    Raises:
        TypeError: if `config` or `callbacks` are something else.
        ValueError: if settings do not fit the graph, or those of the run that goes on; if devices are missing.
        DataError: if the folder is not as it must be: something is in the way, absent, damaged, or of another run.
        NonFiniteLossError: if training diverged; also NonFiniteStateError.
        OSError: if the last state could not be saved.
        KeyboardInterrupt: after Ctrl-C.
    """
    around = [EpochLines()] if callbacks is None else callbacks
    _check_arguments(config, around)
    if dataset is not None and (resume is not None or isinstance(config, Experiment)):
        raise ValueError("dataset is for settings of a new run, as an Experiment or a run that goes on has its graph")
    with ctrl_c_saves() as interrupt:
        if resume is None:
            folder, experiment = _open_new(config, dataset, run, team)
        else:
            folder, experiment = _open_old(config, run, Path(resume), checkpoint)
        trackers = make_trackers(experiment.config.track)
        with folder.locked() if team.is_first else contextlib.nullcontext():
            start = _begin(folder, experiment, team) if resume is None else _go_on(folder, experiment, checkpoint, team)
            training = Run(experiment, folder, start, [*trackers, *around, *interrupt], team)
            training.train()
    return training


def _check_arguments(config: object, callbacks: object) -> None:
    """Raises TypeError on arguments that would fail later, in the middle of something."""
    if not isinstance(config, TrainConfig | Experiment | None):
        raise TypeError(f"config must be a TrainConfig or an Experiment, got {shorten(config)}")
    items = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    wrong = [item for item in items if not isinstance(item, Callback)]
    if items is not callbacks or wrong:
        raise TypeError(f"callbacks must be a list of Callback objects, got {shorten([*wrong, callbacks][0])}")


def _open_new(
    config: TrainConfig | Experiment | None, dataset: KGDataset | None, run: str | Path | None, team: Team
) -> tuple[RunFolder, Experiment]:
    """The folder of a new run, which is not touched yet, and what is to be trained in it."""
    settings = config.config if isinstance(config, Experiment) else _with_whole_paths(config or TrainConfig())
    settings.check_new()
    folder = RunFolder(Path(team.share(str(run or _default_folder(settings)))))
    if team.is_first:
        folder.check_new()
    given = config.dataset if isinstance(config, Experiment) else dataset
    graph = read_graph(settings) if given is None else given
    missing = [split for split in SPLIT_NAMES if split not in graph.triples]
    if missing:
        raise ValueError(f"dataset {settings.dataset} has no {' and no '.join(missing)}, which train needs")
    return folder, config if isinstance(config, Experiment) else _experiment(settings, graph)


def _open_old(
    config: TrainConfig | Experiment | None, run: str | Path | None, resume: Path, checkpoint: str
) -> tuple[RunFolder, Experiment]:
    """The folder of a run that goes on, which is not touched yet, and what is to be trained in it."""
    if run is not None:
        raise ValueError(f"give one of run, a new folder, and resume, which goes on in {resume}; got both")
    folder = RunFolder.open(resume)
    settings = config.config if isinstance(config, Experiment) else _with_whole_paths(config or folder.config())
    _check_free(folder.config(), settings)
    if folder.checkpoints.points():
        folder.checkpoint(checkpoint, settings)
    if not isinstance(config, Experiment):
        return folder, _experiment(settings, _graph_of_run(folder, settings))
    if folder.has_graph:
        _check_same(folder.graph(), config.dataset, "the graph of the experiment is not that of the run")
    return folder, config


def _with_whole_paths(config: TrainConfig) -> TrainConfig:
    return TrainConfig(**whole_paths(vars(config)))


def _experiment(config: TrainConfig, dataset: KGDataset) -> Experiment:
    with contextlib.suppress(RuntimeError):  # JAX has made its devices already: those there are will do
        request_devices(config.n_device or config.n_shard)
    return Experiment.create(config, dataset)


def _begin(folder: RunFolder, experiment: Experiment, team: Team) -> Start:
    """The start of a new run; the first process alone writes."""
    start = _first_start(experiment)
    if team.is_first:
        folder.begin(experiment.config, experiment.dataset)
    return start


def _go_on(folder: RunFolder, experiment: Experiment, checkpoint: str, team: Team) -> Start:
    """Where a run goes on; the first process alone writes."""
    found: Checkpoint | None = None
    if team.is_first:
        folder.checkpoints.tidy()
    team.barrier("tidy")
    if folder.checkpoints.points():
        found = folder.checkpoint(checkpoint, experiment.config, experiment.dataset.digest())
        start = restored(experiment, found)
    else:
        start = _first_start(experiment)
        note = "there is no checkpoint yet: the run starts from the beginning"
        start = start._replace(is_new=False, note=f"{note}; {start.note}" if start.note else note)
    team.barrier("restored")
    if team.is_first:
        folder.write_config(experiment.config)
        if not folder.has_graph:
            experiment.dataset.save(folder.graph_file)
        if found is not None:
            folder.checkpoints.tidy(found.about.point)
    team.barrier("begun")
    return start


def _first_start(experiment: Experiment) -> Start:
    source = experiment.config.start_from
    if source is None:
        return Start(experiment.init())
    given = find_given(Path(source), experiment)
    return Start(start_from(given, experiment), note=f"starts from {source}: {given}")


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
        as_it_was = f"to go on with what it was: --dataset {shlex.quote(str(folder.graph_file))}"
        try:
            now = read_graph(config)
        except ValueError as error:
            raise ValueError(f"{error}; {as_it_was}") from None
        _check_same(graph, now, f"dataset {config.dataset} has changed since the run began", f"; {as_it_was}")
    return graph


def _check_same(was: KGDataset, now: KGDataset, problem: str, hint: str = "") -> None:
    if differing := ", ".join(differing_parts(was.digest(), now.digest())):
        raise ValueError(f"{problem}, in {differing}{hint}")
