"""Between what numbers a whole number of an HLO program lies, where its text tells."""

from __future__ import annotations

from math import inf, isfinite

from bess_jax._compat import TypeAlias, zip
from bess_jax.audit.hlo import Instruction, Program
from bess_jax.audit.loops import constant, counter_range

Bounds: TypeAlias = "tuple[float, float]"

_UNKNOWN = (-inf, inf)
_ARITHMETIC = ("add", "subtract", "multiply", "remainder", "divide")
_SAME = ("reshape", "convert", "copy", "broadcast")
_KNOWN = (*_ARITHMETIC, *_SAME, "clamp", "minimum", "maximum", "select")


def bounds(program: Program, one: Instruction, n_shard: int) -> Bounds:
    """The least and the greatest value that a whole number can have; infinite where that is not known."""
    one = program.source(one)
    known = constant(program, one)
    if known is not None:
        return known, known
    if one.opcode in ("replica-id", "partition-id"):
        return 0, n_shard - 1
    if one.opcode == "get-tuple-element":
        return counter_range(program, one) or _UNKNOWN
    if one.opcode == "parameter":
        return _of_parameter(program, one, n_shard)
    parts = [bounds(program, operand, n_shard) for operand in program.operands(one)] if one.opcode in _KNOWN else []
    if one.opcode in _SAME:
        return parts[0] if parts[0][1] < 2**31 else _UNKNOWN
    if one.opcode == "select":
        return _of_select(program, one, parts, n_shard)
    if one.opcode in ("clamp", "minimum", "maximum"):
        lows, highs = zip(*(parts if one.opcode != "clamp" else parts[1:2]), strict=True)
        if one.opcode == "clamp":
            return min(max(lows[0], parts[0][0]), parts[2][1]), max(min(highs[0], parts[2][1]), parts[0][0])
        pick = min if one.opcode == "minimum" else max
        return pick(lows), pick(highs)
    return _of_arithmetic(one, parts) if parts else _UNKNOWN


def _of_parameter(program: Program, one: Instruction, n_shard: int) -> Bounds:
    """What all callers of its computation give it."""
    callers = program.callers.get(one.computation, ())
    if not callers or any(caller.opcode not in ("call", "fusion") for caller in callers):
        return _UNKNOWN
    parts = [bounds(program, program.operand(caller, int(one.literal)), n_shard) for caller in callers]
    return min(low for low, _ in parts), max(high for _, high in parts)


def _of_arithmetic(one: Instruction, parts: list[Bounds]) -> Bounds:
    (a, b), (c, d) = parts
    if one.opcode == "remainder" and c > 0 and d < inf and one.shape.dtype == "u32":
        a, b = max(a, 0), b
    elif not all(map(isfinite, (a, b, c, d))):
        return _UNKNOWN
    if one.opcode == "add":
        return a + c, b + d
    if one.opcode == "subtract":
        return a - d, b - c
    if one.opcode == "multiply":
        products = [x * y for x in (a, b) for y in (c, d)]
        return min(products), max(products)
    if a < 0 or c < 1:
        return _UNKNOWN
    if one.opcode == "divide":
        return a // d, b // c
    return (a, b) if b < c else (0, min(b, d - 1))


def _of_select(program: Program, one: Instruction, parts: list[Bounds], n_shard: int) -> Bounds:
    """`select(x < 0, x + n, x)`, as JAX reads negative indices, is x where x is not negative."""
    _, yes, no = parts
    test = program.source(program.operand(one, 0))
    if test.opcode == "compare" and test.attributes.get("direction") == "LT":
        (low, high), (least, greatest) = (bounds(program, operand, n_shard) for operand in program.operands(test))
        if low >= greatest:
            return no
        if high < least:
            return yes
    return min(yes[0], no[0]), max(yes[1], no[1])
