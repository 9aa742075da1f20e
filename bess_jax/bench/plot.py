"""A figure of a result; needs `bess_jax[plot]`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bess_jax.bench.show import number, rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_COLORS = {"matmul": "tab:blue", "memory": "tab:green"}
_LABELS = {"n_entity": "entities", "n_shard": "shards, same global batch", "batch_size": "positives in a step"}


def check(path: Path) -> None:
    """Raises ValueError if a figure could not be written there, because of its name or of what is not installed."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"plot must be a file that ends in {' or '.join(SUFFIXES)}, got {path}; rename it")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plot needs the package matplotlib: pip install 'bess_jax[plot]'")


def write(record: Mapping[str, Any], path: Path) -> None:
    """Draws lines of milliseconds for `scaling`, bars for the others, and writes the file."""
    from matplotlib.figure import Figure

    lines = record["measures"]
    sweeps = list(dict.fromkeys(line["varied"] for line in lines.values() if "varied" in line))
    machine = record["machine"]
    title = f"bess_jax.bench {record['suite']}: {machine['cpu']}, {machine['n_core']} cores"
    if sweeps:
        figure = Figure(figsize=(4.2 * len(sweeps), 4), layout="constrained")
        panels = figure.subplots(1, len(sweeps), squeeze=False)[0]
        for axes, name in zip(panels, sweeps, strict=True):
            _curve(axes, name, [line for line in lines.values() if line.get("varied") == name])
    else:
        percent = any("percent" in line for line in lines.values())
        shown = {name: line for name, line in lines.items() if "percent" in line or not percent}
        figure = Figure(figsize=(9, 1.6 + 0.32 * len(shown)), layout="constrained")
        _bars(figure.subplots(), shown, percent)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def _curve(axes: Axes, name: str, points: list[dict[str, Any]]) -> None:
    """Medians, and a band from the fastest to the slowest call."""
    points = sorted(points, key=lambda point: point["value"])
    x = [point["value"] for point in points]
    axes.plot(x, [point["ms"] for point in points], marker="o", label="median")
    low, high = ([point[key] for point in points] for key in ("ms_min", "ms_max"))
    axes.fill_between(x, low, high, alpha=0.2, label="fastest to slowest")
    axes.set_xscale("log", base=2 if name == "n_shard" else 10)
    axes.set_xticks(x, [f"{value:,}" for value in x])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(_LABELS[name])
    axes.set_ylabel("time of a step (ms)")
    axes.grid(alpha=0.3)
    axes.legend()


def _bars(axes: Axes, lines: Mapping[str, Mapping[str, Any]], percent: bool) -> None:
    """Percentages of the ceilings, or rates if there are none, with the milliseconds beside."""
    from matplotlib.ticker import EngFormatter

    values = [line["percent" if percent else "rate"] for line in lines.values()]
    colors = [_COLORS[line["ceiling"]] if percent else "tab:gray" for line in lines.values()]
    bars = axes.barh(range(len(lines)), values, color=colors)
    texts = (f"{number(line['ms'])} ms, {rate(line['rate'], line['unit'])}" for line in lines.values())
    axes.bar_label(bars, list(texts), padding=4, fontsize="small")
    axes.set_yticks(range(len(lines)), list(lines), fontsize="small")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xmargin(0.4)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if not percent:
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.set_xlabel(next(iter(lines.values()))["unit"])
        return
    axes.axvline(100, color="black", linewidth=0.8, zorder=0)
    axes.set_xlabel("needed work, % of the ceiling measured in the same run")
    for kind in dict.fromkeys(line["ceiling"] for line in lines.values()):
        axes.barh(0, 0, color=_COLORS[kind], label=f"ceiling: {kind}")
    axes.legend(loc="lower right", fontsize="small")
