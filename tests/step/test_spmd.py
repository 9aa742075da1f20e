"""Shards on devices, and what they exchange."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from shared import lowering

import bess_jax as bj
from bess_jax.step import spmd
from bess_jax.step.collectives import exchange, gather_shards, sum_shards


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("n_device", [1, 2, 4, 8])
def test_exchange(mapping: Any, n_device: int) -> None:
    """A transpose of the first two axes, however the shards are laid out."""
    placement = bj.Placement.create(8, n_device, mapping)
    x = np.arange(8 * 8 * 3, dtype=np.int32).reshape(8, 8, 3)
    y = placement.map(lambda block: exchange(block, placement.axis_name))(placement.put(x))
    np.testing.assert_array_equal(placement.get(y), np.swapaxes(x, 0, 1))


@pytest.mark.parametrize("n_device", [1, 2, 4, 8])
def test_layouts_on_devices(n_device: int) -> None:
    """What goes in comes out; a pmap of one's own and a placement with one shard on each device take turns."""
    placement = bj.Placement.create(8, n_device)
    x = np.arange(8 * 6, dtype=np.float32).reshape(8, 2, 3)
    np.testing.assert_array_equal(placement.get(placement.put(x)), x)
    ours = placement.map(lambda row: row + 1)(placement.put(x))
    np.testing.assert_array_equal(placement.get(ours), x + 1)
    if n_device == 8:
        theirs = jax.pmap(lambda row: 2 * row)(ours)
        np.testing.assert_array_equal(placement.get(placement.map(lambda row: row + 1)(theirs)), 2 * (x + 1) + 1)


def _placements() -> list[bj.Placement]:
    sizes = [(n_shard, n_device) for n_shard in (1, 2, 3, 4, 8) for n_device in (1, 2, 4, 8) if not n_shard % n_device]
    on_devices = [bj.Placement.create(*size, mapping) for mapping in ("pmap", "shard_map") for size in sizes]
    return on_devices + [bj.Placement.create(n_shard, 1, "vmap") for n_shard in (1, 3)]


def _name(placement: bj.Placement) -> str:
    return f"{placement.n_shard}-{len(placement.devices)}-{placement.mapping}"


@pytest.mark.parametrize("placement", _placements(), ids=_name)
def test_arrays_made_by_rows(placement: bj.Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie as `map` leaves them, so that no step compiles again; each row is read once, in order."""
    monkeypatch.setattr(spmd, "_PIECE", 24)  # bytes of two rows
    x = np.arange(placement.n_shard * 15, dtype=np.int32).reshape(-1, 5, 3)
    seen: list[tuple[int, int, int]] = []

    def read(shard: int, rows: slice) -> np.ndarray:
        seen.append((shard, rows.start, rows.stop))
        return x[shard][rows]

    made = placement.make((5, 3), np.int32, read)
    assert seen == [(shard, *part) for shard in placement.local_shards for part in ((0, 2), (2, 4), (4, 5))]
    number = placement.make((), np.int32, lambda shard, rows: x[shard, 0, 0][rows])
    np.testing.assert_array_equal(placement.get(number), x[:, 0, 0])
    assert placement.get(placement.make((0, 3), np.int32, read)).shape == (placement.n_shard, 0, 3)
    step = placement.map(lambda row: row + 1)
    for given in (placement.put(x), made):
        after = step(given)
        assert (given.shape, given.sharding, given.committed) == (after.shape, after.sharding, after.committed)
        np.testing.assert_array_equal(placement.get(given), x)
        np.testing.assert_array_equal(placement.get(after), x + 1)


@pytest.mark.parametrize("placement", _placements(), ids=_name)
def test_copies_survive_the_memory_they_are_of(placement: bj.Placement) -> None:
    """`get_local` copies, into arrays of before if there are some, and leaves the memory free to be taken over."""
    x = {"a": np.arange(placement.n_shard * 500, dtype=np.float32).reshape(-1, 500), "b": np.arange(placement.n_shard)}
    step = placement.map(lambda tree: jax.tree_util.tree_map(lambda row: row + 1, tree), donate_argnums=(0,))
    state = step(placement.put(x))
    copied = placement.get_local(state)
    for name, array in copied.items():
        np.testing.assert_array_equal(array, x[name] + 1)
    memory = [shard.data.unsafe_buffer_pointer() for shard in state["a"].addressable_shards]
    state = step(state)
    assert memory == [shard.data.unsafe_buffer_pointer() for shard in state["a"].addressable_shards]
    again = placement.get_local(state, copied)
    for name, array in again.items():
        assert array is copied[name]
        np.testing.assert_array_equal(array, x[name] + 2)


@pytest.mark.parametrize("variable", ["PJRT_NPROC", "NPROC"])
def test_too_few_threads_are_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA would end the process in the middle of a loop, see `request_devices`."""
    x = np.zeros((8, 8))

    def step(block: jax.Array) -> jax.Array:
        return sum_shards(gather_shards(exchange(block, "shard"), "shard"), "shard")

    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv(variable, "16")
    jax.pmap(step, axis_name="shard")(x)
    monkeypatch.setenv(variable, "15")
    for part in (exchange, gather_shards, sum_shards):
        with pytest.raises(RuntimeError, match=r"8 CPU devices on 15 threads.* call bess_jax.request_devices\(8\)"):
            jax.pmap(lambda block, part=part: part(block, "shard"), axis_name="shard")(x)


def test_devices_requested_too_late() -> None:
    """Those there are will do; more cannot be had, and nothing is changed."""
    before = jax.config.jax_num_cpu_devices, os.environ["PJRT_NPROC"]
    bj.request_devices(8)
    with pytest.raises(RuntimeError, match="before"):
        bj.request_devices(9)
    assert (jax.config.jax_num_cpu_devices, os.environ["PJRT_NPROC"]) == before


@pytest.mark.parametrize(
    ("environment", "by_hand", "n_device", "n_thread"),
    [
        ({}, "", 4, 16),
        ({"PJRT_NPROC": "5"}, "", 4, 16),
        ({"PJRT_NPROC": "50"}, "", 4, 50),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, "", 4, 16),
        ({"JAX_NUM_CPU_DEVICES": "8"}, "", 8, 32),
        ({}, "jax.config.update('jax_num_cpu_devices', 6)", 6, 24),
    ],
)
def test_devices_requested_in_time(environment: dict[str, str], by_hand: str, n_device: int, n_thread: int) -> None:
    code = f"""
import os, jax, bess_jax
{by_hand}
bess_jax.request_devices(4)
print(jax.local_device_count(), os.environ["PJRT_NPROC"])
"""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PJRT_NPROC", "NPROC", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=inherited | environment
    )
    assert done.stdout.split() == [str(n_device), str(n_thread)]


