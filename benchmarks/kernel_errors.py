"""The largest error of every body of `sum_pairs` against float64, by family: values, and gradients by queries and keys.

    python benchmarks/kernel_errors.py [NAME ...]

Names are those of `use_kernels`; without any, all bodies that run on this machine. An error of a score is relative to
the score; one of a gradient is relative to the largest number in it, as these are sums of either sign. "close" are rows
at distances from 1e-6 to 1, each query near a fourth of the keys. Where a point is on the border of a box but for
rounding, the gradient of p = 1 is that of one side, by every body.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax.kernels import use_kernels
from bess_jax.kernels.bodies import BODIES
from bess_jax.scoring.boxe import BoxDistance
from bess_jax.scoring.distance import AffineDistance, Componentwise, Distance, ModulusDistance

N_QUERY, N_KEY, WIDTH = 64, 256, 128

FAMILIES: dict[str, tuple[Any, int, int, int]] = {
    "L1": (Distance(1), 0, 0, 1),
    "L2": (Distance(2), 0, 0, 1),
    "moduli": (ModulusDistance(), 0, 0, 2),
    **{f"affine {n}, p = {p}": (AffineDistance(p), n + 1, n, 1) for n in (1, 2) for p in (1, 2)},
    **{
        f"box, p = {p}{', tanh' if squash else ''}{', by dimension' if by_dimension else ''}": (
            (BoxDistance(p, squash=squash, per_dimension=by_dimension), 6, 2, 1)
        )
        for p in (1, 2)
        for squash in (True, False)
        for by_dimension in (True, False)
    },
}
"""The combiner, parts of a query and of a key (0: an array, not a tuple), and numbers in a component."""
CLOSE = ("L1", "L2", "moduli")


def rows(family: str, close: bool) -> tuple[Any, Any]:
    """Queries and keys, float32; the widths of boxes are positive."""
    _, query_parts, key_parts, numbers = FAMILIES[family]
    rng = np.random.default_rng(0)

    def of(n_row: int, n_part: int) -> Any:
        parts = [rng.normal(size=(n_row, WIDTH * numbers)).astype(np.float32) for _ in range(max(n_part, 1))]
        if family.startswith("box") and n_part == 6:
            parts[2], parts[5] = abs(parts[2]), abs(parts[5])
        return tuple(parts) if n_part else parts[0]

    query, key = of(N_QUERY, query_parts), of(N_KEY, key_parts)
    if close:
        query[:] = query[rng.integers(4, size=N_QUERY)]
        far = 10.0 ** rng.uniform(-6, 0, (N_KEY, 1)) / np.sqrt(WIDTH)
        key = (query[rng.integers(4, size=N_KEY)] + far * key).astype(np.float32)
    return query, key


def run(method: Any, query: Any, key: Any, cotangent: Any) -> list[Any]:
    """Scores, and the gradients as one array each."""

    def both(query: Any, key: Any, cotangent: Any) -> Any:
        scores, pull = jax.vjp(method, query, key)
        return scores, *pull(cotangent)

    found = jax.jit(both)(query, key, cotangent)
    return [np.concatenate([np.float64(leaf) for leaf in jax.tree_util.tree_leaves(x)], axis=-1) for x in found]


def exact(combiner: Componentwise, query: Any, key: Any, cotangent: Any) -> list[Any]:
    """In float64, pair by pair."""

    def method(query: Any, key: Any) -> Any:
        query, key = combiner.prepare(query, key)
        terms = combiner.terms(
            *(jax.tree_util.tree_map(lambda x, i=i: jnp.expand_dims(x, i), rows) for i, rows in ((1, query), (0, key)))
        )
        return combiner.score(tuple(jnp.sum(x, axis=-1) for x in terms))

    with jax.enable_x64(True):
        return run(method, *jax.tree_util.tree_map(np.float64, (query, key, cotangent)))


def main(names: list[str]) -> None:
    """Prints a table in Markdown."""
    print(
        f"{N_QUERY} queries, {N_KEY} keys, {WIDTH} components; JAX {jax.__version__}, {jax.devices()[0].device_kind}\n"
    )
    print("| family | body | score | gradient by query | by key |\n|---|---|---|---|---|")
    for family in (*FAMILIES, *(f"{name}, close" for name in CLOSE)):
        name = family.removesuffix(", close")
        combiner, (query, key) = FAMILIES[name][0], rows(name, close=family != name)
        cotangent = np.random.default_rng(1).normal(size=(N_QUERY, N_KEY)).astype(np.float32)
        scores, *gradients = exact(combiner, query, key, cotangent)
        for body in names or BODIES:
            elsewhere = body == "triton" and jax.default_backend() != "gpu"  # another body stands in for it
            if elsewhere or (body == "products" and name != "L2"):
                continue
            try:
                found = run(use_kernels(body)(combiner.pairwise), query, key, cotangent)
            except ValueError as error:
                print(f"| {family} | {body} | {error} | | |")
                continue
            where = scores != 0
            errors = [np.max(np.abs(found[0] - scores)[where] / np.abs(scores)[where])]
            errors += [np.abs(x - y).max() / np.abs(y).max() for x, y in zip(found[1:], gradients, strict=True)]
            print(f"| {family} | {body} |", " | ".join(f"{x:.1e}" for x in errors), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
