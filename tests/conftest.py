"""8 virtual CPU devices, strict promotion rules, and how programs are compiled; counts the golden arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import pytest
from shared import golden

from bess_jax import request_devices

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # for commands started by tests: they write nothing into the home
jax.config.update("jax_enable_compilation_cache", False)
request_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def compile_as_users_do(optimize: bool) -> None:
    """Has XLA optimize programs, or spend as little time on them as it can.

    Most tests compile a lot and compute little: half the time with little optimization. Those marked `optimized` are
    about what XLA makes of a program and get what users get. `jax_disable_most_optimizations` is a setting of JAX, in
    every version, for one program at a time; flags in XLA_FLAGS bind a whole process, and end it where a jaxlib does
    not know one of them.
    """
    if jax.config.read("jax_disable_most_optimizations") == optimize:
        jax.config.update("jax_disable_most_optimizations", not optimize)
        jax.clear_caches()
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not optimize))  # for commands started by tests


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope
def pytest_runtest_setup(item: pytest.Item) -> None:
    compile_as_users_do(item.get_closest_marker("optimized") is not None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("optimized") is not None)  # a change empties JAX's caches


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
