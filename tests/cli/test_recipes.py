"""Recipes on the command line: where settings are taken from, the list, and what `train` picks by itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

import bess_jax as bj
from bess_jax.cli.audit import Audit
from bess_jax.cli.main import main, read_command
from bess_jax.cli.train import Train
from bess_jax.run import build
from bess_jax.run.config import TrainConfig, read_settings
from bess_jax.run.folder import RunFolder
from bess_jax.run.recipes import OF_GRAPH, recipe_file, recipe_names
from bess_jax.tune.space import Range, Space


def command(*args: object) -> Train:
    """What `train` is told."""
    found = read_command(["train", *map(str, args)])
    assert isinstance(found, Train)
    return found


def settings(*args: object) -> TrainConfig:
    return command(*args).settings.checked()


def test_command_line_before_config_before_recipe(tmp_path: Path) -> None:
    file, recipe = tmp_path / "settings.toml", read_settings(recipe_file("fb15k-237-complex"))
    file.write_text('learning_rate = 0.7\nembedding_size = 24\nrecipe = "small"\n')
    given = ("--recipe", "fb15k-237-complex", "--dataset", "my.tsv", "--embedding-size", 40)
    config = settings("--config", file, *given)
    assert (config.recipe, config.learning_rate, config.embedding_size) == ("fb15k-237-complex", 0.7, 40)
    of_recipe = recipe.keys() - {"dataset", "embedding_size", "learning_rate"}
    assert {name: getattr(config, name) for name in of_recipe} == {name: recipe[name] for name in of_recipe}
    assert config.dataset.endswith("/my.tsv")
    assert settings(*given).learning_rate == recipe["learning_rate"]
    assert settings("--recipe=fb15k-237-complex").dataset == "fb15k-237"
    of_file = settings("--config", file)
    assert (of_file.recipe, of_file.learning_rate) == ("small", 0.7)
    assert of_file.batch_size == read_settings(recipe_file("small"))["batch_size"]
    assert settings("--config", file, "--recipe", "none") == TrainConfig(learning_rate=0.7, embedding_size=24)


def test_a_search_has_a_recipe(tmp_path: Path) -> None:
    """Its settings are those of all trials, but for those that are fixed otherwise, or searched."""
    file, recipe = tmp_path / "space.toml", read_settings(recipe_file("small"))
    file.write_text('recipe = "small"\nn_epoch = 3\n[space]\nlearning_rate = { low = 0.1, high = 1.0 }\n')
    space = Space.read(file)
    assert space.searched == {"learning_rate": Range(0.1, 1.0)}
    assert space.fixed == {name: value for name, value in recipe.items() if name != "learning_rate"} | {
        "recipe": "small",
        "n_epoch": 3,
    }
    config = space.config({"learning_rate": 0.5})
    assert config == TrainConfig.from_recipe("small", n_epoch=3, learning_rate=0.5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train --recipe smal", "there is no recipe 'smal'; did you mean 'small'?; there are small, medium, large, "),
        (
            "train --recipe small --resume RUN",
            "give one of --recipe, for a new run, and --resume, which goes on in ",
        ),
        ("train --recipe", "missing value for argument '--recipe'"),
        ("config show --recipe smal", "there is no recipe 'smal'; did you mean 'small'?"),
        ("config validate FILE", "FILE: there is no recipe 'smal'"),
    ],
)
def test_what_is_refused(
    args: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text('recipe = "smal"\n')
    assert main(args.split()) == 2
    assert message in "".join(capsys.readouterr())


def test_settings_of_a_recipe_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--recipe", "small", "--seed", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name: value for group in shown.values() for name, value in group.items()} == vars(
        TrainConfig.from_recipe("small", seed=3)
    )
    audited = read_command(["audit", "--recipe", "small", "--seed", "3"])
    assert isinstance(audited, Audit)
    assert audited.settings.config() == TrainConfig.from_recipe("small", seed=3)


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, with what was measured; a line each where there is room."""
    numbers: dict[str, Any] = {"mrr": [0.30, 0.32, 0.325], "minutes": [10.0, 11.0, 12.0]}
    once: dict[str, Any] = {"mrr": [0.42], "minutes": [1.5]}
    monkeypatch.setattr("bess_jax.cli.recipes.results", lambda: {"fb15k-237-complex": numbers, "small": once})
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["train", "--recipe", "list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"  [a-z0-9]", line)]
    assert [line.split()[0] for line in lines[1:]] == recipe_names()
    (line,) = (line for line in lines if "fb15k-237-complex" in line)
    assert "0.3150 ± 0.0125" in line
    assert "11.0" in line
    (line,) = (line for line in lines if line.split()[0] == "small")
    assert "0.4200" in line
    assert "±" not in line, "one seed tells no spread"
    assert main(["train", "--recipe=list", "--json"]) == 0
    found = {row["recipe"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert list(found) == recipe_names()
    assert (found["fb15k-237-complex"]["seeds"], found["small"]["spread"], found["small"]["graph"]) == (3, None, None)
    assert found["medium"]["mrr"] is None


# --- what `train` picks by itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "picks"),
    [
        ("", True),
        ("--dataset umls --seed 3 --n-shard 2 --n-epoch 3 --eval-every 1 --patience 2 --save-every 1h", True),
        ("--dataset facts.csv --columns 0,1,2 --split 0.8,0.1,0.1 --track tensorboard --platform cpu", True),
        ("--recipe none", False),
        ("--recipe small", False),
        ("--model ComplEx", False),  # which is the default
        ("--n-negative 64", False),
        ("--loss softmax", False),
        ("--learning-rate 0.2", False),
        ("--inverse-relations True", False),
        ("--dataset umls --embedding-size=128", False),
    ],
)
def test_a_recipe_is_picked_where_nothing_is_given_that_it_is_about(args: str, picks: bool) -> None:
    assert (command(*args.split()).beside is not None) == picks


def test_what_a_file_gives_is_given(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    for text, picks in (("n_epoch = 3", True), ('loss = "softmax"', False), ('recipe = "small"', False)):
        file.write_text(text)
        assert (command("--config", file).beside is not None) == picks


@jax.numpy_dtype_promotion("standard")  # schedules of optax need it
def test_train_picks_by_size_and_says_so(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder that is called like a public graph; it is read once, and the run knows its recipe."""
    read = []
    monkeypatch.setattr(build, "load_dataset", lambda *args: read.append(args[0]) or bj.load_dataset(*args))
    monkeypatch.chdir(tmp_path)
    graph = shutil.copytree(nations, tmp_path / "wn18rr")
    assert main(["train", "--dataset", "./wn18rr", "--n-epoch", "1", "--seed", "3", "--run", "run"]) == 0
    assert capsys.readouterr().out.startswith("recipe small, for 14 entities (settings of your own: docs/recipes.md)\n")
    assert read == [str(graph)]
    config = RunFolder.open(Path("run")).config()
    assert config == TrainConfig.from_recipe("small", dataset=str(graph), n_epoch=1, seed=3)


def test_train_picks_the_recipe_of_a_graph_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without reading the graph; what is given stays."""
    found: dict[str, Any] = {}

    def fit(config: TrainConfig, **more: Any) -> None:
        found.update(more, config=config)
        raise ValueError("far enough")

    monkeypatch.setattr("bess_jax.cli.train.fit", fit)
    for args, dataset in (((), "wn18rr"), (("--dataset", "FB15k-237"), "FB15k-237")):
        assert main(["train", *args, "--n-epoch", "3"]) == 2
        name = OF_GRAPH[dataset.lower()]
        assert capsys.readouterr().out == f"recipe {name}, for {dataset} (settings of your own: docs/recipes.md)\n"
        assert found["config"] == TrainConfig.from_recipe(name, dataset=dataset, n_epoch=3)
        assert found["dataset"] is None
    assert main(["train", "--recipe", "none"]) == 2
    assert capsys.readouterr().out == ""
    assert found["config"] == TrainConfig()
