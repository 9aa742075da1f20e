"""What a report computes, against formulas written once more."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from shared.commands import records

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.cli.main import main, read_command
from bess_jax.cli.train import Train
from bess_jax.report.content import Content, command, names_of, read
from bess_jax.report.embedding_map import N_SHOWN, embedding_map, principal_components
from bess_jax.report.figures import RANK_EDGES, rank_bins
from bess_jax.report.history import Curve, History
from bess_jax.report.reliability import Reliability, reliability
from bess_jax.report.tables import duration, number
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder


def test_principal_components() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 6)) * [5, 1, 3, 0.1, 0.2, 0.3] + 7
    place, explained = principal_components(rows)
    value, vector = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(explained, value[::-1][:2] / value.sum())
    expected = (rows - rows.mean(axis=0)) @ vector[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(place), np.abs(expected), atol=1e-9)
    flipped, _ = principal_components(14 - rows)
    np.testing.assert_allclose(flipped, -place, atol=1e-9)  # signs are those of the directions, not of chance


def test_a_large_graph_is_drawn_from(predictor: bj.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bess_jax.report.embedding_map.N_SHOWN", 9)
    one, two = embedding_map(predictor), embedding_map(predictor)
    assert not isinstance(one, str)
    assert not isinstance(two, str)
    assert (len(one.label), one.n_entity) == (9, 37)
    assert one.label == two.label
    names = predictor.dataset.entity_dict
    table = predictor.entity_table().array
    ids = [names.index(label) for label in one.label]
    np.testing.assert_allclose(one.place, principal_components(table[ids].astype(np.float64))[0], atol=1e-5)
    assert N_SHOWN == 2000


def test_rank_bins() -> None:
    ranks = np.array([1, 1, 1.5, 2, 3, 3.5, 10, 11, 30, 2e6])
    found = rank_bins(ranks, len(RANK_EDGES)) * len(ranks)
    assert found.round(9).tolist() == [2, 3, 2, 2, *[0] * 9, 1]


def test_bins_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    given, true = rng.random(1003), rng.random(1003) < 0.3
    found = Reliability.of(given, true)
    order, start, error = np.argsort(given), 0, 0.0
    for predicted, observed, size in zip(found.predicted, found.observed, [101] * 3 + [100] * 7, strict=True):
        rows = order[start : start + size]
        assert predicted == pytest.approx(given[rows].mean())
        assert observed == pytest.approx(true[rows].mean())
        error += size / 1003 * abs(given[rows].mean() - true[rows].mean())
        start += size
    assert found.error == pytest.approx(error)
    assert (found.n, found.n_false) == (1003, int((~true).sum()))


def test_probabilities_that_there_are_none_of(predictor: bj.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    full = np.array([[h, 0, t] for h in range(2) for t in range(2)], np.int32)
    dataset = bj.KGDataset(n_entity=2, n_relation_type=4, triples=dict.fromkeys(("train", "valid", "test"), full))
    found = reliability(dataclasses.replace(predictor, dataset=dataset), "test")
    assert isinstance(found, str)
    assert "no false triple can be made of split 'test'" in found

    def missing(self: object, kind: str) -> None:
        raise MissingExtraError("needs the package sklearn")

    monkeypatch.setattr("bess_jax.predict.classifier.Classifier.calibration", missing)
    assert reliability(predictor, "test") == "There are no probabilities: needs the package sklearn."


def test_history_of_any_age() -> None:
    new = [
        {"epoch": 2, "loss": 2.0, "seconds": 4.0, "waiting": 0.25, "saving": 1.0},
        {"epoch": 1, "loss": 3.0, "seconds": 2.0, "waiting": 0.5, "compiling": 5.0},
        {"epoch": 2, "split": "valid", "seconds": 3.0, "both": {"mrr": 0.5}, "tail": {"mrr": 0.25}},
        {"epoch": 2, "split": "test", "seconds": 1.0, "both": {"mrr": float("nan")}},
    ]
    history = History.of(new)
    parts = {"training": 4.0, "waiting for batches": 2.0, "ranking": 4.0, "saving": 1.0, "compiling": 5.0}
    assert history.seconds() == parts
    assert history.of_epochs("loss") == Curve([1, 2], [3.0, 2.0])
    assert history.of_split("valid", "tail", "mrr") == Curve([2], [0.25])
    assert history.of_split("test", "both", "mrr") == Curve([], [])
    old = History.of([{"epoch": 1, "loss": None, "waiting": "x"}, {"epoch": 1, "split": "valid", "both": 3}])
    assert old.seconds() == {}
    assert old.of_epochs("loss") == old.of_split("valid", "both", "mrr") == Curve([], [])


def test_texts_of_numbers() -> None:
    assert [duration(s) for s in (0.04, 59.94, 61, 3599, 7260)] == [
        "0.0 s",
        "59.9 s",
        "1 min 1 s",
        "59 min 59 s",
        "2 h 1 min",
    ]
    assert [number(float("nan")).text, number(0.5, ".1f").text] == ["", "0.5"]


def test_the_command_trains_with_the_settings() -> None:
    config = TrainConfig(
        dataset="nations",
        model="TripleRE",
        loss="logsigmoid",
        model_options={"u": 0.5},
        share_negatives=False,
        augment_negative=False,
        n_device=2,
        learning_rate=1e-5,
        save_every="90s",
    )
    program, *words = shlex.split(command(config))[2:]
    found = read_command(words)
    assert program == "bess_jax"
    assert isinstance(found, Train)
    assert found.settings.checked() == config
    assert command(TrainConfig(seed=3)) == "python -m bess_jax train --seed 3 --recipe none"


def test_the_command_of_a_recipe() -> None:
    """What was changed back to a default is told, too, and a recipe that there is no more is not named."""
    back = {"negatives": "random", "answers_per_query": 1, "augment_negative": True, "loss": "softmax"}
    config = TrainConfig.from_recipe("small", dataset="umls", **back)
    assert config.learning_rate != TrainConfig().learning_rate
    for recipe in ("small", "of another version"):
        words = shlex.split(command(dataclasses.replace(config, recipe=recipe)))[3:]
        assert ("--recipe" in words) == (recipe == "small")
        found = read_command(words)
        assert isinstance(found, Train)
        assert dataclasses.replace(found.settings.checked(), recipe="small") == config


@pytest.mark.long
def test_from_train_to_a_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "run", tmp_path / "page.html"
    shutil.copytree(run, folder)
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert 3e6 < len(text) < 6e6
    (test,) = [record for record in records(folder) if record.get("split") == "test"]
    for name, value in (("MRR", test["both"]["mrr"]), ("Hits@10", test["both"]["hits@10"])):
        assert f"<dt>{name}</dt><dd><strong>{value:.3f}</strong>" in text
    (line,) = re.findall(r"<pre><code>(.*)</code></pre>", text)
    found = read_command(shlex.split(unescape(line))[3:])
    assert isinstance(found, Train)
    assert found.settings.checked() == RunFolder.open(folder).config()


def test_names_of_runs(content: Content) -> None:
    one, two, three = (dataclasses.replace(content, path=Path(path)) for path in ("a/run", "b/run", "b/other"))
    assert names_of([one, three]) == ["run", "other"]
    assert names_of([one, two]) == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give at least one run folder"),
        (["nowhere"], "there is no such run folder"),
        (["nowhere", "--out", "."], "expected a file for the page, got a folder"),
        (["nowhere", "--out", "/dev/null"], "expected a file for the page, got a device"),
        (["nowhere", "--out", "no/page.html"], "no such folder"),
    ],
)
def test_what_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_checkpoint(nations: Path, tmp_path: Path) -> None:
    dataset = bj.KGDataset.from_folder(nations)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.begin(TrainConfig(dataset=str(nations)), dataset)
    content = read(run.path, "test", "best")
    assert content.ranks == "This run has no checkpoint: it ended before its first one, so there is no model to ask."
    assert (content.metrics, content.written, content.history.n_epoch) == (None, None, 0)
