"""What a report tells of a random model, whose names are full of markup."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from shared.markup import MARKUP
from shared.trained import N_ENTITY, N_RELATION, Trained

import bess_jax as bj
from bess_jax.predict.calibration import Platt, write_fitted
from bess_jax.report.content import Asked, Content, ask
from bess_jax.report.history import History
from bess_jax.run.config import TrainConfig

EPOCHS = [
    {"epoch": 1, "loss": 4.0, "learning_rate": 0.1, "positives_per_second": 1e4, "waiting": 0.25, "seconds": 2.0,
     "compiling": 8.0, "saving": 0.5},
    {"epoch": 2, "loss": 3.0, "learning_rate": 0.1, "positives_per_second": 2e4, "waiting": 0.5, "seconds": 1.0,
     "saving": 0.0},
    {"epoch": 2, "split": "valid", "seconds": 3.0, "both": {"mrr": 0.25, "hits@1": 0.1}},
]  # fmt: skip
"""Metrics of a run."""


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> bj.Predictor:
    found = Trained.create().predictor
    names = tuple(f"{MARKUP[i % len(MARKUP)]} {i}" for i in range(N_ENTITY))
    relations = tuple(f"{MARKUP[i % len(MARKUP)]} r{i}" for i in range(N_RELATION))
    dataset = dataclasses.replace(found.dataset, entity_dict=names, relation_dict=relations, type_offsets=None)
    folder = tmp_path_factory.mktemp("random")
    fitted = {"platt": Platt(0.5, -0.2)}  # found in the folder: to import scikit-learn takes seconds
    write_fitted(folder / "calibration.json", {"checkpoint": "", "seed": 0}, fitted)
    return dataclasses.replace(found, dataset=dataset, folder=folder)


@pytest.fixture(scope="session")
def asked(predictor: bj.Predictor) -> Asked:
    return ask(predictor, "test")


@pytest.fixture(scope="session")
def content(predictor: bj.Predictor, asked: Asked) -> Content:
    path = Path("runs") / "<img src=x> \"q\" & 's'".replace("/", "")
    return Content(
        path=path,
        config=TrainConfig(n_epoch=2, embedding_size=4, dataset="<b>graph"),
        dataset=predictor.dataset,
        history=History.of(EPOCHS),
        written=None,
        asked=asked,
    )
