"""What a search leaves beside its runs: the best settings, as `train` takes them, and a table of trials."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

from bess_jax._optional import require
from bess_jax.data.files import replace_file
from bess_jax.run.settings import GROUPS
from bess_jax.tune.study import Study, Trial

BEST, TABLE = "best.toml", "trials.csv"
"""Names of the files."""


def write_best(study: Study) -> None:
    """Writes the fixed settings and those of the best trial, if there is one.

    Raises:
        OSError: if they cannot be written; what was there before is then untouched.
    """
    best = study.best()
    if best is None:
        return
    tomli_w = require("tomli_w", "tune", "a file of settings")
    config = study.space.config(best.drawn)  # what would do nothing is at its default, and `train` takes it
    settings = {name: getattr(config, name) for name in study.space.settings(best.drawn)}
    by_group: dict[str, dict[str, Any]] = {}
    for group, kind in GROUPS.items():
        names = [field.name for field in dataclasses.fields(kind) if field.name in settings]
        if names:
            by_group[group] = {name: settings[name] for name in names}
    head = f"# Trial {best.number}: {study.metric} {best.value} on the validation split.\n\n"
    with replace_file(study.path / BEST) as stream:
        stream.write(head.encode())
        tomli_w.dump(by_group, stream)


def write_table(study: Study) -> None:
    """Writes a line for each trial: number, state, metric, epoch, searched settings, and why it failed.

    Raises:
        OSError: if it cannot be written; what was there before is then untouched.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["trial", "state", str(study.metric), "epoch", *study.space.searched, "message"])
    for trial in study.trials():
        drawn = [trial.drawn.get(name) for name in study.space.searched]
        table.writerow([trial.number, trial.state, trial.value, trial.epoch, *drawn, trial.message])
    with replace_file(study.path / TABLE) as stream:
        stream.write(text.getvalue().encode())


def as_json(study: Study) -> dict[str, Any]:
    """The search as JSON has it: trials, the best of them, and where its settings and its run are."""
    best = study.best()
    found: dict[str, Any] = {
        "study": str(study.path),
        "metric": str(study.metric),
        "trials": [dataclasses.asdict(trial) for trial in study.trials()],
        "best": None if best is None else dataclasses.asdict(best),
    }
    if best is not None:
        found |= {"settings": str(study.path / BEST), "run": str(study.run_folder(best.number).path)}
    return found


def line_of(study: Study, trial: Trial, is_best: bool) -> str:
    """A trial on a line."""
    value = "" if trial.value is None else f"{study.metric} {trial.value:.4f}"
    if trial.state == "failed":
        what = f"failed: {trial.message}"
    elif trial.state == "pruned":
        what = f"{value}, pruned after epoch {trial.epoch}"
    else:
        what = f"{value}, the best so far" if is_best else value
    drawn = ", ".join(f"{name} {_short(choice)}" for name, choice in trial.drawn.items())
    return f"trial {trial.number}: {what} ({drawn})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
