"""`benchmarks/reproduce.py`: runs are made once, go on, and are what the page says; here in one process, and short."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import jax
import pytest
from shared.commands import records

import bess_jax as bj
from bess_jax.cli.main import main
from bess_jax.run import recipes
from bess_jax.run.config import TrainConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHIPPED = recipes.RESULTS
EPOCHS = {"n_epoch": 2, "eval_every": 1}


class Cut(bj.Callback):
    """Ends a run after its first call, as if it had been killed."""

    def call(self, run: bj.Run) -> None:
        run.stop("cut off")


def process(started: list[list[str]]) -> type:
    """In place of a process: runs `train` when it is waited for, but is not done the first time."""

    class Process:
        def __init__(self, words: list[str], _: Any) -> None:
            self.words, self.has_waited = words[3:], False
            started.append(self.words)

        def wait(self, seconds: float | None = None) -> int:
            if not self.has_waited:
                self.has_waited = True
                raise TimeoutExpired("train", 1)
            short = [word for name, value in EPOCHS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
            return main([*self.words, *short])

        def poll(self) -> int:
            return 0

    return Process


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script, which has results and documents in the folder of the test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    script, page = (importlib.import_module(name) for name in ("reproduce", "results_page"))
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(page.write, "__defaults__", (tmp_path / "docs",))
    for module in (script, recipes):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results.toml")
    yield script
    for name in ("reproduce", "results_page"):
        del sys.modules[name]


@jax.numpy_dtype_promotion("standard")  # schedules of optax need it
def test_runs_are_made_once_and_go_on(
    script: Any, tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(script, "_start", process(started))
    monkeypatch.setattr(script.TrainConfig, "from_recipe", partial(TrainConfig.from_recipe, **EPOCHS))
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "nations").symlink_to(nations)
    out, graph = tmp_path / "out" / "small-on-nations", str(tmp_path / "graphs" / "nations")
    args = ["small:nations", "--data", str(tmp_path / "graphs"), "--out", str(tmp_path / "out")]
    bj.fit(TrainConfig.from_recipe("small", seed=1, dataset=graph), run=out / "1", callbacks=[Cut()])
    assert script.main([*args, "--seeds", "0", "1"]) == 0
    new = ["train", "--recipe", "small", "--dataset", graph, "--seed", "0", "--run", str(out / "0")]
    assert started == [new, ["train", "--resume", str(out / "1")]]
    assert script.main([*args, "--seeds", "0", "1"]) == 0
    assert len(started) == 2, "a run that is done was made again"

    found = tomllib.loads((tmp_path / "results.toml").read_text())["small:nations"]
    tests = [record for seed in "01" for record in records(out / seed) if record.get("split") == "test"]
    assert found["seeds"] == [0, 1]
    for name in ("mrr", "hits@1", "hits@10"):
        assert found[name] == [round(test["both"][name], 5) for test in tests]
    assert found["settings"] == script.digest("small") != script.digest("medium")
    assert found["positives"] == 2 * 2 * 1592
    assert found["parameters"] == (14 + 2 * 55) * 2 * TrainConfig.from_recipe("small").embedding_size
    assert found["command"] == "python -m bess_jax train --recipe small --dataset nations --seed 0"
    notes = [json.loads((out / f"{seed}.json").read_text()) for seed in "01"]
    assert found["minutes"] == [round(sum(note["seconds"]) / 60, 2) for note in notes]
    assert "jax" in found["versions"]
    assert "cores" in found["machine"]

    text = (tmp_path / "docs" / "results.md").read_text()
    mean, half = sum(found["mrr"]) / 2, abs(found["mrr"][0] - found["mrr"][1]) / 2
    assert f"| small:nations | {mean:.4f} | {half:.4f} |" in text
    assert (tmp_path / "docs" / "figures" / "results-nations.svg").read_text().startswith("<?xml")
    (tmp_path / "docs" / "results.md").unlink()
    assert script.main(["--write"]) == 0
    assert (tmp_path / "docs" / "results.md").read_text() == text

    config = out / "0" / "config.toml"
    config.write_text(config.read_text().replace("n_epoch = 2", "n_epoch = 3"))
    with pytest.raises(SystemExit, match="0 has another n_epoch than the recipe: move it away"):
        script.main(args)


def test_results_are_of_the_recipes_as_they_are(script: Any) -> None:
    for name, found in tomllib.loads(SHIPPED.read_text() if SHIPPED.exists() else "").items():
        assert found["settings"] == script.digest(name.partition(":")[0]), f"{name} was changed: run it again"


def test_the_fastest_way(script: Any) -> None:
    """The recipe of the fewest minutes within 2% of what was published, of several that were measured."""
    page = script.results_page
    base = {
        "graph": "wn18rr",
        "model": "ComplEx",
        "seeds": [0],
        "load": [0.1],
        "starts": [1],
        "parameters": 1,
        "positives": 1,
    }
    base |= {"machine": "m", "versions": "v", "commit": "c", "command": "make train", "minutes_to_98": [1.0]}
    base |= {name: [0.5] for name in ("hits@1", "hits@3", "hits@10")}
    figure = page.PUBLISHED["wn18rr"]["ComplEx"][0]
    rows = {"wn18rr-a": (figure, 30.0), "wn18rr-b": (0.981 * figure, 9.0), "wn18rr-c": (0.979 * figure, 2.0)}
    found = {name: base | {"mrr": [mrr], "minutes": [minutes]} for name, (mrr, minutes) in rows.items()}
    found["wn18rr-d"] = base | {"model": "DistMult", "mrr": [0.3], "minutes": [1.0]}
    routes = page.page(found).split("## The fastest way")[1]
    assert re.findall(r"^\| wn18rr \|.*$", routes, flags=re.MULTILINE) == [
        f"| wn18rr | ComplEx | {figure:.3f} | wn18rr-b | {0.981 * figure:.4f} | 9.0 |",
        f"| wn18rr | DistMult | {page.PUBLISHED['wn18rr']['DistMult'][0]:.3f} | none yet | 0.3000 |  |",
    ]


def test_names_of_recipes(script: Any) -> None:
    assert script.find(["wn18rr-*", "wn18rr-complex", "small:umls"])[-1] == "small:umls"
    assert len(set(script.find([]))) == len(script.find([])) == len(recipes.recipe_names()) - 3
    for pattern in ("small", "wn18r", "smal:umls"):
        with pytest.raises(SystemExit, match="no recipe is called so"):
            script.find([pattern])
    with contextlib.suppress(SystemExit):
        script.main(["small:umls"])
        pytest.fail("runs need a folder")
