"""`from_pykeen` of the PyKEEN that is installed: `make torch-test` installs it, and runs these."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared.blocks import all_blocks
from shared.golden import golden
from shared.tables import check_scores

import bess_jax as bj

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # warnings are its own

CASES = [case.removeprefix("pykeen_") for case, cfg in golden("tables").cases.items() if cfg["library"] == "pykeen"]


@pytest.mark.parametrize("case", CASES)
def test_scores_of_the_real_model(case: str) -> None:
    from shared import pykeen_models

    model, factory = pykeen_models.make(case)
    check_scores(bj.from_pykeen(model, factory), pykeen_models.scores(model))


def test_every_case_is_recorded() -> None:
    from shared import pykeen_models

    assert list(pykeen_models.CASES) == CASES


def test_a_trained_model_and_its_file(tmp_path: Path) -> None:
    """A pipeline of PyKEEN, whose model is asked here."""
    import torch
    from pykeen.pipeline import pipeline
    from shared import pykeen_models

    factory = pykeen_models.factory(True)
    options = {"embedding_dim": 8}
    result = pipeline(
        training=factory,
        testing=factory,
        model="ComplEx",
        model_kwargs=options,
        random_seed=0,
        training_kwargs={"num_epochs": 3, "use_tqdm": False},
        evaluation_kwargs={"use_tqdm": False},
        device="cpu",
    )
    tables = bj.from_pykeen(result.model, result.training)
    check_scores(tables, pykeen_models.scores(result.model))
    torch.save(result.model, tmp_path / "model.pkl")
    again = bj.from_pykeen(torch.load(tmp_path / "model.pkl", weights_only=False), result.training)
    np.testing.assert_array_equal(again.entity, tables.entity)


def test_the_block_of_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in all_blocks() if block.section == "From PyKEEN"]
    with contextlib.chdir(tmp_path):
        exec(block.text, {})
    assert "usa" in capsys.readouterr().out
    with np.load(tmp_path / "start.npz") as archive:
        assert archive["entity"].shape == (14, 400)
        assert "usa" in archive["entity_name"].tolist()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TransE", {"scoring_fct_norm": 3}, "p must be 1 or 2 here"),
        ("TransE", {"scoring_fct_norm": 2, "power_norm": True}, "square of the 2-norm"),
        ("RotatE", {"relation_constrainer": None, "relation_initializer": "normal_"}, "must have modulus 1"),
        ("TransR", {}, "interaction TransRInteraction has no counterpart here"),
        ("TuckER", {}, "interaction TuckERInteraction has no counterpart here"),
    ],
)
def test_what_has_no_counterpart(name: str, options: dict[str, Any], message: str) -> None:
    from pykeen.models import model_resolver
    from shared import pykeen_models

    model = model_resolver.make(name, triples_factory=pykeen_models.factory(False), **options)
    with pytest.raises(ValueError, match=message):
        bj.from_pykeen(model)
