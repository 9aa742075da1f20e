"""Checks of arguments at the boundary: every message names the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import chex
import numpy as np


def at_least(name: str, value: float, low: float) -> None:
    """Raises ValueError unless `value >= low`."""
    if not value >= low:  # also catches NaN
        raise ValueError(f"{name} must be >= {low}, got {value}")


def positive(name: str, value: float) -> None:
    """Raises ValueError unless `0 < value < inf`."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be > 0 and finite, got {value}")


def one_of(name: str, value: object, options: Collection[object]) -> None:
    """Raises ValueError unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def multiple_of(name: str, value: int, factor: int, why: str) -> None:
    """Raises ValueError unless `value` is a positive multiple of `factor`; `why` names the factor."""
    if value < 1 or value % factor:
        near = max(round(value / factor), 1) * factor
        raise ValueError(f"{name} must be a positive multiple of {factor} ({why}), got {value}; the nearest is {near}")


def ids(name: str, array: np.ndarray[Any, Any], n: int, what: str) -> None:
    """Raises ValueError unless all entries are in `[0, n)`; names the first one that is not."""
    if array.size and (array.min() < 0 or array.max() >= n):
        first = np.unravel_index(np.argmax((array < 0) | (array >= n)), array.shape)
        at = ", ".join(str(int(i)) for i in first)
        raise ValueError(f"{name}[{at}] is {array[first]}, but {what} ids go from 0 to {n - 1}")


def shape(name: str, array: Any, expected: Sequence[int | None], letters: str) -> None:
    """Raises ValueError unless `array` has the shape `expected` (None: any size); `letters` names the axes."""
    try:
        chex.assert_shape(array, tuple(expected))
    except AssertionError:
        wanted = "(" + ", ".join("*" if n is None else str(n) for n in expected) + ")"
        raise ValueError(f"{name} must have shape {letters} = {wanted}, got {np.shape(array)}") from None
