"""The settings of a training run: one frozen dataclass, checked, and read from TOML files."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from bess_jax import _checks
from bess_jax.data.files import DataError
from bess_jax.data.graphs import is_named
from bess_jax.data.options import parse_columns, parse_split
from bess_jax.data.text import read_toml, shorten
from bess_jax.run.arguments import suggestion
from bess_jax.run.conflicts import check_model, conflicts, idle
from bess_jax.run.metric import Metric
from bess_jax.run.models import check_model_name
from bess_jax.run.optimizer import check_optimizer, check_schedule
from bess_jax.run.recipes import recipe_file
from bess_jax.run.settings import (
    GROUP_OF,
    GROUPS,
    DataSettings,
    DeviceSettings,
    LossSettings,
    ModelSettings,
    NegativeSettings,
    OptimizerSettings,
    Options,
    RunSettings,
)
from bess_jax.run.trackers import parse_track

FREE = (
    "dataset",
    "columns",
    "split",
    "n_shard",
    "n_device",
    "platform",
    "mapping",
    "kernels",
    "n_epoch",
    "eval_every",
    "metric",
    "patience",
    "min_improvement",
    "save_every",
    "keep",
    "track",
)
"""Settings that may change when a run goes on: they touch neither the model nor, but for `n_shard`, its batches."""

BESIDE = (*FREE, "seed", "steps_per_call")
"""Settings that may be given beside a recipe that goes by the graph: where a run is, how long it is, what is kept."""


def free_settings(n_shard_before: int, n_shard_now: int) -> tuple[str, ...]:
    """`FREE`; on another number of shards, where the batches are others, also what has to be a multiple of it."""
    return FREE if n_shard_before == n_shard_now else (*FREE, "batch_size", "n_negative")


class SettingsError(ValueError):
    """Settings that are wrong.

    Attributes:
        problems: what is wrong, each with the fix.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)

    @classmethod
    def collect(cls, checks: Iterable[tuple[tuple[str, ...], Callable[[], Any]]]) -> None:
        """Makes all checks, and raises what they raise in one.

        Args:
            checks: the settings that a check reads, the one it is about first, and the check. It is left out if one of
                them was found wrong before.
        """
        problems: dict[str, str] = {}
        for names, check in checks:
            if problems.keys().isdisjoint(names):
                try:
                    check()
                except ValueError as error:
                    problems[names[0]] = str(error)
        if problems:
            raise cls([*problems.values()])


class Cadence(NamedTuple):
    """How often something is done: by time or by steps, the other one being infinite."""

    seconds: float = math.inf
    steps: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `TrainConfig.save_every` may be.

        Raises:
            ValueError: if it is something else.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|steps)", text, re.ASCII)
        if found is None or float(found[1]) <= 0:
            raise ValueError(f"save_every must be a time or a number of steps, as 10min or 5000steps, got {text!r}")
        number, unit = float(found[1]), found[2]
        return cls(steps=number) if unit == "steps" else cls(seconds=number * {"s": 1, "min": 60, "h": 3600}[unit])


