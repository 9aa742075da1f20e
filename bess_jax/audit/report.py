"""What a program of one step consists of: operations, bytes sent, temporaries, copies of tables."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bess_jax._compat import dataclass, zip
from bess_jax.audit.groups import replica_groups, sent_bytes
from bess_jax.audit.hlo import Program, Run, hlo_text, read_program
from bess_jax.audit.ipu import ipu_operations
from bess_jax.audit.tables import VIEWS, Dims, is_mark, loop_because, use_of

FINDINGS = ("dense-gradient", "slow-scatter", "table-copy")
"""What can be forbidden beside an opcode."""

_NEWER = ("topk", "ragged-all-to-all", "collective-broadcast", "erf", "tan", "stochastic-convert", "scan")
_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


@dataclass(frozen=True, kw_only=True)
class Line:
    """An operation that an audit names.

    Attributes:
        name: its name in the program.
        opcode: the operation.
        shape: of the result, or of what a collective takes.
        nbytes: bytes of that.
        times: how often a step runs it.
        why: what is said about it; "" for nothing.
    """

    name: str
    opcode: str
    shape: str
    nbytes: int
    times: int
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Collective(Line):
    """An operation in which devices send each other something.

    Attributes:
        group: number of devices in a group.
        sent: bytes that a device sends in a step.
    """

    group: int
    sent: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a program consists of.

    Attributes:
        n_shard: number of devices.
        operations: opcode -> how many a step runs, those in loops counted each time.
        collectives: what devices send.
        temporaries: the largest results, of what is neither given nor updated in place.
        table_copies: copies of a table, also in another type or order.
        scatters: "rows" (whole rows by one vector of indices) and "loop" (all others) -> how many.
        slow_scatters: those of the second kind, and why they are.
        dense_gradients: results of a table's shape that are no update in place.
        sorts: sorts.
        unknown_loops: loops that are counted as run once, because the text does not tell how often they are.
        memory: bytes by XLA's account, for compiled programs.
    """

    n_shard: int
    operations: Mapping[str, int]
    collectives: tuple[Collective, ...]
    temporaries: tuple[Line, ...]
    table_copies: tuple[Line, ...]
    scatters: Mapping[str, int]
    slow_scatters: tuple[Line, ...]
    dense_gradients: tuple[Line, ...]
    sorts: tuple[Line, ...]
    unknown_loops: tuple[str, ...]
    memory: Mapping[str, int]

    @property
    def sent_bytes(self) -> float:
        """Bytes that a device sends in a step; reductions as a ring does them."""
        return sum(one.sent for one in self.collectives)

    def forbidden(self, names: Collection[str]) -> tuple[str, ...]:
        """What of the named is in the program, a sentence each; () if nothing is.

        Args:
            names: opcodes, "dense-gradient", "slow-scatter" or "table-copy".

        Raises:
            ValueError: if a name is none of these.
        """
        found: list[str] = []
        lines = dict(zip(FINDINGS, (self.dense_gradients, self.slow_scatters, self.table_copies), strict=True))
        check_names(names)
        for name in names:
            found += [f"{name}: {one.name}, {_text(one)}" for one in lines.get(name, ())]
            n = sum(times for opcode, times in self.operations.items() if opcode in (name, f"{name}-start"))
            found += [f"{name}: {n} times"] if n else []
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """All of it as what JSON has."""
        return {**dataclasses.asdict(self), "sent_bytes": self.sent_bytes}

    def as_text(self, most: int = 8) -> str:
        """A short table.

        Args:
            most: how many lines of a kind are shown.
        """
        operations = sorted(self.operations.items(), key=lambda item: (-item[1], item[0]))
        lines = [f"operations      {', '.join(f'{opcode} {n:,}' for opcode, n in operations)}"]
        lines.append(f"sent            {self.sent_bytes:,.0f} bytes a device and step")
        for collective in self.collectives[:most]:
            lines.append(f"  {_text(collective)}, {collective.sent:,.0f} bytes sent, groups of {collective.group}")
        lines.append(f"scatters        rows {self.scatters['rows']:,}, loop {self.scatters['loop']:,}")
        lines += [f"  {_text(one)}" for one in self.slow_scatters[:most]]
        for title in ("table_copies", "dense_gradients", "sorts"):
            found: Sequence[Line] = getattr(self, title)
            lines.append(f"{title.replace('_', ' '):16}{len(found):,}")
            lines += [f"  {_text(one)}" for one in found[:most]]
        lines.append("temporaries     the largest")
        lines += [f"  {_text(one)}" for one in self.temporaries[:most]]
        if self.memory:
            lines.append("memory          " + ", ".join(f"{name} {n:,}" for name, n in self.memory.items()))
        if self.unknown_loops:
            lines.append(f"counted once    {', '.join(self.unknown_loops)}: how often these loops run is not known")
        return "\n".join(lines)


