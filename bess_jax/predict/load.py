"""The model of a run folder, brought to the devices."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bess_jax.ask.ranker import Ranker
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataError
from bess_jax.data.sharding import Sharding
from bess_jax.run.build import make_score_fn
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder
from bess_jax.run.state import Reader
from bess_jax.scoring.base import BaseScoreFunction
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement, request_devices


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
    """What a `Predictor` is made of."""

    dataset: KGDataset
    ranker: Ranker
    params: Params
    folder: Path
    checkpoint: str


def load_model(
    run: Path,
    n_device: int | None,
    platform: str | None,
    n_shard: int | None,
    checkpoint: str,
    dataset: str | Path | None,
) -> Loaded:
    """Reads the model of a run folder; arguments and errors as in `Predictor.load`."""
    folder = RunFolder.open(run)
    config = folder.config()
    n_shard = n_shard or config.n_shard
    with contextlib.suppress(RuntimeError):  # JAX has made its devices already: those there are will do
        request_devices(n_device or min(config.n_device or n_shard, n_shard))
    graph = folder.graph(dataset)
    sharding = Sharding.create(graph.n_entity, n_shard, config.seed)
    placement = Placement.create(n_shard, n_device, config.mapping, platform or config.platform)
    score_fn = make_score_fn(config, graph, sharding)
    label, params = _read_params(folder, checkpoint, config, score_fn, placement, graph.digest())
    ranker = Ranker(score_fn=score_fn, placement=placement)
    return Loaded(dataset=graph, ranker=ranker, params=params, folder=folder.path, checkpoint=label)


def _read_params(
    folder: RunFolder,
    which: str,
    config: TrainConfig,
    score_fn: BaseScoreFunction,
    placement: Placement,
    graph: Mapping[str, str],
) -> tuple[str, Params]:
    """Label and parameters of a checkpoint, chosen anew if a run that is under way removes it meanwhile."""
    while True:
        try:
            found = folder.checkpoint(which, config, graph)
            return found.label, Reader.of_run(found, score_fn.sharding, placement).params(score_fn)
        except DataError as error:
            if error.file.parent.exists():
                raise
