"""What shards exchange and where arrays lie, under the JAX that there is: a line for each case, exit code 1 on a fault.

A plain script, as JAX 0.3.16 comes without pytest: `python tests/ipu/exchange.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import bess_jax as bj

bj.request_devices(16)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from bess_jax.audit.hlo import read_program  # noqa: E402
from bess_jax.audit.ipu import verdicts  # noqa: E402
from bess_jax.audit.report import audit_program  # noqa: E402
from bess_jax.step import spmd  # noqa: E402
from bess_jax.step.collectives import exchange, gather_shards, shard_index, sum_shards  # noqa: E402

LAYOUTS = [(1, 1), (3, 1), (2, 2), (3, 3), (4, 1), (4, 2), (4, 4), (8, 4), (5, 5), (6, 6), (7, 7), (8, 8)]
"""Shards and devices."""
POWERS = [(n_shard, n_shard) for n_shard in (1, 2, 4, 8, 16)]
LAYOUTS_OF = {"as_ipus": POWERS[:4], "sent": POWERS[1:]}
"""Those of cases that have others."""


def same(x: Any, y: Any) -> None:
    """Bits and types of two arrays.

    Raises:
        ValueError: where they differ.
    """
    x, y = np.asarray(x), np.asarray(y)
    if (x.shape, x.dtype) != (y.shape, y.dtype) or x.tobytes() != y.tobytes():
        raise ValueError(f"{x.dtype} {x.shape} and {y.dtype} {y.shape} differ, by up to {np.abs(x - y).max()}")


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


def ring(n_shard: int, n_device: int) -> None:
    """By ring as at once, values and gradients; but 0.3.16 emulates the latter by a sum, which makes 0.0 of -0.0."""
    here = bj.Placement.create(n_shard, n_device)
    axis = here.axis_name
    rng = np.random.RandomState(n_shard)
    types = [np.float32, np.float16, np.int32]
    x, gradient = ([9 * rng.randn(n_shard, n_shard, 5, 2).astype(dtype) for dtype in types] for _ in range(2))
    for drawn in (*x, *gradient):
        drawn[..., 0, 0] = -0.0

    def step(x: Any, gradient: Any) -> Any:
        ids = x.pop()
        sent, back = jax.vjp(lambda x: [exchange(leaf, axis) for leaf in x], x)
        gathered, back_gathered = jax.vjp(lambda x: [gather_shards(leaf[0], axis) for leaf in x], x)
        back, back_gathered = back(gradient[:-1])[0], back_gathered(gradient[:-1])[0]
        return [*sent, *back, exchange(ids, axis)], [*gathered, gather_shards(ids[0], axis)], back_gathered

    run = {
        name: here.get(here.map(bj.use_exchange(name)(step))(here.put(x), here.put(gradient)))
        for name in ("all_to_all", "ring")
    }
    transposed = [np.swapaxes(leaf, 0, 1) for leaf in (*x[:-1], *gradient[:-1], x[-1])]
    every = [np.broadcast_to(leaf[:, 0], leaf.shape) for leaf in x]
    of_ring, at_once = ([*run[name][0], *run[name][1]] for name in ("ring", "all_to_all"))
    for number, exact in enumerate([*transposed, *every]):
        same(of_ring[number], exact)
        same(of_ring[number] + 0, at_once[number] + 0)  # 0.0 of -0.0
    for single in range(2):
        of_ring, at_once = run["ring"][2][single], run["all_to_all"][2][single]
        if of_ring.dtype == np.float32 and n_device in (1, n_shard):  # else 0.3.16 adds in another order
            same(of_ring, at_once)
        np.testing.assert_allclose(of_ring, at_once, rtol=0.02, atol=0.1)


def sent(n_shard: int, n_device: int) -> None:
    """Bytes that a shard sends, in the program before XLA's passes: an exchange of (S, 6, 4) and its gradient."""

    def step(x: Any) -> Any:
        sent, back = jax.vjp(lambda x: exchange(x, "shard"), x)
        return back(sent + 1)

    x = jnp.zeros((n_device, n_shard, 6, 4))
    emulated = 2 * n_shard if jax.__version__ == "0.3.16" else 1  # an all-reduce sends everything twice
    for name, factor in (("ring", 1), ("all_to_all", emulated)):
        mapped = jax.pmap(bj.use_exchange(name)(step), axis_name="shard", devices=jax.devices()[:n_device])
        lowered = mapped.lower(x)
        text = lowered.compiler_ir("hlo").as_hlo_text()
        found = audit_program(text, n_shard=n_shard)
        expected = 2 * factor * (n_shard - 1) * 6 * 4 * 4
        opcodes = {one.opcode for one in found.collectives}
        print(f"  {name}: {len(found.collectives)} x {', '.join(opcodes)}, {found.sent_bytes:,.0f} bytes")
        if found.sent_bytes != expected:
            raise ValueError(f"{name} sends {found.sent_bytes} bytes, expected {expected}")
        bad = [one for one in verdicts(read_program(text), n_shard) if one.status not in ("native", "restricted")]
        if name == "ring" and bad:
            raise ValueError(f"IPUs cannot do {bad}")


def as_ipus(n_shard: int, n_device: int) -> None:
    """Arrays and a step as on IPUs, of which CPU devices play the part: a `pmap` also for one."""
    asked, pmap = [], jax.pmap

    def pmap_for_ipus(fn: Any, backend: Any, **options: Any) -> Any:
        asked.append(backend)
        return pmap(fn, **options)

    kind, spmd.Placement._on_ipus = spmd.Placement._on_ipus, True
    jax.pmap = pmap_for_ipus
    try:
        placement(n_shard, n_device)
        collectives(n_shard, n_device)
    finally:
        jax.pmap, spmd.Placement._on_ipus = pmap, kind
    if set(asked) != {"ipu"}:
        raise ValueError(f"pmap was asked for {asked}")


CASES: dict[str, Callable[[int, int], None]] = {
    "placement": placement,
    "collectives": collectives,
    "ring": ring,
    "as_ipus": as_ipus,
    "sent": sent,
}


def main() -> int:
    """Runs every case on every layout."""
    faults = 0
    for name, case in CASES.items():
        for n_shard, n_device in LAYOUTS_OF.get(name, LAYOUTS):
            try:
                case(n_shard, n_device)
                said = "as expected"
            except Exception as error:  # a line for each, whatever it is
                faults += 1
                said = f"{type(error).__name__}: {error}"
            print(f"{name} of {n_shard} shards on {n_device} devices: {said}", flush=True)
    print(f"JAX {jax.__version__}: {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
