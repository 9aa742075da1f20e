"""Step time at two table sizes: a row-sparse step must not grow with the table.

    python benchmarks/table_size.py [--optimizer adam] [--json]

Both sizes run the same step: as many positives, negatives and listed rows (U per shard, a static shape). They take
turns in one process, so that whatever else the machine does hits both. Beside the step, the bare gather and scatter of
those rows is timed: random rows of a larger table miss the caches more often, which no update rule can avoid.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from bess_jax.bench import Bench, BenchConfig
from bess_jax.step.spmd import request_devices

LIMIT = 1.5


@dataclasses.dataclass(frozen=True)
class TableSizeConfig:
    """What to compare."""

    small: int = 20_000
    """Entities of the small table."""
    large: int = 1_000_000
    """Entities of the large table."""
    model: str = "ComplEx"
    """Score function."""
    embedding_size: int = 32
    """Components of an entity."""
    optimizer: Literal["sgd", "adagrad", "adam"] = "adagrad"
    """Optimizer."""
    update: Literal["row_sparse", "dense"] = "row_sparse"
    """Update rule; "dense" shows what growth looks like."""
    n_shard: int = 4
    """Shards."""
    n_device: int | None = None
    """Devices; default: as many as there are."""
    batch_size: int = 1024
    """Positives per step."""
    n_negative: int = 1024
    """Negatives of each positive."""
    n_round: int = 10
    """Rounds; in each, both sizes make one call of 8 steps."""
    seed: int = 0
    """Seed."""
    json: bool = False
    """Print one line of JSON and nothing else."""

    def of_size(self, n_entity: int) -> BenchConfig:
        """The step to measure on a table of `n_entity` rows."""
        same = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("small", "large", "n_round", "json"):
            del same[name]
        return BenchConfig(n_entity=n_entity, **same)


class Floor:
    """Reads and writes the rows of a step in a table and in optimizer state of the same size, and nothing else."""

    def __init__(self, bench: Bench) -> None:
        self.n_step = bench.config.steps_per_call
        self.rows = bench.batches[0]["entity_rows"]
        tables = {"sgd": 1, "adagrad": 2, "adam": 3}[bench.config.optimizer]
        self.state = [jax.tree_util.tree_map(jnp.zeros_like, bench.state.params.entity) for _ in range(tables)]
        self.run = bench.placement.map(_touch_rows, donate_argnums=(0,))

    def call(self) -> float:
        """Seconds of one call."""
        start = time.perf_counter()
        self.state = jax.block_until_ready(self.run(self.state, self.rows))
        return time.perf_counter() - start


def compare(config: TableSizeConfig) -> dict[str, Any]:
    """Times both sizes in turns; milliseconds per step, medians over the rounds."""
    benches = {n: Bench(config.of_size(n)) for n in (config.small, config.large)}
    sparse = config.update == "row_sparse"
    jobs: dict[tuple[str, int], Bench | Floor] = {("step", n): bench for n, bench in benches.items()}
    if sparse:
        jobs |= {("floor", n): Floor(bench) for n, bench in benches.items()}
    times: dict[tuple[str, int], list[float]] = {job: [] for job in jobs}
    for number in range(config.n_round + 2):
        for name, job in jobs.items():
            seconds = job.call()
            if number >= 2:
                times[name].append(seconds / config.of_size(1).steps_per_call * 1e3)
    record: dict[str, Any] = {"config": dataclasses.asdict(config), "limit": LIMIT}
    for what in ("step", "floor") if sparse else ("step",):
        small, large = times[what, config.small], times[what, config.large]
        record[f"{what}_ms"] = [statistics.median(small), statistics.median(large)]
        record[f"{what}_ms_min"] = [min(small), min(large)]
        record[f"{what}_ratio"] = statistics.median(y / x for x, y in zip(small, large, strict=True))
    record["within_limit"] = record["step_ratio"] <= LIMIT
    rows = [bench.shapes.get("entity_rows", bench.shapes["entity"][:2])[-1] for bench in benches.values()]
    record["rows_per_shard_and_step"] = rows
    record["rows_equal"] = rows[0] == rows[1]
    if sparse:
        record["distinct_rows"] = [_distinct_rows(bench) for bench in benches.values()]
    return record


def main() -> None:
    config = tyro.cli(TableSizeConfig, description=__doc__)
    if config.n_device is not None:
        request_devices(config.n_device)
    record = compare(config)
    if config.json:
        print(json.dumps(record))
        return
    print(f"{config.model}, {config.embedding_size} components, {config.optimizer}, {config.update}")
    rows = record["rows_per_shard_and_step"]
    if config.update == "row_sparse":
        same = "the same" if record["rows_equal"] else "NOT the same: choose a smaller batch, or the ratio misleads"
        print(f"rows listed per shard and step: {rows[0]} and {rows[1]} ({same})")
        print("of them distinct, the rest padding: {:.0f} and {:.0f}".format(*record["distinct_rows"]))
    for what, text in (("step", "training step"), ("floor", "bare gather and scatter")):
        if f"{what}_ms" in record:
            (small, large), ratio = record[f"{what}_ms"], record[f"{what}_ratio"]
            print(f"{text}: {small:.2f} ms at {config.small:,}, {large:.2f} ms at {config.large:,}: ratio {ratio:.2f}")
    print(f"the step {'stays within' if record['within_limit'] else 'EXCEEDS'} {LIMIT} times")


def _distinct_rows(bench: Bench) -> float:
    """Mean number of listed rows per shard and step that are not padding."""
    rows = bench.placement.get(bench.batches[0]["entity_rows"])
    return float((rows < bench.shapes["entity"][1]).sum(axis=-1).mean())


def _touch_rows(tables: list[jax.Array], rows: jax.Array) -> list[jax.Array]:
    def one_step(tables: list[jax.Array], rows: jax.Array) -> tuple[list[jax.Array], None]:
        read = [table.at[rows].get(mode="fill", fill_value=0) for table in tables]
        flags: dict[str, Any] = {"mode": "drop", "unique_indices": True, "indices_are_sorted": True}
        return [table.at[rows].set(x + 1, **flags) for table, x in zip(tables, read, strict=True)], None

    return jax.lax.scan(one_step, tables, rows)[0]


if __name__ == "__main__":
    sys.exit(main())
