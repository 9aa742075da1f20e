"""Figures of a report, by plotly: quiet, and readable on light and on dark ground."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import require
from bess_jax.ask.ranks import Ranks
from bess_jax.predict.table import on_one_line
from bess_jax.report.embedding_map import OTHER, EmbeddingMap
from bess_jax.report.history import Curve
from bess_jax.report.reliability import Reliability

COLOURS = ("#3d7edb", "#c9702b", "#2f9e74", "#b8559b", "#8f7d2a", "#7d68d8", "#1f94a8")
"""Of runs and of groups; each has a contrast of at least 3 to a white and to a black ground."""
_GREY, _LINE = "#858b94", "rgba(128, 134, 142, 0.28)"
_FONT = 'system-ui, -apple-system, "Segoe UI", sans-serif'
_LONGEST = 60
"""Characters of a label in a figure."""

RANK_EDGES = (1, 2, 4, 11, 31, 101, 301, 1001, 3001, 10_001, 30_001, 100_001, 300_001, 1_000_001)
"""First rank of each bin; the last bin ends nowhere. Bins end where Hits@1, Hits@3 and Hits@10 do."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure for a page.

    Attributes:
        title: what stands above it.
        text: what it shows, for those who do not see it.
        plot: of plotly.
        tools: whether it can be zoomed.
    """

    title: str
    text: str
    plot: Any
    tools: bool = False

    def markup(self, name: str) -> str:
        """HTML that draws it where it stands; plotly's script has to stand before."""
        buttons = ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]
        config = {
            "responsive": True,
            "displaylogo": False,
            "displayModeBar": self.tools,
            "modeBarButtons": [buttons],
            "showTips": False,
        }
        to_html = require("plotly.io", "report", "a report").to_html
        found: str = to_html(self.plot, config=config, include_plotlyjs=False, full_html=False, div_id=name)
        return found


def plotly_script() -> str:
    """The program that draws the figures."""
    script: str = require("plotly.offline", "report", "a report").get_plotlyjs()
    return script


