"""Formulas of one component as C++: the jaxprs of `terms` and of its gradient, written for vectors of floats.

What a primitive becomes is a line of `_TEXT`; the functions named there are those of `vector.h`. A float32 is a `V`; a
bool or an int32 is an `I` of as many lanes, in which true is -1, as comparisons of vectors have it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from bess_jax.kernels.rows import Rows, Terms


class UntranslatableError(ValueError):
    """A formula, or a part of it, that has no form in C++."""


@dataclasses.dataclass(frozen=True)
class Formula:
    """`terms` in C++.

    Attributes:
        text: source of `struct Terms`, the same for equal formulas.
        n_query: leaves of a query.
        n_key: leaves of a key.
        n_sum: sums.
    """

    text: str
    n_query: int
    n_key: int
    n_sum: int


_TEXT = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in (("add", "+"), ("add_any", "+"), ("sub", "-"), ("mul", "*"))},
    **{name: f"{{0}} {sign} {{1}}" for name, sign in (("div", "/"), ("and", "&"), ("or", "|"), ("xor", "^"))},
    **{name: f"{{0}} {sign} {{1}}" for name, sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))},
    **{name: f"{{0}} {sign} {{1}}" for name, sign in (("eq", "=="), ("ne", "!="))},
    **{name: f"{name}_of({{0}})" for name in ("abs", "sign", "sqrt", "rsqrt", "exp", "exp2", "log", "log1p")},
    **{name: f"{name}_of({{0}})" for name in ("expm1", "tanh", "sin", "cos", "floor", "ceil")},
    **{name: f"{name}_of({{0}}, {{1}})" for name in ("min", "max", "pow")},
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "broadcast_in_dim", "reshape", "squeeze"), "{0}"),
    "neg": "-{0}",
    "not": "~{0}",
    "square": "{0} * {0}",
    "one_minus_square": "splat(0x1p+0f) - {0} * {0}",
    "logistic": "splat(0x1p+0f) / (splat(0x1p+0f) + exp_of(-{0}))",
    "clamp": "min_of({2}, max_of({0}, {1}))",
    "select_n": "{0} ? {2} : {1}",
}
_OF_FLOATS = {name for name, text in _TEXT.items() if "_of(" in text} - {"abs", "sign", "min", "max", "clamp"} | {"div"}
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_CONVERSIONS = {
    ("bool", "float32"): "{0} ? splat(0x1p+0f) : splat(0x0p+0f)",
    ("int32", "float32"): "__builtin_convertvector({0}, V)",
    ("float32", "int32"): "__builtin_convertvector({0}, I)",
    ("bool", "int32"): "-{0}",
    ("float32", "bool"): "{0} != splat(0x0p+0f)",
    ("int32", "bool"): "{0} != splat(0)",
}
_CONSTANT = re.compile(r"splat[(]([^()]*)[)]")
_NAME = re.compile(r"\b(?:v\d+|[qkw]\[\d+\])")
_ZERO = "splat(0x0p+0f)"


def translate(terms: Terms, query: Rows, key: Rows) -> Formula:
    """C++ of `terms` and of its gradient.

    Args:
        terms: see `sum_pairs`.
        query: rows of any shape, of which only the structure counts.
        key: likewise.

    Raises:
        UntranslatableError: where `terms` does what has no form in C++, or gives other than float32.
    """
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    query, key = (jax.tree_util.tree_map(lambda _: scalar, rows) for rows in (query, key))

    def gradients(query: Rows, key: Rows, weights: tuple[Any, ...]) -> tuple[Rows, Rows]:
        grads: tuple[Rows, Rows] = jax.vjp(terms, query, key)[1](weights)
        return grads

    sums = jax.make_jaxpr(terms)(query, key)
    n_query, n_key, n_sum = (*map(len, map(jax.tree_util.tree_leaves, (query, key))), len(sums.out_avals))
    names = [*(f"q[{i}]" for i in range(n_query)), *(f"k[{i}]" for i in range(n_key))]
    weights = [f"w[{i}]" for i in range(n_sum)]
    text = _STRUCT.format(
        Q=n_query,
        K=n_key,
        S=n_sum,
        **_sums(*_written(sums, names)),
        gradients=_gradients(
            *_written(jax.make_jaxpr(gradients)(query, key, (scalar,) * n_sum), names + weights), names
        ),
    )
    return Formula(text, n_query, n_key, n_sum)


_STRUCT = """struct Terms {{
  static constexpr int Q = {Q}, K = {K}, S = {S};
  // What of the formula depends on the query alone, or on the key alone: these parts are made once for each row.
  static constexpr int QP = {n_q}, KP = {n_k};
  BESS_INLINE static void prepare_query(const V* q, V* p) {{
{prepare_q}
  }}
  BESS_INLINE static void prepare_key(const V* k, V* p) {{
{prepare_k}
  }}
  BESS_INLINE static void sums(const V* qp, const V* kp, V* s, V one) {{
{sums}
  }}
  BESS_INLINE static void gradients(const V* q, const V* k, const V* w, V* gq, V* gk, V one) {{
{gradients}
  }}
}};
"""


class _Statement(NamedTuple):
    """A value that has a name."""

    kind: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"const {self.kind} {self.name} = {self.text};"


def _written(closed: Any, inputs: list[str]) -> tuple[list[_Statement], list[str]]:
    """Statements of a jaxpr, and the names of its results."""
    if any(aval.dtype != jnp.float32 for aval in closed.out_avals):
        raise UntranslatableError(f"results of type {', '.join(str(x.dtype) for x in closed.out_avals)}, not float32")
    writer = _Writer()
    results = writer.inline(closed, inputs)
    return [*writer.statements.values()], results


def _sums(statements: list[_Statement], results: list[str]) -> dict[str, Any]:
    """The parts of a query, those of a key, and the sums of them."""
    sides = {"q": "q", "k": "k"}  # first letter or name -> on what the value depends
    lines: dict[str, list[str]] = {"q": [], "k": [], "qk": []}
    parts: dict[str, dict[str, str]] = {"q": {}, "k": {}}  # name -> what it is called in the sums

    def side_of(name: str) -> str:
        return sides[name if name[0] == "v" else name[0]]

    def part(match: re.Match[str]) -> str:
        side = side_of(name := match[0])
        return name if side == "qk" else parts[side].setdefault(name, f"{side}p[{len(parts[side])}]")

    for statement in statements:
        side = "".join(sorted({x for name in _NAME.findall(statement.text) for x in side_of(name)}, reverse=True))
        side = side if statement.kind == "V" and side in ("q", "k") else "qk"
        sides[statement.name] = side
        text = statement.text if side != "qk" else _NAME.sub(part, statement.text)
        lines[side].append(str(statement._replace(text=text)))
    totals = [f"s[{i}]" for i in range(len(results))]
    mixed = [x for x in statements if sides[x.name] == "qk"]
    lines["qk"] += [_NAME.sub(part, line) for line in _added(mixed, results, totals)]
    for side in ("q", "k"):
        lines[side] += [f"p[{i}] = {name};" for i, name in enumerate(parts[side])]
    return {
        **{f"n_{side}": len(parts[side]) for side in ("q", "k")},
        **{f"prepare_{side}": _indented(lines[side]) for side in ("q", "k")},
        "sums": _indented(lines["qk"]),
    }


def _gradients(statements: list[_Statement], results: list[str], names: list[str]) -> str:
    """Lines that add the gradients to what there is."""
    return _indented([*map(str, statements), *_added(statements, results, [f"g{name}" for name in names])])


def _added(statements: list[_Statement], results: list[str], totals: list[str]) -> list[str]:
    """Lines that add results to totals, so that what multiplies and what adds has as much to do.

    Many machines have instructions of their own for each: those that multiply (and add to a product), and those that
    add and compare. Products are multiplied as they are added; what is none can be added, or multiplied by 1.
    """
    text = "".join(x.text for x in statements)
    multiply = len(re.findall(r" [*/] ", text)) + 6 * text.count("rsqrt_of")
    add = len(re.findall(r" [-+<>=!]+ |lesser|greater", text)) + 2 * text.count("rsqrt_of")
    negated = {x.name: x.text[1:] for x in statements if re.fullmatch(r"-v\d+", x.text)}
    products = {x.name for x in statements if " * " in x.text}
    lines = []
    for result, total in zip(results, totals, strict=True):
        if result == _ZERO:
            continue
        by_one = negated.get(result, result) not in products and multiply < add
        multiply, add = multiply + by_one, add + (not by_one)
        lines.append(f"{total} += {result} * one;" if by_one else f"{total} += {result};")
    return lines


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


class _Writer:
    """Statements of one function. An expression that has been written gives its name, not a second statement."""

    def __init__(self) -> None:
        self.statements: dict[str, _Statement] = {}
        self.text_of: dict[str, str] = {}

    def inline(self, closed: Any, inputs: Iterable[str]) -> list[str]:
        """Names of the results of a jaxpr."""
        jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, ())
        known: dict[Any, str] = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> str:
            if not isinstance(atom, Literal):
                return known[atom]
            aval: Any = atom.aval
            return _constant(np.asarray(atom.val, aval.dtype))

        for eqn in _needed(jaxpr):
            known.update(zip(eqn.outvars, self.equation(eqn, [read(x) for x in eqn.invars]), strict=True))
        return [read(x) for x in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[str]) -> list[str]:
        """Names of the results of an equation."""
        if eqn.primitive.name in _CALLS:
            return self.inline(_called(eqn), args)
        kind, text = _kind(eqn.outvars[0].aval), _expression(eqn, args)
        if eqn.primitive.name == "select_n" and kind == "V":
            text = self.extremum(*args) or text
        if text in args or _CONSTANT.fullmatch(text):
            return [text]
        if text not in self.statements:
            name = f"v{len(self.statements)}"
            self.statements[text], self.text_of[name] = _Statement(kind, name, text), text
        return [self.statements[text].name]

    def extremum(self, which: str, no: str, yes: str) -> str | None:
        """`which ? yes : no` as one instruction, where `which` compares the two."""
        less, more = {f"{yes} < {no}", f"{no} > {yes}"}, {f"{yes} > {no}", f"{no} < {yes}"}
        text = self.text_of.get(which)
        return f"lesser({yes}, {no})" if text in less else f"greater({yes}, {no})" if text in more else None


def _expression(eqn: Any, args: list[str]) -> str:
    """How the value of an equation is written."""
    name, kinds = eqn.primitive.name, [x.aval.dtype.name for x in eqn.invars]
    for x in eqn.invars:
        _kind(x.aval)
    if name == "integer_pow":
        return _integer_power(args[0], eqn.params["y"])
    if name == "convert_element_type":
        pair = kinds[0], eqn.outvars[0].aval.dtype.name
        return args[0] if len({*pair}) == 1 else _CONVERSIONS[pair].format(*args)
    if name in ("min", "max"):
        args = sorted(args, key=lambda x: not _CONSTANT.fullmatch(x))  # whether a constant is NaN is known early
    if name in ("add", "add_any", "mul"):
        args = sorted(args)  # the same text in either order
    if name not in _TEXT or (name == "select_n" and (kinds[0] != "bool" or len(args) != 3)):
        raise UntranslatableError(f"the primitive {name}")
    if name in _OF_FLOATS and kinds[0] != "float32":
        raise UntranslatableError(f"the primitive {name} of {kinds[0]}")
    if name == "neg" and (constant := _CONSTANT.fullmatch(args[0])):
        return f"splat({constant[1][1:] if constant[1][0] == '-' else '-' + constant[1]})"
    return _TEXT[name].format(*args)


def _integer_power(x: str, n: int) -> str:
    if n < 0:
        return f"splat(0x1p+0f) / ({_integer_power(x, -n)})"
    if n < 2:
        return x if n else "splat(0x1p+0f)"
    half = _integer_power(x, n // 2)
    square = f"({half}) * ({half})" if n > 3 else f"{x} * {x}"
    return f"{square} * {x}" if n % 2 else square


def _called(eqn: Any) -> Any:
    return next(eqn.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in eqn.params)


def _needed(jaxpr: Any) -> list[Any]:
    """Equations that the results depend on; formulas have no effects."""
    needed, eqns = {x for x in jaxpr.outvars if not isinstance(x, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(x for x in eqn.invars if not isinstance(x, Literal))
            eqns.append(eqn)
    return eqns[::-1]


def _kind(aval: Any) -> str:
    """The C++ type of a value."""
    if aval.shape:
        raise UntranslatableError(f"a value of shape {aval.shape}: terms must be elementwise")
    if aval.dtype.name not in ("float32", "int32", "bool"):
        raise UntranslatableError(f"a value of type {aval.dtype}")
    return "V" if aval.dtype == jnp.float32 else "I"


def _constant(value: Any) -> str:
    """A constant, to the last digit."""
    if isinstance(value, jax.core.Tracer):
        raise UntranslatableError("a value that is traced outside of terms")
    if _kind(value := np.asarray(value)) == "I":
        return f"splat({-int(value) if value.dtype == bool else int(value)})"
    x = float(value)
    if math.isfinite(x):
        return f"splat({re.sub(r'[.]?0*p', 'p', x.hex())}f)"
    return "splat(NAN)" if math.isnan(x) else f"splat({'-' * (x < 0)}INFINITY)"
