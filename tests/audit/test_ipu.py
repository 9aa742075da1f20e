"""Each restriction of an IPU's operations: a program that keeps it, and one that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from shared.lowering import AXIS, array, ids, text

from bess_jax.audit.hlo import read_program
from bess_jax.audit.ipu import Verdict, ipu_operations, verdicts
from bess_jax.update.precision import low_precision

F16, TABLE = jnp.float16, array(100, 8)
LARGE = np.arange(2**18, dtype=np.float32)
RING = [(i, (i + 1) % 4) for i in range(4)]


def found(program: str, opcode: str, n_shard: int = 4) -> tuple[Verdict, ...]:
    return tuple(one for one in verdicts(read_program(program), n_shard) if one.opcode == opcode)


def add_columns(table: Any, at: Any, rows: Any) -> Any:
    return table.at[:, at].add(rows)


def add(table: Any, at: Any, rows: Any) -> Any:
    return table.at[at].add(rows)


def read(table: Any, at: Any) -> Any:
    return table.at[at].get(mode="promise_in_bounds")


def product(left: Any, right: Any) -> Any:
    return left @ right


def group_sum(groups: list[list[int]]) -> Callable[[Any], Any]:
    return lambda x: lax.psum(x, AXIS, axis_index_groups=groups)


def exchange_many(x: Any) -> Any:
    return lax.all_to_all(x, AXIS, 0, 0, tiled=True)


def permute(pairs: list[tuple[int, int]]) -> Callable[[Any], Any]:
    return lambda x: lax.ppermute(x, AXIS, pairs)


def reduce_by(body: Callable[..., Any], first: float) -> Callable[[Any], Any]:
    return lambda x: lax.reduce(x, jnp.asarray(first, x.dtype), body, (0,))


def sort_by(n_key: int, n: int) -> Callable[[Any], Any]:
    return lambda x: lax.sort(tuple(x + i for i in range(n)), num_keys=n_key)


def window(body: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda x: lax.reduce_window(x, jnp.float32(0), body, (2,), (1,), "VALID")


def branch(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: lax.cond(x.sum() > 0, first, second, x)


def maxima(x: Any) -> Any:
    return jax.grad(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID").sum())(x)


def minima(x: Any) -> Any:
    return jax.grad(lambda x: lax.reduce_window(x, jnp.inf, lax.min, (2,), (2,), "VALID").sum())(x)


def add_and_set(table: Any, at: Any, rows: Any) -> Any:
    return table.at[at].add(rows).at[at].set(rows)


def add_parts(table: Any, at: Any, rows: Any) -> Any:
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    return lax.scatter_add(table, at[:, None], rows, numbers)


def widened(x: Any) -> Any:
    return lax.dot(x, x, preferred_element_type=jnp.float32)


def two_sums(x: Any) -> Any:
    return lax.reduce((x, x), (0.0, 0.0), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,))


def greatest(is_more: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def body(one: Any, other: Any) -> Any:
        more = is_more(one[0], other[0])
        return lax.select(more, one[0], other[0]), lax.select(more, one[1], other[1])

    return lambda x, number: lax.reduce((x, number), (jnp.float32(0), jnp.int32(0)), body, (0,))


def of_numbers(is_more: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda x: greatest(is_more)(x, lax.iota(jnp.int32, 5))


def read_by_u32(table: Any, at: Any) -> Any:
    return lax.gather(table, at, lax.GatherDimensionNumbers((1,), (0,), (0,)), (1, 8))


def parts_of_rows(table: Any, at: Any) -> Any:
    return jax.vmap(lambda start: lax.dynamic_slice(table, (start, 0), (1, 4)))(at)


def round_even(x: Any) -> Any:
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def random_bits(key: Any) -> Any:
    return lax.rng_bit_generator(key, (3,))[1]


def coarse(x: Any) -> Any:
    return lax.reduce_precision(x, 5, 10)


def round_halves(x: Any) -> Any:
    rule = low_precision(optax.sgd(0.1), stochastic_rounding=True)
    return rule.update(x.astype(F16), rule.init(x), x.astype(F16))[0]


def halves(x: Any) -> Any:
    return lax.bitcast_convert_type(x, F16)


def convolve_widened(x: Any) -> Any:
    return lax.conv_general_dilated(x, x, (1,), "VALID", preferred_element_type=jnp.float32)


def convolve(x: Any, kernel: Any) -> Any:
    return lax.conv(x, kernel, (1,), "VALID")


def part(x: Any, start: Any) -> Any:
    return lax.dynamic_slice(x, (start,), (3,))


def part_by_shard(size: int) -> Callable[[Any], Any]:
    return lambda x: lax.dynamic_slice(x, (lax.axis_index(AXIS),), (size,))


def write_part(x: Any, start: Any) -> Any:
    return lax.dynamic_update_slice(x, x[:2], (start,))


CASES: list[tuple[str, str, str, Callable[..., Any], tuple[Any, ...]]] = [
    ("all-reduce", "restricted", "one group of all 4", lambda x: lax.psum(x, AXIS), (array(3),)),
    ("all-reduce", "unsupported", "by maximum", lambda x: lax.pmax(x, AXIS), (array(3),)),
    ("all-reduce", "restricted", "two groups of 2", group_sum([[0, 1], [2, 3]]), (array(3),)),
    ("all-reduce", "restricted", "two groups of 2", group_sum([[0, 2], [1, 3]]), (array(3),)),
    ("all-reduce", "unsupported", "2 groups", group_sum([[0, 3], [1, 2]]), (array(3),)),
    ("all-reduce", "unsupported", "4 groups", group_sum([[0], [1], [2], [3]]), (array(3),)),
    ("all-to-all", "restricted", "by a ring", lambda x: lax.all_to_all(x, AXIS, 0, 0), (array(4, 3),)),
    ("all-to-all", "unsupported", "first axis", lambda x: lax.all_to_all(x, AXIS, 1, 0), (array(3, 4),)),
    ("all-to-all", "unsupported", "first axis", lambda x: lax.all_to_all(x, AXIS, 1, 0), (array(4, 4),)),
    ("all-to-all", "unsupported", "first axis", exchange_many, (array(8, 3),)),
    ("all-gather", "unsupported", "not implemented", lambda x: lax.all_gather(x, AXIS), (array(3),)),
    ("reduce-scatter", "unsupported", "psum_scatter", lambda x: lax.psum_scatter(x, AXIS), (array(4),)),
    ("collective-permute", "restricted", "complete", permute(RING), (array(3),)),
    ("collective-permute", "unsupported", "not every one", permute(RING[1:]), (array(3),)),
    ("collective-permute", "unsupported", "itself", permute([(0, 1), (1, 0), (2, 2), (3, 3)]), (array(3),)),
    ("scatter", "restricted", "added", add, (TABLE, ids(5), array(5, 8))),
    ("scatter", "restricted", "added", add, (array(100), ids(5), array(5))),
    ("scatter", "restricted", "set", lambda t, i, x: t.at[i].set(x), (TABLE, ids(5), array(5, 8))),
    ("scatter", "restricted", "second update", add_and_set, (TABLE, ids(5), array(5, 8))),
    ("scatter", "restricted", "halves", add, (array(9, 7, dtype=F16), ids(5), array(5, 7, dtype=F16))),
    ("scatter", "slow", "loop of 5", lambda t, i, x: t.at[i].max(x), (TABLE, ids(5), array(5, 8))),
    ("scatter", "slow", "loop of 5", lambda t, i, x: t.at[i].min(x), (TABLE, ids(5), array(5, 8))),
    ("scatter", "slow", "not the first", add_columns, (TABLE, ids(5), array(100, 5))),
    ("scatter", "slow", "loop of 6", add, (TABLE, ids(2, 3), array(2, 3, 8))),
    ("scatter", "slow", "index columns", lambda t, i, x: t.at[i, i].add(x), (TABLE, ids(5), array(5))),
    ("scatter", "slow", "batch", jax.vmap(add), (array(2, 9, 8), ids(2, 5), array(2, 5, 8))),
    ("scatter", "slow", "index columns", lambda t, i, x: t.at[i, :4].add(x), (TABLE, ids(5), array(5, 4))),
    ("scatter", "slow", "parts of rows", add_parts, (TABLE, ids(5), array(5, 4))),
    ("scatter", "slow", "loop of 1 ", lambda t, i, x: t.at[i].add(x), (TABLE, ids(), array(8))),
    ("scatter", "slow", "of pred", lambda t, i: t.at[i].set(True), (array(9, dtype=bool), ids(5))),
    ("gather", "native", "", read, (TABLE, ids(2, 3))),
    ("gather", "restricted", "of u32", read, (array(100, 8, dtype=jnp.uint32), ids(3))),
    ("gather", "restricted", "not rows that are whole", jax.vmap(read), (array(2, 9, 8), ids(2, 5))),
    ("gather", "restricted", "not the first", lambda t, i: read(t, (slice(None), i)), (TABLE, ids(5))),
    ("gather", "restricted", "halves", read, (array(9, 7, dtype=F16), ids(3))),
    ("gather", "restricted", "by u32", read_by_u32, (TABLE, array(5, 1, dtype=jnp.uint32))),
    ("gather", "restricted", "not rows that are whole", parts_of_rows, (TABLE, ids(5))),
    ("gather", "restricted", "convert of a table", lambda t, i: read(t.astype(F16), i), (TABLE, ids(5))),
    ("gather", "restricted", "transpose of a table", lambda t, i: read(t.T, i), (TABLE, ids(5))),
    ("gather", "native", "", lambda t, i: read((t * 2).T, i), (TABLE, ids(5))),
    ("sort", "unsupported", "of pred", lax.sort, (array(5, dtype=bool),)),
    ("sort", "restricted", "a key;", sort_by(1, 1), (array(5),)),
    ("sort", "restricted", "a key and a value", sort_by(1, 2), (array(5),)),
    ("sort", "unsupported", "more than one key", sort_by(2, 2), (array(5),)),
    ("sort", "unsupported", "3 operands", sort_by(1, 3), (array(5),)),
    ("dot", "restricted", "f32 into f32", product, (array(3, 4), array(4, 2))),
    ("dot", "restricted", "f16 into f16", product, (array(3, 4, dtype=F16), array(4, 2, dtype=F16))),
    ("dot", "unsupported", "f16 into f32", widened, (array(2, 2, dtype=F16),)),
    ("dot", "unsupported", "of s32", lambda x: lax.dot(x, x), (ids(2, 2),)),
    ("reduce", "restricted", "by add", lambda x: x.sum(0), (array(5, 3),)),
    ("reduce", "restricted", "by maximum", lambda x: x.max(0), (array(5, 3),)),
    ("reduce", "unsupported", "by xor", reduce_by(lax.bitwise_xor, 0), (ids(5, 3),)),
    ("reduce", "unsupported", "of its own", reduce_by(lambda a, b: a + 2 * b, 0), (array(5, 3),)),
    ("reduce", "restricted", "argmax", lambda x: jnp.argmax(x, 0), (array(5, 3),)),
    ("reduce", "restricted", "argmin", lambda x: jnp.argmin(x, 1), (array(5, 3),)),
    ("reduce", "unsupported", "2 operands", two_sums, (array(5, 3),)),
    ("reduce", "unsupported", "2 operands", greatest(lambda a, b: a > b), (array(5), ids(5))),
    ("reduce", "unsupported", "2 operands", of_numbers(lambda a, b: a + 1 > b), (array(5),)),
    ("reduce", "restricted", "argmax", of_numbers(lambda a, b: a > b), (array(5),)),
    ("slice", "unsupported", "s8: not among", lambda x: x[:2], (array(3, dtype=jnp.int8),)),
    ("slice", "unsupported", "f8e4m3fn: not", lambda x: x[:2], (array(3, dtype=jnp.float8_e4m3fn),)),
    ("reduce-window", "restricted", "by add", window(lax.add), (array(5),)),
    ("reduce-window", "unsupported", "of its own", window(lambda a, b: a * 2 + b), (array(5),)),
    ("select-and-scatter", "restricted", "gradient of a maximum", maxima, (array(6),)),
    ("bitcast-convert", "restricted", "of one size", lambda x: lax.bitcast_convert_type(x, jnp.int32), (array(3),)),
    ("topk", "unsupported", "a sort of a key and a value", lambda x: lax.top_k(x, 2), (array(5),)),
    ("custom-call", "unsupported", "no operation of the backend", jnp.linalg.eigvalsh, (array(3, 3),)),
    ("fft", "unsupported", "jnp.fft", jnp.fft.rfft, (array(8),)),
    ("reduce-precision", "unsupported", "lax.reduce_precision", coarse, (array(3),)),
    ("round-nearest-even", "unsupported", "decomposition", round_even, (array(3),)),
    ("rng-bit-generator", "unsupported", "rbg", random_bits, (array(4, dtype=jnp.uint32),)),
    ("multiply", "unsupported", "bf16", lambda x: x * x, (array(3, dtype=jnp.bfloat16),)),
    ("multiply", "unsupported", "s8", lambda x: x * x, (array(3, dtype=jnp.int8),)),
    ("bitcast-convert", "unsupported", "stochastic rounding works on halves as uint16", round_halves, (array(3),)),
    ("multiply", "native", "", lambda x: x * x, (array(3, dtype=jnp.uint32),)),
    ("conditional", "native", "", branch(lambda x: x + 1, lambda x: x), (array(3),)),
    ("conditional", "restricted", "must take the same", branch(lambda x: lax.psum(x, AXIS), lambda x: x), (array(3),)),
    ("dynamic-slice", "native", "", part_by_shard(2), (array(5),)),
    ("dynamic-slice", "native", "not known to be in range", part_by_shard(3), (array(5),)),
    ("dynamic-slice", "native", "not known to be in range", part, (array(5), ids())),
    ("dynamic-slice", "native", "", lambda x, i: part(x, jnp.clip(i, 0, 2)), (array(5), ids())),
    ("dynamic-update-slice", "native", "not known", write_part, (array(5), ids())),
    ("while", "native", "", lambda x: lax.fori_loop(0, 3, lambda _, x: x * 2, x), (array(5),)),
    ("while", "native", "not known", lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x * 2, x), (array(5),)),
    ("pad", "native", "becomes a slice", lambda x: lax.pad(x, jnp.float32(0), [(-1, 1, 0)]), (array(5),)),
    ("constant", "restricted", "make it an argument", lambda x: x + LARGE, (array(2**18),)),
    ("rng", "restricted", "constant bounds", lambda x: lax.rng_uniform(0.0, 1.0, (3,)) + x, (array(3),)),
    ("rng", "unsupported", "not constants", lambda x: lax.rng_uniform(0.0, x[0], (3,)), (array(3),)),
    ("convolution", "native", "", convolve, (array(1, 1, 5), array(1, 1, 2))),
    ("convolution", "unsupported", "f16 into f32", convolve_widened, (array(1, 1, 5, dtype=F16),)),
    ("convolution", "unsupported", "of s32", convolve, (ids(1, 1, 5), ids(1, 1, 2))),
    ("bitcast-convert", "unsupported", "another size", halves, (array(3),)),
    ("select-and-scatter", "unsupported", "not the gradient", minima, (array(6),)),
    ("tuple", "native", "", lambda x: (x, x * 2), (array(3),)),
]
"""Opcode, its verdict, part of the reason ("" for none), and a program that has it."""


@pytest.mark.parametrize(("opcode", "status", "why", "fn", "args"), CASES, ids=[f"{c[0]}-{c[1]}-{c[2]}" for c in CASES])
def test_restriction(opcode: str, status: str, why: str, fn: Any, args: Any) -> None:
    got = found(text(fn, *args), opcode)
    assert [one for one in got if one.status == status and (why in one.why if why else not one.why)], got
    worst = {"native": 0, "restricted": 1, "slow": 2, "unsupported": 3}
    assert max(worst[one.status] for one in got) == worst[status], got


def test_exchange_of_another_axis() -> None:
    program = text(lambda x: lax.all_to_all(x, AXIS, 0, 0), array(4, 4))
    for axis, status in ((0, "restricted"), (1, "unsupported")):
        (one,) = found(re.sub(r"(all-to-all.*dimensions=).0.", rf"\1{{{axis}}}", program), "all-to-all")
        assert one.status == status


def of_program(name: str, *args: Any, donate: tuple[int, ...] = ()) -> tuple[str, str]:
    (one,) = found(text(*args, donate=donate), name)
    return one.status, one.why


@pytest.mark.parametrize(
    ("right", "out", "status"),
    [("f32", "f16", "restricted"), ("f16", "f16", "unsupported"), ("f32", "f32", "restricted")],
)
def test_products_of_halves_that_a_cpu_widens(right: str, out: str, status: str) -> None:
    """Of a cotangent that is constant and so has no conversion, too; both operands or none, into halves."""
    program = f"""HloModule product

