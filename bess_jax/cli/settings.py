"""The settings of a run on the command line: a flag for each, in the groups of `bess_jax.run.settings`."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bess_jax.cli.parse import parse
from bess_jax.run.config import TrainConfig, members, read_settings, typed_setting, whole_paths, with_recipe
from bess_jax.run.folder import RunFolder
from bess_jax.run.models import BUILT_IN
from bess_jax.run.settings import GROUP_OF, GROUPS, Options, sentences

_METAVARS = {int: "INT", float: "FLOAT", str: "STR", bool: "{true,false}"}

_CHOICES = {"model": f"{{{','.join(BUILT_IN)}}}|MODULE:CLASS"}
"""Setting -> what it may be, where its type does not tell."""


def _flags(kind: type) -> Any:
    """A group of settings whose fields tell tyro how they are read and shown."""
    fields = [(field.name, _flag(field.name), field) for field in dataclasses.fields(kind)]
    made: Any = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return made


def _flag(name: str) -> Any:
    allowed = members(name)
    is_table = allowed == (Options,)
    shown = "|".join(_METAVARS[member] for member in allowed if isinstance(member, type) and member is not NoneType)
    choices = ",".join(str(member) for member in allowed if not isinstance(member, type))
    spec = tyro.constructors.PrimitiveConstructorSpec[Any](
        nargs="*" if is_table else 1,
        metavar="NAME=VALUE ..." if is_table else _CHOICES.get(name) or (f"{{{choices}}}" if choices else shown),
        instance_from_str=partial(_table, name) if is_table else partial(_value, name),
        is_instance=lambda value: True,
        str_from_instance=_words,
    )
    arg = tyro.conf.arg(help=sentences()[name], help_behavior_hint=lambda given: f"(default: {given})" if given else "")
    return Annotated[Any, spec, arg]


def _words(value: Any) -> list[str]:
    """A value as words of the command line."""
    if isinstance(value, dict):
        return [f"{key}={_words(item)[0]}" for key, item in value.items()]
    return [str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)]


def _value(name: str, words: list[str]) -> Any:
    """A setting of the type that it has.

    Raises:
        ValueError: if the word is none.
    """
    (word,) = words
    allowed = members(name)
    if NoneType in allowed and word.lower() == "none":
        return None
    kinds = {member if isinstance(member, type) else type(member) for member in allowed}
    value: Any = word
    if bool in kinds:
        value = {"true": True, "false": False}.get(word.lower(), word)
    for kind in (int, float):
        if kind in kinds and value is word:
            try:
                value = kind(word)
            except ValueError:
                continue
    return typed_setting(name, value)


def _table(name: str, words: list[str]) -> dict[str, Any]:
    """NAME=VALUE words as a table; a value is one of TOML, or else a text.

    Raises:
        ValueError: on a word without =, and on a name that stands twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key.isidentifier()):
            raise ValueError(f"{name} must be words like NAME=VALUE, got {word!r}")
        if key in found:
            raise ValueError(f"{name}: {key} stands twice")
        try:
            found[key] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    table: dict[str, Any] = typed_setting(name, found)
    return table


_KINDS = {group: _flags(kind) for group, kind in GROUPS.items()}

if TYPE_CHECKING:
    from bess_jax.run.settings import DataSettings as _Data
    from bess_jax.run.settings import DeviceSettings as _Devices
    from bess_jax.run.settings import LossSettings as _Loss
    from bess_jax.run.settings import ModelSettings as _Model
    from bess_jax.run.settings import NegativeSettings as _Negatives
    from bess_jax.run.settings import OptimizerSettings as _Optimizer
    from bess_jax.run.settings import RunSettings as _Run
else:
    _Data, _Model, _Negatives, _Loss, _Optimizer, _Devices, _Run = _KINDS.values()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Each is a line of a TOML file too, with _ for -, as in n_shard = 2."""

    data: _Data = dataclasses.field(default_factory=_Data)
    model: _Model = dataclasses.field(default_factory=_Model)
    negatives: _Negatives = dataclasses.field(default_factory=_Negatives)
    loss: _Loss = dataclasses.field(default_factory=_Loss)
    optimizer: _Optimizer = dataclasses.field(default_factory=_Optimizer)
    devices: _Devices = dataclasses.field(default_factory=_Devices)
    run: _Run = dataclasses.field(default_factory=_Run)

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """The given settings, each by its name, and the defaults of the others."""
        by_group: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in settings.items():
            by_group[GROUP_OF[name]][name] = value
        return cls(**{group: _KINDS[group](**values) for group, values in by_group.items()})

    def config(self) -> TrainConfig:
        """The settings of a run.

        Raises:
            SettingsError: if one is out of range, or they do not fit together.
        """
        return TrainConfig(**{name: value for group in vars(self).values() for name, value in vars(group).items()})

    def checked(self) -> TrainConfig:
        """The settings of a run, with whole paths.

        Raises:
            SettingsError: if one is out of range, or they do not fit together.
        """
        return TrainConfig(**whole_paths(vars(self.config())))


GivenSettings = tyro.conf.OmitArgPrefixes[Annotated[Settings, tyro.conf.arg(name="")]]
"""Settings as flags without a prefix, in groups."""


_ABSENT = object()


def settings_among(args: Sequence[str], prog: str) -> dict[str, Any]:
    """The settings that are given on a command line, whatever else is on it.

    Raises:
        ValueError: if one is not understood.
    """
    absent = Settings.of(**dict.fromkeys(GROUP_OF, _ABSENT))
    found, _ = parse(GivenSettings, args, prog, default=absent, return_unknown_args=True, add_help=False)
    settings = {name: value for group in vars(found).values() for name, value in vars(group).items()}
    return {name: value for name, value in settings.items() if value is not _ABSENT}


def settings_given(config: Path | None, args: Sequence[str], prog: str) -> dict[str, Any]:
    """The settings on a command line, else in the file that it names.

    Raises:
        ValueError: if one is not understood, or the file is not as it must be.
    """
    return {**({} if config is None else read_settings(config)), **settings_among(args, prog)}


def settings_of(given: Mapping[str, Any], run: Path | None = None) -> Settings:
    """Given settings, else those of the recipe that they name, else of a run folder, else the defaults.

    Raises:
        ValueError: if there is no such recipe or run.
    """
    found = {} if run is None else vars(RunFolder.open(run).config())
    return Settings.of(**{**found, **with_recipe(given)})


@dataclasses.dataclass(frozen=True)
class SettingFiles:
    """Where settings come from that are not on the command line."""

    config: Path | None = None
    """TOML file with settings; the command line overrides them."""
    resume: Path | None = None
    """Run folder to continue, with its settings."""
