"""The settings of a run on the command line: a flag for each, in the groups of `bess_jax.run.settings`."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tyro

from bess_jax.data.graphs import is_named
from bess_jax.run.config import TrainConfig, read_settings
from bess_jax.run.folder import RunFolder
from bess_jax.run.models import BUILT_IN
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


def _read_options(words: list[str]) -> dict[str, Any]:
    """NAME=VALUE words as a table; a value is one of TOML, or else a text.

    Raises:
        ValueError: on a word without =.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"expected NAME=VALUE, got {word!r}")
        try:
            found[name] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


_Options = Annotated[
    Options,
    tyro.constructors.PrimitiveConstructorSpec[Options](
        nargs="*",
        metavar="NAME=VALUE ...",
        instance_from_str=_read_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda options: [f"{name}={value}" for name, value in options.items()],
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model(ModelSettings):
    __doc__ = ModelSettings.__doc__

    model: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(BUILT_IN)}}}|MODULE:CLASS")] = ModelSettings.model
    """Score function, or a class of your own in a module that Python can import from here."""
    model_options: _Options = dataclasses.field(default_factory=dict)
    """Other options of the model by name, as in u=0.5 (TripleRE) or hidden_dropout=0.1 (ConvE)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Optimizer(OptimizerSettings):
    __doc__ = OptimizerSettings.__doc__

    optimizer_options: _Options = dataclasses.field(default_factory=dict)
    """Its other arguments by name, as in b1=0.8."""
    schedule_options: _Options = dataclasses.field(default_factory=dict)
    """Its other arguments by name, as in alpha=0.1; steps that are not given are those of the run after warm-up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Each is a line of a TOML file too, with _ for -, as in n_shard = 2."""

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: _Model = dataclasses.field(default_factory=_Model)
    negatives: NegativeSettings = dataclasses.field(default_factory=NegativeSettings)
    loss: LossSettings = dataclasses.field(default_factory=LossSettings)
    optimizer: _Optimizer = dataclasses.field(default_factory=_Optimizer)
    devices: DeviceSettings = dataclasses.field(default_factory=DeviceSettings)
    run: RunSettings = dataclasses.field(default_factory=RunSettings)

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """The given settings, each by its name, and the defaults of the others."""
        kinds = {**GROUPS, "model": _Model, "optimizer": _Optimizer}
        by_group: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in settings.items():
            by_group[GROUP_OF[name]][name] = value
        return cls(**{group: kinds[group](**values) for group, values in by_group.items()})

    def checked(self) -> TrainConfig:
        """The settings of a run, with whole paths.

        Raises:
            ValueError: if one is out of range, or they do not fit together.
        """
        config = TrainConfig(**{name: value for group in vars(self).values() for name, value in vars(group).items()})
        paths = {"dataset": None if is_named(config.dataset) else config.dataset, "start_from": config.start_from}
        whole = {name: os.path.realpath(path) for name, path in paths.items() if path is not None}
        return dataclasses.replace(config, **whole)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class SettingFiles:
    """Where settings come from that are not on the command line."""

    config: Path | None = None
    """TOML file with settings; the command line overrides them."""
    resume: Path | None = None
    """Run folder to continue, with its settings."""

    def read(self) -> Settings:
        """Those of the file, else of the run, else the defaults."""
        found = {} if self.resume is None else vars(RunFolder.open(self.resume).config())
        if self.config is not None:
            found = {**found, **read_settings(self.config)}
        return Settings.of(**found)
