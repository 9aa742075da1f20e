"""Run folders: configuration, metrics and checkpoints of a training run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bess_jax.config import TrainConfig, read_toml
from bess_jax.dataset import KGDataset

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
        import tomli_w

        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"run folder {path} exists already; give another --run, or continue it with --resume {path}")
        path.mkdir(parents=True, exist_ok=True)
        (path / _CONFIG).write_text(tomli_w.dumps(config.to_dict()), encoding="utf-8")
        return cls(path)

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
        """The settings of the run."""
        file = self.path / _CONFIG
        return TrainConfig.from_dict(read_toml(file), str(file))

    def log(self, **record: Any) -> None:
        """Appends one line to the metrics."""
        with (self.path / _METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save(self, epoch: int, tree: Any, dataset: KGDataset) -> None:
        """Replaces the checkpoint by one after `epoch` epochs.

        Args:
            epoch: epochs done.
            tree: what to save: a mapping of names to pytrees of arrays.
            dataset: the graph; what identifies it is saved too.
        """
        import orbax.checkpoint as ocp

        about = {"epoch": epoch, "dataset": dataset.fingerprint(), "shapes": _shapes(tree)}
        items = {name: ocp.args.StandardSave(value) for name, value in tree.items()}
        with self._manager() as manager:
            manager.save(epoch, args=ocp.args.Composite(about=ocp.args.JsonSave(about), **items), force=True)

    def restore(self, like: Any, dataset: KGDataset) -> tuple[int, Any]:
        """The last checkpoint: epochs done, and the arrays.

        Args:
            like: mapping of names to pytrees of `jax.ShapeDtypeStruct` with shardings: what to read, and where to.
            dataset: the graph that the run should be of.

        Raises:
            ValueError: if there is no checkpoint, or it is of another graph or another model.
        """
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            epoch = manager.latest_step()
            if epoch is None:
                raise ValueError(f"{self.path} holds no checkpoint: the run ended before its first one")
            about = manager.restore(epoch, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
            if about["dataset"] != dataset.fingerprint():
                raise ValueError(
                    f"the checkpoint in {self.path} is of another graph: names or numbers of entities and relations "
                    "differ from those of the run's dataset"
                )
            wanted, found = _shapes(like), about["shapes"]
            for name in sorted(wanted):
                if wanted[name] != found.get(name):
                    raise ValueError(
                        f"the checkpoint in {self.path} is of another model: {name} is {found.get(name, 'absent')} in "
                        f"it, but {wanted[name]} by {self.path / _CONFIG}"
                    )
            items = {name: ocp.args.StandardRestore(value) for name, value in like.items()}
            restored = manager.restore(epoch, args=ocp.args.Composite(**items))
        return int(about["epoch"]), {name: restored[name] for name in like}

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
        return ocp.CheckpointManager((self.path / _CHECKPOINTS).absolute(), options=options)


def _shapes(tree: Any) -> dict[str, str]:
    """Path of each array -> its type and shape as text."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{np.dtype(x.dtype).name}{list(x.shape)}" for path, x in leaves}
