"""Plug-in of pytest for `make ipu-check`: the core's tests under Python 3.8 with JAX 0.3.16, as tests/conftest.py is.

Tests are written for today's Python and JAX; the few names that they use and that are missing get their older
equivalents here. That the package itself does without them is for `make lint` and tests/test_core_names.py.
"""

from __future__ import annotations

import builtins
import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bess_jax import _compat, request_devices
from bess_jax.kernels import loops

builtins.zip = _compat.zip
functools.cache = functools.lru_cache(maxsize=None)
jax.random.key = jax.random.PRNGKey


def assert_array_equal(actual: Any, desired: Any, *, strict: bool = False, **options: Any) -> None:
    """That of NumPy 1.24, which compares shapes and dtypes too."""
    if strict:
        assert np.shape(actual) == np.shape(desired)
        assert np.asarray(actual).dtype == np.asarray(desired).dtype
    equal(actual, desired, **options)


equal, np.testing.assert_array_equal = np.testing.assert_array_equal, assert_array_equal

loops._UNROLL = 2  # tracing is what takes long there; `make ipu-check` runs programs as they are, too
request_devices(8)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


LEFT_OUT = {
    "data/test_public.py": "downloads; formats of PyTorch",
    "data/test_sources.py": "formats that need pandas, pyarrow, pyoxigraph",
    "data/test_types.py": "pandas",
    "data/test_folder.py::test_splits_of_several_formats": "pyoxigraph",
    "data/test_folder.py::test_one_split_is_drawn": "pyoxigraph",
    "data/test_text.py::test_settings_take_no_time": "settings of the commands",
    "ask/test_ranks.py::test_frame": "pandas",
    "step/test_tables.py::test_round_trips": "bfloat16 of NumPy",
}
"""Tests that need what is not there, and what."""

CASES_LEFT_OUT = re.compile(r"shard_map|test_scoring\[BoxE")
"""What is not there, and half a minute for each: BoxE is among the programs of `make ipu-check`."""

N_CASES = {
    "ask/test_parity.py::test_top_k": 12,
    "ask/test_parity.py::test_all_scores_pipeline": 6,
    "scoring/test_conve.py::test_batch_statistics": 1,
    "scoring/test_parity.py::test_scoring": 4,
    "step/test_labels.py::test_step_on_all_triples": 2,
    "step/test_parity.py::test_embedding_moving": 12,
    "step/test_parity.py::test_score_moving": 6,
    "update/test_parity.py::test_training": 1,
    "update/test_rows.py::test_other_optimizers_are_refused": 4,
}
"""Of functions of tests whose cases take about a second or more, at most so many, evenly apart; of others all."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if name_of(str(collection_path)) in LEFT_OUT else None


@pytest.hookimpl(trylast=True)  # of what marks leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        function = name_of(f"{item.path}::{item.name}").partition("[")[0]
        if function not in LEFT_OUT and not CASES_LEFT_OUT.search(item.name):
            functions.setdefault(function, []).append(item)
    kept: list[pytest.Item] = []
    for function, cases in functions.items():
        kept += cases[:: -len(cases) // N_CASES.get(function, len(cases))][::-1]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def name_of(path: str) -> str:
    """Of a file of tests, or of a function in it, below this folder's parent."""
    return path[len(str(Path(__file__).parents[1])) + 1 :]


@pytest.fixture(scope="session")
def nations() -> Path:
    return Path(__file__).parents[1] / "shared" / "nations"
