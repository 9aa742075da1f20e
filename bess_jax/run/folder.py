"""Run folders: configuration, metrics and checkpoints of a training run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bess_jax._optional import require
from bess_jax.data.dataset import KGDataset
from bess_jax.run.config import TrainConfig, read_settings

_CONFIG, _METRICS, _CHECKPOINTS = "config.toml", "metrics.jsonl", "checkpoints"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run: `config.toml`, `metrics.jsonl` (one JSON object a line) and `checkpoints/`.

    Checkpoints are written by Orbax beside their final place and then renamed, so that a broken run leaves a whole one.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunFolder:
        """Makes a new run folder.

        Raises:
            ValueError: if `path` exists and is not an empty folder.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"run folder {path} exists already: give another --run, or go on with --resume {path}")
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.write_config(config)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            ValueError: if there is none at `path`.
        """
        if not path.is_dir():
            raise ValueError(f"there is no run folder {path}")
        if not (path / _CONFIG).is_file():
            raise ValueError(f"{path} is not a run folder: it has no {_CONFIG}")
        return cls(path)

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
            raise ValueError(f"{file}: {error}") from None

    def write_config(self, config: TrainConfig) -> None:
        """Replaces the settings of the run."""
        import tomli_w

        (self.path / _CONFIG).write_text(tomli_w.dumps(config.to_dict()), encoding="utf-8")

    def log(self, **record: Any) -> None:
        """Appends one line to the metrics."""
        with (self.path / _METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save(self, n_call: int, state: Mapping[str, Any], dataset: KGDataset) -> None:
        """Replaces the checkpoint.

        Args:
            n_call: calls of the train step done since the start of the run.
            state: name -> pytree of NumPy arrays (S, ...).
            dataset: the graph; what identifies it is saved too.
        """
        ocp = require("orbax.checkpoint", "cli", "a checkpoint")
        about = {"n_call": n_call, "dataset": dataset.fingerprint(), "shapes": _shapes(state)}
        items = {name: ocp.args.StandardSave(tree) for name, tree in state.items() if _shapes(tree)}
        with self._manager() as manager:
            manager.save(n_call, args=ocp.args.Composite(about=ocp.args.JsonSave(about), **items), force=True)

    def restore(self, like: Mapping[str, Any], dataset: KGDataset) -> tuple[int, dict[str, Any]]:
        """The last checkpoint: calls done, and the arrays.

        Args:
            like: name -> pytree of shapes (S, ...); what to read of the checkpoint.
            dataset: the graph that the run should be of.

        Raises:
            ValueError: if there is no checkpoint, or it is of another graph or another model.
        """
        ocp = require("orbax.checkpoint", "cli", "a checkpoint")
        if not (self.path / _CHECKPOINTS).is_dir():
            raise ValueError(f"{self.path} holds no checkpoint: the run ended before its first one")
        with self._manager() as manager:
            n_call = manager.latest_step()
            if n_call is None:
                raise ValueError(f"{self.path} holds no checkpoint: the run ended before its first one")
            about = manager.restore(n_call, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
            if about["dataset"] != dataset.fingerprint():
                raise ValueError(
                    f"the checkpoint in {self.path} is of another graph: the names or numbers of its entities and "
                    "relations differ from those of the run's dataset"
                )
            wanted, found = _shapes(like), about["shapes"]
            for name, shape in wanted.items():
                if shape != found.get(name):
                    raise ValueError(
                        f"the checkpoint in {self.path} is of another model: {name} is {found.get(name, 'absent')} in "
                        f"it, but {shape} by {self.path / _CONFIG}"
                    )
            targets = jax.tree_util.tree_map(lambda x: np.empty(x.shape, x.dtype), dict(like))
            items = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items() if _shapes(tree)}
            restored = manager.restore(n_call, args=ocp.args.Composite(**items))
        return n_call, {name: restored[name] if name in items else tree for name, tree in targets.items()}

    def _manager(self) -> Any:
        ocp = require("orbax.checkpoint", "cli", "a checkpoint")
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
        return ocp.CheckpointManager((self.path / _CHECKPOINTS).absolute(), options=options)


def _shapes(tree: Any) -> dict[str, str]:
    """Path of each array -> its type and shape as text."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{np.dtype(x.dtype).name}{list(x.shape)}" for path, x in leaves}
