"""Formulas in C++: what is written, what is refused, and that the compiled text computes what the formula says."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bess_jax._numerics import absolute
from bess_jax.kernels import square_of_difference, sum_pairs, use_kernels
from bess_jax.kernels.native import build
from bess_jax.kernels.native.formula import UntranslatableError, translate
from bess_jax.scoring.boxe import BoxDistance
from bess_jax.scoring.distance import AffineDistance, Distance, ModulusDistance

ROW = np.zeros((2, 3), np.float32)
MODELS: dict[str, tuple[Any, Any, Any]] = {
    "L1": (Distance(1), ROW, ROW),
    "L2": (Distance(2), ROW, ROW),
    "modulus": (ModulusDistance(), np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)),
    "affine": (AffineDistance(1), (ROW,) * 2, (ROW,)),
    "affine of two": (AffineDistance(2), (ROW,) * 3, (ROW,) * 2),
    **{
        f"box {squash} {each}": (BoxDistance(1, squash, each), (ROW,) * 6, (ROW,) * 2)
        for squash in (True, False)
        for each in (True, False)
    },
}
needs_compiler = pytest.mark.skipif(
    "CXX" not in os.environ and not any(map(shutil.which, build._COMPILERS)), reason="there is no C++ compiler"
)


@pytest.mark.parametrize("model", MODELS)
def test_formulas_of_models_are_translated(model: str) -> None:
    combiner, query, key = MODELS[model]
    query, key = combiner.prepare(query, key)
    formula = translate(combiner.terms, query, key)
    leaves = [len(jax.tree_util.tree_leaves(rows)) for rows in (query, key)]
    assert [formula.n_query, formula.n_key] == leaves
    assert f"Q = {leaves[0]}, K = {leaves[1]}, S = {formula.n_sum};" in formula.text
    assert formula == translate(combiner.terms, query, key), "the text is part of a name in the cache"
    for i in range(formula.n_sum):
        assert len(re.findall(rf"s\[{i}\] \+= ", formula.text)) == 1
    assert "gq[0] += " in formula.text
    assert "gk[0] += " in formula.text


def test_what_depends_on_one_row_alone_is_made_once_for_it() -> None:
    text = translate(lambda q, k: (jnp.exp(q) * jnp.log(k) + jnp.tanh(k),), ROW, ROW).text
    sums = text[text.index("void sums") : text.index("void gradients")]
    assert "QP = 1, KP = 2;" in text
    assert "_of" not in sums


def test_constants_are_written_to_the_last_digit() -> None:
    tenth = np.float32(0.1)
    text = translate(lambda q, k: (q * tenth + k * -0.0 + jnp.float32(np.inf),), ROW, ROW).text
    assert f"splat({float(tenth).hex().replace('0000000p', 'p')}f)" in text
    assert float.fromhex("0x1.99999ap-4") == tenth
    assert "splat(-0x0p+0f)" in text
    assert "splat(INFINITY)" in text


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "primitive": (lambda q, k: (jax.lax.erf_inv(q - k),), "erf_inv"),
    "shape": (lambda q, k: (jnp.sum(jnp.stack([q, k])),), "shape"),
    "type": (lambda q, k: ((q - k).astype(jnp.float16),), "float16"),
    "result": (lambda q, k: (jnp.int32(q) - jnp.int32(k),), "int32, not float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_form_is_refused_by_name(case: str) -> None:
    terms, message = REFUSED[case]
    with pytest.raises(UntranslatableError, match=message):
        translate(terms, ROW, ROW)


def test_values_traced_outside_are_refused() -> None:
    def traced(scale: jax.Array) -> jax.Array:
        translate(lambda q, k: (scale * (q - k),), ROW, ROW)
        return scale

    with pytest.raises(UntranslatableError, match="traced outside"):
        jax.jit(traced)(1.0)


def test_what_is_not_needed_is_not_written() -> None:
    def terms(q: jax.Array, k: jax.Array) -> tuple[jax.Array, ...]:
        jax.lax.erf_inv(q)
        return square_of_difference(q, k)

    assert translate(terms, ROW, ROW).text == translate(square_of_difference, ROW, ROW).text


def own(query: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
    """Formulas as a user may write them: log cosh, a clipped distance, powers."""
    apart = query - key
    clipped = jnp.where(absolute(apart) < 1, absolute(apart), 1.0)
    return jnp.logaddexp(apart, -apart), clipped, apart**3 + jnp.exp(-query) * jax.nn.sigmoid(key)


@needs_compiler
def test_formula_of_a_user_against_float64() -> None:
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(n, 19)).astype(np.float32) for n in (21, 35))
    weights = tuple(rng.normal(size=(21, 35)).astype(np.float32) for _ in range(3))
    with use_kernels("native"):
        sums, pull = jax.vjp(lambda q, k: sum_pairs(own, q, k), query, key)
        to_query, to_key = pull(tuple(map(jnp.asarray, weights)))
    q, k = query[:, None].astype(np.float64), key[None].astype(np.float64)
    apart, sigmoid, decay = q - k, 1 / (1 + np.exp(-k)), np.exp(-q)
    expected = np.log(2 * np.cosh(apart)), np.minimum(abs(apart), 1), apart**3 + decay * sigmoid
    for got, want in zip(sums, expected, strict=True):
        np.testing.assert_allclose(got, want.sum(-1), rtol=1e-6, atol=2e-5)
    w = [x[..., None] for x in weights]
    common = w[0] * np.tanh(apart) + w[1] * np.sign(apart) * (abs(apart) < 1) + w[2] * 3 * apart**2
    np.testing.assert_allclose(to_query, (common - w[2] * decay * sigmoid).sum(1), rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(to_key, (-common + w[2] * decay * sigmoid * (1 - sigmoid)).sum(0), rtol=1e-5, atol=5e-5)


def functions(query: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
    return jnp.sqrt(query * key), jax.lax.rsqrt(query * key), jnp.maximum(query, key), jnp.clip(query, -1, 1) * key


@needs_compiler
def test_roots_are_precise_and_special_values_stay() -> None:
    special = np.array([0.0, -0.0, np.inf, -1.0, np.nan, 1e-40], np.float32)
    many = np.exp(np.linspace(-87.3, 88.7, 3001)).astype(np.float32)
    query, key = np.concatenate([special, many])[:, None], np.ones((1, 1), np.float32)
    with use_kernels("native"), np.errstate(all="ignore"):
        root, inverse, larger, cut = (np.asarray(x)[:, 0] for x in sum_pairs(functions, query, key))
    np.testing.assert_array_equal(root[:6], np.array([0, 0, np.inf, np.nan, np.nan, 0], np.float32))
    np.testing.assert_array_equal(inverse[:6], np.array([np.inf, -np.inf, 0, np.nan, np.nan, np.inf], np.float32))
    np.testing.assert_array_equal(larger[:6], np.array([1, 1, np.inf, 1, np.nan, 1], np.float32))
    np.testing.assert_array_equal(cut[:5], np.array([0, 0, 1, -1, np.nan], np.float32))
    exact = np.sqrt(many.astype(np.float64))
    for got, want in ((root[6:], exact), (inverse[6:], 1 / exact)):
        ulp = np.abs(got - want) / np.spacing(want.astype(np.float32))
        assert ulp.max() <= 2
