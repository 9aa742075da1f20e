"""8 virtual CPU devices, strict promotion rules, and what several test files share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bess_jax import request_devices

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # for commands started by tests: they write nothing into the home
jax.config.update("jax_enable_compilation_cache", False)
request_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

FAST_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
"""Most tests compile a lot and compute little. Those marked `optimized` are about what XLA makes of a program."""

GOLDEN = Path(__file__).parent / "golden"
NATIONS = Path(__file__).parent / "data" / "nations"

EXACT = {"rtol": 0, "atol": 0}


def models_in_turn(cases: list[str]) -> list[Any]:
    """Recorded cases WORLD_MODEL_OPTIONS as parameters; of each world and options, all models but one are `slow`.

    The models take turns. `pytest -m parity` runs all of them.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        world, _, options = case.split("_", 2)
        groups.setdefault((world, options), []).append(case)
    quick = {group[number % len(group)] for number, group in enumerate(groups.values())}
    return [pytest.param(case, id=case, marks=() if case in quick else pytest.mark.slow) for case in cases]


FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
ACCUMULATED = {"rtol": 1e-4, "atol": 1e-5}


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "optimized":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE}"


def golden(name: str) -> tuple[Any, dict[str, Any]]:
    """Arrays and cases of one golden file."""
    file = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    return file, json.loads(str(file["config"]))["cases"]


def golden_cases(name: str, **wanted: Any) -> list[Any]:
    """Cases of a golden file whose configuration has these values, as pytest parameters."""
    _, cases = golden(name)
    return [
        pytest.param(case, id=case) for case, cfg in cases.items() if all(cfg.get(k) == v for k, v in wanted.items())
    ]


@pytest.fixture(scope="session")
def nations() -> Path:
    return NATIONS
