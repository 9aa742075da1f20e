"""A score function of a user's own, by its name, in all commands; and names that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shared.commands import SMALL, records, train

import bess_jax as bj
from bess_jax.cli.main import main
from bess_jax.run.folder import RunFolder

MODEL = """
from bess_jax.scoring.base import BaseScoreFunction, DotProduct, Part

class Gated(BaseScoreFunction):
    "DistMult in which a relation also has one weight for all components."

    relation_parts = property(lambda self: (Part("relation", self.embedding_size), Part("weight", 1)))
    combiner = property(lambda self: DotProduct())

    def query_tail(self, head, relation):
        r, weight = self.split_relation(relation)
        return (1 + weight) * head * r

    def query_head(self, relation, tail):
        return self.query_tail(tail, relation)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    """A folder with `own_models.py` and a run, made there by the command `bess_jax`, which is installed elsewhere."""
    folder, bin_ = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("bin")
    (folder / "own_models.py").write_text(MODEL)
    (bin_ / "command.py").write_text("import sys\nfrom bess_jax.__main__ import main\nsys.exit(main())")
    options = ["--dataset", nations, *SMALL, "--run", "run", "--n-epoch", "10", "--init-scale", "0.1"]
    done = subprocess.run(
        [sys.executable, bin_ / "command.py", "train", "--model", "own_models:Gated", *options],
        env={**os.environ, "PYTHONPATH": str(Path(bj.__file__).parents[1])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_it_trains(trained: Path) -> None:
    run = trained / "run"
    assert RunFolder.open(run).config().model == "own_models:Gated"
    losses = [line["loss"] for line in records(run) if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    assert records(run)[-1]["both"]["mrr"] > 0.5


def test_it_is_asked_and_trained_further(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(trained)
    run = trained / "run"
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["both"]["mrr"] == pytest.approx(records(run)[-1]["both"]["mrr"])
    score_fn = bj.Predictor.load(run).ranker.score_fn
    assert (type(score_fn).__module__, type(score_fn).__name__, score_fn.relation_width) == ("own_models", "Gated", 17)
    for args in ("predict RUN --head usa --relation treaties", "score RUN --head usa --relation treaties --tail uk"):
        assert main(args.replace("RUN", str(run)).split()) == 0
        assert "uk" in capsys.readouterr().out
    assert main(["train", "--resume", str(run), "--n-epoch", "11"]) == 0
    assert [line["epoch"] for line in records(run) if "loss" in line] == list(range(1, 12))
    assert main(["train", "--resume", str(run), "--model", "DistMult"]) == 2
    assert "model cannot change when a run is continued: it was 'own_models:Gated'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Nope", "model must be one of BoxE, ComplEx, ConvE,"),
        ("Distmult", "got 'Distmult'; did you mean 'DistMult'?"),
        ("own_models.Gated", "or package.module:Class, got 'own_models.Gated'"),
        ("absent_models:Gated", "model 'absent_models:Gated': there is no module 'absent_models'; start Python in"),
        ("own_models:Gatde", "own_models has no class 'Gatde'; score functions in it: Gated"),
        ("own_models:Part", "Part must be a class derived from bess_jax.BaseScoreFunction"),
    ],
)
def test_unknown_model(
    model: str,
    message: str,
    tmp_path: Path,
    nations: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "own_models.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    assert train(nations, tmp_path / "run", "--model", model) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ")
    assert message in error
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_evaluate_without_the_module(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    assert main(["evaluate", str(trained / "run")]) == 2
    assert "there is no module 'own_models'" in capsys.readouterr().err


def test_help_lists_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    out = "".join(capsys.readouterr().out.replace("\u2502", "").split())
    assert "--model{BoxE,ComplEx,ConvE,DistMult,InterHT,PairRE,RotatE,TranS,TransE,TripleRE}|MODULE:CLASS" in out
