"""Compiled programs on disk: where they go, how to say otherwise, and that a second command compiles nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from shared.commands import untimed

from bess_jax.cli.compilation import use_compilation_cache

NAMES = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """JAX's settings as a process starts with them, with a home folder of its own; put back afterwards."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    for name, value in zip(NAMES, (True, None, 1.0, 0), strict=True):
        monkeypatch.delenv(name.upper(), raising=False)
        jax.config.update(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_folder_and_thresholds(config: Any, tmp_path: Path) -> None:
    assert use_compilation_cache() == tmp_path / ".cache" / "bess_jax" / "xla"
    assert config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "bess_jax" / "xla")
    assert (tmp_path / ".cache" / "bess_jax" / "xla").stat().st_mode & 0o777 == 0o700
    assert config.jax_persistent_cache_min_compile_time_secs == 0
    assert config.jax_persistent_cache_min_entry_size_bytes == -1


def test_folder_of_the_environment(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert use_compilation_cache() == tmp_path / "x" / "bess_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "given"))  # as JAX_COMPILATION_CACHE_DIR does
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    assert use_compilation_cache() == tmp_path / "given"
    assert config.jax_compilation_cache_dir == str(tmp_path / "given")
    assert config.jax_persistent_cache_min_compile_time_secs == 0.5


def test_no_cache(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, or where nothing can be written, nothing is set and no command fails."""
    jax.config.update("jax_enable_compilation_cache", False)
    assert use_compilation_cache() is None
    assert list(tmp_path.iterdir()) == []
    jax.config.update("jax_enable_compilation_cache", True)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert use_compilation_cache() is None
    assert config.jax_compilation_cache_dir is None
    assert config.jax_persistent_cache_min_compile_time_secs == 1


COMMAND = """
import collections, sys
import jax
from bess_jax.cli.main import main
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
code = main(sys.argv[1:])
print("counted", code, events["cache_hits"], events["cache_misses"])
"""


@pytest.mark.long
def test_the_second_run_compiles_nothing(tmp_path: Path, nations: Path) -> None:
    """Every program comes from the cache, and trains to the same bits."""
    small = ["--n-shard", "2", "--batch-size", "64", "--n-negative", "16", "--embedding-size", "8", "--n-epoch", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    counted, metrics = [], []
    for run in (tmp_path / "cold", tmp_path / "warm"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", COMMAND, "train", "--dataset", nations, *small, "--run", run],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        counted.append([int(n) for n in done.stdout.splitlines()[-1].removeprefix("counted ").split()])
        metrics.append(untimed(run))
    (_, hits, misses), warm = counted
    assert hits == 0
    assert misses > 5
    assert warm == [0, misses, 0]
    assert metrics[0] == metrics[1]
