"""Recorded values of the reference implementation, its cases, and the objects that a case describes.

tests/golden/README.md explains the files, array by array.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bess_jax as bj
from bess_jax import scoring
from bess_jax.data.negative_sampler import TripleBasedShardedNegativeSampler

FOLDER = Path(__file__).parents[1] / "golden"

SCORE = {"rtol": 1e-5, "atol": 1e-5}  # as the golden README suggests
GRADIENT = {"rtol": 1e-4, "atol": 1e-4}
METRIC = {"rtol": 1e-6, "atol": 0}

MODELS = {name: kind for name, kind in vars(scoring).items() if (FOLDER / f"scoring_{name}.npz").exists()}

NOT_ARGUMENTS = {
    *("name", "score_fn", "batch_size", "n_negative", "n_relation_type", "modes", "training_mode", "state_keys"),
}
"""What else stands in the configuration of a score function."""

READ: set[tuple[str, str]] = set()
"""File and name of every recorded array that this process has read."""


class GoldenFile:
    """The arrays of a file; notes which are read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._npz = np.load(FOLDER / f"{name}.npz", allow_pickle=False)
        self.cases: dict[str, Any] = json.loads(str(self._npz["config"]))["cases"]
        self.files = [key for key in self._npz.files if key != "config"]

    def __getitem__(self, key: str) -> np.ndarray:
        READ.add((self.name, key))
        return np.asarray(self._npz[key])

    def below(self, prefix: str) -> set[str]:
        """Names of the arrays PREFIX/NAME."""
        return {key[len(prefix) + 1 :] for key in self.files if key.startswith(f"{prefix}/")}


golden = functools.cache(GoldenFile)


def n_recorded() -> int:
    """Number of arrays in all files."""
    return sum(len(golden(path.stem).files) for path in FOLDER.glob("*.npz"))


def golden_cases(name: str, **wanted: Any) -> list[Any]:
    """Cases of a golden file whose configuration has these values, as pytest parameters."""
    return [
        pytest.param(case, id=case)
        for case, cfg in golden(name).cases.items()
        if all(cfg.get(k) == v for k, v in wanted.items())
    ]


def models_in_turn(name: str) -> list[Any]:
    """Cases WORLD_MODEL_OPTIONS of a file as parameters; of each world and options, all models but one are `slow`.

    The models take turns. `pytest -m parity` runs all of them.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for case in golden(name).cases:
        world, _, options = case.split("_", 2)
        groups.setdefault((world, options), []).append(case)
    quick = {group[number % len(group)] for number, group in enumerate(groups.values())}
    marks = {case: () if case in quick else (pytest.mark.slow,) for case in golden(name).cases}
    return [pytest.param(case, id=case, marks=marks[case]) for case in marks]


def close(actual: Any, expected: Any, tolerance: dict[str, float]) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, **tolerance)


# --- what a configuration describes -----------------------------------------------------------------------------------


def make_sharding(config: dict[str, Any]) -> bj.Sharding:
    offsets = config.get("type_offsets")
    offsets = None if offsets is None else np.array(offsets)
    return bj.Sharding.create(config["n_entity"], config["n_shard"], config["seed"], offsets)


def make_loss(config: dict[str, Any]) -> Any:
    arguments = dict(config)
    return getattr(bj, arguments.pop("name"))(**arguments)


def make_score_fn(config: dict[str, Any], sharding: bj.Sharding, shared: bool, n_relation_type: int) -> Any:
    """The score function, with the reference's formula where the default is the paper's."""
    kind = MODELS[config["name"]]
    arguments = {k: v for k, v in config.items() if k not in NOT_ARGUMENTS}
    if hasattr(kind, "as_reference"):
        arguments["as_reference"] = True
    return kind(
        negative_sample_sharing=shared,
        sharding=sharding,
        n_relation_type=n_relation_type,
        inverse_relations=False,
        **arguments,
    )


class RecordedNegatives(bj.ShardedNegativeSampler):
    """Stands for the random sampler that made the recorded negatives."""

    def sample(self, *_: Any) -> Any:
        raise AssertionError("negatives are recorded")


def recorded_lists(sharding: bj.Sharding, scheme: Any, flat: bool, mask_on_gather: bool) -> Any:
    """Stands for the sampler of given lists that made the recorded negatives."""
    lists = np.zeros((1 if flat else 2, 1), np.int32)
    return TripleBasedShardedNegativeSampler(
        sharding=sharding,
        corruption_scheme=scheme,
        negative_heads=lists,
        negative_tails=lists,
        mask_on_gather=mask_on_gather,
    )


def recorded_sampler(config: dict[str, Any], sharding: bj.Sharding) -> bj.ShardedNegativeSampler:
    """Stands for the sampler that made the recorded negatives of a step."""
    scheme, sampler = config["corruption_scheme"], config["negative_sampler"]
    flat = config.get("flat_negative_format", sampler.get("flat_negative_format"))
    if sampler["kind"] == "triple":
        return recorded_lists(sharding, scheme, flat, mask_on_gather=False)
    return RecordedNegatives(
        sharding=sharding,
        corruption_scheme=scheme,
        local_sampling=sampler["local_sampling"],
        flat_negative_format=flat,
    )


class Case:
    """Arrays and configuration of one case; remembers which arrays were used."""

    inputs_of_a_step = ("head", "relation", "tail", "negative", "triple_mask", "triple_weight", "negative_mask")

    def __init__(self, name: str, case: str) -> None:
        self.file = golden(name)
        self.cfg: dict[str, Any] = self.file.cases[case]
        self.case = case
        self.names = self.file.below(case)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.seen.add(name)
        return self.file[f"{self.case}/{name}"]

    def inputs(self) -> dict[str, jax.Array]:
        """Arrays (S, 1, ...) of a batch."""
        given = [name for name in self.inputs_of_a_step if f"in_{name}" in self.names]
        return {name: jnp.asarray(self[f"in_{name}"])[:, None] for name in given}

    def sharding(self) -> bj.Sharding:
        sharding = make_sharding(self.cfg["sharding"])
        for name in self.file.below(self.cfg["world"]) & {
            "shard_and_idx_to_entity",
            "shard_counts",
            "entity_to_shard",
            "entity_to_idx",
        }:
            np.testing.assert_array_equal(getattr(sharding, name), self.file[f"{self.cfg['world']}/{name}"])
        return sharding

    def score_fn(self, sharding: bj.Sharding) -> Any:
        shared = self.cfg.get("negative_sample_sharing", True)
        return make_score_fn(self.cfg["score_fn"], sharding, shared, self.cfg["n_relation_type"])

    def params(self) -> bj.Params:
        entity, relation = (jnp.asarray(self.file[f"{self.cfg['tables']}/{name}"]) for name in ("entity", "relation"))
        shape = (self.cfg["n_shard"], *relation.shape)
        return bj.Params(entity, {"relation_embedding": jnp.broadcast_to(relation, shape)})

    def check(self, name: str, actual: Any, tolerance: dict[str, float], where: Any = ...) -> None:
        close(np.asarray(actual)[where], self[name][where], tolerance)

    def check_all_seen(self, besides: set[str] = frozenset()) -> None:
        """Nothing in the file was left out."""
        assert self.seen | set(besides) == self.names
