"""`kill -9` at any instant: the run goes on from its last checkpoint, and ends as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared.commands import SMALL, untimed

# Every call is saved, so that kills fall into saves too.
OPTIONS = [*SMALL, "--steps-per-call", "8", "--n-epoch", "30", "--eval-every", "10", "--save-every", "1steps"]


def command(run: Path, nations: Path) -> list[str]:
    """Begins the run, or goes on where it has begun."""
    has_begun = (run / "config.toml").exists()
    options = ["--resume", str(run)] if has_begun else ["--dataset", str(nations), *OPTIONS, "--run", str(run)]
    return [sys.executable, "-m", "bess_jax", "train", *options]


@contextlib.contextmanager
def started(run: Path, nations: Path, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "1", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    with subprocess.Popen(
        command(run, nations), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        yield process


def finish(run: Path, nations: Path, cache: Path) -> None:
    with started(run, nations, cache) as process:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out.decode()


def content(run: Path) -> dict[str, bytes]:
    """All files of the checkpoints, and the metrics but for the speed."""
    found = {str(path.relative_to(run)): path.read_bytes() for path in (run / "checkpoints").rglob("*.*")}
    return found | {"metrics": json.dumps(untimed(run)).encode()}


def kill(run: Path, nations: Path, cache: Path, rng: random.Random, in_save: bool) -> str:
    """Starts or goes on, and kills it: in a save, or anywhere. What it was killed in, or "" if it had ended."""
    with started(run, nations, cache) as process:
        if in_save:
            time.sleep(rng.uniform(0, 1))
            while process.poll() is None and not any((run / "checkpoints").glob(".*.part")):
                time.sleep(0.0005)
        else:
            time.sleep(rng.uniform(0.1, 4))
        is_over = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
    if is_over:
        return ""
    if any((run / "checkpoints").glob(".*.part")):
        return "save"
    return "before the first save" if not any((run / "checkpoints").glob("epoch-*")) else "elsewhere"


def crash(folder: Path, nations: Path, n_kill: int, n_in_save: int) -> dict[str, int]:
    """Runs that are killed again and again until they end, each compared with one that was not; counts of the kills."""
    rng, cache = random.Random(0), folder / "cache"
    finish(folder / "straight", nations, cache)
    expected = content(folder / "straight")
    counts = {"save": 0, "before the first save": 0, "elsewhere": 0}
    n_run = 0
    while sum(counts.values()) < n_kill or counts["save"] < n_in_save:
        run = folder / str(n_run)
        n_run += 1
        for _ in range(12):
            place = kill(run, nations, cache, rng, in_save=counts["save"] * n_kill <= sum(counts.values()) * n_in_save)
            if not place:
                break
            counts[place] += 1
        finish(run, nations, cache)
        assert content(run) == expected
    return counts


@pytest.mark.long
def test_a_few_kills(tmp_path: Path, nations: Path) -> None:
    counts = crash(tmp_path, nations, n_kill=4, n_in_save=2)
    assert sum(counts.values()) >= 4


@pytest.mark.slow
def test_many_kills(tmp_path: Path, nations: Path) -> None:
    counts = crash(tmp_path, nations, n_kill=60, n_in_save=20)
    print(counts)
    assert sum(counts.values()) >= 60
    assert counts["save"] >= 20
