"""The suite `collective`: the exchange of rows between shards, the only collective of the embeddings.

Every shard sends S blocks of rows, one to each shard. Counted are the bytes that leave their shard, which are read once
and written once for a percentage of `memory`; between accelerators they also cross a link, which is not counted.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from bess_jax import _checks
from bess_jax._typing import Mapping_
from bess_jax.bench.ceilings import Ceilings
from bess_jax.bench.timing import Calls, Compiled, Measure, in_turns, make_record
from bess_jax.step.collectives import exchange
from bess_jax.step.spmd import Placement


@dataclasses.dataclass(frozen=True)
class CollectiveConfig(Calls):
    """What to measure."""

    n_shard: int = 4
    """S, shards."""
    n_device: int | None = None
    """Devices, a divisor of n_shard. Default: as many accelerators as fit, else n_shard virtual CPU devices."""
    mapping: Mapping_ = "pmap"
    """How shards are mapped to several devices ("vmap" has one device)."""
    n_row: tuple[int, ...] = (64, 1024, 8192)
    """Rows that a shard sends to each shard; one or more numbers."""
    width: int = 128
    """float32 numbers of a row."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        super().check()
        _checks.at_least("n_shard", self.n_shard, 2)
        _checks.at_least("width", self.width, 1)
        for n_row in self.n_row:
            _checks.at_least("n_row", n_row, 1)
        if not self.n_row:
            raise ValueError("n_row must not be empty; leave it out or give numbers of rows")
        if self.n_device is not None:
            _checks.at_least("n_device", self.n_device, 1)
            _checks.multiple_of("n_shard", self.n_shard, self.n_device, "n_device")

    @property
    def n_virtual(self) -> int:
        """Virtual CPU devices to ask for."""
        return self.n_device or self.n_shard


def run(config: CollectiveConfig) -> dict[str, Any]:
    """Times the exchange of blocks of several sizes, in turns."""
    config.check()
    placement = Placement.create(config.n_shard, config.n_device, config.mapping)
    ceilings = Ceilings(placement.devices, ("memory",))
    mapped = placement.map(partial(exchange, axis_name=placement.axis_name))
    rng = np.random.default_rng(0)
    compiled = {}
    for n_row in config.n_row:
        shape = (config.n_shard, config.n_shard, n_row, config.width)
        compiled[n_row] = Compiled(mapped, placement.put(rng.random(shape, dtype=np.float32)))
    times = in_turns(ceilings.jobs | {n: one.call for n, one in compiled.items()}, config.n_call, config.n_warmup)
    measures = []
    for n_row, one in compiled.items():
        n_byte = config.n_shard * (config.n_shard - 1) * n_row * config.width * 4
        name = f"exchange {n_row} rows of {config.width}"
        measures.append(Measure(name, times[n_row], n_byte, "bytes", one.compile_s, 2.0 * n_byte, "memory"))
    return make_record("collective", config, placement.devices, measures, ceilings.rates(times))
