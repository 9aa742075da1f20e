"""The suite `scaling`: time of a training step as one thing grows: the entity table, the shards, or the batch.

The rest of the step stays as it is. With more shards the global batch is the same. The points of a sweep are called in
turns; no percentages, since points may use different devices.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from bess_jax.bench.step import Bench, BenchConfig
from bess_jax.bench.timing import Measure, in_turns, make_record


@dataclasses.dataclass(frozen=True)
class ScalingConfig(BenchConfig):
    """The step, as in the suite `step`, and what to vary."""

    entities: tuple[int, ...] = (10_000, 40_000, 160_000)
    """Values of n_entity; may be empty."""
    shards: tuple[int, ...] = (1, 2, 4, 8)
    """Values of n_shard, with batch_size a multiple of each squared; may be empty."""
    batches: tuple[int, ...] = (256, 1024, 4096)
    """Values of batch_size; may be empty."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        super().check()
        if not any(self.sweeps.values()):
            raise ValueError("one of entities, shards and batches must have a value, got none; leave one of them out")
        for name, values in self.sweeps.items():
            for value in values:
                try:
                    self.step(name, value).check()
                except ValueError as error:
                    raise ValueError(f"{name} = {value}: {error}") from None

    @property
    def n_virtual(self) -> int:
        """Virtual CPU devices to ask for."""
        return self.n_device or max(self.n_shard, *self.shards, 1)

    @property
    def sweeps(self) -> dict[str, tuple[int, ...]]:
        """Field that is varied -> its values."""
        return {"n_entity": self.entities, "n_shard": self.shards, "batch_size": self.batches}

    def step(self, name: str, value: int) -> BenchConfig:
        """The step of one point."""
        same = {field.name: getattr(self, field.name) for field in dataclasses.fields(BenchConfig)}
        return BenchConfig(**(same | {name: value}))


def run(config: ScalingConfig) -> dict[str, Any]:
    """Times the steps of each sweep in turns.

    Raises:
        ValueError: if the configuration is not valid.
        FloatingPointError: if a loss is not finite.
    """
    config.check()
    measures = [measure for name, values in config.sweeps.items() for measure in _sweep(config, name, values)]
    devices = jax.local_devices()
    return make_record("scaling", config, devices, measures, {})


def _sweep(config: ScalingConfig, name: str, values: tuple[int, ...]) -> list[Measure]:
    benches = {value: Bench(config.step(name, value)) for value in values}
    times = in_turns({value: bench.call for value, bench in benches.items()}, config.n_call, config.n_warmup)
    return [
        Measure(
            f"{name} {value}",
            [seconds / config.steps_per_call for seconds in times[value]],
            bench.config.batch_size,
            "positives",
            bench.compile_s,
            point=(name, value),
        )
        for value, bench in benches.items()
    ]
