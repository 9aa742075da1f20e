"""Where shards run: the only module that knows about devices and mappings."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax import _checks
from bess_jax._compat import TypeAlias, blocks_of, has_shardings, put_blocks, request_by_flag
from bess_jax._typing import AxisName, Mapping_
from bess_jax.kernels.bodies import Kernels, use_kernels
from bess_jax.step.collectives import AXIS_NAME, prefer_ring, thread_count
from bess_jax.step.compiling import jit, options_for
from bess_jax.step.ipus import MISSING, check_ipus

Mapped: TypeAlias = "Callable[..., Any]"

_PIECE = 2**24
"""Bytes that the host holds of an array that is brought to the devices."""
_DEVICE_AXIS, _LOCAL_AXIS = "shard_device", "shard_local"


@dataclasses.dataclass(frozen=True)
class Placement:
    """S shards laid out on n_device devices, a divisor of S; the shards of one device run under `jax.vmap`.

    Arrays are handed in and out with a leading shard axis (S, ...); `put` and `map` keep them in the layout of the
    mapping in between. With one shard on each device that is the layout of a `jax.pmap` of your own.

    IPUs have one shard each, under "pmap", and exchange by ring. What is not mapped, initialization too, runs on JAX's
    default device: `jax.config.update("jax_platform_name", "cpu")`, before JAX is used, makes that the host.

    Attributes:
        n_shard: S.
        devices: the devices.
        mapping: "pmap" (devices of one process), "shard_map" or "vmap" (which has all shards on one device).
        kernels: what `use_kernels` is given in `map`; "auto" leaves that to the code around.

    Raises:
        ValueError: if the number of devices does not divide S, or is not 1 under "vmap"; on devices of several
            processes under "pmap", where `jax.pmap` has only part of an array in each; under "shard_map" with a JAX
            that has none; on IPUs that cannot run the shards together; with kernels "native" on other devices than
            CPUs.
    """

    n_shard: int
    devices: tuple[jax.Device, ...]
    mapping: Mapping_ = "pmap"
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        _checks.one_of("mapping", self.mapping, ("pmap", "shard_map", "vmap"))
        n = len(self.devices)
        if n < 1 or self.n_shard % n or (self.mapping == "vmap" and n > 1):
            rule = "exactly 1 under mapping 'vmap'" if self.mapping == "vmap" else "a divisor of n_shard"
            raise ValueError(f"the number of devices must be {rule}, got {n} for {self.n_shard} shards")
        if self.mapping == "pmap" and not self.is_local:
            raise ValueError("mapping must be 'shard_map' for devices of several processes, got 'pmap'")
        if self.mapping == "shard_map" and not has_shardings():
            raise ValueError(f"mapping must be 'pmap' or 'vmap' under JAX {jax.__version__}, got 'shard_map'")
        _checks.one_of("kernels", self.kernels, get_args(Kernels))
        if self.kernels == "native" and self.devices[0].platform != "cpu":
            raise ValueError(f"kernels must be 'auto' on devices of {self.devices[0].platform}, got 'native', for CPUs")
        if self._on_ipus:
            check_ipus(self.n_shard, [device.id for device in self.devices], self.mapping)

    @classmethod
    def create(
        cls,
        n_shard: int,
        n_device: int | None = None,
        mapping: Mapping_ = "pmap",
        platform: str | None = None,
        kernels: Kernels = "auto",
    ) -> Placement:
        """Shards on the devices of all processes, equally many of each; one after the other, process by process.

        Args:
            n_shard: S.
            n_device: devices to use; default: the largest divisor of S for which there are devices; on IPUs S.
            mapping: see the class. Over several processes "pmap" becomes "shard_map".
            platform: "cpu", "gpu", "tpu" or "ipu"; default: JAX's own.
            kernels: see the class.

        Raises:
            ValueError: if there is no such platform, or it has fewer than `n_device` devices; with several processes
                also if S or `n_device` is not a multiple of their number, or under "vmap".
        """
        _checks.at_least("n_shard", n_shard, 1)
        try:
            devices = jax.devices(backend=platform)
        except (RuntimeError, AssertionError) as error:  # the former tells the platforms that there are
            reason = str(error) or f"there is no device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}"
            reason = MISSING if platform == "ipu" else reason
            raise ValueError(f"platform must be one that JAX can use here, got {platform!r}: {reason}") from error
        of_process: dict[int, list[jax.Device]] = {}
        for device in sorted(devices, key=lambda device: (device.process_index, device.id)):
            of_process.setdefault(device.process_index, []).append(device)
        n_process, n_each = len(of_process), min(map(len, of_process.values()))
        if n_process > 1:
            mapping = _mapping_of_many(n_process, n_shard, n_device, mapping)
        if n_device is None:
            n_device = 1 if mapping == "vmap" else n_process * largest_divisor(n_shard // n_process, n_each)
            n_device = n_shard if devices[0].platform == "ipu" else n_device
        _checks.at_least("n_device", n_device, 1)
        if n_device > n_process * n_each:
            where = f" of {n_process} processes" if n_process > 1 else ""
            raise ValueError(
                f"n_device must be at most {n_process * n_each}, the {devices[0].platform} devices{where} there are, "
                f"got {n_device}"
            )
        used = [device for found in of_process.values() for device in found[: n_device // n_process]]
        return cls(n_shard, tuple(used), mapping, kernels)

    @property
    def shards_per_device(self) -> int:
        """S / n_device."""
        return self.n_shard // len(self.devices)

    @property
    def axis_name(self) -> AxisName:
        """What code under `map` names the shard axis."""
        if len(self.devices) == 1:
            return AXIS_NAME
        return AXIS_NAME if self.shards_per_device == 1 else (_DEVICE_AXIS, _LOCAL_AXIS)

    @property
    def _device_axis(self) -> str:
        return AXIS_NAME if self.shards_per_device == 1 else _DEVICE_AXIS

    @cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        """The devices, under the name that `map` gives them: results of `map` and `put` have the same sharding."""
        return jax.sharding.Mesh(np.array(self.devices), (self._device_axis,))

    @property
    def runs_ahead(self) -> bool:
        """Whether a call may start while the one before it runs: not on several CPU devices, see `request_devices`."""
        return len(self.devices) == 1 or self.devices[0].platform != "cpu"

    @property
    def _on_ipus(self) -> bool:
        return bool(self.devices[0].platform == "ipu")

    @property
    def _is_one_shard(self) -> bool:
        """True if there is nothing to map: a shard axis of size 1 would cost copies around each gather and scatter."""
        return self.n_shard == 1 and self._is_one_vmap and has_shardings()

    @property
    def _is_one_vmap(self) -> bool:
        """True if arrays lie whole on the only device."""
        return len(self.devices) == 1 and not self._on_ipus

    @property
    def _has_two_axes(self) -> bool:
        """True if arrays on the devices start with the axes (n_device, S / n_device): pmap maps whole axes."""
        return self.mapping == "pmap" and 1 < len(self.devices) < self.n_shard

    def map(self, fn: Callable[..., Any], donate_argnums: Sequence[int] = ()) -> Mapped:
        """Compiles `fn`, which sees the arrays of one shard, into a function of arrays from `put`.

        Args:
            fn: pure function of pytrees without shard axis; may use collectives over `axis_name`.
            donate_argnums: positions of arguments whose memory the results may take over.
        """
        fn = fn if self.kernels == "auto" else use_kernels(self.kernels)(fn)
        if self._is_one_vmap and not self._is_one_shard:
            return self._jit(jax.vmap(fn, axis_name=AXIS_NAME), donate_argnums)
        axis = self._device_axis
        block = jax.vmap(fn, axis_name=_LOCAL_AXIS) if self.shards_per_device > 1 else fn
        if self.mapping == "pmap" and not self._is_one_shard:
            backend, block = ("ipu", prefer_ring(block)) if self._on_ipus else (None, block)
            donate = tuple(donate_argnums)
            mapped = jax.pmap(block, axis_name=axis, devices=self.devices, donate_argnums=donate, backend=backend)
            if not options_for(self.local_devices[0]):
                return cast(Mapped, mapped)
            return self._jit(lambda *args: mapped(*args), donate)  # given `mapped` itself, `jit` would take its `lower`
        block = block if self.shards_per_device > 1 else _on_block_of_one(fn)
        spec = jax.sharding.PartitionSpec(axis)
        mapped = jax.shard_map(block, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return self._jit(mapped, donate_argnums)

    def _jit(self, fn: Callable[..., Any], donate_argnums: Sequence[int]) -> Mapped:
        return cast(Mapped, jit(fn, self.local_devices[0], donate_argnums))

    @cached_property
    def local_devices(self) -> tuple[jax.Device, ...]:
        """Those of `devices` that belong to this process."""
        return tuple(device for device in self.devices if device.process_index == device.client.process_index())

    @property
    def is_local(self) -> bool:
        """Whether this process has all the devices."""
        return len(self.local_devices) == len(self.devices)

    @cached_property
    def local_shards(self) -> range:
        """Numbers of the shards that this process holds."""
        first = self.devices.index(self.local_devices[0]) * self.shards_per_device
        return range(first, first + len(self.local_devices) * self.shards_per_device)

    @property
    def is_first(self) -> bool:
        """Whether this process holds the first shard: it alone writes files."""
        return self.local_shards.start == 0

    @cached_property
    def _sharding(self) -> jax.sharding.Sharding:
        """How arrays lie on the devices: as `map` leaves them."""
        if len(self.devices) == 1:
            return jax.sharding.SingleDeviceSharding(self.devices[0])
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*self._mesh.axis_names))

    def _axes(self, n_device: int) -> tuple[int, ...]:
        """Leading axes of arrays of the shards of `n_device` devices."""
        per_device = self.shards_per_device
        return (n_device, per_device) if self._has_two_axes else (n_device * per_device,)

    def put(self, tree: Any) -> Any:
        """Copies arrays (S, ...), the same on every process, to the devices: each process those of its own shards."""
        own = slice(self.local_shards.start, self.local_shards.stop)
        return self.put_local(tree if self.is_local else jax.tree_util.tree_map(lambda x: x[own], tree))

    def put_local(self, tree: Any) -> Any:
        """Copies arrays (n, ...) of the n `local_shards` to the devices that hold them; every process must call it."""
        lead = self._axes(len(self.local_devices))
        blocks = jax.tree_util.tree_map(lambda x: x.reshape(*lead, *x.shape[1:]), tree)
        if not has_shardings():
            return jax.device_put(blocks, self.devices[0]) if self._is_one_vmap else put_blocks(blocks, self.devices)
        if self.is_local:
            return jax.device_put(blocks, self._sharding)
        make = partial(jax.make_array_from_process_local_data, self._sharding)
        return jax.tree_util.tree_map(lambda x: make(x, (self.n_shard, *x.shape[1:])), blocks)

    def make(self, shape: Sequence[int], dtype: Any, read: Callable[[int, Any], Any]) -> jax.Array:
        """An array on the devices, read by rows, of which the host holds few at a time (all under JAX 0.3.16).

        Args:
            shape: shape of one shard.
            dtype: type.
            read: `read(s, rows)` gives some rows of shard number s, by a slice of the first axis, or `...` for an array
                without axes. Each process asks for those of its own shards, in order.
        """
        if not has_shardings():
            rows = slice(0, shape[0]) if shape else ...
            return cast("jax.Array", self.put(np.stack([read(shard, rows) for shard in self.local_shards])))
        blocks, shards = [], iter(self.local_shards)
        lead = self._axes(1)
        size = max(1, _PIECE // max(1, np.dtype(dtype).itemsize * math.prod(shape[1:])))
        for device in self.local_devices:
            block = jnp.zeros((*lead, *shape), dtype, device=device)  # memory of JAX's own, which can be donated
            for place in range(self.shards_per_device):
                shard = next(shards)
                for start in range(0, shape[0] if shape else 1, size):
                    rows = read(shard, slice(start, min(start + size, shape[0])) if shape else ...)
                    block = _write(block, place, start, rows).block_until_ready()
            blocks.append(block)
        every = (*self._axes(len(self.devices)), *shape)
        return jax.make_array_from_single_device_arrays(every, self._sharding, blocks)

    def get(self, tree: Any) -> Any:
        """Copies arrays from `put` or `map` to the host, as NumPy arrays (S, ...), on every process.

        With devices of several processes it is a collective, and takes the memory of a whole array on each device.
        """
        skip = 2 if self._has_two_axes else 1
        host = jax.device_get(self.spread(tree))
        return jax.tree_util.tree_map(lambda x: np.asarray(x).reshape(self.n_shard, *x.shape[skip:]), host)

    def spread(self, tree: Any) -> Any:
        """Begins to copy arrays from `put` or `map` to all processes, whose `get` then waits for no later work.

        With devices of several processes it is a collective: all must call it.
        """
        if self.is_local:
            return tree
        return jax.tree_util.tree_map(lambda x: x if x.is_fully_replicated else self._copy_to_all(x), tree)

    @cached_property
    def _copy_to_all(self) -> Mapped:
        return cast(
            Mapped,
            jax.jit(lambda x: x, out_shardings=jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())),
        )

    def get_local(self, tree: Any, out: Any = None) -> Any:
        """Copies the shards of this process to the host: NumPy arrays (n, ...) of the n `local_shards`.

        Args:
            tree: arrays from `put` or `map`. The copies stay as they are when their memory is donated.
            out: arrays that a former call returned, to copy into; default: new ones.
        """
        skip = 2 if self._has_two_axes else 1
        if out is None:
            n = len(self.local_shards)
            out = jax.tree_util.tree_map(lambda x: np.empty((n, *x.shape[skip:]), x.dtype), tree)

        def one(x: jax.Array, to: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            blocks = to.reshape(len(self.local_devices), -1)  # of each device, a view
            for device, block in blocks_of(x):
                blocks[self.local_devices.index(device)] = np.asarray(block).reshape(-1)
            return to

        return jax.tree_util.tree_map(one, tree, out)

    def shapes(self, tree: Any) -> Any:
        """Shapes (S, ...) of what `get` returns, from those of one shard."""
        return jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct((self.n_shard, *x.shape), x.dtype), tree)

    def replicate(self, tree: Any) -> Any:
        """Copies host arrays without shard axis to every shard."""
        return self.put(jax.tree_util.tree_map(lambda x: np.broadcast_to(x, (self.n_shard, *np.shape(x))), tree))


@partial(jax.jit, donate_argnums=0)
def _write(block: jax.Array, place: int, start: int, rows: jax.Array) -> jax.Array:
    """`block`, of several shards, with other rows from `start` on in the one at that place; in the same memory."""
    shards = block.reshape(-1, *block.shape[block.ndim - rows.ndim :])
    at = (place, start, *(0 for _ in shards.shape[2:]))[: shards.ndim]
    return jax.lax.dynamic_update_slice(shards, rows[None], at).reshape(block.shape)


def _mapping_of_many(n_process: int, n_shard: int, n_device: int | None, mapping: Mapping_) -> Mapping_:
    """The mapping over several processes.

    Raises:
        ValueError: if shards or devices cannot be equally many on all of them.
    """
    for name, value in (("n_shard", n_shard), ("n_device", n_device)):
        if value is not None and value % n_process:
            raise ValueError(f"{name} must be a multiple of the {n_process} processes, got {value}")
    if mapping == "vmap":
        raise ValueError(f"mapping 'vmap' is for one device: give 'shard_map' for {n_process} processes")
    return "shard_map"


def largest_divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`."""
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)


