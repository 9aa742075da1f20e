"""Recipes: every one is right, which one suits a graph, and what the settings of a run take from one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import bess_jax as bj
from bess_jax.data.graphs import SHIPPED
from bess_jax.data.graphs.public import PUBLIC
from bess_jax.data.text import read_toml
from bess_jax.run import recipes
from bess_jax.run.config import BESIDE, TrainConfig, read_settings
from bess_jax.run.models import BUILT_IN
from bess_jax.run.recipes import OF_GRAPH, recipe_file, recipe_names, recipe_of_size
from bess_jax.run.settings import GROUPS


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_right(name: str) -> None:
    """It has what its name says, a line on what it is, headings, no setting that is its user's or does nothing."""
    document, settings = read_toml(recipe_file(name)), read_settings(recipe_file(name))
    assert document.keys() <= GROUPS.keys()
    assert not settings.keys() & {"columns", "split", "n_device", "platform", "save_every", "keep", "track", "seed"}
    assert settings["model"] in BUILT_IN
    if "dataset" in settings:
        assert name.startswith(f"{settings['dataset']}-{settings['model'].lower()}")
        assert settings["dataset"] in {*SHIPPED, *PUBLIC}
    assert recipe_file(name).read_text(encoding="utf-8").startswith("# ")
    assert 10 < len(recipes.headline(name)) < 100
    config = TrainConfig.from_recipe(name)
    config.check_new()
    assert config.recipe == name
    assert name not in (recipes.LIST, "none")


def test_recipes_of_graphs() -> None:
    for graph, name in OF_GRAPH.items():
        assert TrainConfig.from_recipe(name).dataset == graph
    assert {read_settings(recipe_file(name)).get("dataset") for name in recipe_names()} <= {None, *OF_GRAPH}


def test_results_are_of_recipes() -> None:
    """Each number is of a run, and there are as many as seeds."""
    for name, found in recipes.results().items():
        recipe, colon, graph = name.partition(":")
        assert recipe in recipe_names()
        assert graph == (found["graph"] if colon else "")
        lists = {key: value for key, value in found.items() if isinstance(value, list)}
        assert {"mrr", "hits@1", "hits@3", "hits@10", "minutes", "seeds"} <= lists.keys()
        assert {len(value) for value in lists.values()} == {len(found["seeds"])}


@pytest.mark.parametrize(
    ("n_entity", "n_triple", "name"),
    [
        (14, 1_592, "small"),  # Nations
        (2_034, 32_888, "small"),  # CoDEx-S
        (10_000, 100_000, "small"),
        (10_001, 100, "medium"),
        (100, 100_001, "medium"),
        (14_541, 272_115, "medium"),  # FB15k-237
        (123_182, 1_079_040, "large"),  # YAGO3-10
        (2_500_604, 16_109_182, "large"),
    ],
)
def test_size_tells_the_recipe(n_entity: int, n_triple: int, name: str) -> None:
    assert recipe_of_size(n_entity, n_triple) == name


def test_a_name_tells_the_recipe_where_it_is_one(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bj.recipe_for("WN18RR") == OF_GRAPH["wn18rr"]
    assert bj.recipe_for("nations") == bj.recipe_for(nations) == bj.recipe_for(bj.load_dataset("nations")) == "small"
    (tmp_path / "wn18rr").symlink_to(nations)
    monkeypatch.chdir(tmp_path)
    assert bj.recipe_for("./wn18rr") == bj.recipe_for(tmp_path / "wn18rr") == "small"


def test_the_rule_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = [f"| {name} | {entities:,} | {triples:,} |" for name, entities, triples in recipes._BY_SIZE[:-1]]
    assert re.findall(r"^\| \w+ \| [\d,]+ \| [\d,]+ \|$", text, flags=re.MULTILINE) == rows
    (rule,) = re.findall(r"What may be given beside: (.*?)\. `--recipe none`", text, flags=re.DOTALL)
    assert sorted(re.findall(r"`(\w+)`", rule)) == sorted(BESIDE)


def test_settings_come_before_the_recipe() -> None:
    config = TrainConfig.from_recipe("medium", dataset="umls", learning_rate=0.5)
    assert (config.dataset, config.learning_rate, config.recipe) == ("umls", 0.5, "medium")
    assert config.batch_size == read_settings(recipe_file("medium"))["batch_size"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "fb15k-237-complx",
            {},
            "there is no recipe 'fb15k-237-complx'; did you mean 'fb15k-237-complex'?; there are small, medium",
        ),
        ("small", {"lerning_rate": 1}, "lerning_rate"),
        ("small", {"n_epoch": 0}, "n_epoch must be >= 1"),
    ],
)
def test_what_is_no_recipe(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message.replace("?", r"\?")):
        TrainConfig.from_recipe(name, **settings)


def test_a_name_alone_is_no_recipe() -> None:
    """A keyword of `TrainConfig` brings no settings; where none of them is there, the run is refused."""
    with pytest.raises(
        ValueError, match=r"needs settings of its, which TrainConfig\.from_recipe\('small'\) has, or to be left"
    ):
        TrainConfig(recipe="small", n_shard=2, n_epoch=50).check_new()
    TrainConfig(recipe="of another version").check_new()
