"""How often a loop of an HLO program runs, where its text tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bess_jax.audit.hlo import Computation, Instruction, Program

_SWAPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}


def trip_count(program: Program, loop: Instruction) -> int | None:
    """How often the body of a `while` runs; None if the text does not tell.

    XLA notes it in compiled programs. Before its passes a loop is known that compares a counter, which starts at a
    constant and grows by a constant, with a constant.
    """
    noted = re.search(r'known_trip_count"?[:=]\s*\{"?n"?[:=]\s*"?([0-9]+)', str(dict(loop.attributes)))
    if noted:
        return int(noted.group(1))
    condition = program.computations[loop.attributes["condition"].strip("%")]
    body = program.computations[loop.attributes["body"].strip("%")]
    root = condition.root
    if root.opcode != "compare":
        return None
    direction = root.attributes["direction"]
    left, right = program.operands(root)
    if _position(program, condition, left) is None:
        left, right, direction = right, left, _SWAPPED.get(direction, "")
    counter = _position(program, condition, left)
    if counter is None:
        return None
    start, step = _start(program, loop, counter), _step(program, body, counter)
    place = _position(program, condition, right)
    if place is None:
        stop = constant(program, right)
    else:
        stop = _start(program, loop, place) if _is_kept(program, body, place) else None
    if start is None or step is None or stop is None:
        return None
    return _count(start, stop, step, direction)


def constant(program: Program, one: Instruction) -> int | None:
    """The value of a whole number that is a constant; None for others."""
    source = program.source(one)
    while source.opcode in ("convert", "copy", "reshape"):
        source = program.source(program.operand(source, 0))
    known = source.opcode == "constant" and re.fullmatch(r"-?[0-9]+", source.literal)
    return int(source.literal) if known else None


def counter_range(program: Program, one: Instruction) -> tuple[int, int] | None:
    """Between what a value of a loop's state lies in its body, for a counter of known start, step and count."""
    loops = program.callers.get(one.computation, ())
    if len(loops) != 1 or loops[0].opcode != "while":
        return None
    loop, body = loops[0], program.computations[loops[0].attributes["body"].strip("%")]
    position = _position(program, body, one) if body.name == one.computation else None
    if position is None:
        return None
    start, n = _start(program, loop, position), trip_count(program, loop)
    step = 0 if _is_kept(program, body, position) else _step(program, body, position)
    if start is None or step is None or n is None or n < 1:
        return None
    ends = (start, start + step * (n - 1))
    return min(ends), max(ends)


def _count(start: int, stop: int, step: int, direction: str) -> int | None:
    if direction in ("LT", "LE") and step > 0:
        return max(0, -((start - stop - (direction == "LE")) // step))
    if direction in ("GT", "GE") and step < 0:
        return max(0, -((stop - start - (direction == "GE")) // -step))
    return None


def _position(program: Program, computation: Computation, one: Instruction) -> int | None:
    """Which element of the loop's state a value is."""
    while one.opcode == "copy":  # compiled for a TPU
        one = program.operand(one, 0)
    if one.opcode != "get-tuple-element" or program.operand(one, 0) is not computation.parameters[0]:
        return None
    return int(one.attributes["index"])


def _start(program: Program, loop: Instruction, position: int) -> int | None:
    state = program.source(program.operand(loop, 0))
    return constant(program, program.operand(state, position)) if state.opcode == "tuple" else None


def _next(program: Program, body: Computation, position: int) -> Instruction | None:
    return program.operand(body.root, position) if body.root.opcode == "tuple" else None


def _is_kept(program: Program, body: Computation, position: int) -> bool:
    after = _next(program, body, position)
    return after is not None and _position(program, body, after) == position


def _step(program: Program, body: Computation, position: int) -> int | None:
    after = _next(program, body, position)
    if after is None or after.opcode not in ("add", "subtract"):
        return None
    left, right = program.operands(after)
    if after.opcode == "add" and _position(program, body, left) != position:
        left, right = right, left
    step = constant(program, right) if _position(program, body, left) == position else None
    return -step if step is not None and after.opcode == "subtract" else step
