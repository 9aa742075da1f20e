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
    plot = plots.plot_optimization_history(shown, target_name=metric)
    yield _figure("Best so far", f"{metric} of each trial, and the best until then.", plot, "trial", metric)
    plot = plots.plot_intermediate_values(shown)
    yield _figure("Trials over their epochs", f"{metric} after the epochs of each trial.", plot, "epoch", metric)
    if complete:
        plot = plots.plot_parallel_coordinate(shown, target_name=metric)
        yield _figure(
            "Settings and results", "A line for each trial; the better, the stronger.", _by_value(study, plot)
        )
    if len(complete) >= _N_ENOUGH and len(study.space.searched) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of settings that had one value in all trials
            plot = plots.plot_param_importances(shown, target_name=metric)
        plot.update_traces(cliponaxis=False)
        plot.update_layout(xaxis_range=[0, 1.15])
        text = "How much of the differences between trials each setting accounts for."
        yield _figure("Importance of settings", text, plot, "share", "")
    for name in study.space.searched if complete else ():
        plot = plots.plot_slice(shown, params=[name], target_name=metric)
        plot.update_traces(marker={"color": figures.COLOURS[0], "showscale": False})
        yield _figure(name, f"{metric} of complete trials over {name}.", plot, name, metric)


def _by_value(study: Study, plot: Any) -> Any:
    """Parallel coordinates whose lines are seen on light and on dark; the first coordinate is the metric, 0 to 1."""
    for trace in plot.data:
        if trace.mode == "lines":
            goodness = trace.y[0] if study.metric.higher_is_better else 1 - trace.y[0]
            trace.update(line_color=figures.COLOURS[0], opacity=0.15 + 0.75 * goodness)
        else:
            trace.update(marker_showscale=False)
    plot.update_annotations(font_color=None)
    return plot


def _figure(title: str, text: str, plot: Any, x: str | None = None, y: str | None = None) -> Figure:
    """A figure of Optuna's as the others look, with these names of its axes."""
    figures.quiet(plot, 340)
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    plot.update_layout(title=None, width=None, autosize=True, legend=legend, margin_l=48, margin_r=48)
    if x is not None:
        plot.update_xaxes(title_text=x)
        plot.update_yaxes(title_text=y)
    return Figure(title, text, plot)


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
