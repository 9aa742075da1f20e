"""Calls in turns, and what is kept of their times."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

import bess_jax as bj
from bess_jax import _checks
from bess_jax.kernels.bodies import said

K = TypeVar("K")
Job = Callable[[], float]
"""Does its work and returns the seconds it took."""

wait: Callable[[Any], Any] = jax.block_until_ready


@dataclasses.dataclass(frozen=True)
class Calls:
    """How often a suite calls what it measures."""

    n_call: int = 10
    """Calls that are timed."""
    n_warmup: int = 2
    """Calls before that."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        _checks.at_least("n_call", self.n_call, 1)
        _checks.at_least("n_warmup", self.n_warmup, 0)


class Compiled:
    """A mapped or jitted function, compiled for its arguments.

    Attributes:
        compile_s: seconds to trace and compile.
    """

    def __init__(self, fn: Any, *args: Any) -> None:
        start = time.perf_counter()
        self._fn, self._args = fn.lower(*args).compile(), args
        self.compile_s = time.perf_counter() - start

    def call(self) -> float:
        """Seconds of one call, until its results are there."""
        start = time.perf_counter()
        wait(self._fn(*self._args))
        return time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Measure:
    """One line of a result.

    Attributes:
        name: what was done.
        seconds: of each call.
        amount, unit: what a call gets done, as in (1024, "positives").
        compile_s: seconds to compile, None if nothing was.
        work, ceiling: what the call needs of a ceiling, and its name.
        point: field that was varied, and its value.
    """

    name: str
    seconds: Sequence[float]
    amount: float
    unit: str
    compile_s: float | None = None
    work: float = 0.0
    ceiling: str | None = None
    point: tuple[str, int] | None = None

    def record(self, ceilings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """As JSON can hold it: milliseconds, amount per second, and the floor, the time that a ceiling allows."""
        median = statistics.median(self.seconds)
        record = {
            "ms": median * 1e3,
            "ms_min": min(self.seconds) * 1e3,
            "ms_max": max(self.seconds) * 1e3,
            "rate": self.amount / median,
            "unit": f"{self.unit}/s",
            "compile_s": self.compile_s,
        }
        if self.ceiling is not None:
            floor = self.work / ceilings[self.ceiling]["rate"]
            of_it = {"floor_ms": floor * 1e3, "percent": 100 * floor / median}
            record |= of_it | {"ceiling": self.ceiling, "work": self.work}
        if self.point is not None:
            record["varied"], record["value"] = self.point
        return record


def in_turns(jobs: Mapping[K, Job], n_call: int, n_warmup: int) -> dict[K, list[float]]:
    """Seconds of `n_call` calls of each job after `n_warmup`; in every round each job is called once.

    What else the machine does then hits all of them.
    """
    seconds: dict[K, list[float]] = {name: [] for name in jobs}
    for number in range(n_warmup + n_call):
        for name, job in jobs.items():
            took = job()
            if number >= n_warmup:
                seconds[name].append(took)
    return seconds


def make_record(
    suite: str,
    config: Any,
    devices: Sequence[jax.Device],
    measures: Sequence[Measure],
    ceilings: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """A result that JSON can hold: what was measured, where, with what, which kernels ran, and the ceilings."""
    return {
        "suite": suite,
        "machine": machine(devices),
        "versions": {"bess_jax": bj.__version__, "jax": jax.__version__},
        "config": dataclasses.asdict(config),
        "kernels": "; ".join(said()),
        "ceilings": {name: dict(ceiling) for name, ceiling in ceilings.items()},
        "measures": {measure.name: measure.record(ceilings) for measure in measures},
    }


def machine(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Processor, cores and devices; no devices if the work is the host's."""
    found: dict[str, Any] = {"cpu": _cpu(), "n_core": os.cpu_count()}
    if devices:
        found |= {
            "platform": devices[0].platform,
            "device_kind": devices[0].device_kind,
            "n_device": len(devices),
        }
    return found


def _cpu() -> str:
    """Name of the processor, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