_AT_LEAST: dict[int, tuple[str, ...]] = {
    1: (
        *("embedding_size", "n_shard", "n_negative", "answers_per_query", "n_epoch", "steps_per_call", "keep"),
        "accumulate",
    ),
    0: (
        *("regularization", "adversarial_scale", "eval_every", "seed", "margin", "init_scale", "weight_smoothing"),
        *("label_smoothing", "relation_weight", "entity_dropout", "relation_dropout", "warmup", "patience"),
        "min_improvement",
    ),
}
"""Least value -> the settings that it is of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(
    RunSettings, DeviceSettings, OptimizerSettings, LossSettings, NegativeSettings, ModelSettings, DataSettings
):  # dataclasses order the fields of bases from the last to the first
    """All settings of a training run; the defaults train ComplEx on WN18RR.

    Raises:
        SettingsError: if a setting is out of range, or settings do not fit each other.
    """

    @classmethod
    def from_recipe(cls, name: str, **settings: Any) -> Self:
        """The settings of a recipe, but for those that are given.

        Raises:
            ValueError: if there is no recipe of that name, or a given setting is unknown or does not fit.
        """
        return cls(**with_recipe({**settings, "recipe": name}))

    def __post_init__(self) -> None:
        SettingsError.collect(((name,), partial(self._check_kind, name)) for name in GROUP_OF)
        values = (((name,), check) for name, check in self._checks_of_values())
        SettingsError.collect(itertools.chain(values, self._checks_together()))
        if problems := [*conflicts(self)]:
            raise SettingsError(problems)

    def _check_kind(self, name: str) -> None:
        """Raises ValueError if a setting is of another type than it must be."""
        value = getattr(self, name)
        _of_kind(name, float(value) if isinstance(value, float) else value)  # NumPy's float64 is one

    def _checks_of_values(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Checks of each setting alone, with its name."""
        for name in GROUP_OF:
            yield name, partial(_check_option, name, getattr(self, name))
        for low, names in _AT_LEAST.items():
            yield from ((name, partial(_checks.at_least, name, getattr(self, name), low)) for name in names)
        if (weight := self.relation_regularization) is not None:
            yield "relation_regularization", partial(_checks.at_least, "relation_regularization", weight, 0)
        for name in ("learning_rate", "loss_scale"):
            yield name, partial(_checks.positive, name, getattr(self, name))
        yield "seed", partial(_check_below, "seed", self.seed, 2**32, "2^32, as JAX's keys are of 32 bits")
        for name in ("label_smoothing", "entity_dropout", "relation_dropout"):
            yield name, partial(_check_below, name, getattr(self, name), 1, "1")
        yield "model", partial(check_model_name, self.model)
        yield "save_every", partial(Cadence.parse, self.save_every)
        yield "metric", partial(Metric.parse, self.metric)
        yield "track", partial(parse_track, self.track)
        yield "columns", partial(parse_columns, self.columns)
        yield "split", partial(_check_split, self.split)

    def _checks_together(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Any]]]:
        """Checks of settings beside others: the sizes that the number of shards has to divide, and options."""
        times = (2 if self.corruption == "ht" else 1) * (2 if self.duplicate_batch else 1)
        why = f"{times} n_shard^2" if times > 1 else "n_shard^2, the shard pairs"
        batch = partial(_checks.multiple_of, "batch_size", self.batch_size, times * self.n_shard**2, why)
        yield ("batch_size", "n_shard", "corruption", "duplicate_batch"), batch
        if self.negatives in ("random", "typed"):
            negatives = partial(_checks.multiple_of, "n_negative", self.n_negative, self.n_shard, "n_shard")
            yield ("n_negative", "n_shard"), negatives
        yield ("n_device", "n_shard", "mapping"), partial(_check_device, self)
        yield ("optimizer", "optimizer_options"), partial(check_optimizer, self)
        yield ("schedule", "schedule_options", "learning_rate"), partial(check_schedule, self)
        yield ("model", *(field.name for field in dataclasses.fields(ModelSettings))), partial(check_model, self)

    def check_new(self) -> None:
        """Checks that no setting would do nothing, which old runs may have.

        Raises:
            SettingsError: if one is not at its default, but has no effect beside the others.
        """
        if problems := [f"{text}, or to be left out: it has no effect" for _, text in idle(self)]:
            raise SettingsError(problems)

    def without_idle(self) -> Self:
        """These settings, with those at their defaults that would do nothing."""
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: defaults[name] for name, _ in idle(self)})

    @property
    def positive_per_partition(self) -> int:
        """P, different triples that a step takes from a shard pair."""
        return self.batch_size // self.n_shard**2 // (2 if self.duplicate_batch else 1)

    def to_dict(self) -> dict[str, Any]:
        """The settings that are not None, as checkpoints hold them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def to_groups(self) -> dict[str, dict[str, Any]]:
        """The settings that are not None, by group, as TOML files hold them."""
        settings = self.to_dict()
        return {
            group: {field.name: settings[field.name] for field in dataclasses.fields(kind) if field.name in settings}
            for group, kind in GROUPS.items()
        }


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, each of the type that `TrainConfig` gives it; not yet whether they fit together.

    They may stand under the headings of their groups, as `[optimizer]`, or under none.

    Raises:
        DataError: if the file cannot be read or is not TOML, on an unknown name, a setting that stands twice or under
            the heading of another group, and on a value of the wrong type or none of those that a setting may have.
    """
    return settings_in(read_toml(file), file)


def with_recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those that are not among them of the recipe that they name, if they name one.

    Raises:
        ValueError: if there is no recipe of that name.
    """
    name = settings.get("recipe")
    return dict(settings) if name is None else {**read_settings(recipe_file(name)), **settings}


def settings_in(document: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The settings in a TOML document that was read from `file`; as `read_settings`.

    Raises:
        DataError: as `read_settings`.
    """
    settings, problems = collect_settings(document)
    if problems:
        raise DataError("; ".join(problems), file)
    return settings


