"""One suite for every body of `sum_pairs`: values and both gradients against float64, at sizes that fill no vector."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from bess_jax.kernels import sum_pairs, use_kernels
from bess_jax.kernels.bodies import BODIES, Kernels
from bess_jax.kernels.native import build
from bess_jax.scoring.boxe import BoxDistance
from bess_jax.scoring.distance import AffineDistance, Componentwise, Distance, ModulusDistance

Function = Callable[[Any, Any], Any]
"""Of queries and keys: sums, or scores."""

OF_THE_BEST = ("L2", "modulus", "affine", "counting box")
"""Formulas that are compiled for the best instructions alone."""

CASES = [
    *(pytest.param(("native", name), id=f"native {name}") for name in build._instructions()),
    *(pytest.param((name, ""), id=name) for name in BODIES if name != "native"),
]
"""Every body that runs here, the native one with all instructions of this machine."""

FORMULAS: dict[str, tuple[Componentwise, int, int, int]] = {
    "L1": (Distance(1), 0, 0, 1),
    "L2": (Distance(2), 0, 0, 1),
    "modulus": (ModulusDistance(), 0, 0, 2),
    "affine": (AffineDistance(1), 3, 2, 1),
    "box": (BoxDistance(1, squash=True, per_dimension=True), 6, 2, 1),
    "counting box": (BoxDistance(2, squash=False, per_dimension=False), 6, 2, 1),
}
"""The combiner, parts of a query and of a key (0: an array, not a tuple of them), and numbers in a component."""

SIZES = {"L1": [(7, 33, 5), (33, 1, 100), (1, 7, 1)], "L2": [(33, 7, 100), (1, 33, 1)], "modulus": [(7, 33, 37)]}
"""Of some formulas, queries, keys and components."""


@pytest.fixture(params=CASES)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """The name of a body; instructions are read when a function is traced."""
    name, instructions = request.param
    formula = request.node.callspec.params.get("formula", "")
    if name == "products" and formula not in ("", "L2"):
        pytest.skip("it leaves other formulas to the loops")
    if name == "native":
        if "CXX" not in os.environ and not any(map(shutil.which, build._COMPILERS)):
            pytest.skip("there is no C++ compiler")
        if instructions != build._instructions()[0] and formula in OF_THE_BEST:
            pytest.skip("one library is enough: each takes seconds to compile")
        monkeypatch.setenv(build.INSTRUCTIONS, instructions)
    return name


def rows(formula: str, b: int, n: int, width: int, seed: int = 0) -> tuple[Any, Any]:
    _, query_parts, key_parts, numbers = FORMULAS[formula]
    rng = np.random.default_rng(seed)

    def of(n_row: int, n_part: int) -> Any:
        parts = tuple(rng.normal(size=(n_row, width * numbers)).astype(np.float32) for _ in range(max(1, n_part)))
        return (
            tuple(abs(x) if i % 3 == 2 else x for i, x in enumerate(parts)) if n_part else parts[0]
        )  # widths of boxes

    return of(b, query_parts), of(n, key_parts)


def sums_of(combiner: Componentwise) -> Function:
    return lambda query, key: sum_pairs(combiner.terms, *combiner.prepare(query, key))


def plain(combiner: Componentwise) -> Function:
    """What a body has to give, of all pairs at once."""

    def sums(query: Any, key: Any) -> Any:
        query, key = combiner.prepare(query, key)
        over = jax.tree_util.tree_map(lambda x: x[:, None], query), jax.tree_util.tree_map(lambda x: x[None], key)
        return tuple(jnp.sum(x, axis=-1) for x in combiner.terms(*over))

    return sums


def with_gradients(fn: Function, query: Any, key: Any, seed: int = 1) -> Any:
    """The values, and their gradients for some cotangents, by a compiled function."""

    def run(query: Any, key: Any, *cotangent: Any) -> Any:
        out, pull = jax.vjp(fn, query, key)
        return out, pull(cotangent)

    shapes, rng = jax.eval_shape(fn, query, key), np.random.default_rng(seed)
    return jax.jit(run)(query, key, *(rng.normal(size=x.shape).astype(x.dtype) for x in shapes))


def in_float64(fn: Function, query: Any, key: Any) -> Any:
    with jax.enable_x64(True):
        return with_gradients(fn, *jax.tree_util.tree_map(np.float64, (query, key)))


def assert_close(ours: Any, theirs: Any) -> None:
    """To few roundings of the largest number in an array: gradients are sums of either sign."""
    for x, y in zip(*map(jax.tree_util.tree_leaves, (ours, theirs)), strict=True):
        assert x.dtype == np.float32
        largest = np.abs(y, where=np.isfinite(y), out=np.zeros(y.shape)).max(initial=0)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6 * largest)


@pytest.mark.parametrize("formula", FORMULAS)
def test_sums_and_gradients(kernels: Kernels, formula: str) -> None:
    combiner = FORMULAS[formula][0]
    for size in SIZES.get(formula, [(7, 33, 9)]):
        query, key = rows(formula, *size)
        ours = with_gradients(use_kernels(kernels)(sums_of(combiner)), query, key)
        assert_close(ours, in_float64(plain(combiner), query, key))


@pytest.mark.parametrize("size", [(0, 3, 5), (3, 0, 5), (3, 2, 0)])
def test_nothing_to_sum(kernels: Kernels, size: tuple[int, int, int]) -> None:
    b, n, width = size
    query, key = np.ones((b, width), np.float32), np.ones((n, width), np.float32)
    (sums,), gradients = with_gradients(use_kernels(kernels)(sums_of(Distance(1))), query, key)
    np.testing.assert_array_equal(sums, np.zeros((b, n)))
    assert [x.shape for x in gradients] == [query.shape, key.shape]
    assert not any(x.any() for x in map(np.asarray, gradients))


@pytest.mark.parametrize("formula", ["L1", "L2"])
def test_equal_rows(kernels: Kernels, formula: str) -> None:
    """They are at distance 0, and pull at nothing."""
    combiner = FORMULAS[formula][0]
    query, _ = rows(formula, 9, 1, 10)
    key = query[::-1].copy()

    def sum_of_equals(query: Any, key: Any) -> Any:
        score = combiner.pairwise(query, key)[:, ::-1]
        return (jnp.diagonal(score),)

    (scores,), gradients = with_gradients(use_kernels(kernels)(sum_of_equals), query, key)
    np.testing.assert_array_equal(scores, np.zeros(9))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(query.shape))


@pytest.mark.parametrize("formula", ["L1"])
def test_what_is_not_finite_stays(kernels: Kernels, formula: str) -> None:
    """In all sums of its row, and in no others."""
    query, key = rows(formula, 5, 6, 9)
    query[2, 3], key[1, 8], key[4, 0] = np.nan, np.inf, -np.inf
    (sums,) = jax.jit(use_kernels(kernels)(sums_of(FORMULAS[formula][0])))(query, key)
    expected = np.zeros((5, 6))
    expected[:, [1, 4]], expected[2] = np.inf, np.nan
    np.testing.assert_array_equal(np.where(np.isfinite(sums), 0, sums), expected)


def test_masked_scores(kernels: Kernels) -> None:
    """A loss of masked scores has gradients by the others alone."""
    query, key = rows("L1", 5, 7, 6)
    mask = np.arange(7) != 3

    def loss(query: Any, key: Any) -> Any:
        scores = Distance(1).pairwise(query, key)
        return (jax.nn.logsumexp(jnp.where(mask, scores, -50_000.0), axis=-1),)

    (values,), gradients = with_gradients(use_kernels(kernels)(loss), query, key)
    (expected,), by_others = with_gradients(use_kernels(kernels)(loss), query, np.where(mask[:, None], key, 9))
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert_close(gradients, by_others)
    np.testing.assert_array_equal(gradients[1][3], np.zeros(6))
    assert np.asarray(gradients[1])[mask].all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves(kernels: Kernels, dtype: str) -> None:
    """The sums of rows of half precision are of float32."""
    query, key = (jnp.asarray(x, dtype) for x in rows("L1", 3, 5, 40))
    (scores,), gradients = with_gradients(use_kernels(kernels)(lambda q, k: (Distance(1).pairwise(q, k),)), query, key)
    exact = -np.abs(np.float64(query)[:, None] - np.float64(key)).sum(axis=-1)
    assert {x.dtype.name for x in (scores, *gradients)} == {dtype}
    np.testing.assert_allclose(np.float64(scores), exact, rtol=float(jnp.finfo(dtype).eps))


def test_mapped(kernels: Kernels) -> None:
    """By vmap, also of queries alone and twice, pmap and shard_map: as one after the other."""
    fn = use_kernels(kernels)(sums_of(Distance(1)))
    query, key = (np.stack(x) for x in zip(*(rows("L1", 5, 3, 7, seed) for seed in range(4)), strict=True))
    cotangent = np.random.default_rng(9).normal(size=(4, 5, 3)).astype(np.float32)

    def one(query: Any, key: Any, cotangent: Any) -> Any:
        (out,), pull = jax.vjp(fn, query, key)
        return out, *pull((cotangent,))

    def each(key: Any) -> Any:
        every = [jax.jit(one)(*args) for args in zip(query, key, cotangent, strict=True)]
        return [np.stack(x) for x in zip(*every, strict=True)]

    mesh, spec = Mesh(np.array(jax.devices()[:4]), "shard"), PartitionSpec("shard")
    by_mesh = partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    mapped = [jax.pmap(one), jax.jit(by_mesh(jax.vmap(one))), jax.jit(jax.vmap(one))]  # pmap first: nothing is known
    for found in (m(query, key, cotangent) for m in mapped):
        assert_close(found, each(key))
    same = jax.jit(jax.vmap(one, in_axes=(0, None, 0)))(query, key[0], cotangent)
    assert_close(same, each(np.stack([key[0]] * 4)))
    twice = jax.jit(jax.vmap(jax.vmap(one)))(*(x.reshape(2, 2, *x.shape[1:]) for x in (query, key, cotangent)))
    assert_close([x.reshape(4, *x.shape[2:]) for x in twice], each(key))
