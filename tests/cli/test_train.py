"""The command `train`: the run that it makes, goes on with, saves when it is stopped, and does not touch."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from shared.commands import records, train
from shared.tolerance import ACCUMULATED

from bess_jax.cli.main import main
from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs import load_dataset
from bess_jax.run.checkpoint import LAST
from bess_jax.run.folder import RunFolder


def test_run_folder_and_quality(run: Path) -> None:
    lines = records(run)
    assert [line["epoch"] for line in lines if "loss" in line] == list(range(1, 21))
    assert [line["epoch"] for line in lines if line.get("split") == "valid"] == [10, 20]
    assert all(line["positives_per_second"] > 0 and line["waiting"] >= 0 for line in lines[1:] if "loss" in line)
    test = lines[-1]
    assert test["split"] == "test"
    assert test["both"]["mrr"] > 0.65  # ranking by frequency gives 0.55
    assert RunFolder.open(run).config().embedding_size == 16


@pytest.mark.long
def test_a_continued_run_is_the_same_run(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert train(nations, straight, "--n-epoch", "4") == 0
    assert "% of the time" in capsys.readouterr().out.replace("\n", " ")
    assert train(nations, halves, "--n-epoch", "2") == 0
    assert main(["train", "--resume", str(halves), "--n-epoch", "4", "--n-device", "1"]) == 0
    one, other = (RunFolder.open(path).checkpoints.pick(LAST) for path in (straight, halves))
    assert one.about.point == other.about.point
    for name, entry in one.entries.items():
        for shard in range(2 if entry.per_shard else 1):
            np.testing.assert_allclose(one.array(name, shard), other.array(name, shard), **ACCUMULATED)
    assert main(["train", "--resume", str(halves), "--learning-rate", "3"]) == 2
    assert "learning_rate cannot change when a run is continued" in capsys.readouterr().err
    assert main(["train", "--resume", str(halves), "--run", str(halves.with_name("new"))]) == 2
    assert "give one of --run, a new folder, and --resume" in capsys.readouterr().err


def test_existing_run_folder_is_not_touched(run: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train(nations, run) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_diverging_run_ends_with_a_message(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(nations, tmp_path / "run", "--optimizer", "sgd", "--learning-rate", "1e30") == 1
    assert "lower learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["softmax", "logsigmoid", "margin"])
@pytest.mark.parametrize("corruption", ["h", "ht"])
def test_other_settings_train(tmp_path: Path, nations: Path, loss: str, corruption: str) -> None:
    args = f"--model TransE --loss {loss} --corruption {corruption} --inverse-relations False --n-epoch 1".split()
    assert train(nations, tmp_path / "run", *args, "--init-scale", "0.1", "--regularization", "0") == 0


def test_row_adagrad_trains(tmp_path: Path, nations: Path) -> None:
    assert train(nations, tmp_path / "run", "--optimizer", "row_adagrad", "--n-epoch", "5") == 0
    losses = [line["loss"] for line in records(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.long
def test_a_quoted_table_becomes_a_run(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its splits are drawn, what is doubtful is told, and a run that goes on draws the same ones."""
    dataset, table, run = load_dataset(nations), tmp_path / "facts.v1.csv", tmp_path / "run"
    assert dataset.entity_dict is not None
    assert dataset.relation_dict is not None
    with table.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writerow(["note", "object", "subject", "predicate"])
        for h, r, t in dataset.all_triples().tolist():
            writer.writerow(["a; b", dataset.entity_dict[t], dataset.entity_dict[h], dataset.relation_dict[r]])
    columns = ("--columns", "subject,predicate,object")
    assert train(table, run, *columns, "--split", "0.8,0.1,0.1", "--n-epoch", "1") == 0
    assert "warning: 197 of 199 triples of test have their two entities joined in train" in capsys.readouterr().out
    sizes = {split: len(triples) for split, triples in RunFolder.open(run).graph().triples.items()}
    assert sizes == {"train": 1594, "valid": 199, "test": 199}
    assert main(["train", "--resume", str(run), "--n-epoch", "2"]) == 0
    assert main(["train", "--resume", str(run), "--n-epoch", "3", "--split", "0.7,0.15,0.15"]) == 2
    assert "has changed since the run began, in triples/train" in capsys.readouterr().err


def test_a_graph_without_test_is_refused(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    triples = load_dataset(nations).triples
    KGDataset(14, 55, {"train": triples["train"]}).save(tmp_path / "g.npz")
    assert train(tmp_path / "g.npz", tmp_path / "run") == 2
    assert "g.npz has no valid and no test, which train needs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
