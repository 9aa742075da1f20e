"""The command `train`: settings from command line and files, a new run or one to go on with, and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from bess_jax.ask.ranks import Metrics
from bess_jax.cli import report
from bess_jax.data.graphs import SHIPPED
from bess_jax.predict.names import make_query
from bess_jax.predict.predictor import Predictor
from bess_jax.run.config import TrainConfig, read_settings
from bess_jax.run.experiment import Experiment, Meter
from bess_jax.run.folder import RunFolder
from bess_jax.run.models import BUILT_IN
from bess_jax.step.spmd import request_devices
from bess_jax.update.train import TrainState

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

RESUMABLE = ("n_epoch", "n_device", "platform", "mapping", "eval_every")
"""Settings that may change when a run is continued: they touch neither the model nor its batches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(TrainConfig):
    """Each is a line of a TOML file too, with _ for -, as in n_shard = 2."""

    model: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(BUILT_IN)}}}|MODULE:CLASS")] = TrainConfig.model
    """Score function, or a class of your own in a module that Python can import from here."""

    def __post_init__(self) -> None:
        """Checks nothing: defaults from a file may fit only together with the command line. `checked` does."""

    def checked(self) -> TrainConfig:
        """The settings of a run, with the whole path of a graph of one's own."""
        config = TrainConfig(**vars(self))
        if config.dataset in SHIPPED:
            return config
        return dataclasses.replace(config, dataset=str(Path(config.dataset).resolve()))


@dataclasses.dataclass(frozen=True)
class SettingFiles:
    """Where settings come from that are not on the command line."""

    config: Path | None = None
    """TOML file with settings; the command line overrides them."""
    resume: Path | None = None
    """Run folder to continue, with its settings."""

    def read(self) -> Settings:
        """Those of the file, else of the run, else the defaults."""
        found = {} if self.resume is None else vars(RunFolder.open(self.resume).config())
        if self.config is not None:
            found = {**found, **read_settings(self.config)}
        return Settings(**found)


@dataclasses.dataclass(frozen=True)
class Train(SettingFiles):
    """Train a model, rank the test split, show a few predictions. Without arguments: ComplEx on WN18RR, 4 shards."""

    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """New folder for the run. Default: runs/DATASET-MODEL-TIME."""
    settings: tyro.conf.OmitArgPrefixes[Settings] = dataclasses.field(default_factory=Settings)

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

    def __call__(self, console: Console) -> int:
        """Trains."""
        config = self.settings.checked()
        if self.resume is not None and self.folder is not None:
            raise ValueError(f"give one of --run, a new folder, and --resume, which goes on in {self.resume}; got both")
        if self.resume is not None:
            _check_resumable(RunFolder.open(self.resume).config(), config)
        request_devices(config.n_device or config.n_shard)
        experiment = Experiment.create(config)
        report.plan(console, experiment)
        if self.resume is not None:
            folder = RunFolder.open(self.resume)
            n_done, state = _restore_state(experiment, folder)
            folder.write_config(config)
        else:
            folder = RunFolder.create(self.folder or _default_folder(config), config)
            n_done, state = 0, experiment.init()
        state, finished = _fit(console, experiment, folder, state, n_done)
        if not finished:
            text = f"stopped; the checkpoint is saved. To go on: python -m bess_jax train --resume {folder.path}"
            console.print(text, soft_wrap=True, markup=False)
            return INTERRUPTED
        _show_test(console, experiment, folder, state)
        text = f"run folder: {folder.path} (python -m bess_jax evaluate {folder.path})"
        console.print(text, soft_wrap=True, markup=False)
        return 0


def _check_resumable(old: TrainConfig, new: TrainConfig) -> None:
    for name, value in dataclasses.asdict(old).items():
        if name not in RESUMABLE and getattr(new, name) != value:
            raise ValueError(
                f"{name} cannot change when a run is continued: it was {value!r}, got {getattr(new, name)!r}; "
                f"what can: {', '.join(RESUMABLE)}"
            )


def _default_folder(config: TrainConfig) -> Path:
    model = config.model.rpartition(":")[2]
    return Path("runs") / f"{Path(config.dataset).name}-{model}-{datetime.datetime.now():%Y%m%d-%H%M%S}".lower()


def _restore_state(experiment: Experiment, folder: RunFolder) -> tuple[int, TrainState]:
    """Calls done by the last checkpoint, and its state on the devices."""
    shapes = experiment.placement.shapes(experiment.shapes)._asdict()
    n_done, arrays = folder.restore(shapes, experiment.dataset)
    return n_done, TrainState(**experiment.placement.put(arrays))


def _fit(
    console: Console, experiment: Experiment, folder: RunFolder, state: TrainState, n_done: int
) -> tuple[TrainState, bool]:
    """Trains with a progress bar, validation and checkpoints; False if Ctrl-C ended it."""
    config, calls = experiment.config, experiment.sampler.calls_per_epoch
    meter = Meter(experiment.positives_per_call)
    n_call = saved = n_done
    valid: Metrics | None = None
    with report.training(console, config.n_epoch, calls, n_done) as show, _interrupt_flag() as interrupted:
        for at in experiment.fit(state, n_done):
            n_call, state = at.n_call, at.state
            meter.add(at)
            epoch, rest = divmod(n_call, calls)
            if rest == 0:
                meter.read_last()
                loss = float(np.mean(meter.losses[-calls:]))
                folder.log(epoch=epoch, loss=loss, positives_per_second=meter.speed, waiting=meter.waiting)
            if rest == 0 and config.eval_every and epoch % config.eval_every == 0 and epoch < config.n_epoch:
                with meter.pause():
                    valid = _rank(experiment, state, "valid")
                    folder.log(epoch=epoch, split="valid", **valid)
                    _save(experiment, folder, n_call, state)
                saved = n_call
            show(n_call, meter, valid)
            if interrupted:
                break
    meter.read_last()
    if saved < n_call:
        _save(experiment, folder, n_call, state)
    report.speed(console, meter)
    return state, n_call >= experiment.n_call


def _save(experiment: Experiment, folder: RunFolder, n_call: int, state: TrainState) -> None:
    folder.save(n_call, experiment.placement.get(state)._asdict(), experiment.dataset)


def _rank(experiment: Experiment, state: TrainState, split: str) -> Metrics:
    triples = experiment.dataset.triples[split]
    return experiment.ranker.ranks(state.inference_params, triples, experiment.known).metrics()


def _show_test(console: Console, experiment: Experiment, folder: RunFolder, state: TrainState) -> None:
    """Ranks the test split, logs it and shows it with predictions for three of its triples."""
    dataset, test = experiment.dataset, experiment.dataset.triples["test"]
    with console.status(f"ranking {len(test):,} test triples"):
        values = _rank(experiment, state, "test")
    folder.log(epoch=experiment.config.n_epoch, split="test", **values)
    report.metrics(console, "test, filtered", values)
    predictor = Predictor(dataset=dataset, ranker=experiment.ranker, params=state.inference_params)
    for head, relation, tail in test[np.linspace(0, len(test) - 1, 3).astype(int)]:
        query = make_query(dataset, head, relation, None)
        answers = predictor.answer(query, min(5, dataset.n_entity))
        report.answers(console, answers, (int(tail), dataset.entity_label(tail)))


@contextlib.contextmanager
def _interrupt_flag() -> Iterator[list[bool]]:
    """A list that the first Ctrl-C puts an item in; the second one raises KeyboardInterrupt."""
    flag: list[bool] = []

    def handle(signum: int, frame: Any) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
