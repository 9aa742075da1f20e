"""What a search tries: the file that tells it, checked before the first trial."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np

from bess_jax import _checks
from bess_jax.data.files import DataError
from bess_jax.data.text import read_toml, shorten
from bess_jax.run.arguments import suggestion
from bess_jax.run.config import Cadence, TrainConfig, settings_in, typed_setting, whole_paths, with_recipe
from bess_jax.run.settings import GROUPS

SamplerName: TypeAlias = Literal["tpe", "random"]
PrunerName: TypeAlias = Literal["median", "hyperband", "none"]
Number: TypeAlias = int | float

_NOT_SEARCHED = {
    **dict.fromkeys(("dataset", "columns", "split"), "the same graph"),
    **{field.name: "the same devices" for field in dataclasses.fields(GROUPS["devices"])},
    **dict.fromkeys(("metric", "eval_every"), "the same validations"),
    "recipe": "the same recipe",
    **dict.fromkeys(("save_every", "keep", "track"), "its results kept in the same way"),
}
"""Settings that every trial has alike -> what it has."""

_OPTIONS = {field.name for field in dataclasses.fields(TrainConfig) if field.default_factory is dict}
"""Settings that are options of something, by name."""

_N_DRAW = 200
"""Trials that are drawn to see whether any can be run."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if these are."""

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    @property
    def ends(self) -> tuple[Number, ...]:
        """Its lowest and its highest number."""
        return self.low, self.high

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    def draw(self, rng: np.random.Generator) -> Number:
        """One of the numbers, each as likely."""
        if isinstance(self.low, int):
            step = int(self.step or 1)
            return self.low + step * int(rng.integers((int(self.high) - self.low) // step + 1))
        if self.step is not None:
            return self.low + self.step * int(rng.integers(round((self.high - self.low) / self.step) + 1))
        return float(rng.uniform(self.low, self.high))

    def suggest(self, trial: Any, name: str) -> Any:
        """The number that the sampler draws for a trial of Optuna."""
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


@dataclasses.dataclass(frozen=True)
class Choices:
    """Values to choose from."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values

    def plain(self) -> list[Any]:
        """As JSON has it."""
        return list(self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """One of the values, each as likely."""
        return self.values[int(rng.integers(len(self.values)))]

    def suggest(self, trial: Any, name: str) -> Any:
        """The value that the sampler draws for a trial of Optuna."""
        return trial.suggest_categorical(name, self.values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How it is searched: the table [study].

    Raises:
        ValueError: if one is out of range.
    """

    n_trial: int = 50
    """Trials in total, those that failed included."""
    sampler: SamplerName = "tpe"
    """What draws settings: tpe looks near those that were good (Bergstra et al. 2011), random does not look."""
    pruner: PrunerName = "median"
    """What ends trials early: median, those worse than half of the others at that epoch; hyperband (Li et al. 2018)."""
    seed: int = 0
    """Seed of the sampler."""
    timeout: str | None = None
    """Time after which no trial begins, as in 90s, 30min or 8h."""

    def __post_init__(self) -> None:
        _checks.at_least("study.n_trial", self.n_trial, 1)
        _checks.one_of("study.sampler", self.sampler, get_args(SamplerName))
        _checks.one_of("study.pruner", self.pruner, get_args(PrunerName))
        _checks.at_least("study.seed", self.seed, 0)
        if self.timeout is not None and _seconds(self.timeout) is None:
            raise ValueError(f"study.timeout must be a time, as 90s, 30min or 8h, got {shorten(self.timeout)}")

    @property
    def timeout_s(self) -> float:
        """Seconds after which no trial begins."""
        return (self.timeout and _seconds(self.timeout)) or math.inf

    @classmethod
    def of(cls, table: Any) -> Self:
        """The table of a TOML document.

        Raises:
            ValueError: on unknown names, and values of the wrong type or out of range.
        """
        if not isinstance(table, dict):
            raise ValueError(f"study must be a table, got {shorten(table)}")  # noqa: TRY004
        kinds = {field.name: int if field.name in ("n_trial", "seed") else str for field in dataclasses.fields(cls)}
        for name, value in table.items():
            _known(f"study.{name}", name, kinds)
            if type(value) is not kinds[name]:
                raise ValueError(f"study.{name} must be of type {kinds[name].__name__}, got {shorten(value)}")
        return cls(**table)


@dataclasses.dataclass(frozen=True)
class Space:
    """A search: settings that all trials have, those that are searched, by name, and how.

    The name of an option is that of its setting and its own, as model_options.hidden_dropout.
    """

    fixed: Mapping[str, Any]
    searched: Mapping[str, Range | Choices]
    plan: Plan

    @classmethod
    def read(cls, file: Path) -> Self:
        """What a TOML file says: settings as `train` takes them, and the tables [space] and [study].

        Raises:
            DataError: if it cannot be read, on unknown names, wrong types and ranges, and if no trial could run.
        """
        document = read_toml(file)
        space, study = document.pop("space", {}), document.pop("study", {})
        fixed = settings_in(document, file)
        try:
            if not isinstance(space, dict) or not space:
                raise ValueError("[space] must be a table with at least one setting to search")  # noqa: TRY301
            names = [name for name, _ in _flat(space)]
            _check_names(fixed, names)
            searched = {name: _parse(name, value) for name, value in _flat(space)}
            found = cls(whole_paths(_without(with_recipe(fixed), names)), searched, Plan.of(study))
            found.check()
        except ValueError as error:
            raise DataError(str(error), file) from None
        return found

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The fixed settings and those that were drawn, options in their place."""
        found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in self.fixed.items()}
        for name, value in drawn.items():
            setting, _, option = name.partition(".")
            if option:
                found.setdefault(setting, {})[option] = value
            else:
                found[name] = value
        return found

    def config(self, drawn: Mapping[str, Any]) -> TrainConfig:
        """The settings of a trial; those that would do nothing beside the others are at their defaults.

        Raises:
            ValueError: if they do not fit together.
        """
        return TrainConfig(**self.settings(drawn)).without_idle()

    def any_config(self) -> TrainConfig:
        """The settings of some trial that could be run; all trials have their graph and devices."""
        for drawn in self._draws():
            with contextlib.suppress(ValueError):
                return self.config(drawn)
        raise ValueError("no trial could be run")  # which `read` has checked

    def suggest(self, trial: Any) -> dict[str, Any]:
        """What the sampler draws for a trial of Optuna."""
        return {name: values.suggest(trial, name) for name, values in self.searched.items()}

    def search_only(self) -> dict[str, Any]:
        """What must stay when a search goes on, by names, as JSON has it."""
        searched = {f"space.{name}": values.plain() for name, values in self.searched.items()}
        study = {f"study.{name}": getattr(self.plan, name) for name in ("sampler", "pruner", "seed")}
        fixed = {name: value for name, value in self.fixed.items() if name != "dataset"}  # which is a place
        return {**fixed, **searched, **study}

    def check(self) -> None:
        """Draws trials to see whether any could be run, and any with each of the ends and choices.

        Raises:
            ValueError: if there are none.
        """
        if self.fixed.get("eval_every") == 0:
            raise ValueError("eval_every must be at least 1, got 0: trials are compared by the validation split")
        draws = self._draws()
        self._check_some(draws, "no trial could be run")
        for name, values in self.searched.items():
            for end in values.ends:
                self._check_some([{**drawn, name: end} for drawn in draws], f"space.{name}: no trial could have {end}")

    def _draws(self) -> list[dict[str, Any]]:
        rng = np.random.default_rng(0)
        return [{name: values.draw(rng) for name, values in self.searched.items()} for _ in range(_N_DRAW)]

    def _check_some(self, draws: list[dict[str, Any]], what: str) -> None:
        """Raises ValueError with the first reason if none of the draws gives settings of a run."""
        reason = None
        for drawn in draws:
            try:
                self.config(drawn)
            except ValueError as error:
                reason = reason or str(error)
            else:
                return
        raise ValueError(f"{what}: {reason}")


def _seconds(text: str) -> float | None:
    """Seconds of a time like those of the setting `save_every`; None if it is none."""
    try:
        seconds = Cadence.parse(text).seconds
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _known(what: str, name: str, names: Collection[str]) -> None:
    """Raises ValueError on a name that is none of `names`."""
    if name not in names:
        hint = suggestion(name, names) or f"; known are {', '.join(names)}"
        raise ValueError(f"unknown {shorten(what)}{hint}")


def _flat(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and values of each setting in the table [space]; model_options.u = 1 is the same with and without quotes."""
    for name, value in space.items():
        if isinstance(value, dict) and name in _OPTIONS:
            yield from ((f"{name}.{option}", inner) for option, inner in value.items())
        else:
            yield name, value


def _check_names(fixed: Mapping[str, Any], searched: Sequence[str]) -> None:
    """Raises ValueError on settings that cannot be searched, stand twice, or are fixed as well."""
    for place, name in enumerate(searched):
        setting, _, option = name.partition(".")
        if setting in _NOT_SEARCHED:
            raise ValueError(f"space.{name}: cannot be searched, as all trials have {_NOT_SEARCHED[setting]}; fix it")
        if name in searched[:place]:
            raise ValueError(f"space.{name} stands twice, with quotes and without")
        if setting in fixed and (not option or option in fixed[setting]):
            raise ValueError(f"{name} is fixed, and in [space] as well; leave one of them out")


def _without(settings: Mapping[str, Any], searched: Sequence[str]) -> dict[str, Any]:
    """The settings without those that are searched, which a recipe may have."""
    found = {name: value for name, value in settings.items() if name not in searched}
    for setting in _OPTIONS & found.keys():
        found[setting] = {key: value for key, value in found[setting].items() if f"{setting}.{key}" not in searched}
    return found


def _parse(name: str, value: Any) -> Range | Choices:
    """A range or choices of a setting, as TOML has them."""
    if isinstance(value, list):
        values = tuple(_typed(name, choice) for choice in value)
        if not values or len({(type(choice), choice) for choice in values}) < len(values):
            raise ValueError(f"space.{name} must be a list of different values, got {shorten(value)}")
        return Choices(values)
    if not isinstance(value, dict):
        _typed(name, value)  # an unknown name is told first
        raise ValueError(f"space.{name} must be a range {{ low = ..., high = ... }} or a list, got {shorten(value)}")  # noqa: TRY004
    for key in value:
        _known(f"space.{name}.{key}", key, ("low", "high", "step", "log"))
    return _range(name, value)


def _range(name: str, table: Mapping[str, Any]) -> Range:
    """A range; whole numbers are floats where the setting is one."""
    log = table.get("log", False)
    if type(log) is not bool:
        raise ValueError(f"space.{name}.log must be true or false, got {shorten(log)}")
    numbers: dict[str, Any] = {}
    for key in ("low", "high", "step"):
        if key in table:
            number = numbers[key] = _typed(name, table[key])
            if type(number) not in (int, float):
                raise ValueError(f"space.{name}.{key} must be a number, got {shorten(table[key])}")
        elif key != "step":
            raise ValueError(f"space.{name} has no {key}; a range is {{ low = ..., high = ... }}, with step or log")
    if float in map(type, numbers.values()):
        numbers = {key: float(number) for key, number in numbers.items()}
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if low > high:
        raise ValueError(f"space.{name}: low must be at most high, got {low} and {high}")
    if log and (low <= 0 or step is not None):
        raise ValueError(f"space.{name}: a log range goes from above 0 and has no step, got {shorten(dict(table))}")
    if step is not None and step <= 0:
        raise ValueError(f"space.{name}.step must be > 0, got {step}")
    if step is not None and (rest := (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))):
        nearest = type(high)(Decimal(str(high)) - rest)
        raise ValueError(f"space.{name}: high must be low plus steps of {step}, got {high}; the nearest is {nearest}")
    return Range(low, high, step, log)


def _typed(name: str, value: Any) -> Any:
    """A value of a setting, or of an option, as the settings have it."""
    setting, _, option = name.partition(".")
    if option:
        return typed_setting(setting, {option: value})[option]
    typed = typed_setting(setting, value)
    if isinstance(typed, dict):
        raise ValueError(f"space.{name}: options are searched one by one, as {name}.NAME")  # noqa: TRY004
    return typed
