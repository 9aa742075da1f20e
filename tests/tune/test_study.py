"""The folder of a search: which process trains which trial, and what stays when one is killed."""

from __future__ import annotations

import csv
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bess_jax import DataError
from bess_jax.run.config import read_settings
from bess_jax.tune.page import PAGE, write_page
from bess_jax.tune.results import BEST, TABLE, as_json, line_of, write_best, write_table
from bess_jax.tune.space import Space
from bess_jax.tune.study import Claim, Study

SPACE = """
n_shard = 2
batch_size = 64
n_negative = 16
optimizer = "adam"

[space]
learning_rate = { low = 1e-3, high = 1.0, log = true }
loss = ["softmax", "logsigmoid"]
"optimizer_options.b1" = { low = 0.5, high = 0.9 }

[study]
n_trial = 4
seed = 3
"""
GRAPH = {"train": "0"}


def open_study(folder: Path, space: str = SPACE, graph: dict[str, str] = GRAPH) -> Study:
    file = folder / "space.toml"
    file.write_text(space)
    return Study(folder / "study", Space.read(file), graph)


def claimed(study: Study, stack: ExitStack) -> Claim:
    claim = stack.enter_context(study.claim())
    assert claim is not None
    return claim


def tell(study: Study, value: float | None, message: str | None = None) -> bool:
    with study.claim() as claim:
        assert claim is not None
        return study.tell(claim, value, message)[1]


def test_a_trial_is_trained_by_one_process(tmp_path: Path) -> None:
    """Two that share the folder; what one leaves, as a killed one does, the other takes up with its settings."""
    one, other = open_study(tmp_path), open_study(tmp_path)
    with ExitStack() as stack, ExitStack() as killed:
        zero = claimed(one, killed)
        first = claimed(other, stack)
        assert (zero.number, first.number) == (0, 1)
        assert zero.drawn != first.drawn
        zero.optuna_trial.report(0.25, 5)
        killed.close()
        again = claimed(other, stack)
        assert (again.number, again.drawn, again.reported) == (0, zero.drawn, {5})
        assert [claimed(one, stack).number for _ in range(2)] == [2, 3]
        assert stack.enter_context(one.claim()) is None  # there are four
        assert stack.enter_context(other.claim()) is None
    assert [trial.state for trial in one.trials()] == ["running"] * 4


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_is_drawn_does_not_depend_on_who_draws(sampler: str, tmp_path: Path) -> None:
    """One process that draws all, and others that start anew for each."""
    space = SPACE.replace("seed = 3", f'seed = 3\nsampler = "{sampler}"').replace("n_trial = 4", "n_trial = 12")
    drawn: list[list[Any]] = []
    for folder in (tmp_path / "one", tmp_path / "many"):
        folder.mkdir()
        study = open_study(folder, space)
        for number in range(12):
            if folder.name == "many":
                study = open_study(folder, space)
            tell(study, number / 10)
        drawn.append([trial.drawn for trial in study.trials()])
    assert drawn[0] == drawn[1]
    assert len({str(settings) for settings in drawn[0]}) == 12


def test_a_line_that_was_broken_off_is_dropped(tmp_path: Path) -> None:
    tell(open_study(tmp_path), 0.5)
    with (tmp_path / "study" / "journal.log").open("ab") as stream:
        stream.write(b'{"op_code": 4, "worker')
    study = open_study(tmp_path)
    tell(study, 0.25)
    assert [trial.value for trial in open_study(tmp_path).trials()] == [0.5, 0.25]


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    tell(open_study(tmp_path), 0.5)
    (tmp_path / "study" / "journal.log").write_bytes(b"[1, 2]\n{}\n")
    with pytest.raises(DataError, match=r"journal\.log: not the journal of a study"):
        open_study(tmp_path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already, and is not a study"):
        open_study(tmp_path)
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_negative = 16", "n_negative = 32", "n_negative differs from that of this study: it was 16, now it is 32"),
        ("high = 1.0", "high = 2.0", "space.learning_rate differs"),
        ("seed = 3", "seed = 4", "study.seed differs"),
        ("n_shard = 2\n", "n_shard = 2\nn_epoch = 9\n", "n_epoch differs from that of this study: it was None"),
    ],
)
def test_another_search_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    open_study(tmp_path)
    with pytest.raises(DataError, match=message):
        open_study(tmp_path, SPACE.replace(old, new))


