"""Results of the measuring command that were never measured, and sizes of ceilings that take no time."""

from __future__ import annotations

from typing import Any

from bess_jax.bench.timing import Measure

SMALL_CEILINGS = {
    "MATMUL_SHAPES": ((8, 8, 8), (16, 8, 8)),
    "MATMUL_FLOP": 2**12,
    "MEMORY_FLOATS": 2**10,
}
"""For `bess_jax.bench.ceilings`."""


def fake_record(**ms: float) -> dict[str, Any]:
    """A result of the suite `kernel`, with these milliseconds."""
    lines = {name: Measure(name, [value / 1e3], 1, "pairs").record({}) for name, value in (ms or {"dot": 10.0}).items()}
    machine = {"cpu": "a", "n_core": 2}
    return {
        **{"suite": "kernel", "machine": machine, "config": {"n_query": 8}, "versions": {}},
        **{"ceilings": {}, "measures": lines},
    }
