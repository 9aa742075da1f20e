"""The command `config`: settings shown, checked and compared, before anything is trained."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from bess_jax._optional import require
from bess_jax.cli.output import print_json, visible
from bess_jax.cli.parse import check_command, parse, without_none
from bess_jax.cli.settings import GivenSettings, Settings, settings_given, settings_of
from bess_jax.data.files import DataError
from bess_jax.data.text import read_toml
from bess_jax.run.config import SettingsError, TrainConfig, collect_settings, read_settings, with_recipe
from bess_jax.run.folder import RunFolder
from bess_jax.run.settings import GROUP_OF, GROUPS, sentences

_WIDTH = 100


class Config:
    """Show settings, check files of settings, and compare runs: show, validate, diff."""

    json: bool = False

    @staticmethod
    def from_args(args: Sequence[str], prog: str) -> Config:
        """The command that the arguments tell.

        Raises:
            ValueError: if they are not understood, or a file that settings are taken from is not as it must be.
        """
        kinds: dict[str, Any] = {"show": Show, "validate": Validate, "diff": Diff}
        name, rest = args[0] if args else "", list(args[1:])
        if name.startswith("-"):
            print(f"usage: {prog} [-h] {{{','.join(kinds)}}} ...\n")
            print("\n".join(f"{one:10}{kind.__doc__.splitlines()[0]}" for one, kind in kinds.items()))
            raise SystemExit(0)
        check_command(name, kinds)
        kind = without_none(kinds[name])
        default = {}
        if kind is Show:
            source = None if not rest or rest[0].startswith("-") else Path(rest.pop(0))
            _settings(source)  # which checks it
            is_run = source is not None and source.is_dir()
            given = settings_given(None if is_run else source, rest, prog)
            default = {"default": Show(source, settings=settings_of(given, source if is_run else None))}
        found: Config = parse(kind, rest, f"{prog} {name}", **default)
        return found

    def __call__(self, console: Console) -> int:
        """Shows, checks or compares."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Show(Config):
    """Print settings as a file that `train --config` takes: of a run or file named first, else the defaults.

    Options change what is printed: config show RUN --learning-rate 0.1.
    """

    source: tyro.conf.Suppress[Path | None] = None
    changed: bool = False
    """Print those alone that are not at their defaults."""
    json: bool = False
    """Print one JSON document."""
    settings: GivenSettings = dataclasses.field(default_factory=Settings)

    def __call__(self, console: Console) -> int:
        """Shows."""
        config = self.settings.config()
        shown = {name for name in GROUP_OF if not self.changed or getattr(config, name) != _default(name)}
        groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, group in GROUP_OF.items():
            if name in shown:
                groups[group][name] = getattr(config, name)
        if self.json:
            print_json(groups)
        else:
            print("\n\n".join(_as_toml(group, values) for group, values in groups.items() if values))
        return 0


@dataclasses.dataclass(frozen=True)
class Validate(Config):
    """Check files of settings, or run folders: names, types, ranges, and whether they fit together."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """TOML files, or run folders."""
    json: bool = False
    """Print one JSON document."""

    def __call__(self, console: Console) -> int:
        """Checks; 2 if a file is not right."""
        if not self.files:
            raise ValueError("give the files to check")
        found = {file: _problems(file) for file in self.files}
        if self.json:
            print_json({"files": [{"file": str(file), "problems": problems} for file, problems in found.items()]})
        else:
            for file, problems in found.items():
                for text in problems or ["right"]:
                    print(visible(f"{file}: {text}"))
        return 2 if any(found.values()) else 0


@dataclasses.dataclass(frozen=True)
class Diff(Config):
    """Print the settings in which two runs or files differ, one a line."""

    a: tyro.conf.Positional[Path]
    """Run folder, or TOML file."""
    b: tyro.conf.Positional[Path | None] = None
    """Another one. Default: the defaults, to which `a` is compared."""
    json: bool = False
    """Print one JSON document."""

    def __call__(self, console: Console) -> int:
        """Compares."""
        sources = [None, self.a] if self.b is None else [self.a, self.b]
        old, new = (_settings(source) for source in sources)
        names = [name for name in GROUP_OF if getattr(old, name) != getattr(new, name)]
        if self.json:
            rows = [{"setting": name, "a": getattr(old, name), "b": getattr(new, name)} for name in names]
            print_json({"a": sources[0] and str(sources[0]), "b": str(sources[1]), "differing": rows})
            return 0
        for name in names:
            print(visible(f"{name}: {_value(getattr(old, name))} -> {_value(getattr(new, name))}"))
        if not names:
            print("no setting differs")
        return 0


def _settings(source: Path | None) -> TrainConfig:
    """The settings of a run folder or of a file, or the defaults.

    Raises:
        DataError: if there is none, or it is not as it must be.
    """
    if source is None:
        return TrainConfig()
    if source.is_dir():
        return RunFolder.open(source).config()
    found = read_settings(source)
    try:
        return TrainConfig(**with_recipe(found))
    except ValueError as error:
        raise DataError(str(error), source) from None


def _problems(source: Path) -> list[str]:
    """All that is found to be wrong with a file of settings."""
    file = RunFolder.open(source).path / "config.toml" if source.is_dir() else source
    try:
        settings, problems = collect_settings(read_toml(file))
    except DataError as error:
        return [str(error).removeprefix(f"{file}: ")]
    try:
        config = TrainConfig(**(with_recipe(settings) if file == source else settings))
        if file == source:
            config.check_new()
    except SettingsError as error:
        problems += error.problems
    except ValueError as error:  # there is no such recipe
        problems.append(str(error))
    return problems


def _as_toml(group: str, values: dict[str, Any]) -> str:
    lines = [f"[{group}]"]
    for name, value in values.items():
        lines += textwrap.wrap(sentences()[name], _WIDTH, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"# {name} is not set" if value is None else f"{name} = {_value(value)}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if value is None:
        return "(not set)"
    if isinstance(value, dict):
        return "{" + ", ".join(_line(key, item) for key, item in value.items()) + "}"
    return _line("x", value).removeprefix("x = ")


def _line(name: str, value: Any) -> str:
    written: str = require("tomli_w", "cli", "settings as TOML").dumps({name: value})
    return written.strip()


def _default(name: str) -> Any:
    return getattr(TrainConfig(), name)
