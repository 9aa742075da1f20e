"""How fast it runs, against what the machine can do: `python -m bess_jax.bench SUITE` (needs `bess_jax[cli]`).

The suites are `step` (the default), `kernel`, `sampler`, `collective`, `rank`, `topk` and `scaling`. Times are medians
of several calls after warm-up, with the smallest and largest beside them; what is compared is called in turns.

A percentage is the work that is needed, per second, over a rate measured in the same run on the same devices (see
`ceilings`). The module of each suite says what is counted as needed. More is done than is counted: gathering, exchange,
loss, update and the scores of positives take their time too. What else the machine does moves both sides of the
ratio: more than 100 % means that it was not quiet.
"""

from bess_jax.bench.step import Bench as Bench
from bess_jax.bench.step import BenchConfig as BenchConfig
from bess_jax.bench.step import measure as measure
