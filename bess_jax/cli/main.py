"""The command line, and the command train; `commands` has those that ask a trained model."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from bess_jax._optional import MissingExtraError
from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.cli import report
from bess_jax.cli.ask import Evaluate, Predict, Score, Similar
from bess_jax.cli.compilation import use_compilation_cache
from bess_jax.data.graphs import SHIPPED
from bess_jax.predict.names import make_query
from bess_jax.predict.predictor import Predictor
from bess_jax.run.config import TrainConfig, check_settings, read_toml
from bess_jax.run.experiment import Experiment, Meter, NonFiniteLossError
from bess_jax.run.folder import RunFolder
from bess_jax.step.spmd import request_devices
from bess_jax.update.train import TrainState

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: training diverged, a setting, name or file is wrong, Ctrl-C."""

_DESCRIPTION = """Knowledge-graph embeddings in JAX, sharded with BESS.

Compiled programs are kept in ~/.cache/bess_jax (elsewhere: JAX_COMPILATION_CACHE_DIR; not at all:
JAX_ENABLE_COMPILATION_CACHE=0)."""

RESUMABLE = ("n_epoch", "n_device", "platform", "mapping", "eval_every")
"""Settings that may change when a run is continued: they touch neither the model nor its batches."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of the process) and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if args[:1] == ["train"]:
            args[1:1] = _settings_in_files(args)
        command: Train | Evaluate | Predict | Similar | Score = tyro.extras.subcommand_cli_from_dict(
            {
                "train": tyro.conf.FlagConversionOff[Train],
                "evaluate": Evaluate,
                "predict": Predict,
                "similar": Similar,
                "score": Score,
            },
            prog="python -m bess_jax",
            description=_DESCRIPTION,
            args=args,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        use_compilation_cache()
        return command(Console(stderr=getattr(command, "json", False)))  # nothing but the JSON goes to stdout
    except (ValueError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (NonFiniteLossError, NonFiniteScoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings(TrainConfig):
    """Settings as they were given. Checked when the command starts, so that the message is ours."""

    def __post_init__(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model, rank the test split, show a few predictions. Without arguments: ComplEx on WN18RR, 4 shards."""

    settings: tyro.conf.OmitArgPrefixes[_Settings] = dataclasses.field(default_factory=lambda: _Settings())
    config: Path | None = None
    """TOML file with settings; what stands on the command line goes before it."""
    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """New folder for the run. Default: runs/DATASET-MODEL-TIME."""
    resume: Path | None = None
    """Run folder to continue, with its settings."""

    def __call__(self, console: Console) -> int:
        """Trains."""
        config = TrainConfig(**vars(self.settings))
        if config.dataset not in SHIPPED:
            config = dataclasses.replace(config, dataset=str(Path(config.dataset).resolve()))
        if self.resume is not None:
            _check_resumable(RunFolder.open(self.resume).config(), config)
        experiment = _experiment(config)
        report.plan(console, experiment)
        if self.resume is not None:
            folder = RunFolder.open(self.resume)
            n_done, state = _restore_state(experiment, folder)
            folder.write_config(config)
        else:
            name = f"{Path(config.dataset).name}-{config.model}-{datetime.datetime.now():%Y%m%d-%H%M%S}".lower()
            folder = RunFolder.create(self.folder or Path("runs") / name, config)
            n_done, state = 0, experiment.init()
        state, finished = _train(console, experiment, folder, state, n_done)
        if not finished:
            console.print(
                f"stopped; the checkpoint is saved. To go on: python -m bess_jax train --resume {folder.path}"
            )
            return INTERRUPTED
        _show_test(console, experiment, folder, state)
        console.print(f"run folder: [bold]{folder.path}[/] (python -m bess_jax evaluate {folder.path})", soft_wrap=True)
        return 0


