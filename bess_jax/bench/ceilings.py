"""What the machine can do at most, measured: the rates that results are percentages of.

* `matmul`, FLOP/s: float32 products in full precision (`Precision.HIGHEST`), a multiplication and an addition being 2.
  Products of queries and keys alternate with products of scores and keys, as in a step.
* `l1`, components/s: one component is `sum + |q - k|` of a query and a key. Blocks of sums stay in the cache while 16
  components at a time, written out, are added to them.
* `memory`, bytes/s: `x / 2 + y` over arrays much larger than the caches; two arrays are read and one written.

Every device works on its own copy at the same time, and the rates are those of all devices together. Each rate is the
best over a few shapes, of the median time.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bess_jax.bench.timing import Compiled, Job
from bess_jax.scoring.base import Combiner, DotProduct
from bess_jax.scoring.distance import Distance
from bess_jax.step.spmd import Placement

PairKind: TypeAlias = Literal["matmul", "l1"]
Kind: TypeAlias = PairKind | Literal["memory"]
UNITS: dict[Kind, str] = {"matmul": "FLOP", "l1": "components", "memory": "bytes"}

MATMUL_SHAPES: Sequence[tuple[int, int, int]] = ((1024, 512, 128), (1024, 1024, 256), (1024, 1024, 1024))  # b, c, F
MATMUL_FLOP = 2**31  # of a call, on all devices
L1_SHAPES: Sequence[tuple[int, int]] = ((256, 512), (512, 512), (1024, 512), (1024, 1024))  # queries, keys
L1_UNROLL, L1_COMPONENTS = 16, 2**28
MEMORY_FLOATS, MEMORY_PASSES = 2**25, 4


def ceiling_of(combiner: Combiner) -> PairKind:
    """The ceiling of scores of all pairs: "matmul" where they are made of products, also the 2-norm; else "l1"."""
    return "matmul" if combiner in (DotProduct(), Distance(2)) else "l1"


def pair_work(kind: PairKind, n_pair: int, size: int, passes: int) -> float:
    """What scores of `n_pair` pairs of rows of `size` components need of a ceiling.

    Args:
        kind: "matmul": 2 FLOP a component; "l1": a component is one, whatever arithmetic the model does with it.
        n_pair: pairs of a query and a candidate; positives are not counted.
        size: numbers that a dot product adds up, or terms that a distance does.
        passes: 1 to score; 3 with the gradients by queries and by candidates, each counted as much as the scores.
    """
    return float(n_pair * size * passes * (2 if kind == "matmul" else 1))


@dataclasses.dataclass(frozen=True)
class _Probe:
    run: Compiled
    work: float  # of a call, on all devices
    shape: str


class Ceilings:
    """Compiled probes of some ceilings.

    Args:
        devices: where to measure.
        kinds: which ones.
        matmul_shapes: further shapes (b, c, F) of products, such as those of what is measured.
    """

    def __init__(
        self,
        devices: Sequence[jax.Device],
        kinds: Sequence[Kind] = tuple(UNITS),
        matmul_shapes: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        placement = Placement(len(devices), tuple(devices))
        self._probes: dict[tuple[Kind, int], _Probe] = {}
        for kind in kinds:
            if kind == "matmul":
                shapes = dict.fromkeys((*MATMUL_SHAPES, *matmul_shapes))
                probes = [_matmul(placement, *shape) for shape in shapes]
            elif kind == "l1":
                probes = [_l1(placement, *shape) for shape in L1_SHAPES]
            else:
                probes = [_memory(placement)]
            self._probes |= {(kind, i): probe for i, probe in enumerate(probes)}

    @property
    def jobs(self) -> dict[Any, Job]:
        """To be timed in turns with what is measured."""
        return {name: probe.run.call for name, probe in self._probes.items()}

    def rates(self, seconds: Mapping[Any, Sequence[float]]) -> dict[str, dict[str, Any]]:
        """Ceiling -> rate, unit and the shape that reached it, from the times of `jobs`."""
        best: dict[str, dict[str, Any]] = {}
        for name, probe in self._probes.items():
            rate = probe.work / statistics.median(seconds[name])
            if rate > best.get(name[0], {"rate": 0})["rate"]:
                best[name[0]] = {"rate": rate, "unit": f"{UNITS[name[0]]}/s", "shape": probe.shape}
        return best


def _random(placement: Placement, *shape: int) -> Any:
    rng = np.random.default_rng(0)
    return placement.replicate(rng.random(shape, dtype=np.float32))


def _matmul(placement: Placement, b: int, c: int, size: int) -> _Probe:
    flop = 4 * b * c * size * placement.n_shard
    n_repeat = max(1, MATMUL_FLOP // flop)

    def run(query: jax.Array, key: jax.Array) -> Any:
        def both(_: int, query: jax.Array) -> jax.Array:
            score = jnp.matmul(query, key.T, precision=lax.Precision.HIGHEST)
            score = lax.optimization_barrier(score)  # (q k') k could be computed as q (k' k)
            return jnp.matmul(score, key, precision=lax.Precision.HIGHEST) / (c * size)

        return lax.fori_loop(0, n_repeat, both, query)

    probe = Compiled(placement.map(run), _random(placement, b, size), _random(placement, c, size))
    return _Probe(probe, float(n_repeat * flop), f"({b}, {size}) x ({size}, {c})")


def _l1(placement: Placement, n_query: int, n_key: int) -> _Probe:
    n_block = 8  # taken in turns, so that no block of sums can be computed once and for all
    components = L1_UNROLL * n_query * n_key * placement.n_shard
    n_repeat = max(1, L1_COMPONENTS // components)

    def run(query: jax.Array, key: jax.Array) -> Any:
        def add(i: int, total: jax.Array) -> jax.Array:
            q, k = (lax.dynamic_index_in_dim(x, i % n_block, keepdims=False) for x in (query, key))
            for j in range(L1_UNROLL):
                total = total + jnp.abs(q[j][:, None] - k[j][None])
            return total

        return lax.fori_loop(0, n_repeat, add, jnp.zeros((n_query, n_key)))

    rows = (_random(placement, n_block, L1_UNROLL, n) for n in (n_query, n_key))
    return _Probe(Compiled(placement.map(run), *rows), float(n_repeat * components), f"{n_query} x {n_key} sums")


def _memory(placement: Placement) -> _Probe:
    size = MEMORY_FLOATS // placement.n_shard

    def run(x: jax.Array, y: jax.Array) -> Any:
        return lax.fori_loop(0, MEMORY_PASSES, lambda _, x: x / 2 + y, x)

    probe = Compiled(placement.map(run), _random(placement, size), _random(placement, size))
    return _Probe(probe, float(MEMORY_PASSES * 3 * 4 * size * placement.n_shard), f"{4 * size / 2**20:g} MiB arrays")
