"""Figures of the benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

from bess_jax.bench import plot
from bess_jax.bench.timing import Measure

machine = {"cpu": "a", "n_core": 2}
measures = {"dot": Measure("dot", [0.01], 1, "pairs").record({})}
try:
    plot.check(Path("figure.svg"))
    plot.write({"suite": "kernel", "machine": machine, "measures": measures}, Path("figure.svg"))
except ValueError as error:
    sys.exit(str(error))
assert Path("figure.svg").read_text().startswith("<?xml")
