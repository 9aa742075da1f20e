"""What shards send each other: the collectives of a step, over a named axis."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import axis_size
from bess_jax._typing import AxisName

T = TypeVar("T")

AXIS_NAME = "shard"


_scheme: ContextVar[str | None] = ContextVar("scheme", default=None)


@contextmanager
def use_exchange(scheme: Literal["all_to_all", "ring"]) -> Iterator[None]:
    """How shards exchange in functions that are traced within; a decorator of such functions, too.

    "all_to_all" is one `lax.all_to_all` or `lax.all_gather` of n shards. "ring" is n - 1 `lax.ppermute`, in number k of
    which every shard sends to the one k further. Both send as many bytes; but the IPU's JAX makes an all-reduce, of n
    times the operand, of the former. "ring" is the default where the default devices are IPUs, and has no forward-mode
    derivatives.

    Values and gradients have the same bits, but for half-precision gradients of `gather_shards`: the ring adds them up
    in float32, the other may round each sum. Compared on CPUs; how other devices order that sum is not known. Where JAX
    0.3.16 emulates, -0.0 arrives as 0.0, and with several shards on each of several devices the order is another one.

    JAX traces a function once: for another way of one that has run already, decorate what `jit` or `pmap` is given.

    Raises:
        ValueError: on another name.
    """
    _checks.one_of("scheme", scheme, ("all_to_all", "ring"))
    token = _scheme.set(scheme)
    try:
        yield
    finally:
        _scheme.reset(token)


def prefer_ring(fn: Callable[..., T]) -> Callable[..., T]:
    """`fn`, whose shards exchange by ring unless `use_exchange` chooses."""

    def traced(*args: Any) -> T:
        with use_exchange(cast("Any", _scheme.get()) or "ring"):
            return fn(*args)

    return traced


def _by_ring() -> bool:
    return (_scheme.get() or ("ring" if jax.default_backend() == "ipu" else "all_to_all")) == "ring"


def exchange(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """Sends slice j of `x` (S, ...) to shard j; slice i of the result came from shard i.

    The only collective of the embeddings: balanced and of static size; how they travel: `use_exchange`. BESS-KGE:
    `all_to_all`.
    """
    _check_threads()
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    sizes = [axis_size(axis) for axis in axes]
    y = x.reshape(*sizes, *x.shape[1:])
    send = _exchange_by_ring if _by_ring() else _exchange_at_once
    for position, axis in enumerate(axes):
        y = send(y, axis, position)
    return y.reshape(x.shape)


def gather_shards(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The `x` of all shards, (S, ...), on every shard."""
    _check_threads()
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    gather = _gather_by_ring if _by_ring() else jax.lax.all_gather
    y = x
    for axis in reversed(axes):
        y = gather(y, axis) if axis_size(axis) > 1 else y[None]
    return y.reshape(-1, *x.shape)


def _exchange_at_once(x: jax.Array, axis: str, position: int) -> jax.Array:
    return cast("jax.Array", jax.lax.all_to_all(x, axis, split_axis=position, concat_axis=position))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _exchange_by_ring(x: jax.Array, axis: str, position: int) -> jax.Array:
    """Its gradient is an exchange too; that of what it consists of would add zeros."""
    n = axis_size(axis)
    if n == 1:
        return x
    number = jax.lax.axis_index(axis)
    mine = _roll(jnp.moveaxis(x, position, 0), number)  # slice k is for the shard k further
    arrived = [mine[0], *(_send(mine[k], axis, k) for k in reversed(range(1, n)))]  # slice k: from the shard k further
    return jnp.moveaxis(_roll(jnp.stack(arrived), n - number), 0, position)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather_by_ring(x: jax.Array, axis: str) -> jax.Array:
    """Its gradient needs no reduce-scatter, which the IPU lacks."""
    n = axis_size(axis)
    arrived = [x, *(_send(x, axis, k) for k in reversed(range(1, n)))]
    return _roll(jnp.stack(arrived), n - jax.lax.axis_index(axis))


def _send(x: jax.Array, axis: str, k: int) -> jax.Array:
    """Sends `x` to the shard k further: a permutation of all shards, the only one that the IPU has."""
    n = axis_size(axis)
    return cast("jax.Array", jax.lax.ppermute(x, axis, [(i, (i + k) % n) for i in range(n)]))


def _roll(x: jax.Array, start: jax.Array) -> jax.Array:
    """`x` (n, ...) from `start`, 0 to n, to its end, then from 0; without indices, and never out of range."""
    return jax.lax.dynamic_slice(jnp.concatenate([x, x]), (start, *(0,) * (x.ndim - 1)), x.shape)


_exchange_by_ring.defvjp(
    lambda x, axis, position: (_exchange_by_ring(x, axis, position), None),
    lambda axis, position, _, gradient: (_exchange_by_ring(gradient, axis, position),),
)
_gather_by_ring.defvjp(
    lambda x, axis: (_gather_by_ring(x, axis), None),
    lambda axis, _, gradient: (_exchange_by_ring(gradient, axis, 0).sum(0),),
)


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
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    axes = tuple(axis for axis in axes if axis_size(axis) > 1)
    return cast(T, jax.lax.psum(tree, axes)) if axes else tree


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
