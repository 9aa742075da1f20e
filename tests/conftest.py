"""8 virtual CPU devices, strict promotion rules, and how programs are compiled; counts the golden arrays."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import pytest
from shared import golden

from bess_jax import request_devices
from bess_jax.run.models import BUILT_IN

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # for commands started by tests: they write nothing into the home
os.environ.setdefault("BESS_JAX_NATIVE_CACHE", str(Path(__file__).parent.parent / "build" / "native"))
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
    keep_programs()
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for commands started by tests
    flags = {"--xla_cpu_use_fusion_emitters=false": (0, 11), "--xla_cpu_parallel_codegen_split_count=1": (0, 13)}
    known = [flag for flag, end in flags.items() if jaxlib.version.__version_info__ < end]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known])


def keep_programs() -> None:
    """Has this process compile equal programs once: of those that tests trace anew, every third one was there before.

    Workers and commands share nothing: JAX writes its files without a lock, and one that is half there is a warning.
    """
    folder = tempfile.mkdtemp(prefix="bess_jax-programs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_enable_compilation_cache", True)


def pytest_collection_finish() -> None:
    """Looks for garbage seldom: JAX's caches hold millions of objects, and to walk them took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(OPTIMIZED) and item.config.option.markexpr != OPTIMIZED:
        pytest.fail(f"{item.name} needs programs as users compile them: run it with `pytest -m {OPTIMIZED}`")


# --- the quick run ----------------------------------------------------------------------------------------------------

QUICK_CASES = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a few cases of every test, those of all models among them")


def quick_cases(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of every test function the first case of each model and, where it names none, a few that lie evenly apart.

    None that is `long`, and of comparisons with the reference a few whatever they name.
    """
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("long"):
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: list[pytest.Item] = []
    for cases in functions.values():
        first = {model: case for case in reversed(cases) if (model := model_of(case))}
        is_model_test = first and not cases[0].get_closest_marker("parity")
        kept += first.values() if is_model_test else cases[:: max(1, -(-len(cases) // QUICK_CASES))]
    return kept


def model_of(item: pytest.Item) -> str | None:
    """The score function that a case is named by, if it is."""
    words = re.split(r"\W|_", item.name.partition("[")[2])
    return next((word for word in words if word in BUILT_IN), None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.quick:
        kept = set(quick_cases(items))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


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


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    """The folder of a finished run; not to be written to."""
    from shared.commands import train  # the commands read settings of JAX that are made above

    path = tmp_path_factory.mktemp("runs") / "run"
    assert train(nations, path, "--n-epoch", "20", "--eval-every", "10") == 0
    return path