ENTRY main.6 {{
  constant.1 = f32[] constant(1)
  broadcast.2 = f32[4,6]{{1,0}} broadcast(constant.1), dimensions={{}}
  Arg_0.3 = f16[6,8]{{1,0}} parameter(0)
  convert.4 = {right}[6,8]{{1,0}} convert(Arg_0.3)
  ROOT dot.5 = {out}[4,8]{{1,0}} dot(broadcast.2, convert.4), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}
"""
    (one,) = found(program, "dot", 1)
    assert one.status == status


def test_donated_memory() -> None:
    """State last, in the order of the arguments, and nothing else of its shape and type."""

    def step(state: Any, x: Any) -> Any:
        return (x * 2).sum(keepdims=True), (state[0] + 1, state[1] + 1)

    two = (array(3, 2), ids())

    def told(fn: Callable[..., Any], state: Any = two) -> tuple[str, str]:
        return of_program("input-output-alias", fn, state, array(3), donate=(0,))

    status, why = told(step)
    assert (status, "the last 2 outputs" in why) == ("restricted", True)
    status, why = told(lambda state, x: step(state, x)[::-1])
    assert (status, "must be the last 2 of 3, but output 0, " in why) == ("unsupported", True)
    status, why = told(lambda state, x: (x.sum(keepdims=True), (state[1] + 1, state[0] + 1)))
    assert (status, "in the order" in why) == ("unsupported", True)
    status, why = told(lambda state, x: (x * 2, state + 1), array(3))
    assert (status, "must be the last" in why) == ("unsupported", True)
    program = text(lambda state, x: (x * 2, state + 1), array(3), array(3), donate=(0,))
    (one,) = found(program.replace("{ {0}: (0", "{ {1}: (0"), "input-output-alias")
    assert (one.status, "an output f32[4,3] before the donated ones" in one.why) == ("unsupported", True)
    assert not found(text(step, two, array(3)), "input-output-alias")


def test_programs_without_an_engine() -> None:
    status, why = of_program("program", lambda x: x * 2, array())
    assert (status, "single numbers" in why) == ("restricted", True)
    status, why = of_program("program", lambda x: x, array(3))
    assert (status, "inputs or constants" in why) == ("restricted", True)
    assert not found(text(lambda x: x * 2, array(3)), "program")


def test_operations_of_the_backend_itself() -> None:
    program = text(jnp.linalg.eigvalsh, array(3, 3))
    for opcode, status in (("Eigh", "restricted"), ("Eig", "unsupported")):
        (target,) = set(re.findall(r"lapack\w+", program))
        (one,) = found(program.replace(target, opcode), "custom-call")
        assert (one.status, opcode in one.why) == (status, True)


def test_table_of_operations() -> None:
    table = ipu_operations()
    assert len(table) == 116
    assert {row.status for row in table.values()} == {"native", "restricted", "expanded", "unsupported"}
    assert table["all-gather"].status == "unsupported"


def test_operations_in_loops_are_counted_each_time() -> None:
    def fn(x: Any) -> Any:
        return lax.fori_loop(0, 3, lambda _, x: lax.fori_loop(2, 9, lambda _, x: lax.psum(x, AXIS), x), x)

    (one,) = found(text(fn, array(2)), "all-reduce")
    assert one.count == 21


def test_worst_first() -> None:
    def fn(x: Any) -> Any:
        return lax.psum(lax.pmax(x, AXIS) + 1, AXIS)

    status = [one.status for one in verdicts(read_program(text(fn, array(2))), 4)]
    assert status[0] == "unsupported"
    assert status == sorted(status, key=["unsupported", "slow", "restricted", "native"].index)
