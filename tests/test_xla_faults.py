"""Faults of XLA that tests must not be blind to: docs/design.md tells what the package does about them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

pytestmark = pytest.mark.optimized  # without optimizations XLA makes no such program

LOST_ROWS = ("0.10.2",)
"""Versions of jaxlib with the fault of jax#39103. Tried without finding it: 0.9.2, 0.10.0, 0.10.1, 0.11.0, 0.11.1,
0.11.2, 0.12.0, 0.12.0.1."""


def wrong_rows(n_row: int) -> np.ndarray:
    """Rows for which XLA's sums of squares of products are not those of float64."""
    rng = np.random.default_rng(0)
    matrix, rows = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(n_row, 3)).astype(np.float32)
    ours = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    theirs = np.sum((rows.astype(np.float64) @ matrix.T) ** 2, axis=1)
    return np.flatnonzero(~np.isclose(ours, theirs, rtol=1e-4, atol=1e-5))


def wrong_rows_with(flags: str) -> int:
    """How many of 40,000 rows are wrong in a new process."""
    code = "from test_xla_faults import wrong_rows; print(len(wrong_rows(40_000)))"
    folder, environment = Path(__file__).parent, {**os.environ, "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_sums_of_products_of_many_rows() -> None:
    """The example of jax#39103: rows from number 32,768 on are lost, silently, unless YNNPACK does no sums."""
    assert len(wrong_rows(32_768)) == 0
    wrong = wrong_rows(40_000)
    if jaxlib.__version__ in LOST_ROWS:
        assert (wrong >= 32_768).all()
        assert wrong_rows_with("--xla_cpu_experimental_ynn_fusion_type=-reduce") == 0
    else:
        assert len(wrong) == 0
