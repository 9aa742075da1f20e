"""What a report tells of a run: its settings, its course, and what the trained model answers."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bess_jax.ask.ranks import Metrics, Ranks
from bess_jax.data.dataset import KGDataset
from bess_jax.predict.predictor import Predictor
from bess_jax.report.embedding_map import EmbeddingMap, embedding_map
from bess_jax.report.examples import Prediction, predictions
from bess_jax.report.history import History
from bess_jax.report.reliability import Reliability, reliability
from bess_jax.run.config import BESIDE, TrainConfig
from bess_jax.run.folder import RunFolder
from bess_jax.run.recipes import recipe_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a trained model answers.

    Attributes:
        checkpoint: name of the state that was asked.
        n_parameter: trainable numbers.
        map: its entities on a plane, or why there is none.
        ranks: of a split, or why there are none.
        intervals: of the metrics, 95%, as `Ranks.bootstrap` gives them.
        categories: metrics of the categories of relations.
        reliability: of its probabilities, or why there are none.
        predictions: a right, a near and a wrong one, as far as there are such.
    """

    checkpoint: str
    n_parameter: int
    map: EmbeddingMap | str
    ranks: Ranks | str
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    categories: Mapping[str, Metrics]
    reliability: Reliability | str
    predictions: Sequence[Prediction]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
    """What a report tells of one run.

    Attributes:
        path: the run folder.
        config: its settings.
        dataset: its graph.
        history: its course.
        written: when its metrics were last written, or None.
        asked: what the model answers, or why it could not be asked.
    """

    path: Path
    config: TrainConfig
    dataset: KGDataset
    history: History
    written: datetime | None
    asked: Asked | str

    @cached_property
    def graph(self) -> Mapping[str, str]:
        """What tells whether two runs are of one graph."""
        return self.dataset.digest()

    @property
    def ranks(self) -> Ranks | str:
        """Ranks of the split, or why there are none."""
        return self.asked if isinstance(self.asked, str) else self.asked.ranks

    @property
    def metrics(self) -> Metrics | None:
        """Metrics of the split, if it was ranked."""
        return None if isinstance(self.ranks, str) else self.ranks.metrics()


def read(
    run: Path,
    split: str,
    checkpoint: str,
    dataset: str | None = None,
    progress: Callable[[int], None] = lambda n_done: None,
) -> Content:
    """Reads a run and asks its model.

    Args:
        run: the run folder.
        split: what is ranked.
        checkpoint: "best", "last" or a name.
        dataset: where the graph is, if its copy was removed from the run folder.
        progress: called with the number of queries ranked since the last time.

    Raises:
        DataError: if there is no such run or checkpoint, or something in it is damaged.
        ValueError: if devices are missing.
        NonFiniteScoreError: if the model diverged.
    """
    folder = RunFolder.open(run)
    log = folder.log(sys.maxsize, writes=False)
    asked: Asked | str = "This run has no checkpoint: it ended before its first one, so there is no model to ask."
    graph = folder.graph(dataset)
    if folder.checkpoints.points():
        predictor = Predictor.load(run, checkpoint=checkpoint, dataset=dataset)
        graph, asked = predictor.dataset, ask(predictor, split, progress)
    return Content(
        path=run,
        config=folder.config(),
        dataset=graph,
        history=History.of(log.records),
        written=datetime.fromtimestamp(os.path.getmtime(log.file)) if log.file.exists() else None,
        asked=asked,
    )


def ask(predictor: Predictor, split: str, progress: Callable[[int], None] = lambda n_done: None) -> Asked:
    """Asks a model all that a report tells of it, but the ranks of a split that the graph does not have.

    Raises:
        NonFiniteScoreError: if the model diverged.
    """
    dataset = predictor.dataset
    asked = Asked(
        checkpoint=predictor.checkpoint.partition(" ")[0],
        n_parameter=_n_parameter(predictor),
        map=embedding_map(predictor),
        ranks=f"This graph has no split {split!r} to rank; it has {', '.join(dataset.triples)}.",
        intervals={},
        categories={},
        reliability="",
        predictions=(),
    )
    if split not in dataset.triples:
        return asked
    ranks = predictor.ranks(split, progress=progress)
    train = dataset.triples.get("train", dataset.all_triples())
    return dataclasses.replace(
        asked,
        ranks=ranks,
        intervals=ranks.bootstrap(seed=0),
        categories=ranks.by_category(train),
        reliability=reliability(predictor, split),
        predictions=predictions(predictor, ranks, split),
    )


def _n_parameter(predictor: Predictor) -> int:
    """Numbers of the entity table, padding left out, and of what is the same on all shards."""
    score_fn = predictor.ranker.score_fn
    leaves = jax.tree.leaves(predictor.params.score_fn)
    shared = sum(int(np.prod(leaf.shape[1:])) for leaf in leaves)
    return score_fn.sharding.n_entity * score_fn.entity_width + shared


def differing(config: TrainConfig) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of the settings that differ from the defaults."""
    defaults = dataclasses.asdict(TrainConfig())
    for name, value in dataclasses.asdict(config).items():
        if value != defaults[name]:
            yield name, value, defaults[name]


def command(config: TrainConfig) -> str:
    """A line for a shell that trains with these settings."""
    recipe = config.recipe if config.recipe in recipe_names() else None
    base = dataclasses.asdict(TrainConfig() if recipe is None else TrainConfig.from_recipe(recipe))
    given = {name: value for name, value in dataclasses.asdict(config).items() if value != base[name]} | {
        "recipe": recipe
    }
    if recipe is None and not given.keys() <= {"recipe", *BESIDE}:
        del given["recipe"]  # else `none` tells that none is to be picked
    words = ["python", "-m", "bess_jax", "train"]
    for name, value in given.items():
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, Mapping):
            words += [f"{key}={json.dumps(option)}" for key, option in value.items()]
        else:
            words.append("none" if value is None else str(value))
    return shlex.join(words)


def names_of(runs: Sequence[Content]) -> list[str]:
    """What the runs are called: the last part of their paths or, where that does not tell them apart, all of it."""
    short = [Path(os.path.abspath(run.path)).name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]
