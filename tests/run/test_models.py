"""Score functions by name: those of the package, and a user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bess_jax as bj
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.models import BUILT_IN, find_model, options_of


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a module `mine` that Python can import."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)


def test_built_in_models_are_those_that_are_public() -> None:
    public = {name for name in bj.__all__ if isinstance(getattr(bj, name), type)}
    models = {name for name in public if issubclass(getattr(bj, name), bj.BaseScoreFunction)}
    assert set(BUILT_IN) == models - {"BaseScoreFunction"}
    assert list(BUILT_IN) == sorted(BUILT_IN)
    assert all(find_model(name) is getattr(bj, name) for name in BUILT_IN)


def test_own_model(module: Path) -> None:
    module.write_text("import bess_jax as bj\nclass Mine(bj.DistMult):\n    scoring_norm: int = 1\n")
    kind = find_model("mine:Mine")
    assert (kind.__name__, kind.__module__) == ("Mine", "mine")


def test_form_of_the_name_is_checked_without_import(module: Path) -> None:
    module.write_text("raise RuntimeError")
    assert TrainConfig(model="mine:Mine").model == "mine:Mine"
    for name in ("Nope", "", "mine:", ":Mine", "mine.:Mine", "mine:Mine:", "mine.py:Mine.x", "a b:C", "mine.Mine"):
        with pytest.raises(ValueError, match=r"model must be one of BoxE, .*, TripleRE, or package\.module:Class"):
            TrainConfig(model=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnie:Mine", "there is no module 'mnie'; start Python in the folder that holds it"),
        ("mine.sub:Mine", r"there is no module 'mine\.sub'"),
        ("mine:Mien", "mine has no class 'Mien'; score functions in it: Bare, DistMult, Mine"),
        ("mine:number", r"number must be a class derived from bess_jax\.BaseScoreFunction"),
        ("mine:Other", "Other must be a class derived from"),
        ("mine:Bare", "Bare must define combiner and query_tail"),
    ],
)
def test_what_is_missing_is_named(name: str, message: str, module: Path) -> None:
    classes = ("class Other: pass", "class Mine(DistMult): pass", "class Bare(BaseScoreFunction): pass")
    module.write_text("\n".join(("from bess_jax import BaseScoreFunction, DistMult", "number = 3", *classes)))
    with pytest.raises(ValueError, match=message) as error:
        find_model(name)
    assert name in str(error.value)


def test_faults_of_a_module_are_its_own(module: Path) -> None:
    """What a module raises when it is imported comes with its traceback."""
    module.write_text("import not_there\n")
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        find_model("mine:Mine")


def test_a_model_takes_the_options_that_it_has(nations: Path) -> None:
    assert options_of(bj.TransE, scoring_norm=2, depth=3) == {"scoring_norm": 2}
    assert options_of(bj.DistMult, scoring_norm=2) == {}
    small = {"dataset": str(nations), "n_shard": 1, "embedding_size": 8, "scoring_norm": 2}
    score_fn = Experiment.create(TrainConfig(model="PairRE", **small)).model.score_fn
    assert isinstance(score_fn, bj.PairRE)
    assert score_fn.scoring_norm == 2
