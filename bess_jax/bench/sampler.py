"""The suite `sampler`: batches made on the host, by one thread.

Positives are drawn from every shard pair, with negatives that the positives of a shard share; ids are merged as for a
row-sparse update. Times are seconds of the processor that the thread took, so that other processes do not count.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

from bess_jax._typing import HostBatch
from bess_jax.bench.step import BenchConfig, make_parts
from bess_jax.bench.timing import Calls, Measure, in_turns, make_record
from bess_jax.data.loader import merge_ids, shard_major


@dataclasses.dataclass(frozen=True)
class SamplerConfig(Calls):
    """What to measure: every pair of a batch size and a number of negatives."""

    n_entity: int = 40_943
    """Entities of the random graph; the default is WN18RR's."""
    n_triple: int = 200_000
    """Triples of the random graph."""
    n_shard: int = 4
    """Shards of the entity table."""
    batch_size: tuple[int, ...] = (1024, 8192)
    """Positives per step over all shards, multiples of n_shard ** 2; one or more numbers."""
    n_negative: tuple[int, ...] = (64, 1024)
    """Negatives that each positive is scored against, multiples of n_shard; one or more numbers."""
    steps_per_call: int = 8
    """Steps that one batch is for."""
    seed: int = 0
    """Seed of graph, sharding and batches."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        super().check()
        if not self.shapes:
            raise ValueError(
                f"batch_size and n_negative must have values, got {self.batch_size} and {self.n_negative}; "
                "leave the empty one out"
            )
        for batch_size, n_negative in self.shapes:
            self.step(batch_size, n_negative).check()

    @property
    def n_virtual(self) -> int:
        """Devices are not used."""
        return 1

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Batch sizes and numbers of negatives."""
        return list(itertools.product(self.batch_size, self.n_negative))

    def step(self, batch_size: int, n_negative: int) -> BenchConfig:
        """The step that the batches are for."""
        names = ("n_entity", "n_triple", "n_shard", "steps_per_call", "seed")
        same = {name: getattr(self, name) for name in names}
        return BenchConfig(batch_size=batch_size, n_negative=n_negative, **same)


def run(config: SamplerConfig) -> dict[str, Any]:
    """Times sampling, merging and both with the shards put first, for each shape in turns."""
    config.check()
    jobs: dict[tuple[str, int, int], Callable[[], float]] = {}
    for shape in config.shapes:
        for name, work in _works(config.step(*shape)).items():
            jobs[name, *shape] = _thread_seconds(work)
    times = in_turns(jobs, config.n_call, config.n_warmup)
    measures = [
        Measure(
            f"{name} {batch_size} positives, {n_negative} negatives",
            [seconds / config.steps_per_call for seconds in times[name, batch_size, n_negative]],
            batch_size,
            "positives",
        )
        for name, batch_size, n_negative in jobs
    ]
    return make_record("sampler", config, (), measures, {})


def _works(config: BenchConfig) -> dict[str, Callable[[], HostBatch]]:
    sampler = make_parts(config)[0]
    n_row = sampler.partitioned_triple_set.sharding.max_entity_per_shard
    given, numbers = sampler.batch(0, 0), itertools.count()
    return {
        "sample": lambda: sampler.batch(0, next(numbers)),
        "merge_ids": lambda: merge_ids(given, n_row),
        "batch": lambda: shard_major(merge_ids(sampler.batch(0, next(numbers)), n_row)),
    }


def _thread_seconds(work: Callable[[], object]) -> Callable[[], float]:
    def call() -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    return call