def request_devices(n_device: int) -> None:
    """Asks for at least `n_device` virtual CPU devices; real accelerators are not affected. Call it before JAX is used.

    With several processes these are the devices of all, equally many each.

    Also gives XLA four threads a device (`PJRT_NPROC`, unless it is set to more). One step at a time runs on the
    devices, on a thread of the pool each; when 32 more have been dispatched, the next one waits on a thread for each
    device. On a small machine XLA's own choice, a thread a device, leaves none for the step that all wait for, and XLA
    ends the process after 40 seconds.

    Raises:
        RuntimeError: if JAX has made its devices already, and fewer.
    """
    _checks.at_least("n_device", n_device, 1)
    n = _request_by_setting(n_device) if has_shardings() else request_by_flag(n_device)
    if n and thread_count() < 4 * n:
        os.environ["PJRT_NPROC"] = str(4 * n)


def _request_by_setting(n_device: int) -> int:
    """Virtual CPU devices that JAX will make, 0 if it has made them; see `request_devices`."""
    from jax._src import distributed

    n_device = -(-n_device // (distributed.global_state.num_processes or 1))  # there is no other way to ask so early
    n: int = max(n_device, jax.config.jax_num_cpu_devices)  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_num_cpu_devices", n + 1)  # any other number: it is refused if JAX has its devices
    except RuntimeError:
        if len(jax.local_devices(backend="cpu")) < n_device:
            raise
        return 0
    jax.config.update("jax_num_cpu_devices", n)
    return n


def nbytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) in a tree."""
    leaves = jax.tree_util.tree_leaves(tree)
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def _on_block_of_one(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` on arrays whose leading axis, of size 1, is the shard."""

    def block(*args: Any) -> Any:
        out = fn(*jax.tree_util.tree_map(lambda x: x[0], args))
        return jax.tree_util.tree_map(lambda x: x[None], out)

    return block
