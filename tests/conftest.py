"""8 virtual CPU devices, strict promotion rules, and how programs are compiled; counts the golden arrays."""

from __future__ import annotations

import gc
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

    `jax_disable_most_optimizations` is known to every JAX; flags are for those versions that know them, as others end
    the process. Jaxlib before 0.11 takes three times as long with its newer emitters of fusions, and can be told to do
    without. To split a program for threads costs a seventh of the time, where two workers share two cores.
    """
    if config.option.markexpr == OPTIMIZED:
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for commands started by tests
    flags = {"--xla_cpu_use_fusion_emitters=false": (0, 11), "--xla_cpu_parallel_codegen_split_count=1": (0, 13)}
    known = [flag for flag, end in flags.items() if jaxlib.version.__version_info__ < end]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known])


def pytest_collection_finish() -> None:
    """Looks for garbage seldom: JAX's caches hold millions of objects, and to walk them took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


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
