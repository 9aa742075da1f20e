"""Arguments that settings give by name, such as `optimizer_options`: checked against what takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from types import NoneType
from typing import Any, TypeAlias

from bess_jax.data.names import near_spellings
from bess_jax.data.text import shorten

Kinds: TypeAlias = tuple[type, ...]
"""Types that an argument may have; none: any."""

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def suggestion(text: str, names: Collection[str]) -> str:
    """The end of a message about an unknown name: the one that may have been meant, if there is one."""
    near = near_spellings(text, names, n=1) or [name for name in names if text and text.lower() in name.lower()][:1]
    return f"; did you mean {near[0]!r}?" if near else ""


def kinds_of(function: Callable[..., Any]) -> dict[str, Kinds]:
    """Name of each argument that can be a number, true or false -> its types, by its default."""
    kinds: dict[str, Kinds] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if name.endswith(("_steps", "_begin")) or type(default) is int:
            kinds[name] = (int,)
        elif isinstance(default, bool):
            kinds[name] = (bool,)
        elif default is None or default is parameter.empty or isinstance(default, float):
            kinds[name] = (float,)
    return {name: kind for name, kind in kinds.items() if not name.endswith(("mask", "dtype"))}


def checked_arguments(setting: str, given: Mapping[str, Any], kinds: Mapping[str, Kinds], of: str) -> dict[str, Any]:
    """The given arguments, whole numbers as floats where those are meant.

    Args:
        setting: name of the setting that gives them.
        given: the arguments.
        kinds: name of each argument that `of` takes -> its types.
        of: what takes them, for messages.

    Raises:
        ValueError: on an argument that there is not, and on a value of another type.
    """
    out = dict(given)
    for name, value in given.items():
        if name not in kinds:
            there = f"; it has {', '.join(kinds)}" if kinds else "; it has none"
            raise ValueError(f"{setting}: {of} has no option {shorten(name)}{suggestion(name, kinds) or there}")
        if float in kinds[name] and type(value) is int:
            out[name] = float(value)
        elif kinds[name] and type(value) not in kinds[name]:
            expected = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds[name] if kind is not NoneType)
            raise ValueError(f"{setting}: {name} of {of} must be {expected}, got {shorten(value)}")
    return out
