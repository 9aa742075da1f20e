"""The tables of docs/settings.md, as the code has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bess_jax.run.config import members
from bess_jax.run.settings import GROUPS, sentences


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def settings_table(group: str) -> list[str]:
    """Lines of the table of a group of settings."""
    lines = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for field in dataclasses.fields(GROUPS[group]):
        default = None if field.default is dataclasses.MISSING else field.default
        choices = [
            _shown(one) for one in members(field.name) if not isinstance(one, type) and isinstance(one, str | int)
        ]
        choice = f" One of {', '.join(choices)}." if choices else ""
        lines.append(f"| `{field.name}` | {_shown(default)} | {sentences()[field.name]}{choice} |")
    return lines


def capability_table(settings: Mapping[str, str]) -> list[str]:
    """Lines of the table of capabilities, of the setting of each."""
    lines = ["| in the library | setting |", "| --- | --- |"]
    return lines + [
        f"| `{name}` | {', '.join(f'`{one}`' for one in text.split())} |" for name, text in settings.items()
    ]
