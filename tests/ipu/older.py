"""Plug-in of pytest for `make ipu-check`: the core's tests under Python 3.8 with JAX 0.3.16, as tests/conftest.py is.

Tests are written for today's Python and JAX; the few names that they use and that are missing get their older
equivalents here. That the package itself does without them is for `make lint` and tests/test_core_names.py.
"""

from __future__ import annotations

import builtins
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bess_jax import _compat, request_devices

builtins.zip = _compat.zip
functools.cache = functools.lru_cache(maxsize=None)
jax.random.key = jax.random.PRNGKey


def assert_array_equal(actual: Any, desired: Any, *args: Any, strict: bool = False) -> None:
    """That of NumPy 1.24, which compares shapes and dtypes too."""
    if strict:
        assert np.shape(actual) == np.shape(desired)
        assert np.asarray(actual).dtype == np.asarray(desired).dtype
    equal(actual, desired, *args)


equal, np.testing.assert_array_equal = np.testing.assert_array_equal, assert_array_equal

request_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def nations() -> Path:
    return Path(__file__).parents[1] / "shared" / "nations"
