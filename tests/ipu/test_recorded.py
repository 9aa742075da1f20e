"""The values that `make ipu-check` compares with are those of this JAX and this code."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from ipu import recorded, run
from ipu.programs import FORBIDDEN, N_SHARD, PROGRAMS

import bess_jax as bj

RECORDED = recorded.load(run.FILE)
SOME = (
    "train/ComplEx/score/sparse/adam",
    "train/all_answers/embedding",
    "ask/best_of_batch/TransE/t/one",
)


def test_every_program_is_recorded() -> None:
    """If not: python tests/ipu/run.py --record."""
    assert [*RECORDED] == [*PROGRAMS]


@pytest.mark.parametrize("name", [*SOME, pytest.param("train/dropout", marks=pytest.mark.long)])
def test_recorded_values_are_todays(name: str) -> None:
    """If not, and they should differ: python tests/ipu/run.py --record."""
    with jax.threefry_partitionable(False), jax.numpy_dtype_promotion("standard"):  # optax mixes types
        found = run.run(PROGRAMS[name], bj.Placement.create(N_SHARD, N_SHARD))
    largest, n_other = recorded.compare(found, RECORDED[name])
    assert n_other == 0
    assert not recorded.too_far(name, largest), largest


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_an_ipu_cannot_run_is_refused(name: str) -> None:
    audited, placement = run.Audited(), run.Watched(bj.Placement.create(N_SHARD, N_SHARD))
    FORBIDDEN[name].run(placement)
    audited.add(run.Outcome(name, {}, [run.verdicts_of(lowered) for lowered in placement.lowered], "", 0.0))
    assert audited.bad


def test_differences_are_seen() -> None:
    name = SOME[0]
    values = {key: np.array(array) for key, array in RECORDED[name].items()}
    assert recorded.compare(values, RECORDED[name]) == (dict.fromkeys(recorded.TOLERANCES, 0.0), 0)
    values["loss"][-1, -1] *= 1 + 1e-4
    values["entity"][0, 0, 0] = np.nan
    largest, _ = recorded.compare(values, RECORDED[name])
    assert largest["loss"] > recorded.TOLERANCES["loss"]
    assert not largest["value"] <= recorded.TOLERANCES["value"]
    counts = {"id": np.arange(3), "ranks": np.array([1.0, np.inf])}
    assert recorded.compare({"id": np.arange(3) + 1, "ranks": np.array([1.0, np.inf])}, counts)[1] == 3


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    values = {
        "a": {"x": np.arange(6.0, dtype=np.float32).reshape(2, 3), "id": np.array([3])},
        "b": {"y": np.array(2.5)},
    }
    path = tmp_path / "values.npz"
    recorded.save(path, values)
    found = recorded.load(path)
    assert {name: [*arrays] for name, arrays in found.items()} == {"a": ["x", "id"], "b": ["y"]}
    np.testing.assert_array_equal(found["a"]["x"], values["a"]["x"])
    np.testing.assert_array_equal(found["b"]["y"], 2.5)
