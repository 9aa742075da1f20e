"""A graph with types, false triples and candidates, from its folder to the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shared.commands import train

import bess_jax as bj
from bess_jax.cli.main import main

FILES = {
    "train": "a\tr\tb\nb\tr\tc\nc\tr\td\nd\ts\te\n",
    "valid": "a\ts\tc\nb\tr\td\n",
    "test": "e\tr\ta\na\ts\td\n",
    "types": "a\tperson\nb\tplace\nc\tplace\nd\tperson\ne\tthing\n",
    "labels": "a\tAnna\n",
    "valid_negatives": "a\ts\ta\nc\tr\tb\n",
    "test_negatives": "a\tr\te\n",
    "test_head_candidates": "a\tb\n",
    "test_tail_candidates": "c\tb\nc\te\n",
}


def test_from_the_folder_to_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in FILES.items():
        (tmp_path / f"{name}.tsv").write_text(text)
    run = tmp_path / "run"
    options = ("--model", "DistMult", "--n-epoch", "1", "--n-shard", "2", "--batch-size", "4", "--n-negative", "2")
    assert train(tmp_path, run, *options) == 0
    capsys.readouterr()

    def evaluate(*args: str) -> dict[str, Any]:
        assert main(["evaluate", str(run), "--json", *args]) == 0
        return dict(json.loads(capsys.readouterr().out))

    listed = evaluate("--listed", "--classification")
    assert (listed["filtered"], listed["among"]) == (False, "listed candidates")
    assert 1 <= listed["metrics"]["both"]["mean_rank"] <= 3
    assert (listed["classification"]["negatives"], listed["classification"]["n_false"]) == ("given", 1)
    assert evaluate("--by-type")["among"] == "its type"
    assert main(["evaluate", str(run), "--listed", "--by-type"]) == 2
    assert "give one of candidates, by_type and listed" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--listed", "--classification"]) == 0
    shown = capsys.readouterr().out
    assert "test, raw, among listed candidates" in shown
    assert "of 3 triples, 1 of them given as false" in " ".join(shown.split())
    assert main(["evaluate", str(run), "--split", "valid", "--listed"]) == 2
    assert "the graph lists no candidates for the heads of split 'valid'" in capsys.readouterr().err
    found = bj.Predictor.load(run).top_k(head="Anna", relation="r", k=5, type="place").columns
    assert set(found["name"]) == {"b", "c"}


def test_public_graphs_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are names for `train`, too, and not paths; without a network, the file to put there is told."""
    monkeypatch.setenv("BESS_JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BESS_JAX_OFFLINE", "1")
    assert main(["train", "--dataset", "CoDEx-L", "--run", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/data/codex-l/train.txt: is not there, and BESS_JAX_OFFLINE forbids to download it" in told
    assert "put there what is at https://github.com/tsafavi/codex" in told
