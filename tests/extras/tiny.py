"""A random model of a small graph, made with the core alone, and settings to train one."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np

import bess_jax as bj


def dataset() -> bj.KGDataset:
    triples = np.random.default_rng(0).integers([20, 3, 20], size=(200, 3)).astype(np.int32)
    return bj.KGDataset(
        n_entity=20,
        n_relation_type=3,
        triples={"train": triples[:140], "valid": triples[140:170], "test": triples[170:]},
        entity_dict=tuple(f"e{i}" for i in range(20)),
        relation_dict=("likes", "knows", "owns"),
    )


def predictor() -> bj.Predictor:
    rng = np.random.default_rng(1)
    sharding = bj.Sharding.create(20, 1, seed=0)
    score_fn = bj.DistMult(negative_sample_sharing=False, sharding=sharding, n_relation_type=3, embedding_size=4)
    entity, relation = (rng.normal(size=(n, 4)).astype(np.float32) for n in (20, 3))
    params = bj.Params(bj.shard_table(entity, sharding), {"relation_embedding": relation[None]})
    placement = bj.Placement.create(1)
    ranker = bj.Ranker(score_fn=score_fn, placement=placement)
    return bj.Predictor(dataset=dataset(), ranker=ranker, params=placement.put(params))


SMALL: dict[str, Any] = {
    "n_shard": 1,
    "batch_size": 16,
    "n_negative": 4,
    "embedding_size": 4,
    "n_epoch": 2,
    "eval_every": 1,
}


def config(dataset: str) -> bj.TrainConfig:
    return bj.TrainConfig(dataset=dataset, **SMALL)


def settings(dataset: str) -> list[str]:
    """The same as lines of TOML."""
    return [f'dataset = "{dataset}"', *(f"{name} = {value}" for name, value in SMALL.items())]


def run(folder: Path) -> Any:
    """What a tracker reads of a run, in a new folder."""
    folder.mkdir()
    experiment = types.SimpleNamespace(config=config("graph.npz"))
    return types.SimpleNamespace(
        folder=types.SimpleNamespace(path=folder), experiment=experiment, n_call=0, calls_per_epoch=1
    )
