"""What Python 3.8 and JAX 0.3.16 lack, on which the IPU's JAX is built. The core takes it from here."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

if sys.version_info >= (3, 11):
    import tomllib as tomllib
    from builtins import zip as zip
    from dataclasses import dataclass as dataclass
    from typing import Self as Self
    from typing import TypeAlias as TypeAlias
else:
    import tomli as tomllib  # noqa: F401

    Self = TypeAlias = Any  # annotations are not evaluated
    from builtins import zip as _zip

    def zip(*iterables: Any, strict: bool = False) -> Any:
        """`zip` of Python 3.10."""
        if not strict:
            return _zip(*iterables)
        columns = [tuple(column) for column in iterables]
        if len({*map(len, columns)}) > 1:
            raise ValueError(f"zip() arguments must be equally long, got {[*map(len, columns)]}")
        return _zip(*columns)

    def dataclass(cls: Any = None, *, kw_only: bool = False, **options: Any) -> Any:
        """`dataclasses.dataclass` of Python 3.10, whose fields by keyword may stand in any order."""
        if cls is None:
            return lambda cls: dataclass(cls, kw_only=kw_only, **options)
        if not kw_only:
            return dataclasses.dataclass(cls, **options)
        cls = dataclasses.dataclass(cls, init=False, **options)
        cls.__init__ = _init_by_keyword
        return cls

    def _init_by_keyword(self: Any, **given: Any) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        asked_for = {name for name, field in fields.items() if field.init}
        if not given.keys() <= asked_for:
            raise TypeError(f"unexpected arguments of {type(self).__name__}: {', '.join(given.keys() - asked_for)}")
        for name, field in fields.items():
            if name not in given and field.default_factory is not dataclasses.MISSING:
                given[name] = field.default_factory()
            elif name not in given and field.default is not dataclasses.MISSING:
                given[name] = field.default
        if missing := asked_for - given.keys():
            raise TypeError(f"{type(self).__name__} lacks the arguments {', '.join(sorted(missing))}")
        self.__dict__.update(given)
        if hasattr(self, "__post_init__"):
            self.__post_init__()


def new_digest(algorithm: str) -> Any:
    """A digest that need not be secure, which some systems would refuse to make otherwise."""
    options: dict[str, Any] = {} if sys.version_info < (3, 9) else {"usedforsecurity": False}
    return hashlib.new(algorithm, **options)


def axis_size(axis: str) -> int:
    """Size of a mapped axis."""
    import jax

    size: int = jax.lax.axis_size(axis) if hasattr(jax.lax, "axis_size") else jax.lax.psum(1, axis)
    return size


def new_key(seed: Any) -> jax.Array:
    """A key of the default generator."""
    import jax

    return jax.random.key(seed) if hasattr(jax.random, "key") else jax.random.PRNGKey(seed)


def raw_key(key: jax.Array) -> jax.Array:
    """A key as numbers, (2,) uint32 for the default generator; it may be that already."""
    import jax

    if hasattr(jax.dtypes, "prng_key") and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(key)
    return key


def random_words(key: jax.Array, n: int) -> jax.Array:
    """Random numbers (n,) uint32 of a key. The bits of `jax.random` take twice the work in recent versions."""
    import jax

    generator: Any = jax.random
    if not hasattr(generator, "threefry_2x32"):
        import jax.extend.random as generator
    words: jax.Array = generator.threefry_2x32(raw_key(key)[:2], jax.numpy.arange(n, dtype=jax.numpy.uint32))
    return words


def scale_by_learning_rate(learning_rate: Any) -> Any:
    """The last link of a chain of optax: minus the rate, or a schedule of it."""
    import optax

    if hasattr(optax, "scale_by_learning_rate"):
        return optax.scale_by_learning_rate(learning_rate)
    if callable(learning_rate):
        return optax.scale_by_schedule(lambda count: -learning_rate(count))
    return optax.scale(-learning_rate)


def has_platforms() -> bool:
    """Whether JAX can choose by the platform that it compiles for."""
    import jax

    return hasattr(jax.lax, "platform_dependent")


def has_shardings() -> bool:
    """Whether JAX has arrays with a sharding. What follows is for where it has none."""
    import jax

    return hasattr(jax, "sharding")


def put_blocks(tree: Any, devices: Any) -> Any:
    """Arrays laid out as `jax.pmap` does: entry i of the first axis on device i."""
    import jax

    return jax.tree_util.tree_map(lambda x: jax.device_put_sharded([*x], [*devices]), tree)


def blocks_of(x: Any) -> list[tuple[Any, Any]]:
    """The devices of this process that hold a part of an array, and these parts."""
    if hasattr(x, "addressable_shards"):
        return [(shard.device, shard.data) for shard in x.addressable_shards]
    return [(block.device(), block) for block in getattr(x, "device_buffers", (x,))]


def filled(x: Any, value: float) -> Any:
    """An array of one value, laid out as a float32 array is; nothing is compiled."""
    import jax
    import numpy as np

    full = np.full(x.shape, value, np.float32)
    if has_shardings():
        return jax.make_array_from_callback(full.shape, x.sharding, full.__getitem__)
    devices = [device for device, _ in blocks_of(x)]
    return put_blocks(full, devices) if hasattr(x, "sharding_spec") else jax.device_put(full, *devices)


def request_by_flag(n_device: int) -> int:
    """Virtual CPU devices that XLA will make, at least so many; 0 if it has made them.

    Raises:
        RuntimeError: if it has made fewer.
    """
    import jax
    from jax._src.lib import xla_bridge  # type: ignore[attr-defined]

    name, flags = "--xla_force_host_platform_device_count", os.environ.get("XLA_FLAGS", "")
    if not xla_bridge._backends:
        n = max(n_device, *map(int, re.findall(rf"{name}=(\d+)", flags)), 1)
        os.environ["XLA_FLAGS"] = f"{flags} {name}={n}".strip()  # the last one counts
        return n
    if (n := len(jax.local_devices(backend="cpu"))) < n_device:
        raise RuntimeError(f"n_device must be asked for before JAX is used, or at most {n}, got {n_device}")
    return 0
