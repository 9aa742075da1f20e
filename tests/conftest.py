"""8 virtual CPU devices, strict promotion rules, warnings as errors."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import pytest

from bess_jax import request_devices

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # for commands started by tests: they write nothing into the home
jax.config.update("jax_enable_compilation_cache", False)
request_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

FAST_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
"""Most tests compile a lot and compute little. Those marked `optimized` are about what XLA makes of a program."""


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "optimized":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILE}"


@pytest.fixture(scope="session")
def nations() -> Path:
    return Path(__file__).parent / "shared" / "nations"
