"""The score functions that a run can name: those of `bess_jax.scoring`, and a user's own."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from functools import partial
from types import ModuleType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from bess_jax import scoring
from bess_jax.data.sharding import Sharding
from bess_jax.run.arguments import Kinds, checked_arguments, suggestion
from bess_jax.run.settings import InitializerName
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring import initializers as init
from bess_jax.scoring.initializers import Initializer

if TYPE_CHECKING:
    from bess_jax.run.config import TrainConfig


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
    hint = suggestion(name, BUILT_IN)
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


_SET_ELSEWHERE = {
    "embedding_size": "embedding_size",
    "scoring_norm": "scoring_norm",
    "inverse_relations": "inverse_relations",
    "negative_sample_sharing": "share_negatives",
    "entity_initializer": "entity_initializer",
    "relation_initializer": "relation_initializer",
}
"""Field of score functions -> the setting of its own that it has."""

_NO_SETTING = ("sharding", "n_relation_type", "training_axis", "parent", "name")
"""Fields of score functions that follow from graph and devices, or are set in training."""


def option_kinds(kind: type[BaseScoreFunction]) -> dict[str, Kinds]:
    """Name of each option of a score function -> its types (none: any): its fields that are no settings elsewhere."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in (*_SET_ELSEWHERE, *_NO_SETTING)]
    return {name: _types(_hint(kind, name)) for name in names}


def _hint(kind: type, name: str) -> Any:
    """The type that a class gives a field; None where the text of it does not tell, but to a type checker."""
    for base in kind.__mro__:
        own = inspect.get_annotations(base)
        if name in own:
            of_one = SimpleNamespace(__annotations__={name: own[name]})
            try:
                return get_type_hints(of_one, vars(sys.modules[base.__module__]))[name]
            except (NameError, TypeError):
                return None
    return None


def _types(hint: Any) -> Kinds:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(members) if all(member in (bool, int, float, str, type(None)) for member in members) else ()


def make_score_fn(
    config: TrainConfig, kind: type[BaseScoreFunction], n_relation_type: int, sharding: Sharding
) -> BaseScoreFunction:
    """A score function as the settings describe it.

    Raises:
        ValueError: if it has not an option that is given, lacks one, or refuses a value.
    """
    for name, setting in _SET_ELSEWHERE.items():
        if name in config.model_options:
            raise ValueError(f"model_options: {name} is a setting of its own: give {setting}")
    options = checked_arguments("model_options", config.model_options, option_kinds(kind), kind.__name__)
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name in option_kinds(kind)
        and field.name not in options
        and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"model_options: {kind.__name__} needs {' and '.join(missing)}")
    return kind(
        negative_sample_sharing=config.share_negatives,
        sharding=sharding,
        n_relation_type=n_relation_type,
        embedding_size=config.embedding_size,
        entity_initializer=_initializer(config.entity_initializer, config.init_scale),
        relation_initializer=_initializer(config.relation_initializer, config.init_scale),
        inverse_relations=config.inverse_relations,
        **options_of(kind, scoring_norm=config.scoring_norm),
        **options,
    )


def _initializer(name: InitializerName, scale: float) -> Initializer | None:
    """The law of a name; None for that of the model."""
    if name == "model" or scale == 0:
        return None
    laws: dict[str, Initializer] = {
        "normal": partial(init.init_KGE_normal, std=scale, divide_by_embedding_size=False),
        "uniform": partial(init.init_KGE_uniform, b=scale, divide_by_embedding_size=False),
        "xavier": partial(init.init_xavier_norm, gain=scale),
        "unit": init.init_uniform_norm,
    }
    return laws[name]
