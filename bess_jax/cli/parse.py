"""Command lines are read by tyro; what it has to say about a wrong one is told in a line."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from bess_jax.run.arguments import suggestion

C = TypeVar("C")


def parse(kind: Any, args: Sequence[str], prog: str, **more: Any) -> Any:
    """What the arguments make of a dataclass.

    Args:
        kind: the dataclass, or a union of subcommands.
        args: the arguments.
        prog: what stands before them.
        more: further arguments of `tyro.cli`.

    Raises:
        ValueError: on arguments that are not understood.
        SystemExit: with code 0 after --help.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, prog=prog, args=args, config=(tyro.conf.FlagCreatePairsOff,), **more)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise ValueError(f"{_message(box.getvalue())}; see {prog} --help") from None
    finally:
        if not sys.exc_info()[0]:
            sys.stderr.write(box.getvalue())


def check_command(name: str, names: Collection[str]) -> None:
    """Checks the name of a command.

    Raises:
        ValueError: if there is none of that name.
    """
    if not name:
        raise ValueError(f"give a command: {', '.join(names)}")
    if name not in names:
        raise ValueError(f"there is no command {name!r}{suggestion(name, names)}; there are {', '.join(names)}")


def _message(box: str) -> str:
    """What a box of tyro's says: its first part, on one line, and what may have been meant."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first is the title
        text = line.strip("│╰╯ ")
        if text.strip("─-"):
            parts[-1].append(text)
        elif parts[-1]:
            parts.append([])
    said = " ".join(parts[0])
    said = re.sub(r"^Error parsing (--[\w-]+): ", "", said).removesuffix(".")
    said = re.sub(r"^Unrecognized options: (-\S+?)(,.*)?$", r"unknown option \1", said)
    said = re.sub(r"^Unrecognized options: (.*)$", r"unexpected: \1", said)
    said = re.sub(r"^Missing from .*?: (\S+) (.*?)\.? \(required\).*$", r"missing \1: \2", said)
    meant = re.search(r"Perhaps you meant:.*?(--[\w-]+)", " ".join(parts[1])) if len(parts) > 1 else None
    return said[:1].lower() + said[1:] + (f"; did you mean {meant[1]}?" if meant else "")


def without_none(kind: type[C]) -> type[C]:
    """A dataclass whose help does not say that a default is None: what stands for it, its sentences say."""
    for base in filter(dataclasses.is_dataclass, kind.__mro__):
        own = inspect.get_annotations(base)
        defaults = {field.name: field.default for field in dataclasses.fields(base)}
        for name, hint in get_type_hints(base, include_extras=True).items():
            inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                without_none(inner)
            elif name in own and defaults[name] is None:
                shown = tyro.conf.arg(help_behavior_hint="", metavar=_metavar(inner))
                base.__annotations__[name] = Annotated[hint, shown]
    return kind


def _metavar(hint: Any) -> str | None:
    """What stands for a value that may be None too."""
    (kind, *more) = [part for part in get_args(hint) if part is not NoneType] or [None]
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    return None if more else {Path: "PATH", str: "STR", int: "INT", float: "FLOAT"}.get(kind)
