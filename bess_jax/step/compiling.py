"""How programs are compiled: what XLA is told for one of them, whatever the environment tells it for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from bess_jax._compat import has_shardings

CPU_OPTIONS = MappingProxyType(
    {
        "xla_cpu_experimental_ynn_fusion_type": "",
        "xla_disable_hlo_passes": "small-while-loop-hoisting,tree_reduction_rewriter",
    }
)
"""What CPU programs are compiled with.

No part of them is YNNPACK's, whose sums lose rows with jaxlib 0.10.2 (jax#39103), and whose products are no faster than
XLA's own. (oneDNN's are, by some percent: "xla_cpu_use_onednn" and "xla_cpu_experimental_onednn_fusion_type". But JAX
cannot keep such programs on disk.)

Sums are one loop over a row, its terms computed within. XLA's rewriter would store the terms and make two loops of it,
which take 1 to 4 times as long, maxima and counts up to 9 times. Both add up in vectors, with errors of 2e-7 for rows
of 100 to 15,000 numbers; of a million, 3e-6 (rewritten: 2e-7).

Loops run on all threads. The pass that hoists them has one thread run a whole loop with all that is in it: with jaxlib
0.12.0 a loop of any size, with 0.10.2 one that touches less than a kilobyte; see docs/upstream.md.
"""


_are_used: ContextVar[bool] = ContextVar("options", default=True)


@contextmanager
def use_options(are_used: bool) -> Iterator[None]:
    """Whether programs that are mapped within are compiled with options; audits for others than CPUs go without."""
    token = _are_used.set(are_used)
    try:
        yield
    finally:
        _are_used.reset(token)


def jit(fn: Callable[..., Any], device: jax.Device, donate_argnums: Sequence[int] = ()) -> Any:
    """`jax.jit` for devices like `device`, with `options_for` it."""
    options = options_for(device)
    given: dict[str, Any] = {"compiler_options": options} if options else {}  # JAX 0.3.16 has no such argument
    return jax.jit(fn, donate_argnums=tuple(donate_argnums), **given)


def options_for(device: jax.Device) -> dict[str, Any]:
    """What `jax.jit` takes as `compiler_options` for programs on devices like this one: {} where it is no CPU.

    Also {}, with a line in the log, if the installed jaxlib knows one of the options no longer, or has other values.
    """
    return dict(_known(device)) if device.platform == "cpu" and has_shardings() and _are_used.get() else {}


@lru_cache(maxsize=1)
def _known(device: jax.Device) -> MappingProxyType[str, Any]:
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x, compiler_options=dict(CPU_OPTIONS)).lower(scalar).compile()
    except jax.errors.JaxRuntimeError as error:  # when it compiles, of an option that it does not know
        logging.getLogger("bess_jax").warning("XLA compiles with its own options: %s", error)
        return MappingProxyType({})
    return CPU_OPTIONS
