"""Values of all programs in one small file, and how far others are from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from bess_jax._compat import TypeAlias

Values: TypeAlias = "dict[str, dict[str, np.ndarray]]"
"""Name of a program -> name of an array -> array."""

TOLERANCES = {"loss": 1e-6, "value": 1e-5}
"""Largest differences, relative to the largest value of an array: of losses, and of tables and scores."""
LOOSER = {
    # numbers in float16 are 2**-10 apart, relatively
    "float16": {"loss": 1e-3, "value": 1e-3},
    # what comes before a normalization of the batch has no gradient but for rounding, of which Adam makes a step
    "ConvE/.*/adam": {"loss": 1e-6, "value": 1e-3},
}
"""Pattern of the names of programs -> tolerances of theirs."""


def save(path: Path, values: Values) -> None:
    """Writes all arrays, floats as one vector, whole numbers as another, with their names and shapes as JSON."""
    kept: dict[str, Any] = {"float": [np.zeros(0)], "whole": [np.zeros(0)]}
    index = []
    for program, arrays in values.items():
        for name, array in arrays.items():
            kind = "float" if np.issubdtype(array.dtype, np.floating) else "whole"
            kept[kind].append(array.ravel())
            index.append([program, name, kind, list(array.shape)])
    np.savez_compressed(
        path,
        index=np.frombuffer(json.dumps(index).encode(), np.uint8),
        float=np.concatenate(kept["float"]).astype(np.float32),
        whole=np.concatenate(kept["whole"]).astype(np.int32),
    )


def load(path: Path) -> Values:
    """What `save` wrote; float16 comes back as float32, whole numbers as int32."""
    out: Values = {}
    with np.load(path) as file:
        at = {"float": 0, "whole": 0}
        flat = {kind: file[kind] for kind in at}
        for program, name, kind, shape in json.loads(bytes(file["index"])):
            start, at[kind] = at[kind], at[kind] + int(np.prod(shape))
            out.setdefault(program, {})[name] = flat[kind][start : at[kind]].reshape(shape)
    return out


def too_far(program: str, largest: dict[str, float]) -> bool:
    """Whether a difference that `compare` found is above its tolerance."""
    tolerances = next((looser for pattern, looser in LOOSER.items() if re.search(pattern, program)), TOLERANCES)
    return not all(largest[kind] <= tolerance for kind, tolerance in tolerances.items())


def kind_of(name: str, recorded: np.ndarray) -> str:
    """ "loss", "value", or "whole" for ids and counts, which must be equal."""
    if not np.issubdtype(recorded.dtype, np.floating) or name == "ranks":
        return "whole"
    return "loss" if name == "loss" else "value"


def difference(found: np.ndarray, recorded: np.ndarray) -> float:
    """Largest difference, relative to the largest recorded value; infinite where one of the two is not finite alone."""
    found, recorded = (np.asarray(x, np.float64) for x in (found, recorded))
    finite = np.isfinite(recorded)
    if found.shape != recorded.shape or not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not np.array_equal(found[~finite], recorded[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.max(np.abs(found - recorded)[finite]) / max(float(np.abs(recorded[finite]).max()), 1e-30))


def compare(found: dict[str, Any], recorded: dict[str, np.ndarray]) -> tuple[dict[str, float], int]:
    """Largest differences by kind, and how many whole numbers differ.

    Raises:
        ValueError: if the two have other names.
    """
    if found.keys() != recorded.keys():
        raise ValueError(f"recorded are {', '.join(recorded)}, found {', '.join(found)}")
    largest, n_other = dict.fromkeys(TOLERANCES, 0.0), 0
    for name, array in recorded.items():
        kind, other = kind_of(name, array), np.asarray(found[name])
        if kind == "whole":
            n_other += int(np.sum(other != array)) if other.shape == array.shape else array.size
        else:
            largest[kind] = max(largest[kind], difference(other, array))
    return largest, n_other
