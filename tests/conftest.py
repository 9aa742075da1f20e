"""8 virtual CPU devices, strict promotion rules, and how programs are compiled; counts the golden arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import pytest
from shared import golden

from bess_jax import request_devices

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # for commands started by tests: they write nothing into the home
jax.config.update("jax_enable_compilation_cache", False)
request_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


OPTIMIZED = "optimized"
"""Marks tests that are about what XLA makes of a program: `pytest -m optimized` compiles as users do."""


def pytest_configure(config: pytest.Config) -> None:
    """Has XLA spend little time on programs: most tests compile a lot and compute little.

    `jax_disable_most_optimizations` is known to every JAX. Jaxlib before 0.11 takes three times as long with its newer
    emitters of fusions, and can be told to do without; later ones have no others, and end a process that names the flag.
    """
    if config.option.markexpr == OPTIMIZED:
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for commands started by tests
    if jaxlib.version.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(OPTIMIZED) and item.config.option.markexpr != OPTIMIZED:
        pytest.fail(f"{item.name} needs programs as users compile them: run it with `pytest -m {OPTIMIZED}`")


# --- the count of golden arrays, over all workers ---------------------------------------------------------------------

COMPARED: set[tuple[str, str]] = set()


def pytest_sessionfinish(session: pytest.Session) -> None:
    COMPARED.update(golden.READ)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["golden"] = sorted(golden.READ)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    found: Iterable[list[str]] = getattr(node, "workeroutput", {}).get("golden", ())
    COMPARED.update((file, key) for file, key in found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COMPARED:
        terminalreporter.write_line(f"golden arrays compared: {len(COMPARED):,} of {golden.n_recorded():,} recorded")


@pytest.fixture(scope="session")
def nations() -> Path:
    return Path(__file__).parent / "shared" / "nations"
