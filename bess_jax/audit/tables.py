"""What an HLO program does with its large arrays: updates in place, copies, results of a table's size."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from bess_jax._compat import TypeAlias
from bess_jax.audit.hlo import PLUMBING, Computation, Instruction, Program, Shape

Dims: TypeAlias = "tuple[int, ...]"
Use: TypeAlias = 'Literal["", "in-place", "table-copy", "dense-gradient"]'

VIEWS = (*PLUMBING, "reshape", "while", "call", "conditional")
"""Operations whose results are memory of their operands, or of operations that they run."""

_MARKS = ("xla.sdy.", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape")
_UPDATES = ("scatter", "dynamic-update-slice")
_MOVES = ("copy", "copy-start", "transpose", "convert", "concatenate", "pad", "slice", "reverse")


def is_mark(one: Instruction) -> bool:
    """Whether an operation only says how an array is laid out on devices, as today's `pmap` leaves them."""
    return one.opcode == "custom-call" and one.attributes.get("custom_call_target", "").strip('"').startswith(_MARKS)


def body_of(computation: Computation | None) -> str:
    """What a computation of two numbers does: an opcode, "set" for the second of them, "" for anything else."""
    if computation is None:
        return ""
    root = computation.root
    operands = [computation.instructions[name] for name in root.operands]
    if root.opcode == "parameter":
        return "set" if root.literal == "1" else ""
    both = len(operands) == 2 and {one.literal for one in operands if one.opcode == "parameter"} == {"0", "1"}
    return root.opcode if both else ""


def loop_because(program: Program, one: Instruction) -> str:
    """Why a scatter is no update of whole rows by one vector of indices; "" if it is.

    A compiled scatter may have rows (n, 1, ...) for a table (M, ...), and no inserted dimension.
    """
    if len(one.operands) != 3:
        return "several tables at once"
    table, _, rows = program.operands(one)
    rank, indexed = len(table.shape.dims), one.numbers("scatter_dims_to_operand_dims")
    inserted, window = one.numbers("inserted_window_dims"), one.numbers("update_window_dims")
    body = body_of(program.applied(one))
    if body not in ("add", "set"):
        return f"combines by {body or 'a function of its own'}"
    if len(indexed) != 1 or one.numbers("input_batching_dims"):
        return f"{len(indexed) or 1} index columns, or a batch of tables"
    if indexed != (0,) or inserted not in ((0,), ()):
        return "the indexed axis is not the first"
    if window != tuple(range(1, rank + (inserted == ()))) or len(rows.shape.dims) != len(window) + 1:
        return "indices are not one vector"
    if rows.shape.dims[1:] != (*((1,) if not inserted else ()), *table.shape.dims[1:]):
        return "parts of rows"
    return ""


def is_of(shape: Shape, tables: Collection[Dims]) -> bool:
    """Whether an array has the shape of one of the tables, but for leading axes of size 1."""
    return _plain(shape.dims) in {_plain(dims) for dims in tables}


def _plain(dims: Dims) -> Dims:
    dims = tuple(dims)
    while dims[:1] == (1,):
        dims = dims[1:]
    return dims


def use_of(program: Program, one: Instruction, tables: Collection[Dims]) -> Use:
    """What an operation does that has a result of a table's shape, or reads one; "" for nothing of it."""
    if one.opcode in VIEWS or is_mark(one):
        return ""
    if one.opcode == "fusion":
        root = program.computations[one.called()[0]].root
        parts = program.operands(root) if root.opcode == "tuple" else (root,)
        uses = [use_of(program, _unwrapped(program, part), tables) for part in parts]
        return next((use for use in ("dense-gradient", "table-copy", "in-place") if use in uses), "")
    reads = [each for each in program.operands(one) if is_of(each.shape, tables) and is_given(program, each)]
    if one.opcode in _MOVES and reads and one.shape.size >= reads[0].shape.size:
        return "table-copy"
    if not any(is_of(shape, tables) for shape in one.shapes):
        return ""
    return "in-place" if one.opcode in _UPDATES and reads else "dense-gradient"


def _unwrapped(program: Program, one: Instruction) -> Instruction:
    while one.opcode in ("bitcast", "reshape"):
        one = program.operand(one, 0)
    return one


def is_given(program: Program, one: Instruction) -> bool:
    """Whether an array is one that the program was given, or that with rows updated in place."""
    while True:
        one = program.source(one)
        if one.opcode == "parameter":
            return one.computation == program.entry
        before = _given_by(program, one)
        if before is None:
            return False
        one = before


def _given_by(program: Program, one: Instruction) -> Instruction | None:
    if one.opcode in (*_UPDATES, "reshape", "copy"):
        return program.operand(one, 0)
    if one.opcode == "fusion":
        return program.computations[one.called()[0]].root
    if one.opcode != "get-tuple-element":
        return None
    whole, number = program.source(program.operand(one, 0)), int(one.attributes["index"])
    if is_mark(whole):
        return program.operand(whole, number)
    if whole.opcode == "parameter":  # of a loop's body
        loops = program.callers.get(whole.computation, ())
        whole = loops[0] if len(loops) == 1 else whole
    if whole.opcode == "while":
        state = program.source(program.operand(whole, 0))
        return program.operand(state, number) if state.opcode == "tuple" else None
    return None
