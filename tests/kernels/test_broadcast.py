"""What is special about reductions of broadcasts: tiles. `test_bodies.py` has their values."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bess_jax.kernels import broadcast, loops
from bess_jax.scoring.boxe import BoxDistance


@pytest.mark.parametrize("size", [(13, 22), (13, 3), (4, 22)])
def test_gradients_in_tiles(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the last tile too, which is filled up."""
    monkeypatch.setattr(broadcast, "_TILE", (5, 7))
    b, n = size
    rng = np.random.default_rng(0)
    combiner = BoxDistance(1, squash=True, per_dimension=True)
    query = tuple(rng.uniform(size=(b, 3)).astype(np.float32) for _ in range(6))
    key = tuple(rng.normal(size=(n, 3)).astype(np.float32) for _ in range(2))
    weight = tuple(rng.normal(size=(b, n)).astype(np.float32) for _ in range(2))
    args = (*combiner.prepare(query, key), weight)
    ours, theirs = (
        jax.jit(lambda *x, body=body: body.gradients(combiner.terms, *x))(*args) for body in (broadcast, loops)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