def text(label: str) -> str:
    """A label as plotly shows it: it takes a part of HTML for markup, and entities for characters."""
    line = on_one_line(label)
    return html.escape(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…", quote=False)


def curves(
    title: str, names: Sequence[str], found: Sequence[Curve], format: str = ",.4f", from_zero: bool = False
) -> Figure | None:
    """A number over the epochs of each run, which `legend` tells apart; None if no run has it."""
    if not any(curve.epoch for curve in found):
        return None
    go = _graph_objects()
    traces = [
        go.Scatter(
            x=curve.epoch,
            y=curve.value,
            name=text(name),
            mode="lines+markers" if len(curve.epoch) <= 40 else "lines",
            line={"color": _colour(i), "width": 2},
            marker={"size": 5},
            hoverinfo="text",
            hovertext=[
                f"{text(name)}, epoch {epoch}: {value:{format}}"
                for epoch, value in zip(curve.epoch, curve.value, strict=True)
            ],
        )
        for i, (name, curve) in enumerate(zip(names, found, strict=True))
        if curve.epoch
    ]
    last = "; ".join(
        f"{name} {curve.value[0]:{format}} in epoch {curve.epoch[0]}, {curve.value[-1]:{format}} in epoch "
        f"{curve.epoch[-1]}"
        for name, curve in zip(names, found, strict=True)
        if curve.epoch
    )
    plot = _plot(traces, 240, "epoch", "", legend=False)
    plot.update_xaxes(tickformat=",d", dtick=_tick(max(curve.epoch[-1] for curve in found if curve.epoch)))
    if from_zero:
        plot.update_yaxes(rangemode="tozero")
    return Figure(title, f"{title} over the epochs: {last}.", plot)


def legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """The colour of each run in `curves`; none for one run."""
    return [(name, _colour(i)) for i, name in enumerate(names)] if len(names) > 1 else []


def _tick(n: int) -> int:
    """Step of some six whole numbers up to n: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** max(0, len(str(n)) - 2)
    return next(int(power * step) for step in (1, 2, 5, 10, 20) if 6 * power * step >= n)


def rank_bins(ranks: NDArray[np.float64], n_bin: int) -> NDArray[np.float64]:
    """Share of ranks (n,) in each of the first bins of `RANK_EDGES`; of ranks between two, as ties have, rounded up."""
    place = np.searchsorted(RANK_EDGES, np.ceil(ranks), side="right") - 1
    return np.bincount(place, minlength=n_bin)[:n_bin] / len(ranks)


def rank_histogram(names: Sequence[str], found: Sequence[Ranks]) -> Figure:
    """How many queries have their answer at which ranks: of one run heads and tails, of several both together."""
    if len(found) == 1:
        series = [(f"{side}s", found[0].rank(side)) for side in found[0].sides]
    else:
        every = [np.concatenate([ranks.rank(side) for side in ranks.sides]) for ranks in found]
        series = list(zip(names, every, strict=True))
    highest = max(float(rank.max()) for _, rank in series)
    n_bin = int(np.searchsorted(RANK_EDGES, highest, side="right"))
    labels = [_bin_name(i) for i in range(n_bin)]
    go = _graph_objects()
    traces = []
    for i, (name, rank) in enumerate(series):
        share = rank_bins(rank, n_bin).tolist()
        hover = [f"{text(name)}, rank {label}: {part:.1%}" for label, part in zip(labels, share, strict=True)]
        traces.append(
            go.Bar(x=labels, y=share, name=text(name), marker_color=_colour(i), hoverinfo="text", hovertext=hover)
        )
    plot = _plot(traces, 300, "rank of the held-out answer", "share of queries", legend=len(series) > 1)
    plot.update_layout(bargap=0.25, bargroupgap=0.08)
    plot.update_xaxes(type="category")
    plot.update_yaxes(tickformat=".0%")
    shares = "; ".join(f"{name} {np.mean(rank <= 10):.1%}" for name, rank in series)
    return Figure("Ranks of the held-out answers", f"Share of queries by rank. Among the first ten: {shares}.", plot)


def _bin_name(i: int) -> str:
    low, high = RANK_EDGES[i], RANK_EDGES[i + 1] - 1 if i + 1 < len(RANK_EDGES) else None
    if high is None:
        return f"over {_short(low - 1)}"
    return str(low) if high == low else f"{_short(low)}-{_short(high)}"


def _short(number: int) -> str:
    """A bound of a bin: 1001 as 1k, which it is but for one."""
    if number < 1000:
        return str(number)
    return f"{number // 1000}k" if number < 1_000_000 else f"{number // 1_000_000}M"


def reliabilities(names: Sequence[str], found: Sequence[Reliability]) -> Figure:
    """Shares of true triples over the probabilities they were given."""
    go = _graph_objects()
    ideal = go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": _GREY, "width": 1, "dash": "dot"}, hoverinfo="skip",
        name="as it should be",
    )  # fmt: skip
    traces = [ideal]
    for i, (name, of) in enumerate(zip(names, found, strict=True)):
        pairs = zip(of.predicted.tolist(), of.observed.tolist(), strict=True)
        hover = [f"{text(name)}: given {given:.2f}, true {true:.2f}" for given, true in pairs]
        traces.append(
            go.Scatter(
                x=of.predicted.tolist(), y=of.observed.tolist(), name=text(name), mode="lines+markers",
                line={"color": _colour(i), "width": 2}, marker={"size": 6}, hoverinfo="text", hovertext=hover,
            )
        )  # fmt: skip
    plot = _plot(traces, 340, "probability that was given", "share that is true", legend=True)
    plot.update_xaxes(range=[-0.02, 1.02])
    plot.update_yaxes(range=[-0.02, 1.02])
    errors = "; ".join(f"{name} {of.error:.3f}" for name, of in zip(names, found, strict=True))
    return Figure("Probabilities, and how often they are right", f"Mean distance from the diagonal: {errors}.", plot)


def entity_map(found: EmbeddingMap, title: str) -> Figure:
    """Entities as points, which tell their labels."""
    go = _graph_objects()
    group = np.array(found.group, dtype=object)
    traces = []
    for i, name in enumerate(found.groups):
        rows = np.flatnonzero(group == name)
        traces.append(
            go.Scatter(
                x=found.place[rows, 0].round(5).tolist(),
                y=found.place[rows, 1].round(5).tolist(),
                mode="markers",
                name=text(name),
                marker={"color": _GREY if name == OTHER else _colour(i), "size": 6, "opacity": 0.75},
                hoverinfo="text",
                hovertext=[text(found.label[row]) for row in rows.tolist()],
            )
        )
    first, second = found.explained
    plot = _plot(traces, 520, f"first direction ({first:.0%})", f"second direction ({second:.0%})", legend=True)
    plot.update_layout(
        margin_t=36,
        legend={"yanchor": "top", "y": -0.12},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _GREY, "activecolor": COLOURS[0]},
    )
    about = f"{len(found.label):,} entities by the two directions in which their embeddings vary most"
    return Figure(title, f"{about}, coloured by {found.grouped_by}.", plot, tools=True)


def _plot(traces: Sequence[Any], height: int, x: str, y: str, legend: bool) -> Any:
    plot = quiet(_graph_objects().Figure(traces), height)
    plot.update_layout(
        showlegend=legend,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
        xaxis={"showgrid": False, "title": {"text": x, "standoff": 8}},
        yaxis={"title": {"text": y, "standoff": 8}},
    )
    return plot


def quiet(plot: Any, height: int) -> Any:
    """A figure of plotly without ground of its own, with axes that are seen on light and on dark."""
    axis = {"gridcolor": _LINE, "linecolor": _LINE, "zeroline": False, "ticks": "", "automargin": True}
    plot.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 12, "color": _GREY},
        hoverlabel={"bgcolor": "#23272e", "bordercolor": "#23272e", "font": {"color": "#ffffff", "family": _FONT}},
        dragmode=False,
    )
    plot.update_xaxes(axis)
    plot.update_yaxes(axis)
    return plot


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _graph_objects() -> Any:
    return require("plotly.graph_objects", "report", "a report")
