"""Checks of arguments at the boundary: every message names the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import zip


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


def ids(name: str, array: NDArray[Any], n: int, what: str, columns: Sequence[int] | None = None) -> None:
    """Raises ValueError unless all entries (in `columns` of a matrix) are in `[0, n)`; names the first that is not."""
    checked = array if columns is None else array[:, columns]
    if checked.size and (checked.min() < 0 or checked.max() >= n):
        first = [int(i) for i in np.unravel_index(np.argmax((checked < 0) | (checked >= n)), checked.shape)]
        value = checked[tuple(first)]
        if columns is not None:
            first[1] = columns[first[1]]
        raise ValueError(f"{name}[{', '.join(map(str, first))}] is {value}, but {what} ids go from 0 to {n - 1}")


def names(name: str, given: Any, n: int) -> None:
    """Raises ValueError unless `given` is None, or one string for each of n ids, in their order."""
    if given is None:
        return
    if isinstance(given, (str, Mapping)) or not {*map(type, given)} <= {str, np.str_}:
        of = {*map(type, given)} - {str, np.str_} if not isinstance(given, (str, Mapping)) else {type(given)}
        kind = ", ".join(sorted(one.__name__ for one in of))
        raise ValueError(
            f"{name} must be a sequence of strings, the name of each id in the order of the ids, got {kind}"
        )
    if len(given) != n:
        raise ValueError(f"{name} must have one name for each of the {n} ids, got {len(given)} names")


def shape(name: str, array: Any, expected: Sequence[int | None], letters: str) -> None:
    """Raises ValueError unless `array` has the shape `expected` (None: any size); `letters` names the axes."""
    actual = np.shape(array)
    if len(actual) != len(expected) or any(n not in (None, m) for n, m in zip(expected, actual, strict=True)):
        wanted = "(" + ", ".join("*" if n is None else str(n) for n in expected) + ")"
        raise ValueError(f"{name} must have shape {letters} = {wanted}, got {actual}")
