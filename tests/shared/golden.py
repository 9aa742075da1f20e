"""Recorded values of the reference implementation, and the tolerances of comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "golden"


def golden(name: str) -> tuple[Any, dict[str, Any]]:
    """Arrays and cases of one golden file."""
    file = np.load(FOLDER / f"{name}.npz", allow_pickle=False)
    return file, json.loads(str(file["config"]))["cases"]


def golden_cases(name: str, **wanted: Any) -> list[Any]:
    """Cases of a golden file whose configuration has these values, as pytest parameters."""
    _, cases = golden(name)
    return [
        pytest.param(case, id=case) for case, cfg in cases.items() if all(cfg.get(k) == v for k, v in wanted.items())
    ]


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
