"""The page of a search: what its trials gave, in one file that asks for nothing from anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from bess_jax._optional import require
from bess_jax.data.files import replace_file
from bess_jax.report import figures
from bess_jax.report.figures import Figure
from bess_jax.report.page import Number, Section, fill
from bess_jax.report.tables import Cell, Row, Table
from bess_jax.tune.results import BEST
from bess_jax.tune.study import Study, Trial

PAGE = "study.html"
"""Name of the file."""

_N_ENOUGH = 4
"""Trials from which importances are told."""

_N_ROW = 100
"""Trials in the table, the best ones."""


def write_page(study: Study) -> None:
    """Writes the page, all of it or nothing.

    Raises:
        OSError: if it cannot be written.
        MissingExtraError: without jinja2 or plotly.
    """
    best, trials = study.best(), study.trials()
    n = {state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed", "running")}
    counts = ", ".join(f"{count} {state}" for state, count in n.items() if count)
    numbers = [Number("trials", str(len(trials)), counts)]
    code: list[str] = []
    if best is not None:
        numbers.insert(0, Number(f"best valid {study.metric}", f"{best.value:.4f}", f"trial {best.number}"))
        code = [f"python -m bess_jax train --config {study.path / BEST}"]
    sections = [
        Section("Trials", tables=[_table(study, trials, best)] if trials else [], code=code),
        Section("Course of the search", figures=[*_course(study)]),
    ]
    text = fill(
        title=f"Search in {study.path.name}",
        about=[f"Trials are compared by {study.metric} of the validation split; the test split was not looked at."],
        numbers=numbers,
        sections=sections,
    )
    with replace_file(study.path / PAGE) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))  # paths may be no Unicode


def _table(study: Study, trials: list[Trial], best: Trial | None) -> Table:
    """The trials, best first, the failed ones last."""
    sign = 1 if study.metric.higher_is_better else -1
    order = sorted(trials, key=lambda t: (t.state != "complete", t.value is None, -sign * (t.value or 0.0), t.number))
    names = [*study.space.searched]
    rows = []
    for trial in order[:_N_ROW]:
        value = Cell("" if trial.value is None else f"{trial.value:.4f}", is_number=True)
        drawn = [_cell(trial.drawn.get(name, "")) for name in names]
        state = trial.state if trial.message is None else f"{trial.state}: {trial.message}"
        is_best = best is not None and trial.number == best.number
        rows.append(Row([Cell(str(trial.number)), value, *drawn, Cell(state)], is_best))
    caption = "All trials, best first" if len(order) <= _N_ROW else f"The best {_N_ROW} of {len(order)} trials"
    return Table(caption, ["trial", str(study.metric), *names, "state"], rows)


def _cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), is_number)


def _course(study: Study) -> Iterator[Figure]:
    """Figures by Optuna, those that there are enough trials for."""
    plots = require("optuna.visualization", "tune", "a search")
    shown, metric = _shown(study), f"valid {study.metric}"
    complete = [trial for trial in study.trials() if trial.state == "complete"]
    yield _figure(
        "Best so far",
        f"{metric} of each trial, and the best until then.",
        plots.plot_optimization_history(shown, target_name=metric),
    )
    yield _figure(
        "Trials over their epochs", f"{metric} after the epochs of each trial.", plots.plot_intermediate_values(shown)
    )
    if complete:
        yield _figure(
            "Settings and results",
            f"A line for each trial through its settings and its {metric}.",
            plots.plot_parallel_coordinate(shown, target_name=metric),
        )
        yield _figure(
            "Each setting alone",
            f"{metric} over the values of each setting.",
            plots.plot_slice(shown, target_name=metric),
        )
    if len(complete) >= _N_ENOUGH and len(study.space.searched) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of settings that had one value in all trials
            plot = plots.plot_param_importances(shown, target_name=metric)
        yield _figure(
            "Importance of settings", "How much of the differences between trials each setting accounts for.", plot
        )


def _figure(title: str, text: str, plot: Any) -> Figure:
    plot.update_layout(title=None)
    return Figure(title, text, figures.quiet(plot, 340))


def _shown(study: Study) -> Any:
    """The study as it is drawn: choices as text that plotly takes for no markup, trials that failed left out."""
    optuna = require("optuna", "tune", "a search")
    shown = optuna.create_study(direction=study.optuna.direction)
    for frozen in study.optuna.get_trials(states=[optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]):
        if Trial.of(frozen).state == "failed":
            continue
        frozen.params = {
            name: figures.text(value) if isinstance(value, str) else value for name, value in frozen.params.items()
        }
        for name, kind in frozen.distributions.items():
            if isinstance(kind, optuna.distributions.CategoricalDistribution):
                choices = [figures.text(value) if isinstance(value, str) else value for value in kind.choices]
                frozen.distributions[name] = optuna.distributions.CategoricalDistribution(choices)
        shown.add_trial(frozen)
    return shown
