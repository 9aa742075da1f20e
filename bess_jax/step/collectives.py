"""What shards send each other: the collectives of a step, over a named axis."""

from __future__ import annotations

import os
from typing import TypeVar, cast

import jax

from bess_jax._compat import axis_size
from bess_jax._typing import AxisName

T = TypeVar("T")

AXIS_NAME = "shard"


def exchange(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """Sends slice j of `x` (S, ...) to shard j; slice i of the result came from shard i.

    The only collective of the embeddings: balanced and of static size. BESS-KGE: `all_to_all`.
    """
    _check_threads()
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    sizes = [axis_size(axis) for axis in axes]
    y = x.reshape(*sizes, *x.shape[1:])
    for position, axis in enumerate(axes):
        y = jax.lax.all_to_all(y, axis, split_axis=position, concat_axis=position)
    return y.reshape(x.shape)


def gather_shards(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The `x` of all shards, (S, ...), on every shard."""
    _check_threads()
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    y = x
    for axis in reversed(axes):
        y = jax.lax.all_gather(y, axis)
    return y.reshape(-1, *x.shape)


def shard_index(axis_name: AxisName) -> jax.Array:
    """() int32, number of this shard."""
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    number = jax.lax.axis_index(axes[0])
    for axis in axes[1:]:
        number = number * axis_size(axis) + jax.lax.axis_index(axis)
    return number


def sum_shards(tree: T, axis_name: AxisName) -> T:
    """Sum over all shards of every leaf."""
    _check_threads()
    return cast(T, jax.lax.psum(tree, axis_name))


def thread_count() -> int:
    """Threads that XLA gives CPU devices, if these are not more."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_threads() -> None:
    """Refuses collectives of CPU devices that XLA gave so few threads that it may end the process.

    Raises:
        RuntimeError: with fewer than two threads a device, see `request_devices`.
    """
    n = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    if n > 1 and thread_count() < 2 * n:
        raise RuntimeError(
            f"XLA was started with {n} CPU devices on {max(n, thread_count())} threads, which can all wait for each "
            f"other, so that it ends the process: call bess_jax.request_devices({n}) before JAX is first used, or set "
            f"the environment variable PJRT_NPROC to {4 * n}"
        )