def collect_settings(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings in a TOML document that are as they must be, and what is wrong with the others."""
    settings: dict[str, Any] = {}
    problems: list[str] = []
    for group, name, value in _flat(document):
        try:
            typed = typed_setting(name, value)
            _check_place(name, group, settings)
            settings[name] = typed
        except ValueError as error:
            problems.append(str(error))
    return settings, problems


def whole_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with paths that hold wherever a command or a notebook is started."""
    paths = {name: settings[name] for name in ("dataset", "start_from") if settings.get(name) is not None}
    whole = {name: os.path.realpath(path) for name, path in paths.items() if name != "dataset" or not is_named(path)}
    return {**settings, **whole}


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str | None, str, Any]]:
    """Group, name and value of each setting in a TOML document."""
    for key, value in document.items():
        if key in GROUPS and isinstance(value, dict):
            yield from ((key, name, inner) for name, inner in value.items())
        else:
            yield None, key, value


def _check_place(name: str, group: str | None, before: Collection[str]) -> None:
    if group is not None and GROUP_OF[name] != group:
        raise ValueError(f"{name} stands under [{group}], but belongs to [{GROUP_OF[name]}]")
    if name in before:
        raise ValueError(f"{name} stands twice, under [{GROUP_OF[name]}] and under no heading")


def typed_setting(name: str, value: Any) -> Any:
    """The value of a setting as TOML gives it, or None, whole numbers as floats where those are meant.

    Raises:
        ValueError: on an unknown name, a value of the wrong type, or none of those that the setting may have.
    """
    if name not in GROUP_OF:
        raise ValueError(f"unknown setting {shorten(name)}{suggestion(name, GROUP_OF)}")
    typed = _of_kind(name, value)
    _check_option(name, typed)
    return typed


def _of_kind(name: str, value: Any) -> Any:
    """The value of a setting, of the type that it has; raises ValueError if it is of another one."""
    allowed = members(name)
    if value is None and NoneType in allowed:
        return None
    kinds = {member if isinstance(member, type) else type(member) for member in allowed} - {NoneType}
    if allowed == (Options,):
        kinds = {dict}
    _check_number(name, value)
    if kinds == {float} and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))
        shown = f"of type {type(value).__name__}" if isinstance(value, dict | list) else shorten(value)
        raise ValueError(f"{name} must be of type {expected}, got {shown}")
    if isinstance(value, dict):
        _check_options(name, value)
    return value


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError on a value that is none of an option."""
    for key, value in options.items():
        if not isinstance(value, bool | int | float | str):
            shown = f"of type {type(value).__name__}" if isinstance(value, dict | list) else shorten(value)
            raise ValueError(f"{name}.{shorten(key)} must be a number, a text, true or false, got {shown}")  # noqa: TRY004
        _check_number(f"{name}.{key}", value)


def _check_number(name: str, value: Any) -> None:
    """Raises ValueError on a number that TOML cannot hold, or no setting may be."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{name} must be a whole number of at most 64 bits, got one of {value.bit_length()}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _check_option(name: str, value: Any) -> None:
    options = tuple(member for member in members(name) if not isinstance(member, type) and member != Options)
    may_be = (*options, None) if NoneType in members(name) else options
    if options and value not in may_be:
        hint = suggestion(value, options) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, may_be))}, got {shorten(value)}{hint}")


def _check_below(name: str, value: float, limit: float, shown: str) -> None:
    if not value < limit:
        raise ValueError(f"{name} must be below {shown}, got {value}")


def _check_split(split: str) -> None:
    if 0 in parse_split(split):
        raise ValueError(f"split must leave none of train, valid and test empty, got {split!r}")


def _check_device(config: TrainConfig) -> None:
    if config.n_device is None:
        return
    most = 1 if config.mapping == "vmap" else config.n_shard
    if not 1 <= config.n_device <= most or config.n_shard % config.n_device:
        rule = "1 under mapping vmap" if config.mapping == "vmap" else f"a divisor of n_shard = {config.n_shard}"
        raise ValueError(f"n_device must be {rule}, got {config.n_device}")


def members(name: str) -> tuple[Any, ...]:
    """The types and values that a setting may be, as (int, NoneType) or ("h", "t", "ht")."""
    return _members()[name]


@functools.cache
def _members() -> dict[str, tuple[Any, ...]]:
    def of(hint: Any) -> tuple[Any, ...]:
        if hint == Options:
            return (hint,)
        if get_origin(hint) in (Union, UnionType):
            return tuple(member for part in get_args(hint) for member in of(part))
        return get_args(hint) or (hint,)

    return {name: of(hint) for name, hint in get_type_hints(TrainConfig).items()}
