"""What the benchmarks print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bess_jax.bench.compare import Change

_SHOWN = (
    *("suite", "machine", "config", "versions", "ceilings", "measures", "platform", "device_kind", "n_device"),
    *("step_ms", "step_ms_min", "step_ms_max", "compile_s", "positives_per_s"),
)
"""What of a record the tables above the last one show."""
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def result(console: Console, record: Mapping[str, Any]) -> None:
    """Shows the measures, the ceilings and, of a step, what else is known."""
    machine = record["machine"]
    where = f"{machine['cpu']}, {machine['n_core']} cores"
    if "platform" in machine:
        kind = dict.fromkeys((machine["platform"], machine["device_kind"]))
        where += f"; devices: {machine['n_device']} x {' '.join(kind)}"
    console.print(f"[bold]bench {record['suite']}[/]   {where}", highlight=False)
    measures(console, record["measures"])
    if record["ceilings"]:
        table = Table("ceiling, measured in turns", "rate", "reached with", box=SIMPLE_HEAD, pad_edge=False)
        for name, ceiling in record["ceilings"].items():
            table.add_row(name, rate(ceiling["rate"], ceiling["unit"]), ceiling["shape"])
        console.print(table)
    others = {name: value for name, value in record.items() if name not in _SHOWN}
    if others:
        table = Table("also", "", box=SIMPLE_HEAD, pad_edge=False)
        for name, value in (*others.items(), ("config", record["config"]), ("versions", record["versions"])):
            table.add_row(name, _text(name, value))
        console.print(table)


def measures(console: Console, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Shows times, rates and percentages; columns without a value are omitted. The unit is the same in all lines."""
    unit = next(iter(lines.values()))["unit"]
    columns = ["measure", "ms", "min - max", unit]
    if any("percent" in line for line in lines.values()):
        columns += ["floor ms", "reached"]
    if any(line["compile_s"] is not None for line in lines.values()):
        columns.append("compile s")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "measure" else "right", no_wrap=name != "measure")
    for name, line in lines.items():
        cells = {
            "measure": name,
            "ms": number(line["ms"]),
            "min - max": f"{number(line['ms_min'])} - {number(line['ms_max'])}",
            unit: _scaled(line["rate"]),
            "floor ms": number(line["floor_ms"]) if "percent" in line else "",
            "reached": f"{line['percent']:.0f} % {line['ceiling']}" if "percent" in line else "",
            "compile s": "" if line["compile_s"] is None else f"{line['compile_s']:.2f}",
        }
        table.add_row(*(cells[column] for column in columns))
    console.print(table)


def comparison(console: Console, found: Sequence[Change], differences: Sequence[str], tolerance: float) -> None:
    """Shows the ratios to an earlier run, and first what makes the runs different."""
    if differences:
        console.print("[bold red]The baseline is not of the same machine, configuration and versions:[/]")
        for line in differences:
            console.print(f"  {line}", markup=False, highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"against the baseline (tolerance {tolerance:g})")
    for name in ("ms before", "ms now", "now / before"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for change in found:
        times = ["-" if ms is None else number(ms) for ms in (change.before_ms, change.now_ms)]
        if change.ratio is None:
            verdict = "new" if change.before_ms is None else "gone"
        else:
            verdict = "REGRESSION" if change.regressed else ""
        ratio = "-" if change.ratio is None else f"{change.ratio:.2f}"
        table.add_row(change.name, *times, ratio, verdict, style="red" if change.regressed else None)
    console.print(table)


def rate(value: float, unit: str) -> str:
    """A rate with three digits: "52.7 G FLOP/s", "980 positives/s"."""
    return f"{_scaled(value)} {unit}"


def _scaled(value: float) -> str:
    factor, prefix = next(((factor, f" {prefix}") for factor, prefix in _PREFIXES if value >= factor), (1.0, ""))
    return f"{number(value / factor)}{prefix}"


def number(value: float) -> str:
    """A value with three digits or more."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _text(name: str, value: Any) -> str:
    """A value for people to read."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if name.endswith("_bytes") and value is not None:
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,.{0 if value >= 1000 else 3}f}" if isinstance(value, float) else str(value)
