"""The score functions that a run can name: those of `bess_jax.scoring`, and a user's own."""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType
from typing import Any

from bess_jax import scoring
from bess_jax.data.names import near_spellings
from bess_jax.scoring import BaseScoreFunction


def score_functions(module: ModuleType) -> dict[str, type[BaseScoreFunction]]:
    """Name -> class of the score functions that a module defines or imports, in alphabetical order."""
    classes = {name: value for name, value in sorted(vars(module).items()) if is_score_function(value)}
    return {name: value for name, value in classes.items() if value is not BaseScoreFunction}


def is_score_function(value: object) -> bool:
    """Whether it is a class derived from `BaseScoreFunction`."""
    return isinstance(value, type) and issubclass(value, BaseScoreFunction)


BUILT_IN = score_functions(scoring)
"""Name -> class of the score functions of this package: what `bess_jax/scoring/__init__.py` imports."""


_DEFINED = ("combiner", "query_tail")
"""What every score function must define."""


def check_model_name(name: str) -> None:
    """Checks a name of `BUILT_IN`, and of "package.module:Class" only the form: nothing is imported.

    Raises:
        ValueError: if it is neither.
    """
    module, colon, kind = name.partition(":")
    if name in BUILT_IN or (colon and all(part.isidentifier() for part in (*module.split("."), kind))):
        return
    near = near_spellings(name, BUILT_IN, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"model must be one of {', '.join(BUILT_IN)}, or package.module:Class, got {name!r}{hint}")


def find_model(name: str) -> type[BaseScoreFunction]:
    """The class of a score function.

    Args:
        name: a name of `BUILT_IN`, or "package.module:Class"; the module is imported, and runs.

    Raises:
        ValueError: if there is no such module or class, or the class is no whole score function.
    """
    check_model_name(name)
    if name in BUILT_IN:
        return BUILT_IN[name]
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise ValueError(
            f"model {name!r}: there is no module {error.name!r}; start Python in the folder that holds it, or name "
            "that folder in PYTHONPATH"
        ) from None
    if not hasattr(module, class_name):
        found = ", ".join(score_functions(module)) or "none"
        raise ValueError(f"model {name!r}: {module_name} has no class {class_name!r}; score functions in it: {found}")
    kind: type[BaseScoreFunction] = getattr(module, class_name)
    if not is_score_function(kind):
        raise ValueError(f"model {name!r}: {class_name} must be a class derived from bess_jax.BaseScoreFunction")
    missing = [part for part in _DEFINED if getattr(kind, part) is getattr(BaseScoreFunction, part)]
    if missing:
        raise ValueError(f"model {name!r}: {class_name} must define {' and '.join(missing)}")
    return kind


def options_of(kind: type[BaseScoreFunction], **options: Any) -> dict[str, Any]:
    """Those of `options` that a score function takes: that it has a field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in options.items() if name in names}