def test_more_trials_of_the_same_search(tmp_path: Path) -> None:
    open_study(tmp_path)
    assert open_study(tmp_path, SPACE.replace("n_trial = 4", 'n_trial = 5\ntimeout = "1h"')).space.plan.n_trial == 5
    with pytest.raises(DataError, match="train differs from that of this study; the graph has changed"):
        open_study(tmp_path, graph={"train": "1"})


@pytest.mark.parametrize(("metric", "values", "best"), [("mrr", [0.2, 0.4, 0.4], 1), ("mean_rank", [3.0, 2.0, 5.0], 1)])
def test_the_best_is_kept(metric: str, values: list[float], best: int, tmp_path: Path) -> None:
    """Of the others, checkpoints and graphs go; a failed trial is never the best."""
    study = open_study(tmp_path, f'metric = "{metric}"\n{SPACE}')
    is_best = []
    for number, value in enumerate([*values, None]):
        folder = study.run_folder(number)
        folder.checkpoints.folder.mkdir(parents=True)
        folder.graph_file.touch()
        (folder.path / "config.toml").touch()
        is_best.append(tell(study, value, "diverged" if value is None else None))
    assert is_best == [True, True, False, False]
    kept = [study.run_folder(n).checkpoints.folder.exists() and study.run_folder(n).has_graph for n in range(4)]
    assert kept == [n == best for n in range(4)]
    assert all(study.run_folder(n).has_begun for n in range(4))
    write_best(study)
    text = (study.path / BEST).read_text()
    assert text.startswith(f"# Trial {best}: {metric} {values[best]} on")
    winner = study.best()
    assert winner is not None
    assert read_settings(study.path / BEST) == {
        "metric": metric,
        **{"n_shard": 2, "batch_size": 64, "n_negative": 16, "optimizer": "adam"},
        "learning_rate": winner.drawn["learning_rate"],
        "loss": winner.drawn["loss"],
        "optimizer_options": {"b1": winner.drawn["optimizer_options.b1"]},
    }
    assert list(tomllib.loads(text)) == ["negatives", "loss", "optimizer", "devices", "run"]


def test_what_is_told_of_trials(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    write_best(study)
    assert not (study.path / BEST).exists()  # there is none yet
    with study.claim() as claim:
        assert claim is not None
        claim.optuna_trial.report(0.125, 5)
        pruned, _ = study.tell(claim, None)
    with study.claim() as claim:
        assert claim is not None
        failed, _ = study.tell(claim, None, "the loss is nan,\nlower it")
    assert line_of(study, pruned, is_best=False).startswith(
        "trial 0: mrr 0.1250, pruned after epoch 5 (learning_rate 0."
    )
    assert line_of(study, failed, is_best=False).startswith("trial 1: failed: the loss is nan")
    write_table(study)
    with (study.path / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["trial"], row["state"], row["mrr"], row["epoch"]) for row in rows] == [
        ("0", "pruned", "0.125", "5"),
        ("1", "failed", "", ""),
    ]
    assert rows[1]["message"] == "the loss is nan,\nlower it"
    assert float(rows[0]["learning_rate"]) == pruned.drawn["learning_rate"]
    found = as_json(study)
    assert found["best"] is None
    assert [trial["state"] for trial in found["trials"]] == ["pruned", "failed"]


ODD = "</script><script>alert(1)</script><b>x"


def test_page(tmp_path: Path) -> None:
    """Choices that look like markup are shown as text, and nothing is asked for."""
    space = SPACE.replace("[space]", f'[space]\nstart_from = ["{ODD}", "b"]').replace("n_trial = 4", "n_trial = 9")
    study = open_study(tmp_path, space)
    write_page(study)
    assert "alert(1)" not in (study.path / PAGE).read_text()
    for value in (0.1, 0.3, None, 0.2, 0.25, 0.5, 0.35, 0.3, 0.1):
        with study.claim() as claim:
            assert claim is not None
            claim.optuna_trial.report(0.1, 5)
            study.tell(claim, value, None if value else "<i>diverged</i>")
    write_page(study)
    page = (study.path / PAGE).read_text()
    assert any(trial.drawn["start_from"] == ODD for trial in study.trials())
    assert "&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "&lt;i&gt;diverged" in page
    shown = page.split("</head>")[1]
    for title in ("Best so far", "over their epochs", "Settings and results", "Importance", "learning_rate"):
        assert title in shown
    assert "http" not in shown.replace("https://plot.ly", "")
