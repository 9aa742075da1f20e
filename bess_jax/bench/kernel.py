"""The suite `kernel`: scores of every pair of a query and a candidate, and their gradient.

Counted are the operations of b x c pairs of D components, to score, and with the gradients by queries and candidates.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax import _checks
from bess_jax.bench.ceilings import Ceilings, flop_per_pair
from bess_jax.bench.timing import Calls, Compiled, Measure, in_turns, make_record
from bess_jax.scoring.base import Combiner, DotProduct
from bess_jax.scoring.boxe import BoxDistance
from bess_jax.scoring.distance import AffineDistance, Distance, ModulusDistance
from bess_jax.step.compiling import jit

Kernel: TypeAlias = Literal["dot", "L1", "L2", "modulus", "affine1", "affine2", "box"]


@dataclasses.dataclass(frozen=True)
class KernelConfig(Calls):
    """What to measure."""

    n_query: int = 1024
    """b, queries."""
    n_key: tuple[int, ...] = (512, 4096)
    """c, candidates; one or more numbers."""
    embedding_size: int = 128
    """D, components of a row (complex ones for the modulus)."""
    kernels: tuple[Kernel, ...] = get_args(Kernel)
    """Which ones; affineN is a distance with N key parts, box is BoxE's."""
    seed: int = 0
    """Seed of the rows."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        super().check()
        for name in ("n_query", "embedding_size"):
            _checks.at_least(name, getattr(self, name), 1)
        for n_key in self.n_key:
            _checks.at_least("n_key", n_key, 1)
        for kernel in self.kernels:
            _checks.one_of("kernels", kernel, get_args(Kernel))
        if not (self.n_key and self.kernels):
            raise ValueError(
                f"n_key and kernels must not be empty, got {self.n_key} and {self.kernels}; leave them out"
            )

    @property
    def n_virtual(self) -> int:
        """One CPU device, which uses all cores."""
        return 1


Parts = tuple[int, int, int]
"""Parts of a query and of a key (0: an array, not a tuple of them), and numbers in a component."""
_KERNELS: dict[Kernel, tuple[Combiner, Parts]] = {
    "dot": (DotProduct(), (0, 0, 1)),
    "L1": (Distance(1), (0, 0, 1)),
    "L2": (Distance(2), (0, 0, 1)),
    "modulus": (ModulusDistance(), (0, 0, 2)),
    "affine1": (AffineDistance(1), (2, 1, 1)),
    "affine2": (AffineDistance(1), (3, 2, 1)),
    "box": (BoxDistance(1, squash=True, per_dimension=True), (6, 2, 1)),
}


def run(config: KernelConfig) -> dict[str, Any]:
    """Times the kernels on one device, in turns."""
    config.check()
    devices = jax.local_devices()[:1]
    shapes = [(config.n_query, n_key, config.embedding_size) for n_key in config.n_key]
    ceilings = Ceilings(devices, matmul_shapes=shapes)
    compiled: dict[tuple[Kernel, int, int], Compiled] = {
        (kernel, n_key, passes): _compile(config, kernel, n_key, passes)
        for kernel, n_key, passes in itertools.product(config.kernels, config.n_key, (1, 3))
    }
    jobs: dict[Any, Callable[[], float]] = ceilings.jobs | {key: one.call for key, one in compiled.items()}
    times = in_turns(jobs, config.n_call, config.n_warmup)
    measures = []
    for (kernel, n_key, passes), one in compiled.items():
        n_pair = config.n_query * n_key
        shape = f"{config.n_query}x{n_key}x{config.embedding_size}"
        measures.append(
            Measure(
                f"{kernel} {shape}{'' if passes == 1 else ' +gradient'}",
                times[kernel, n_key, passes],
                n_pair,
                "pairs",
                one.compile_s,
                n_pair * _flop(config, kernel, gradient=passes == 3),
                "matmul",
            )
        )
    return make_record("kernel", config, devices, measures, ceilings.rates(times))


def _flop(config: KernelConfig, kernel: Kernel, gradient: bool) -> float:
    combiner, (query_parts, key_parts, numbers) = _KERNELS[kernel]
    row = jax.ShapeDtypeStruct((1, config.embedding_size * numbers), np.float32)
    query, key = ((row,) * n_part or row for n_part in (query_parts, key_parts))
    return flop_per_pair(combiner, query, key, gradient)


def _compile(config: KernelConfig, kernel: Kernel, n_key: int, passes: int) -> Compiled:
    combiner, (query_parts, key_parts, numbers) = _KERNELS[kernel]
    rng = np.random.default_rng(config.seed)

    def rows(n_row: int, n_part: int) -> Any:
        shape = (n_row, config.embedding_size * numbers)
        parts = tuple(jnp.asarray(rng.random(shape, dtype=np.float32)) for _ in range(max(n_part, 1)))
        return parts if n_part else parts[0]

    def both(query: Any, key: Any, weight: jax.Array) -> Any:
        score, pull = jax.vjp(combiner.pairwise, query, key)
        return score, pull(weight)

    query, key = rows(config.n_query, query_parts), rows(n_key, key_parts)
    device = jax.local_devices()[0]
    if passes == 1:
        return Compiled(jit(combiner.pairwise, device), query, key)
    weight = jnp.asarray(rng.random((config.n_query, n_key), dtype=np.float32))
    return Compiled(jit(both, device), query, key, weight)