def test_absent_platform() -> None:
    with pytest.raises(ValueError, match="platform must be one that JAX can use here, got 'rocm': "):
        bj.Placement.create(4, platform="rocm")


def test_jax_platforms_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with JAX_PLATFORMS=cuda where there is no GPU."""

    def fail(backend: str | None) -> None:
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match="can use here, got None: there is no device of JAX_PLATFORMS=cuda"):
        bj.Placement.create(4)


def _ipus(*ids: int) -> list[Any]:
    client = SimpleNamespace(process_index=lambda: 0)
    return [SimpleNamespace(id=i, platform="ipu", process_index=0, client=client) for i in ids]


def test_ipus_are_mapped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard each, by `pmap` for IPUs also where there is one; all exchange by ring."""
    monkeypatch.setattr(jax, "devices", lambda backend=None: _ipus(3, 2, 0, 1))
    asked: list[Any] = []

    def pmap(fn: Any, **options: Any) -> Any:
        asked.append((options["backend"], [device.id for device in options["devices"]]))
        return fn

    monkeypatch.setattr(jax, "pmap", pmap)
    for n_shard in (1, 2, 4):
        placement = bj.Placement.create(n_shard, platform="ipu")
        mapped = placement.map(lambda x: exchange(x, "shard"))
        assert asked.pop() == ("ipu", [*range(n_shard)])
        text = lowering.text(mapped, lowering.array(n_shard, 2), n_shard=n_shard)
        assert text.count(" collective-permute(") == n_shard - 1
        assert "all-to-all" not in text
        by_hand = lowering.text(bj.use_exchange("all_to_all")(mapped), lowering.array(n_shard, 2), n_shard=n_shard)
        assert "collective-permute" not in by_hand
    assert bj.Placement(2, tuple(_ipus(2, 3))).axis_name == "shard"


@pytest.mark.parametrize(
    ("n_shard", "ids", "mapping", "message"),
    [
        (4, (0, 1), "pmap", "n_device must be n_shard on IPUs.*got 2 for 4 shards: give 4, or cut .* into 2 shards"),
        (3, (0, 1, 2), "pmap", "n_shard must be a power of two on IPUs, got 3: give 2 or 4"),
        (2, (1, 2), "pmap", r"devices must be 2 IPUs in a row, from a multiple of 2, got the ids \[1, 2\]"),
        (2, (1, 0), "pmap", r"devices must be 2 IPUs in a row, from a multiple of 2, got the ids \[1, 0\]"),
        (2, (0, 1), "shard_map", "mapping must be 'pmap' on IPUs, got 'shard_map'"),
        (2, (0,), "vmap", "mapping must be 'pmap' on IPUs, got 'vmap'"),
    ],
)
def test_what_ipus_cannot_do(n_shard: int, ids: tuple[int, ...], mapping: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bj.Placement(n_shard, tuple(_ipus(*ids)), mapping)


def test_more_shards_than_ipus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda backend=None: _ipus(0, 1))
    with pytest.raises(ValueError, match="n_device must be at most 2, the ipu devices there are, got 4"):
        bj.Placement.create(4, platform="ipu")


def test_no_jax_for_ipus() -> None:
    with pytest.raises(ValueError, match=r"got 'ipu': IPUs need the JAX of graphcore-research/jax-.*docs/ipu.md"):
        bj.Placement.create(4, platform="ipu")