def _text(one: Line) -> str:
    times = f"{one.times:,} times" if one.times > 1 else ""
    return ", ".join(part for part in (f"{one.opcode} {one.shape}", f"{one.nbytes:,} bytes", times, one.why) if part)


def check_names(names: Collection[str]) -> None:
    """Checks that names are opcodes, or of `FINDINGS`.

    Raises:
        ValueError: if one is not.
    """
    known = {*FINDINGS, *ipu_operations(), *_NEWER}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"names must be opcodes or of {', '.join(FINDINGS)}, got {name!r}{hint}")


def audit_program(program: Any, *, n_shard: int, tables: Collection[Dims] = (), n_temporary: int = 10) -> Audit:
    """What a program consists of.

    Args:
        program: what `lower` or `compile` returned, or HLO text.
        n_shard: number of devices that run it.
        tables: shapes of the large arrays on one device, such as (M, E); leading axes of size 1 do not count.
        n_temporary: how many of the largest temporaries are kept.

    Raises:
        TypeError: if `program` is none of these.
        ValueError: if the text is not that of an HLO module.
    """
    read = read_program(hlo_text(program))
    runs = [run for run in read.runs if not is_mark(run.instruction)]
    operations: Counter[str] = Counter()
    for run in runs:
        operations[run.instruction.opcode] += run.times
    tables = [tuple(dims) for dims in tables]
    whole = [run for run in runs if not run.is_fused]
    uses = {run: use_of(read, run.instruction, tables) for run in whole}
    scatters = [(run, loop_because(read, run.instruction)) for run in runs if run.instruction.opcode == "scatter"]
    own = [run for run in whole if run.instruction.opcode not in VIEWS and uses[run] != "in-place"]
    sending = [run for run in runs if sent_bytes(read, run.instruction, n_shard)]
    largest = sorted(own, key=lambda run: -run.instruction.nbytes)[:n_temporary]
    kinds = Counter({"rows": 0, "loop": 0})
    for run, why in scatters:
        kinds["loop" if why else "rows"] += run.times
    return Audit(
        n_shard=n_shard,
        operations=dict(operations),
        collectives=tuple(_collective(read, run, n_shard) for run in sending),
        temporaries=tuple(map(_line, largest)),
        table_copies=tuple(_line(run) for run in whole if uses[run] == "table-copy"),
        scatters=dict(kinds),
        slow_scatters=tuple(_line(run, why) for run, why in scatters if why),
        dense_gradients=tuple(_line(run) for run in whole if uses[run] == "dense-gradient"),
        sorts=tuple(_line(run) for run in runs if run.instruction.opcode in ("sort", "topk")),
        unknown_loops=read.unknown_loops,
        memory=_memory(program),
    )


def _line(run: Run, why: str = "") -> Line:
    one = run.instruction
    shape = ", ".join(map(str, one.shapes))
    return Line(name=one.name, opcode=one.opcode, shape=shape, nbytes=one.nbytes, times=run.times, why=why)


def _collective(program: Program, run: Run, n_shard: int) -> Collective:
    one = run.instruction
    operands = program.operands(one)
    group = n_shard if "source_target_pairs" in one.attributes else max(map(len, replica_groups(one, n_shard)))
    return Collective(
        name=one.name,
        opcode=re.sub("-start$", "", one.opcode),
        shape=", ".join(str(shape) for operand in operands for shape in operand.shapes),
        nbytes=sum(operand.nbytes for operand in operands),
        times=run.times,
        group=group,
        sent=run.times * sent_bytes(program, one, n_shard),
    )


def _memory(program: Any) -> dict[str, int]:
    analysis = program.memory_analysis() if hasattr(program, "memory_analysis") else None
    if analysis is None:
        return {}
    return {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in _MEMORY}
