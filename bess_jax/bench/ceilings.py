"""What the machine can do at most, measured: the rates that results are percentages of.

* `matmul`, FLOP/s: float32 products in full precision (`Precision.HIGHEST`), a multiplication and an addition being 2.
  Products of queries and keys alternate with products of scores and keys, as in a step. Work that is no product is a
  number of operations too, those of the formula (`flop_per_pair`).
* `memory`, bytes/s: `x / 2 + y` over arrays much larger than the caches; two arrays are read and one written.

Every device works on its own copy at the same time, and the rates are those of all devices together. Each rate is the
best over a few shapes, of the median time.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bess_jax.bench.timing import Compiled, Job
from bess_jax.kernels.rows import Rows
from bess_jax.scoring.base import Combiner
from bess_jax.scoring.distance import Componentwise, Distance
from bess_jax.step.spmd import Placement

Kind: TypeAlias = Literal["matmul", "memory"]
UNITS: dict[Kind, str] = {"matmul": "FLOP", "memory": "bytes"}

MATMUL_SHAPES: Sequence[tuple[int, int, int]] = ((1024, 512, 128), (1024, 1024, 256), (1024, 1024, 1024))  # b, c, F
MATMUL_FLOP = 2**31  # of a call, on all devices
MEMORY_FLOATS, MEMORY_PASSES = 2**25, 4


def flop_per_pair(combiner: Combiner, query: Rows, key: Rows, gradient: bool) -> float:
    """Float32 operations that the score of a pair takes at least; with the gradients by query and key, if asked for.

    A product of rows is 2 a component, and as much for each gradient; 2-norms can be made of products. Other formulas
    are counted as they stand (XLA's cost analysis), with the additions of what they give.

    Args:
        combiner: what makes the score.
        query: shapes (1, F) of a query.
        key: shapes (1, F) of a key.
        gradient: whether to count gradients.
    """
    if not isinstance(combiner, Componentwise) or combiner == Distance(2):
        width = max(leaf.shape[-1] for leaf in jax.tree_util.tree_leaves(key))
        return float(width * (6 if gradient else 2))
    query, key = jax.eval_shape(combiner.prepare, query, key)
    leaves = jax.tree_util.tree_leaves((query, key))
    query, key = jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct((), x.dtype), (query, key))
    sums = jax.eval_shape(combiner.terms, query, key)
    flop = _flop(combiner.terms, query, key) + len(sums)
    if gradient:
        flop += _flop(lambda *rows: jax.vjp(combiner.terms, *rows[:2])[1](rows[2]), query, key, sums) + len(leaves)
    return float(flop * leaves[0].shape[-1])


def _flop(fn: Callable[..., Any], *shapes: Any) -> float:
    """Operations of a function of single numbers; a transcendental function is one."""
    cost: Any = jax.jit(fn).lower(*shapes).cost_analysis()
    return float(cost.get("flops", 0) + cost.get("transcendentals", 0))


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


def _memory(placement: Placement) -> _Probe:
    size = MEMORY_FLOATS // placement.n_shard

    def run(x: jax.Array, y: jax.Array) -> Any:
        return lax.fori_loop(0, MEMORY_PASSES, lambda _, x: x / 2 + y, x)

    probe = Compiled(placement.map(run), _random(placement, size), _random(placement, size))
    return _Probe(probe, float(MEMORY_PASSES * 3 * 4 * size * placement.n_shard), f"{4 * size / 2**20:g} MiB arrays")