def _settings_in_files(args: Sequence[str]) -> list[str]:
    """Command-line form of the settings in the file after --config and the run folder after --resume."""
    found: dict[str, Any] = {}
    for option, file_name in (("--resume", "config.toml"), ("--config", "")):
        for position, arg in enumerate(args):
            value = args[position + 1] if arg == option and position + 1 < len(args) else arg.partition("=")[2]
            if value and arg.partition("=")[0] == option:
                if option == "--resume":
                    RunFolder.open(Path(value))
                file = Path(value) / file_name if file_name else Path(value)
                settings = read_toml(file)
                check_settings(settings, str(file))
                found |= settings
    return [part for name, value in found.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def _check_resumable(old: TrainConfig, new: TrainConfig) -> None:
    for name, value in dataclasses.asdict(old).items():
        if name not in RESUMABLE and getattr(new, name) != value:
            raise ValueError(
                f"{name} cannot change when a run is continued: it was {value!r}, got {getattr(new, name)!r}; "
                f"what can: {', '.join(RESUMABLE)}"
            )


def _experiment(config: TrainConfig) -> Experiment:
    request_devices(config.n_device or config.n_shard)
    return Experiment.create(config)


def _restore_state(
    experiment: Experiment, folder: RunFolder, names: Sequence[str] = TrainState._fields
) -> tuple[int, TrainState]:
    """Calls done and the named fields of the state, on the devices; the others are ()."""
    shapes = experiment.placement.shapes(experiment.shapes)._asdict()
    n_done, arrays = folder.restore({name: shapes[name] for name in names}, experiment.dataset)
    nothing: dict[str, Any] = dict.fromkeys(TrainState._fields, ())
    return n_done, TrainState(**(nothing | experiment.placement.put(arrays)))


def _train(
    console: Console, experiment: Experiment, folder: RunFolder, state: TrainState, n_done: int
) -> tuple[TrainState, bool]:
    """Trains with a progress bar, validation and checkpoints; False if Ctrl-C ended it."""
    config, calls = experiment.config, experiment.sampler.calls_per_epoch
    meter = Meter(experiment.positives_per_call)
    n_call = saved = n_done
    with report.progress_bar(console) as bar, _interrupt_flag() as interrupted:
        task = bar.add_task("compiling", total=config.n_epoch * calls, completed=n_done, status="")
        status: dict[str, str] = {}
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
                    values = _rank(None, experiment, state, "valid")
                    folder.log(epoch=epoch, split="valid", **values)
                    _save(experiment, folder, n_call, state)
                saved = n_call
                status["valid MRR"] = f"{values['both']['mrr']:.4f}"
            if meter.losses:
                new = {"loss": f"{np.mean(meter.losses[-calls:]):.4f}", "positives/s": f"{meter.speed:,.0f}"}
                status = new | status | new
            text = "  ".join(f"{name} {value}" for name, value in status.items())
            bar.update(task, completed=n_call, description=f"epoch {-(-n_call // calls)}/{config.n_epoch}", status=text)
            if interrupted:
                break
        else:
            interrupted.clear()
    meter.read_last()
    if saved < n_call:
        _save(experiment, folder, n_call, state)
    report.speed(console, meter)
    return state, not interrupted


def _save(experiment: Experiment, folder: RunFolder, n_call: int, state: TrainState) -> None:
    folder.save(n_call, experiment.placement.get(state)._asdict(), experiment.dataset)


def _rank(
    console: Console | None, experiment: Experiment, state: TrainState, split: str
) -> dict[str, dict[str, float]]:
    triples = experiment.dataset.triples[split]
    with console.status(f"ranking {len(triples):,} {split} triples") if console else contextlib.nullcontext():
        return experiment.ranker.ranks(state.inference_params, triples, experiment.known).metrics()


def _show_test(console: Console, experiment: Experiment, folder: RunFolder, state: TrainState) -> None:
    """Ranks the test split, logs it and shows it with predictions for three of its triples."""
    values = _rank(console, experiment, state, "test")
    folder.log(epoch=experiment.config.n_epoch, split="test", **values)
    report.metrics(console, "test, filtered", values)
    predictor = Predictor(dataset=experiment.dataset, ranker=experiment.ranker, params=state.inference_params)
    test = experiment.dataset.triples["test"]
    for triple in test[np.linspace(0, len(test) - 1, 3).astype(int)]:
        query = make_query(experiment.dataset, triple[0], triple[1], None)
        report.answers(console, predictor.answers(query, min(5, experiment.dataset.n_entity)), truth=int(triple[2]))


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
