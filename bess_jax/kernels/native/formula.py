"""Formulas of one component as C++: the jaxprs of `terms` and of its gradient, written for vectors of floats.

What a primitive becomes is a line of `_TEXT`; the functions named there are those of `vector.h`. A value of type float32
is a `V`, a bool or an int32 is an `I` of as many lanes, in which true is -1, as comparisons of vectors have it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

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
    "logistic": "splat(0x1p+0f) / (splat(0x1p+0f) + exp_of(-{0}))",
    "clamp": "min_of(max_of({1}, {0}), {2})",
    "select_n": "{0} ? {2} : {1}",
}
_OF_FLOATS = {name for name, text in _TEXT.items() if "_of(" in text or name in ("div", "square")} - {
    "min",
    "max",
    "clamp",
}
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_CONVERSIONS = {
    ("bool", "float32"): "{0} ? splat(0x1p+0f) : splat(0x0p+0f)",
    ("int32", "float32"): "__builtin_convertvector({0}, V)",
    ("float32", "int32"): "__builtin_convertvector({0}, I)",
    ("bool", "int32"): "-{0}",
    ("float32", "bool"): "{0} != splat(0x0p+0f)",
    ("int32", "bool"): "{0} != splat(0)",
}
_CONSTANT = re.compile(r"splat[(][^()]*[)]")
_ZERO = "splat(0x0p+0f)"


def translate(terms: Terms, query: Rows, key: Rows) -> Formula:
    """`terms` of components of `query` and `key`, rows of any shape of which only the structure counts, and its gradient.

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
    forward = _Writer().write(sums, names, [f"s[{i}]" for i in range(n_sum)])
    backward = _Writer().write(
        jax.make_jaxpr(gradients)(query, key, (scalar,) * n_sum),
        [*names, *(f"w[{i}]" for i in range(n_sum))],
        [f"g{name}" for name in names],
    )
    return Formula(_STRUCT.format(n_query, n_key, n_sum, forward, backward), n_query, n_key, n_sum)


_STRUCT = """struct Terms {{
  static constexpr int Q = {}, K = {}, S = {};
  BESS_INLINE static void sums(const V* q, const V* k, V* s) {{
{}
  }}
  BESS_INLINE static void gradients(const V* q, const V* k, const V* w, V* gq, V* gk) {{
{}
  }}
}};
"""


class _Writer:
    """Statements of one function. An expression that has been written gives its name, not a second statement."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.named: dict[str, str] = {}

    def write(self, closed: Any, inputs: list[str], outputs: list[str]) -> str:
        """Lines that add the results for `inputs` to `outputs`."""
        if any(aval.dtype != jnp.float32 for aval in closed.out_avals):
            raise UntranslatableError(
                f"results of type {', '.join(str(x.dtype) for x in closed.out_avals)}, not float32"
            )
        values = self.inline(closed, inputs)
        adding = [f"{name} += {x};" for name, x in zip(outputs, values, strict=True) if x != _ZERO]
        return "\n".join(f"    {line}" for line in (*self.lines, *adding))

    def inline(self, closed: Any, inputs: Iterable[str]) -> list[str]:
        """Names of the results of a jaxpr."""
        jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, ())
        known: dict[Any, str] = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> str:
            return _constant(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in _needed(jaxpr):
            known.update(zip(eqn.outvars, self.equation(eqn, [read(x) for x in eqn.invars]), strict=True))
        return [read(x) for x in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[str]) -> list[str]:
        """Names of the results of an equation."""
        if eqn.primitive.name in _CALLS:
            return self.inline(_called(eqn), args)
        kind, text = _kind(eqn.outvars[0].aval), _expression(eqn, args)
        if text in args or _CONSTANT.fullmatch(text):
            return [text]
        if text not in self.named:
            self.named[text] = f"v{len(self.named)}"
            self.lines.append(f"const {kind} {self.named[text]} = {text};")
        return [self.named[text]]


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
    if name not in _TEXT or (name == "select_n" and (kinds[0] != "bool" or len(args) != 3)):
        raise UntranslatableError(f"the primitive {name}")
    if name in _OF_FLOATS and kinds[0] != "float32":
        raise UntranslatableError(f"the primitive {name} of {kinds[0]}")
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
