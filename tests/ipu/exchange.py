"""What shards exchange and where arrays lie, under the JAX that there is: a line for each case, exit code 1 on a fault.

A plain script, as JAX 0.3.16 comes without pytest: `python tests/ipu/exchange.py`.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict

import bess_jax as bj

bj.request_devices(4)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from bess_jax.step.collectives import exchange, gather_shards, shard_index, sum_shards  # noqa: E402

LAYOUTS = [(1, 1), (3, 1), (2, 2), (3, 3), (4, 1), (4, 2), (4, 4), (8, 4)]
"""Shards and devices."""


def same(x: Any, y: Any) -> None:
    """Bits and types of two arrays.

    Raises:
        ValueError: where they differ.
    """
    x, y = np.asarray(x), np.asarray(y)
    if (x.shape, x.dtype) != (y.shape, y.dtype) or x.tobytes() != y.tobytes():
        raise ValueError(f"{x.dtype} {x.shape} and {y.dtype} {y.shape} differ:\n{x}\n{y}")


def placement(n_shard: int, n_device: int) -> None:
    """Arrays come back as they went, from a step that donates its memory too."""
    here = bj.Placement.create(n_shard, n_device)
    x = {"a": np.arange(n_shard * 6, dtype=np.float32).reshape(-1, 2, 3), "b": np.arange(n_shard, dtype=np.int32)}
    put = here.put(x)
    step = here.map(lambda tree: jax.tree_util.tree_map(lambda leaf: leaf + 1, tree), donate_argnums=(0,))
    made = here.make((2, 3), np.float32, lambda shard, rows: x["a"][shard][rows])
    number = here.make((), np.int32, lambda shard, rows: x["b"][shard][rows])
    same(here.get(made), x["a"])
    same(here.get(number), x["b"])
    copies = here.get_local(put)
    for name, shape in here.shapes(jax.tree_util.tree_map(lambda leaf: leaf[0], x)).items():
        if (shape.shape, shape.dtype) != (x[name].shape, x[name].dtype):
            raise ValueError(f"shapes: {shape} of {x[name].shape}")
    again = here.get_local(put)
    after = here.spread(step({"a": made, "b": put["b"]}))
    here.get_local(after, again)
    for name, array in x.items():
        same(copies[name], array)
        same(here.get(after)[name], array + 1)
        same(again[name], array + 1)
    same(here.get(here.replicate(np.float32(3))), np.full(n_shard, 3, np.float32))


def collectives(n_shard: int, n_device: int) -> None:
    """An exchange transposes; all are gathered and summed in the order of the shards."""
    here = bj.Placement.create(n_shard, n_device)
    axis = here.axis_name
    x = np.arange(n_shard * n_shard * 3, dtype=np.float32).reshape(n_shard, n_shard, 3)

    def run(fn: Callable[[Any], Any]) -> Any:
        return here.get(here.map(fn)(here.put(x)))

    same(run(lambda block: exchange(block, axis)), np.swapaxes(x, 0, 1))
    same(run(lambda block: gather_shards(block, axis)), np.broadcast_to(x, (n_shard, *x.shape)))
    same(run(lambda block: sum_shards(block, axis)), np.broadcast_to(x.sum(0), x.shape))
    same(run(lambda block: shard_index(axis)), np.arange(n_shard, dtype=np.int32))


CASES: Dict[str, Callable[[int, int], None]] = {"placement": placement, "collectives": collectives}


def main() -> int:
    """Runs every case on every layout."""
    faults = 0
    for name, case in CASES.items():
        for n_shard, n_device in LAYOUTS:
            try:
                case(n_shard, n_device)
                print(f"{name} {n_shard} shards, {n_device} devices: same")
            except Exception as error:  # a line for each, whatever it is
                faults += 1
                print(f"{name} {n_shard} shards, {n_device} devices: {type(error).__name__}: {error}")
    print(f"JAX {jax.__version__}: {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
