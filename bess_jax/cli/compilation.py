"""Compiled programs kept on disk from one process to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

_THRESHOLDS = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}
"""JAX keeps programs that took a second to compile; a command has dozens that took less."""


class Compiling:
    """What is compiled from now on: seconds, programs, and how many of these came from the cache."""

    def __init__(self) -> None:
        self.seconds, self.n_program, self.n_cached = 0.0, 0, 0
        jax.monitoring.register_event_duration_secs_listener(self._count)
        jax.monitoring.register_event_listener(self._hit)

    def __str__(self) -> str:
        programs = "program" if self.n_program == 1 else "programs"
        return f"{self.seconds:,.1f} s for {self.n_program:,} {programs}, {self.n_cached:,} of them cached"

    def _count(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs
            self.n_program += 1

    def _hit(self, event: str, **_: Any) -> None:
        self.n_cached += event == "/jax/compilation_cache/cache_hits"


def use_compilation_cache() -> Path | None:
    """Has JAX keep every program it compiles and read those it has kept; to be called before it compiles the first one.

    The folder is JAX_COMPILATION_CACHE_DIR, else bess_jax/xla in XDG_CACHE_HOME or ~/.cache. Nothing limits its size.
    JAX_ENABLE_COMPILATION_CACHE=0 switches it off; thresholds that are in the environment stay as they are.

    Returns:
        The folder, or None if there is no cache: it is switched off, or the folder cannot be written.
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    given: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if given is not None:
        folder = Path(given)
    else:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bess_jax" / "xla"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds programs: nobody else may write them
        except (OSError, RuntimeError):
            return None
        if not os.access(folder, os.W_OK):
            return None
        jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _THRESHOLDS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return folder
