"""Run folders: settings, graph, metrics and checkpoints of a training run."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from bess_jax._optional import require
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataError, replace_file
from bess_jax.run.build import read_graph
from bess_jax.run.checkpoint import Checkpoint, Checkpoints
from bess_jax.run.config import TrainConfig, free_settings, read_settings
from bess_jax.run.log import RunLog
from bess_jax.run.metric import Metric

_CONFIG, _GRAPH, _METRICS, _CHECKPOINTS, _LOCK = "config.toml", "graph.npz", "metrics.jsonl", "checkpoints", "lock"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run: `config.toml`, `graph.npz`, `metrics.jsonl` (one JSON object a line) and `checkpoints/`.

    It stands alone: what trained model and metrics are of is in it. All files appear whole or not at all.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was begun.

        Raises:
            DataError: if there is none at `path`.
        """
        if not path.is_dir():
            raise DataError("there is no such run folder", path)
        folder = cls(path)
        if not folder.has_begun:
            raise DataError(f"not a run folder: it has no {_CONFIG}", path)
        return folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder, which is made if there is none.

        Raises:
            DataError: if another process has it.
            OSError: if it cannot be made or written.
        """
        filelock = require("filelock", "cli", "a run folder")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / _LOCK, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise DataError("another process trains in this folder", self.path) from None
        try:
            yield
        finally:
            lock.release()

    def check_new(self) -> None:
        """Checks that a run can begin here.

        Raises:
            DataError: if there is something else.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise DataError("expected a folder for the run, got a file", self.path)
        found = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        if found - {_LOCK, _GRAPH}:  # which a run leaves that ended before it had begun
            hint = f"give another --run, or, to go on with the run in it, --resume {shlex.quote(str(self.path))}"
            raise DataError(f"exists already: {hint}", self.path)

    def begin(self, config: TrainConfig, dataset: KGDataset) -> None:
        """Writes the settings and the graph of a new run; to be called while it is `locked`.

        Raises:
            DataError: if there is something else in the folder.
            OSError: if it cannot be written.
        """
        self.check_new()
        dataset.save(self.graph_file)
        self.write_config(config)  # last: from now on it is a run

    def check_there(self) -> None:
        """Checks that a run that is under way can go on later.

        Raises:
            OSError: if the folder has gone, or its settings.
        """
        (self.path / _CONFIG).stat()

    def config(self) -> TrainConfig:
        """The settings of the run.

        Raises:
            ValueError: if its file is not as `write_config` writes it.
        """
        file = self.path / _CONFIG
        settings = read_settings(file)
        try:
            return TrainConfig(**settings)
        except ValueError as error:
            raise DataError(str(error), file) from None

    def write_config(self, config: TrainConfig) -> None:
        """Replaces the settings of the run.

        Raises:
            OSError: if they cannot be written.
        """
        import tomli_w

        with replace_file(self.path / _CONFIG) as stream:
            tomli_w.dump(config.to_groups(), stream)

    def graph(self, elsewhere: str | Path | None = None) -> KGDataset:
        """The graph of the run.

        Args:
            elsewhere: where it is, if not in the folder, as `load_dataset` takes it; columns and split: as in settings.

        Raises:
            DataError: if it is not there or damaged.
            ValueError: as `read_graph`, and `config`.
        """
        if elsewhere is not None:
            return read_graph(dataclasses.replace(self.config(), dataset=str(elsewhere)))
        if not self.has_graph:
            raise DataError(f"{_GRAPH} is missing: tell by --dataset where the graph is now", self.path)
        return KGDataset.load(self.graph_file)

    @property
    def has_begun(self) -> bool:
        """Whether a run is in it, which can go on."""
        return (self.path / _CONFIG).is_file()

    @property
    def graph_file(self) -> Path:
        """Where the copy of the graph is."""
        return self.path / _GRAPH

    @property
    def has_graph(self) -> bool:
        """Whether there is a copy of the graph."""
        return self.graph_file.exists()

    def log(self, last_epoch: int, writes: bool = True) -> RunLog:
        """The metrics; arguments as in `RunLog`."""
        return RunLog(self.path / _METRICS, last_epoch, writes)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints."""
        return Checkpoints(self.path / _CHECKPOINTS)

    def checkpoint(self, which: str, config: TrainConfig, graph: Mapping[str, str] | None = None) -> Checkpoint:
        """A checkpoint that is of these settings and this graph.

        Args:
            which: see `Checkpoints.pick`.
            config: settings that the run should have; those that are free may differ, see `free_settings`.
            graph: `KGDataset.digest` of the graph that it should be of; None: of any.

        Raises:
            DataError: if there is none, it is damaged, or it is of something else, naming it.
        """
        found = self.checkpoints.pick(which, Metric.parse(config.metric))
        about = found.about
        free = free_settings(about.settings["n_shard"], config.n_shard)
        defaults = dataclasses.asdict(TrainConfig())
        for name, value in dataclasses.asdict(config).items():
            was = about.settings.get(name, defaults[name])
            if name not in free and was != value:
                raise DataError(
                    f"{name} is {value!r}, but the checkpoint {found.path.name} was trained with {was!r}; put it back",
                    self.path / _CONFIG,
                )
        differing = [] if graph is None else differing_parts(about.graph, graph)
        if differing:
            raise DataError(
                f"the checkpoint {found.path.name} is of another graph: these parts differ: {', '.join(differing)}",
                self.path,
            )
        return found


def differing_parts(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Parts that two digests of graphs differ in."""
    return [part for part in {**one, **other} if one.get(part) != other.get(part)]
