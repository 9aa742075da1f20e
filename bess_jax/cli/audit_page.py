"""What the command `audit` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import jax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bess_jax.audit.hlo import PLUMBING
from bess_jax.audit.report import Line
from bess_jax.cli import show
from bess_jax.cli.output import visible
from bess_jax.run.audited import Audited, Backend, is_lowered_otherwise
from bess_jax.run.experiment import Experiment

_MANY = 8
"""Kinds of operations that are named; the others are counted together."""

_LARGEST = 3

_DULL = {*PLUMBING, "bitcast-convert", "broadcast", "call", "copy-done", "iota", "reshape", "while"}
"""Operations that tell little."""


def head(console: Console, experiment: Experiment, backend: Backend | None) -> None:
    """Shows what is audited, and for whom."""
    config, placement = experiment.config, experiment.placement
    n, device = len(placement.devices), placement.devices[0]
    kind = "IPU" if backend == "ipu" else f"device ({device.device_kind})"
    where = f"all on one {kind}"
    if n > 1:
        kind = "IPUs" if backend == "ipu" else f"devices ({device.device_kind})"
        where = f"{placement.shards_per_device} on each of {n} {kind}"
    width = experiment.model.score_fn.entity_width
    shards = f"{config.n_shard} shards" if config.n_shard > 1 else "1 shard"
    rows = {
        "model": f"{config.model} on {config.dataset}, {config.scheme}, {config.update} updates by {config.optimizer}",
        "tables": f"{shards} of {experiment.sharding.max_entity_per_shard:,} x {width}, {where}",
        "by": f"JAX {jax.__version__}{_BY.get(backend or '', '')}",
    }
    _grid(console, rows)


_BY = {
    "cuda": ", for an H100 that is not there; kernels are not tuned",
    "tpu": ", for a TPU v5e that is not there",
    "ipu": ", before XLA's passes, with the ring exchange; the IPU's own JAX is 0.3.16: see docs/audit.md",
}


def memory(console: Console, lines: Mapping[str, int]) -> None:
    """Shows what a step takes on one IPU."""
    rows = [(what, _bytes(nbytes)) for what, nbytes in lines.items()]
    _table(console, ("a step on one IPU", ""), rows, numbers=(1,))


def program(console: Console, name: str, found: Audited) -> None:
    """Shows one program."""
    contents = found.contents
    console.print()
    steps = f": one call trains {found.n_step:,} steps" if found.n_step > 1 else ""
    show.line(console, f"{name}{steps}", "bold")
    copies, dense = map(_sum, (contents.table_copies, contents.dense_gradients))
    largest = [f"{one.opcode} {_shapes(one)}, {_bytes(one.nbytes)}" for one in contents.temporaries[:_LARGEST]]
    rows = {
        "operations": _operations(contents.operations),
        "scatters": f"{contents.scatters['rows']:,} of whole rows, {contents.scatters['loop']:,} others; "
        f"{sum(one.times for one in contents.sorts):,} sorts",
        "tables": f"{copies} copies; {dense} results of their shape",
        "largest": "; ".join(largest),
    }
    if found.touches_all and contents.dense_gradients:
        rows["tables"] += ", as those of rows have: a batch may touch all rows of a shard"
    if sizes := contents.memory:
        rows["memory"] = (
            f"arguments {_bytes(sizes['argument'])}, {_bytes(sizes['alias'])} of it donated; temporaries "
            f"{_bytes(sizes['temp'])}, results {_bytes(sizes['output'])}"
        )
    if found.n_donated:
        rows["donated"] = f"{found.n_donated} results take over the memory of arguments"
    if found.launches is not None:
        launches = found.launches
        least = "" if launches.is_exact else "at least "
        kinds = ", ".join(f"{opcode} {n:,}" for opcode, n in [*launches.by_opcode.items()][:_MANY])
        rows["launches"] = (
            f"{least}{launches.kernels:,} kernels ({kinds}), {launches.loop_iterations:,} loop iterations"
        )
    if contents.unknown_loops:
        rows["loops"] = f"{len(contents.unknown_loops)} of a length that is not known, counted as one round"
    _grid(console, rows)
    _collectives(console, found)
    if found.verdicts:
        _verdicts(console, found)


def _sum(lines: Sequence[Line]) -> str:
    n = sum(one.times for one in lines)
    return f"{n:,} ({_bytes(sum(one.nbytes * one.times for one in lines))})" if n else "no"


def _shapes(one: Line) -> str:
    """The shapes of a result, equal ones together."""
    counts = Counter(one.shape.split(", "))
    return ", ".join(shape if n == 1 else f"{n} x {shape}" for shape, n in counts.items())


def _operations(operations: Mapping[str, int]) -> str:
    """The most frequent ones that tell something."""
    told = sorted(((n, name) for name, n in operations.items() if name not in _DULL), key=lambda one: (-one[0], one[1]))
    rest = sum(operations.values()) - sum(n for n, _ in told[:_MANY])
    return ", ".join([*(f"{name} {n:,}" for n, name in told[:_MANY]), f"others {rest:,}"])


def _collectives(console: Console, found: Audited) -> None:
    """Shows what a device sends in a step, beside the formula."""
    by_kind: dict[tuple[str, int], list[float]] = {}
    for one in found.contents.collectives:
        sums = by_kind.setdefault((one.opcode, one.group), [0, 0.0])
        sums[0] += one.times
        sums[1] += one.sent
    per = "a step" if found.n_step > 1 else "a call"
    rows = [
        (opcode, f"{group}", f"{n / found.n_step:,.4g}", f"{sent / found.n_step:,.0f}")
        for (opcode, group), (n, sent) in sorted(by_kind.items())
    ]
    if not rows:
        show.line(console, "nothing is sent between devices")
    else:
        _table(console, ("collective", "devices", per, "bytes sent by each"), rows, numbers=(1, 2, 3))
    if found.formula is not None and rows:
        of = found.formula
        parts = f", {of.gathered:,} of them queries" if of.gathered else ""
        text = f"all but reductions: {found.moved:,.0f} bytes a step; by the formula of BESS: {of.total:,}{parts}"
        show.line(console, text)


def _verdicts(console: Console, found: Audited) -> None:
    """Shows what an IPU makes of the operations; those that are native without a condition together."""
    native = [one for one in found.verdicts if one.status == "native" and not one.why]
    others = [one for one in found.verdicts if one not in native]
    rows = [
        ("otherwise" if is_lowered_otherwise(one) else one.status, one.opcode, f"{one.count:,}", one.why)
        for one in others
    ]
    if rows:
        _table(console, ("on an IPU", "operation", "count", "why"), rows, numbers=(2,))
    n = sum(one.count for one in native)
    if any(map(is_lowered_otherwise, others)):
        show.line(console, "otherwise: today's JAX emits it, and JAX 0.3.16, which an IPU has, lowers otherwise")
    show.line(console, f"native: {n:,} operations of {len({one.opcode for one in native})} kinds")


def _grid(console: Console, rows: Mapping[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in rows.items():
        table.add_row(Text(name, style="bold"), Text(visible(text)))
    console.print(table)


def _table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in numbers else "left", overflow="fold", no_wrap=i in numbers)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)


def _bytes(n: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n:,.0f} B"
