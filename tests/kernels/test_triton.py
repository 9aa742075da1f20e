"""What is special about the kernels in Pallas; `test_bodies.py` has their values. Here they are lowered for a GPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bess_jax.kernels import sum_pairs, use_kernels
from bess_jax.scoring.boxe import BoxDistance
from bess_jax.scoring.distance import AffineDistance, Distance, ModulusDistance

without_gpu = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="JAX 0.12 lowers kernels for GPUs that are there"
)

ROW, KEY = jax.ShapeDtypeStruct((5, 6), np.float32), jax.ShapeDtypeStruct((7, 6), np.float32)
KERNEL = "__gpu$xla.gpu.triton"


def lowered(combiner: Any, query: Any, key: Any) -> str:
    """The program of scores and both gradients for CUDA, which takes no GPU."""

    def step(query: Any, key: Any, weight: jax.Array) -> Any:
        score, pull = jax.vjp(combiner.pairwise, query, key)
        return score, pull(weight)

    weight = jax.ShapeDtypeStruct((5, 7), np.float32)
    traced = jax.jit(use_kernels("triton")(step)).trace(query, key, weight)
    return str(traced.lower(lowering_platforms=("cuda",)).as_text())


@without_gpu
@pytest.mark.parametrize(
    ("combiner", "query", "key"),
    [
        (Distance(1), ROW, KEY),
        (ModulusDistance(), ROW, KEY),
        (AffineDistance(2), (ROW,) * 3, (KEY,) * 2),
        (BoxDistance(1, squash=True, per_dimension=True), (ROW,) * 6, (KEY,) * 2),
        (BoxDistance(2, squash=False, per_dimension=False), (ROW,) * 6, (KEY,) * 2),
    ],
    ids=["L1", "modulus", "affine", "box", "counting box"],
)
def test_three_kernels(combiner: Any, query: Any, key: Any) -> None:
    """Sums and each gradient are one launch, whatever the formula, and whatever the sizes."""
    text = lowered(combiner, query, key)
    assert text.count(f"@{KERNEL}") == 3


@without_gpu
def test_formula_that_triton_lacks() -> None:
    """The error names the operation."""

    def sums(query: jax.Array, key: jax.Array) -> Any:
        return sum_pairs(lambda x, y: (jax.lax.digamma(x - y),), query, key)

    traced = jax.jit(use_kernels("triton")(sums)).trace(ROW, KEY)
    with pytest.raises(NotImplementedError, match="digamma"):
        traced.lower(lowering_platforms=("cuda",))


def test_no_number_of_what_is_not_there() -> None:
    """Kernels work on whole tiles: a formula that has no number at 0 gives one in every sum of rows that are not 0."""
    rng = np.random.default_rng(0)
    query, key = (rng.uniform(1, 2, size=(n, 3)).astype(np.float32) for n in (3, 5))

    def sums(query: jax.Array, key: jax.Array) -> jax.Array:
        return sum_pairs(lambda x, y: (1 / (x * y),), query, key)[0]

    for name in ("triton", "broadcast"):
        with use_kernels(name):
            found, pull = jax.vjp(jax.jit(sums), query, key)
            gradients = pull(jnp.ones((3, 5)))
        np.testing.assert_allclose(found, (1 / query) @ (1 / key).T, rtol=1e-5)
        by_query, by_key = -(1 / query**2) * (1 / key).sum(0), -(1 / key**2) * (1 / query).sum(0)
        np.testing.assert_allclose(gradients[0], by_query, rtol=1e-5)
        np.testing.assert_allclose(gradients[1], by_key, rtol=1e-5)
