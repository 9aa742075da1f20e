"""Restrictions of the IPU's operations, each checked on an instruction.

Sources: as of the table of operations, whose rows name files of graphcore-research/jax-experimental and
graphcore-research/tensorflow-jax-experimental.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from bess_jax._compat import TypeAlias, zip
from bess_jax.audit.groups import replica_groups
from bess_jax.audit.hlo import Computation, Instruction, Program
from bess_jax.audit.loops import trip_count
from bess_jax.audit.ranges import bounds
from bess_jax.audit.tables import body_of, is_given, loop_because

Status: TypeAlias = 'Literal["native", "restricted", "slow", "unsupported"]'
Finding: TypeAlias = "tuple[Status, str]"
Check: TypeAlias = "Callable[[Program, Instruction, int], Finding]"

_FLOATS = {"f16", "f32"}
_NUMBERS = {"f16", "f32", "s32", "u32"}
_BODIES = {"add", "multiply", "maximum", "minimum", "and", "or"}
_POPLAR_CALLS = {"Qr", "Eigh", "UserOp", "AllGather", "ReduceScatter", "TopK"}
_COLLECTIVES = {"all-reduce", "collective-permute", "all-to-all"}


def _all_reduce(program: Program, one: Instruction, n_shard: int) -> Finding:
    body, groups = body_of(program.applied(one)), replica_groups(one, n_shard)
    if body != "add":
        return "unsupported", f"reduces by {body or 'a function of its own'}: all-reduce only adds"
    if len(groups) == 1 and sorted(groups[0]) == [*range(n_shard)]:
        return "restricted", f"adds, over one group of all {n_shard}"
    stride = {after - before for group in groups for before, after in zip(group[:-1], group[1:], strict=True)}
    covers = sorted(member for group in groups for member in group) == [*range(n_shard)]
    if len(groups) == 2 and covers and len(groups[0]) == len(groups[1]) and stride in ({1}, {2}, set()):
        return "restricted", f"adds, over two groups of {n_shard // 2} with equal strides"
    return "unsupported", f"{len(groups)} groups {one.attributes.get('replica_groups')}: one, or two with stride 1 or 2"


def _permute(program: Program, one: Instruction, n_shard: int) -> Finding:
    numbers = one.numbers("source_target_pairs")
    sources, targets = numbers[::2], numbers[1::2]
    everyone = [*range(n_shard)]
    if n_shard == 1:
        return "restricted", "one IPU: the operand as it is"
    if sorted(sources) != everyone or sorted(targets) != everyone:
        return "unsupported", f"not every one of {n_shard} sends and receives once"
    if any(source == target for source, target in zip(sources, targets, strict=True)):
        return "unsupported", "an IPU sends to itself"
    return "restricted", "a complete permutation, and no IPU sends to itself"


def _all_to_all(program: Program, one: Instruction, n_shard: int) -> Finding:
    dims, types = program.operand(one, 0).shape.dims, {program.operand(one, 0).shape.dtype}
    groups = replica_groups(one, n_shard)
    leads = len(one.operands) == 1 and dims[:1] == (n_shard,) and one.numbers("dimensions") == (0,)
    if not leads or len(groups) != 1 or not types <= {"f16", "f32", "s32"}:
        return "unsupported", "the backend's exchanges slices of the first axis, of f16, f32 or s32, among all IPUs"
    why = f"JAX 0.3.16 does not emit it, but an all-reduce of {n_shard} times the operand: exchange by a ring"
    return "restricted", why


def _scatter(program: Program, one: Instruction, n_shard: int) -> Finding:
    if len(one.operands) != 3:
        return "unsupported", f"{len(one.operands) // 2} tables at once"
    table, index, _ = program.operands(one)
    body, dtype, rank = body_of(program.applied(one)), one.shape.dtype, len(table.shape.dims)
    reason = loop_because(program, one)
    if reason:
        width = one.numbers("index_vector_dim")[0]
        n = index.shape.size // (index.shape.dims[width] if width < len(index.shape.dims) else 1)
        return "slow", f"{reason}: a loop of {n} iterations"
    if dtype not in _NUMBERS:
        return "slow", f"of {dtype}: the updates are of {', '.join(sorted(_NUMBERS))}"
    if dtype == "f16" and rank > 1 and table.shape.dims[-1] % 2:
        return "restricted", f"rows of {table.shape.dims[-1]} halves: make their number even"
    if _updated_before(program, table):
        return "restricted", "a second update of one table: each has a plan of its own, and the table is copied"
    return "restricted", f"rows by one vector of indices, {'added' if body == 'add' else 'set'}"


def _updated_before(program: Program, table: Instruction) -> bool:
    """Whether a table was written by a scatter already in this step."""
    source = program.source(table)
    while source.opcode in ("reshape", "copy"):
        source = program.source(program.operand(source, 0))
    return source.opcode == "scatter"


def _gather(program: Program, one: Instruction, n_shard: int) -> Finding:
    table, index = program.operands(one)[:2]
    indexed, sizes, dims = one.numbers("start_index_map"), one.numbers("slice_sizes"), table.shape.dims
    copies = f"copies the table, {table.nbytes} bytes"
    if table.shape.dtype not in ("s32", "f16", "f32") or index.shape.dtype != "s32":
        return "restricted", f"of {table.shape.dtype} by {index.shape.dtype}: without a plan it {copies}"
    whole = [1 if axis in indexed else dim for axis, dim in enumerate(dims)]
    if [*sizes] != whole or [*indexed] != sorted(indexed) or one.numbers("operand_batching_dims"):
        return "restricted", f"not rows that are whole: without a plan it {copies}"
    if [*indexed] != [*range(len(indexed))]:
        return "restricted", f"the indexed axes are not the first: it transposes and so {copies}"
    if table.shape.dtype == "f16" and dims[-1] % 2:
        return "restricted", f"rows of {dims[-1]} halves: make their number even"
    source = program.source(table)
    if source.opcode in ("convert", "transpose") and is_given(program, program.operand(source, 0)):
        return "restricted", f"{source.opcode} of a table before rows of it are read: it {copies}"
    return "native", ""


def _sort(program: Program, one: Instruction, n_shard: int) -> Finding:
    if len(one.operands) > 2:
        return "unsupported", f"{len(one.operands)} operands: a key and at most one value"
    wrong = {shape.dtype for shape in one.shapes} - _NUMBERS
    if wrong:
        return "unsupported", f"of {', '.join(sorted(wrong))}"
    computation = program.applied(one)
    used = _parameters_of(computation.root, computation) if computation else {"?"}
    if not used <= {"0", "1"}:
        return "unsupported", "compares more than one key"
    what = "a key and a value" if len(one.operands) == 2 else "a key"
    return "restricted", f"{what}; the backend has its own sort, which is not stable"


def _parameters_of(one: Instruction, computation: Computation) -> set[str]:
    """Numbers of the parameters that a value depends on."""
    found, todo = set(), [one]
    while todo:
        now = todo.pop()
        if now.opcode == "parameter":
            found.add(now.literal)
        todo += [computation.instructions[name] for name in now.operands]
    return found


def _reduce(program: Program, one: Instruction, n_shard: int) -> Finding:
    if len(one.operands) > 2:
        if _is_argmax(program, one):
            return "restricted", "argmax or argmin, for which the backend has an operation of its own"
        return "unsupported", f"{len(one.operands) // 2} operands at once"
    body = body_of(program.applied(one))
    if body not in _BODIES:
        return "unsupported", f"reduces by {body or 'a function of its own'}, not by {', '.join(sorted(_BODIES))}"
    return "restricted", f"one operand, by {body}"


def _is_argmax(program: Program, one: Instruction) -> bool:
    """Whether a reduction of values and their numbers keeps one of both by a comparison of the values."""
    computation = program.applied(one)
    if len(one.operands) != 4 or computation is None:
        return False
    numbers = program.source(program.operand(one, 1))
    while numbers.opcode in ("broadcast", "reshape"):
        numbers = program.source(program.operand(numbers, 0))
    if numbers.opcode != "iota" or computation.root.opcode != "tuple":
        return False
    parts = [computation.instructions[name] for name in computation.root.operands]
    if [part.opcode for part in parts] != ["select", "select"]:
        return False
    chosen = [[computation.instructions[name].literal for name in part.operands[1:]] for part in parts]
    known = {"parameter", "compare", "select", "or", "and", "tuple"}
    compared = {each.attributes["direction"] for each in computation.instructions.values() if each.opcode == "compare"}
    within = {each.opcode for each in computation.instructions.values()} <= known
    return within and chosen == [["0", "2"], ["1", "3"]] and bool(compared & {"GT", "LT", "GE", "LE"})


def _select_and_scatter(program: Program, one: Instruction, n_shard: int) -> Finding:
    scatter = program.computations.get(one.attributes.get("scatter", "").strip("%"))
    select = program.computations.get(one.attributes.get("select", "").strip("%"))
    if body_of(scatter) == "add" and select is not None and select.root.attributes.get("direction") == "GE":
        return "restricted", "the gradient of a maximum over windows"
    return "unsupported", "not the gradient of a maximum over windows"


def _dot(program: Program, one: Instruction, n_shard: int) -> Finding:
    left, right = (operand.shape.dtype for operand in program.operands(one))
    if one.shape.dtype == "f16" and left == right == "f32":  # no program can ask for a narrower result
        return "restricted", "of f16 into f16: for a CPU, and for it alone, JAX 0.3.16 makes the operands f32"
    if not {left, right, one.shape.dtype} <= _FLOATS:
        return "unsupported", f"of {left}: products are of f16 or f32"
    if one.shape.dtype != left:
        return "unsupported", f"of {left} into {one.shape.dtype}: the result has the type of the first operand"
    return "restricted", f"of {left} into {one.shape.dtype}"


def _convolution(program: Program, one: Instruction, n_shard: int) -> Finding:
    left = program.operand(one, 0).shape.dtype
    if one.shape.dtype != left:
        return "unsupported", f"of {left} into {one.shape.dtype}: the result has the type of the first operand"
    return "native", ""


def _bitcast_convert(program: Program, one: Instruction, n_shard: int) -> Finding:
    before = program.operand(one, 0).shape
    if before.nbytes * one.shape.size != one.nbytes * before.size:
        return "unsupported", f"from {before.dtype} to {one.shape.dtype}, of another size"
    return "restricted", f"from {before.dtype} to {one.shape.dtype}, of one size"


def _rng(program: Program, one: Instruction, n_shard: int) -> Finding:
    if any(program.source(operand).opcode != "constant" for operand in program.operands(one)):
        return "unsupported", "bounds that are not constants"
    return "restricted", "constant bounds; the seed of the device is 0 always"


def _custom_call(program: Program, one: Instruction, n_shard: int) -> Finding:
    target = one.attributes.get("custom_call_target", "").strip('"')
    if target in _POPLAR_CALLS and program.header and not program.is_compiled:
        return "restricted", f"{target} is an operation of the backend"
    return "unsupported", f"{target} is no operation of the backend"


def _conditional(program: Program, one: Instruction, n_shard: int) -> Finding:
    inside = {each.opcode for name in one.called() for each in program.computations[name].instructions.values()}
    if inside & _COLLECTIVES:
        return "restricted", f"branches hold {', '.join(sorted(inside & _COLLECTIVES))}: all IPUs must take the same"
    return "native", ""


def _while(program: Program, one: Instruction, n_shard: int) -> Finding:
    unknown = trip_count(program, one) is None
    return "native", "how often it runs is not known: what it runs is counted once" if unknown else ""


def _dynamic(program: Program, one: Instruction, n_shard: int) -> Finding:
    whole = program.operand(one, 0).shape.dims
    first = 1 if one.opcode == "dynamic-slice" else 2
    part = one.shape.dims if first == 1 else program.operand(one, 1).shape.dims
    for number, (size, taken) in enumerate(zip(whole, part, strict=True)):
        low, high = bounds(program, program.operand(one, first + number), n_shard)
        if low < 0 or high > size - taken:
            return "native", "the start is not known to be in range: the backend does not clamp it"
    return "native", ""


def _pad(program: Program, one: Instruction, n_shard: int) -> Finding:
    negative = re.search(r"-[0-9]", one.attributes.get("padding", ""))
    return "native", "negative padding becomes a slice" if negative else ""


CHECKS: Mapping[str, Check] = {
    "all-reduce": _all_reduce,
    "all-to-all": _all_to_all,
    "bitcast-convert": _bitcast_convert,
    "collective-permute": _permute,
    "conditional": _conditional,
    "convolution": _convolution,
    "custom-call": _custom_call,
    "dot": _dot,
    "dynamic-slice": _dynamic,
    "dynamic-update-slice": _dynamic,
    "gather": _gather,
    "pad": _pad,
    "reduce": _reduce,
    "reduce-window": _reduce,
    "rng": _rng,
    "scatter": _scatter,
    "select-and-scatter": _select_and_scatter,
    "sort": _sort,
    "while": _while,
}
"""Opcode -> what checks it: also of native ones that are slow, or wrong, in some forms."""
