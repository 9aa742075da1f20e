"""Faults of XLA that tests must not be blind to: docs/design.md tells what the package does about them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import pytest
from shared.steps import SETTINGS, Case

import bess_jax as bj
from bess_jax.step import compiling
from bess_jax.update.train import make_train_step

pytestmark = pytest.mark.optimized  # without optimizations XLA makes no such program

LOST_ROWS = ("0.10.2",)
"""Versions of jaxlib with the fault of jax#39103. Tried without finding it: 0.9.2, 0.10.0, 0.10.1, 0.11.0, 0.11.1,
0.11.2, 0.12.0, 0.12.0.1."""


def wrong_rows(n_row: int, compile_: Callable[..., Any] = jax.jit) -> np.ndarray:
    """Rows for which XLA's sums of squares of products are not those of float64."""
    rng = np.random.default_rng(0)
    matrix, rows = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(n_row, 3)).astype(np.float32)
    ours = compile_(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
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


def test_our_programs_lose_none() -> None:
    """The same example as the package compiles programs."""
    assert len(wrong_rows(40_000, partial(compiling.jit, device=jax.devices()[0]))) == 0


@pytest.mark.parametrize("mapping", ["vmap", "pmap"])
@jax.numpy_dtype_promotion("standard")
def test_no_sum_of_ours_is_ynnpacks(mapping: Any) -> None:
    """Of a training step; `jax.jit` would hand over some."""
    case = Case.create(SETTINGS[1], n_shard=2, n_step=2)
    placement, rule = bj.Placement.create(2, 1 if mapping == "vmap" else 2, mapping), bj.row_sparse(optax.sgd(0.1))
    step = make_train_step(case.model, rule, placement.axis_name)
    args = placement.put(case.state(rule)), case.fed(case.sampler.batch(0, 0), rule, placement)
    ours: Any = placement.map(step)
    assert n_ynn(ours.lower(*args).compile().as_text()) == 0
    if mapping == "vmap":
        assert n_ynn(jax.jit(jax.vmap(step, axis_name=placement.axis_name)).lower(*args).compile().as_text()) > 0


def n_ynn(text: str) -> int:
    """How many pieces of a compiled program YNNPACK computes."""
    return text.count('"kind":"__ynn_fusion"')
