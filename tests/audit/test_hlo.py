"""Programs read from their text: shapes, loops, what is run and how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from shared.lowering import AXIS, array, ids, lowered, text

from bess_jax.audit.groups import replica_groups, sent_bytes
from bess_jax.audit.hlo import Program, hlo_text, read_program
from bess_jax.audit.loops import trip_count
from bess_jax.audit.ranges import bounds

OLD = Path(__file__).parent / "jax_0_3_16"
"""Texts that JAX 0.3.16 gave."""


def old(name: str) -> Program:
    return read_program((OLD / f"{name}.hlo").read_text(encoding="utf-8"))


def of_lines(*lines: str, header: str = "HloModule m") -> Program:
    return read_program("\n".join([header, "", "ENTRY %main (p: f32[4]) -> f32[4] {", *(f"  {x}" for x in lines), "}"]))


def times(program: Program) -> Counter[str]:
    counts: Counter[str] = Counter()
    for run in program.runs:
        counts[run.instruction.opcode] += run.times
    return counts


@pytest.mark.parametrize(
    ("shape", "parts", "nbytes"),
    [
        ("f32[100,8]{1,0:T(8,128)S(1)}", ["f32[100,8]"], 3200),
        ("pred[]", ["pred[]"], 1),
        ("bf16[2,3]{1,0}", ["bf16[2,3]"], 12),
        ("f8e4m3fn[5]", ["f8e4m3fn[5]"], 5),
        ("s4[5]{0:E(4)}", ["s4[5]"], 3),
        ("c64[2]", ["c64[2]"], 16),
        ("(s32[], (f16[4]{0}, /*index=2*/u32[0,3]{1,0}), token[])", ["s32[]", "f16[4]", "u32[0,3]", "token[]"], 12),
    ],
)
def test_shapes(shape: str, parts: list[str], nbytes: int) -> None:
    (one,) = (run.instruction for run in of_lines(f"ROOT %p = {shape} parameter(0)").runs)
    assert [*map(str, one.shapes)] == parts
    assert one.nbytes == nbytes


def test_attributes() -> None:
    meta = r'metadata={op_name="jit(f)/a,b={c}\"(" stack_frame_id=3}'
    program = of_lines(
        "%p.1 = f32[4]{0} parameter(0), sharding={devices=[2,1]<=[2]}",
        f"ROOT %add-x.2 = f32[4]{{0}} add(f32[4]{{0}} %p.1, %p.1), {meta}, dims={{1,-2}}, last=yes",
    )
    one = program.computations["main"].root
    assert (one.name, one.opcode, one.operands) == ("add-x.2", "add", ("p.1", "p.1"))
    assert (one.numbers("dims"), one.attributes["last"], one.numbers("other")) == ((1, -2), "yes", ())
    assert program.operand(one, 1) is program.parameters[0]


def loop(start: int, stop: int, step: int, direction: str) -> Any:
    compare = {"LT": jnp.less, "LE": jnp.less_equal, "GT": jnp.greater, "GE": jnp.greater_equal}[direction]

    def fn(x: Any) -> Any:
        return lax.while_loop(
            lambda state: compare(state[0], stop), lambda state: (state[0] + step, state[1] * 2), (start, x)
        )[1]

    return fn


@pytest.mark.parametrize(
    ("start", "stop", "step", "direction", "n"),
    [
        (0, 7, 1, "LT", 7),
        (2, 9, 3, "LT", 3),
        (2, 9, 3, "LE", 3),
        (2, 8, 3, "LE", 3),
        (2, 8, 3, "LT", 2),
        (9, 2, -2, "GT", 4),
        (9, 1, -2, "GT", 4),
        (9, 1, -2, "GE", 5),
        (5, 5, 1, "LT", 0),
        (0, 7, -1, "LT", None),
    ],
)
def test_trip_counts(start: int, stop: int, step: int, direction: str, n: int | None) -> None:
    program = read_program(text(loop(start, stop, step, direction), array(3)))
    (one,) = (one for one in program.every() if one.opcode == "while")
    assert trip_count(program, one) == n
    assert program.unknown_loops == ((one.name,) if n is None else ())
    if n is not None:
        assert float(jax.jit(loop(start, stop, step, direction))(jnp.float32(1))) == 2.0**n


def test_unknown_loops_are_said() -> None:
    program = read_program(text(lambda x, n: lax.fori_loop(0, n, lambda _, x: lax.psum(x, AXIS), x), array(3), ids()))
    (run,) = (run for run in program.runs if run.instruction.opcode == "all-reduce")
    assert (run.times, run.is_exact, len(program.unknown_loops)) == (1, False, 1)


def nested(x: Any) -> Any:
    def body(_: Any, x: Any) -> Any:
        x, _ = lax.scan(lambda x, y: (lax.psum(x * y, AXIS), None), x, jnp.arange(5, dtype=jnp.float32))
        return x

    return lax.fori_loop(1, 4, body, lax.psum(x, AXIS))


def test_loops_in_loops() -> None:
    program = read_program(text(nested, array(3)))
    assert times(program)["all-reduce"] == 16
    assert not program.unknown_loops
    assert all(run.is_exact for run in program.runs)


def test_branches_may_be_left_out() -> None:
    program = read_program(text(lambda x: lax.cond(x[0] > 0, lambda x: jnp.sin(x), lambda x: x, x), array(3)))
    (run,) = (run for run in program.runs if run.instruction.opcode == "sine")
    assert (run.times, run.is_exact) == (1, False)


def test_compiled() -> None:
    """Kernels, known trip counts and donated memory, as XLA writes them."""
    fn = jax.pmap(lambda t, x: (nested(x), t + 1), axis_name=AXIS, donate_argnums=0, devices=jax.devices()[:2])
    compiled = fn.lower(np.zeros((2, 5), np.float32), np.zeros((2, 3), np.float32)).compile()
    program = read_program(hlo_text(compiled))
    assert program.is_compiled
    assert dict(program.aliases) == {1: 0}
    assert times(program)["all-reduce"] == 16
    assert not program.unknown_loops
    fused = [run for run in program.runs if run.is_fused]
    assert all(run.instruction.opcode != "fusion" for run in fused)
    assert {run.instruction.opcode for run in fused} >= {"parameter", "multiply"}


def test_of_the_older_jax() -> None:
    program = old("updates")
    assert (program.entry, program.is_compiled, dict(program.aliases)) == ("main.87", False, {})
    assert [str(one.shape) for one in program.parameters] == ["f32[100,8]", "s32[3,5]", "f32[3,5,8]"]
    assert [*map(str, program.outputs)] == ["f32[3,1,1]", "f32[100,8]"]
    counts = times(program)
    assert (counts["scatter"], counts["gather"], counts["all-reduce"]) == (3, 3, 3)
    assert times(old("all_to_all"))["all-reduce"] == 1
    assert [one.opcode for one in old("argmax").every() if "reduce" in one.name] == ["reduce"]


def sum_of_both(x: Any, y: Any) -> Any:
    return lax.scan(lambda total, both: (total + both[0] + both[1], None), x[0], (x, y))[0]


def test_starts_in_range() -> None:
    """Counters, shard numbers and indices that JAX makes positive; nothing else is taken to be in range."""
    program = old("updates")
    starts = [run.instruction for run in program.runs if run.instruction.opcode == "dynamic-slice"]
    assert [bounds(program, program.operand(one, 1), 4) for one in starts] == [(0, 2)] * 2
    program = read_program(text(sum_of_both, array(3), array(3)))
    starts = [run.instruction for run in program.runs if run.instruction.opcode == "dynamic-slice"]
    assert {bounds(program, program.operand(one, 1), 4) for one in starts} == {(0, 2)}  # in a function called twice
    program = old("all_to_all")
    (one,) = (run.instruction for run in program.runs if run.instruction.opcode == "dynamic-slice")
    assert bounds(program, program.operand(one, 2), 4) == (0, 3)

    def fn(x: Any, i: Any) -> Any:
        number = lax.axis_index(AXIS)
        starts = [number * 2 + 1, 5 - number, jnp.minimum(number, 2), jnp.clip(i, 1, 2), i, jnp.maximum(i, 0)]
        return [lax.dynamic_slice(x, (start,), (1,)) for start in [*starts, lax.rem(number, 2), lax.div(number, 2)]]

    program = read_program(text(fn, array(9), ids()))
    found = [
        bounds(program, program.operand(run.instruction, 1), 4)
        for run in program.runs
        if run.instruction.opcode == "dynamic-slice"
    ]
    unknown = float("inf")
    known = [(1, 7), (2, 5), (0, 2), (1, 2), (-unknown, unknown), (0, unknown), (0, 1), (0, 1)]
    assert found == known


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("{}", ((0, 1, 2, 3),)),
        ("[2,2]<=[4]", ((0, 1), (2, 3))),
        ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
    ],
)
def test_groups(groups: str, expected: tuple[tuple[int, ...], ...]) -> None:
    line = f"ROOT %r = f32[4] all-reduce(%p), replica_groups={groups}, to_apply=%add"
    program = of_lines("%p = f32[4] parameter(0)", line)
    assert replica_groups(program.computations["main"].root, 4) == expected


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("all-reduce(%p), replica_groups={}", 2 * 3 / 4 * 16),
        ("all-reduce(%p), replica_groups={{0,1},{2,3}}", 16),
        ("all-reduce-start(%p), replica_groups={}", 2 * 3 / 4 * 16),
        ("all-reduce-done(%p)", 0),
        ("all-gather(%p), replica_groups={}", 3 * 16),
        ("reduce-scatter(%p), replica_groups={}", 3 / 4 * 16),
        ("all-to-all(%p), replica_groups={}, dimensions={0}", 3 / 4 * 16),
        ("all-to-all(%p, %p), replica_groups={{0,1},{2,3}}", 16),
        ("collective-permute(%p), source_target_pairs={{0,1},{1,0}}", 16),
        ("collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}", 16),
        ("collective-permute(%p), source_target_pairs={{0,0},{1,1}}", 0),
        ("add(%p, %p)", 0),
    ],
)
def test_bytes_of_collectives(line: str, sent: float) -> None:
    program = of_lines("%p = f32[4] parameter(0)", f"ROOT %r = f32[4] {line}")
    assert sent_bytes(program, program.computations["main"].root, 4) == sent


def test_errors() -> None:
    with pytest.raises(ValueError, match="text must be an HLO module"):
        read_program("module @jit_f {}")
    with pytest.raises(ValueError, match="parenthesis"):
        of_lines("ROOT %p = f32[4] parameter(0")
    with pytest.raises(TypeError, match="program must be HLO text"):
        hlo_text(3)
    assert hlo_text(lowered(lambda x: x + 1, array(3))) == hlo_text(text(lambda x: x + 1, array(3)))
