"""Recipes, files of settings that ship with the package: their names, what was measured, which one suits a graph."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs import load_dataset
from bess_jax.data.text import read_toml, shorten
from bess_jax.run.arguments import suggestion

FOLDER = Path(__file__).parents[1] / "recipes"
RESULTS = FOLDER / "results.toml"
"""What `benchmarks/reproduce.py` measured: recipe -> numbers, lists of which have an item for each seed."""

LIST = "list"
"""The word that stands for all recipes where a name is expected."""

OF_GRAPH = {
    "wn18rr": "wn18rr-complex",
    "fb15k-237": "fb15k-237-complex",
    "codex-s": "codex-s-complex",
    "codex-m": "codex-m-complex",
}
"""Name of a graph -> its recipe, where it has some; of several the one that is taken where none is named."""

_BY_SIZE = (
    ("small", 10_000, 100_000),
    ("medium", 100_000, 1_000_000),
    ("large", math.inf, math.inf),
)
"""Recipe, and the most entities and training triples that it is taken for; the first that fits."""


def recipe_names() -> list[str]:
    """Names of all recipes: the general ones, then those of a graph."""
    found = sorted(file.stem for file in FOLDER.glob("*.toml") if file.name != RESULTS.name)
    general = [name for name, *_ in _BY_SIZE]
    return [*general, *(name for name in found if name not in general)]


def recipe_file(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: if there is none of that name.
    """
    names = recipe_names()
    if name not in names:
        raise ValueError(f"there is no recipe {shorten(name)}{suggestion(name, names)}; there are {', '.join(names)}")
    return FOLDER / f"{name}.toml"


def core_settings(name: str | None) -> dict[str, Any]:
    """What a recipe says of model, negatives, loss and optimizer; nothing, if there is none of that name (any more)."""
    document = read_toml(recipe_file(name)) if name in recipe_names() else {}
    groups = (document.get(group, {}) for group in ("model", "negatives", "loss", "optimizer"))
    return {key: value for group in groups for key, value in group.items()}


def headline(name: str) -> str:
    """What a recipe is: the first line of its file, a comment."""
    with recipe_file(name).open(encoding="utf-8") as file:
        return file.readline().lstrip("#").strip().rstrip(".")


def results() -> dict[str, dict[str, Any]]:
    """What was measured of each recipe, as `RESULTS` has it."""
    return tomllib.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def recipe_of_size(n_entity: int, n_triple: int) -> str:
    """Name of the general recipe for a graph of that many entities and training triples."""
    return next(name for name, entities, triples in _BY_SIZE if n_entity <= entities and n_triple <= triples)


def own_recipe(dataset: str | Path) -> str | None:
    """Name of the recipe of a graph that is meant by its name, as `load_dataset` takes it; None of any other one."""
    return OF_GRAPH.get(str(dataset).lower())


def recipe_for(dataset: str | Path | KGDataset) -> str:
    """Name of the recipe that `train` takes for a graph where no settings are given.

    Args:
        dataset: the graph, or its name or place as `load_dataset` takes it. By its name, a public graph has recipes of
            its own; any other one goes by its size.

    Raises:
        ValueError: as `load_dataset`, which reads a graph that goes by its size.
    """
    if not isinstance(dataset, KGDataset):
        name = own_recipe(dataset)
        return recipe_for(load_dataset(dataset)) if name is None else name
    return recipe_of_size(dataset.n_entity, len(dataset.triples.get("train", ())))
