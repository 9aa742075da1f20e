"""Results against those of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from bess_jax.data.files import open_file

IGNORED = ("n_call", "n_warmup")  # how often, not what


class Change(NamedTuple):
    """One measure in both runs; None where a run does not have it."""

    name: str
    before_ms: float | None
    now_ms: float | None
    ratio: float | None  # of now to before: more is slower
    regressed: bool


def read(path: Path, suite: str) -> dict[str, Any]:
    """The record in a file that `--out` or `--json` wrote.

    Raises:
        ValueError: if the file cannot be read, holds no record, or that of another suite.
    """
    try:
        with open_file(path) as stream:
            record = json.loads(stream.read())
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"baseline must be a JSON file written by --out or --json, got {path}: {error}") from None
    parts = ("config", "machine", "versions", "measures")
    if not (isinstance(record, dict) and "suite" in record and all(isinstance(record.get(x), dict) for x in parts)):
        raise ValueError(f"baseline must be a record of this command, got other JSON in {path}; write one with --out")
    if record["suite"] != suite:
        raise ValueError(f"baseline must be of the suite {suite!r}, got {record['suite']!r} in {path}; choose another")
    found: dict[str, Any] = record
    return found


def differences(record: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """What is not the same in both runs: one line for each item of machine, versions and configuration."""
    lines = []
    for part in ("machine", "config", "versions"):
        now, before = (json.loads(json.dumps(x[part])) for x in (record, baseline))
        for name in sorted(now.keys() | before.keys()):
            if now.get(name) != before.get(name) and name not in IGNORED:
                lines.append(f"{part}: {name} is {now.get(name)!r}, was {before.get(name)!r}")
    return lines


def changes(record: dict[str, Any], baseline: dict[str, Any], tolerance: float) -> list[Change]:
    """The medians of both runs; one has regressed if it is more than 1 + `tolerance` times what it was."""
    found = []
    for name in record["measures"] | baseline["measures"]:
        now, before = (x["measures"].get(name, {}).get("ms") for x in (record, baseline))
        ratio = now / before if now is not None and before else None
        found.append(Change(name, before, now, ratio, ratio is not None and ratio > 1 + tolerance))
    return found
