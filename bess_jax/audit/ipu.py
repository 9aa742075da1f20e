"""Whether an IPU can run a program: each operation against the table of what the backend implements.

Source: graphcore-research/jax-experimental (JAX 0.3.16) and the backend's sources in
graphcore-research/tensorflow-jax-experimental. Read there, not run on an IPU.
"""

from __future__ import annotations

import csv
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bess_jax._compat import dataclass, zip
from bess_jax.audit.hlo import Instruction, Program
from bess_jax.audit.ipu_rules import CHECKS, Finding, Status
from bess_jax.audit.tables import VIEWS, is_mark

DTYPES = ("f32", "f16", "s32", "u32", "pred")
"""What the backend's JAX is tested with."""

_SEVERITY = ("unsupported", "slow", "restricted", "native")
_LARGE = 2**20
_HINTS = {
    "64": "; today's random numbers and jax_enable_x64 have 64 bits",
    "u16": "; stochastic rounding works on halves as uint16",
}
OLDER = {"topk": "a sort of a key and a value", "erf": "a polynomial"}
"""What today's JAX emits and the backend's does not, and what that has in its place."""


@dataclass(frozen=True)
class Verdict:
    """What an IPU makes of an operation of a program.

    Attributes:
        opcode: the operation as HLO calls it; "program" and "input-output-alias" are of the program as a whole.
        status: "native", "restricted" (runs within limits that `why` names), "slow" (a loop over indices), or
            "unsupported" (it does not compile).
        count: how many of a step have this verdict, those in loops counted each time.
        why: the reason; "" for what is native without a condition.
    """

    opcode: str
    status: Status
    count: int
    why: str


class Operation(NamedTuple):
    """A row of the table of operations."""

    status: str
    restriction: str
    source: str


@lru_cache
def ipu_operations() -> dict[str, Operation]:
    """Opcode -> what the backend does with it; all that its XLA has."""
    with (Path(__file__).parent / "ipu_ops.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {row["hlo_opcode"]: Operation(row["status"], row["restriction"], row["source"]) for row in rows}


def verdicts(program: Program, n_shard: int) -> tuple[Verdict, ...]:
    """What an IPU makes of each operation of a program, the worst first.

    Operations within comparators and reductions belong to what applies them. A program that XLA has compiled for
    another device says little: take what `lower` gives.

    Args:
        program: of `read_program`, before XLA's passes.
        n_shard: number of IPUs that run it.
    """
    counts: Counter[tuple[str, Finding]] = Counter()
    for run in program.runs:
        one = run.instruction
        if not is_mark(one):
            counts[one.opcode, _finding(program, one, n_shard)] += run.times
    for opcode, finding in _of_program(program):
        counts[opcode, finding] += 1
    found = [Verdict(opcode, status, n, why) for (opcode, (status, why)), n in counts.items()]
    return tuple(sorted(found, key=lambda one: (_SEVERITY.index(one.status), one.opcode, one.why)))


def _finding(program: Program, one: Instruction, n_shard: int) -> Finding:
    operation = ipu_operations().get(one.opcode)
    if operation is None:
        return "unsupported", f"the backend's XLA has no such operation{_instead(one.opcode)}"
    if operation.status == "unsupported":
        return "unsupported", operation.restriction or "not implemented"
    wrong = sorted({shape.dtype for shape in one.shapes} - {*DTYPES, "token"})
    if wrong:
        hints = [hint for part, hint in _HINTS.items() if any(part in one for one in wrong)]
        return "unsupported", f"{', '.join(wrong)}: not among {', '.join(DTYPES)}{''.join(hints)}"
    types = _operand_types(operation.restriction)
    used = {shape.dtype for operand in program.operands(one) for shape in operand.shapes[:1]}
    if types and not used <= types:
        return "unsupported", f"of {', '.join(sorted(used - types))}: it takes {', '.join(sorted(types))}"
    check = CHECKS.get(one.opcode)
    if check is not None:
        return check(program, one, n_shard)
    if one.opcode == "constant" and one.nbytes >= _LARGE:
        return "restricted", f"{one.shape} lies in tile memory: make it an argument"
    if operation.status == "native":
        return "native", ""
    return "restricted", operation.restriction


def _instead(opcode: str) -> str:
    return f"; JAX 0.3.16 lowers to {OLDER[opcode]} in its place" if opcode in OLDER else ""


@lru_cache
def _operand_types(restriction: str) -> frozenset[str]:
    """The types that a row of the table begins with, () for none."""
    text = restriction.replace("floating input only (", "").split(";")[0].split(")")[0].split(" (")[0].lower()
    names = {name.strip() for part in text.split(",") for name in part.split("/")}
    return frozenset(names) if names and names <= {*DTYPES} else frozenset()


def _of_program(program: Program) -> list[tuple[str, Finding]]:
    """What concerns the program as a whole."""
    found: list[tuple[str, Finding]] = []
    work = [run.instruction for run in program.runs if run.instruction.opcode not in VIEWS]
    work = [one for one in work if not is_mark(one)]
    if not any(shape.dims for one in work for shape in one.shapes):
        what = "it only works on single numbers" if work else "its outputs are inputs or constants"
        why = f"{what}: no engine is made for it, and the host, which has one device, runs it"
        found.append(("program", ("restricted", why)))
    if program.aliases:
        found.append(("input-output-alias", _aliasing(program)))
    return found


def _aliasing(program: Program) -> Finding:
    """The backend takes the last outputs for those that are in donated memory, in the order of the parameters.

    Others are paired wrongly there, or end the process.
    """
    outputs, pairs = program.outputs, sorted(program.aliases.items())
    places, numbers = zip(*pairs, strict=True)
    first = len(outputs) - len(pairs)
    donated = {program.parameters[number].shape for number in numbers}
    others = [str(shape) for shape in outputs[:first] if shape in donated]
    if [*places] != [*range(first, len(outputs))]:
        what = f"output {places[0]}, {outputs[places[0]]}, is one: JAX pairs them by shape and type"
        return "unsupported", f"donated outputs must be the last {len(pairs)} of {len(outputs)}, but {what}"
    if others:
        return "unsupported", f"an output {others[0]} before the donated ones is taken for one of them"
    if [*numbers] != sorted(numbers):
        return "unsupported", "donated outputs must come in the order of the parameters"
    return "restricted", f"the last {len(pairs)} outputs are in donated memory, and no other has their shape and type"
