"""Which body of `sum_pairs` runs: a question of the platform that a program is compiled for."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, cast, get_args

import jax
from jax import lax

from bess_jax import _checks
from bess_jax._compat import TypeAlias, has_platforms
from bess_jax.kernels import broadcast, loops, products
from bess_jax.kernels.rows import Body, Rows, Terms, UnavailableError, square_of_difference

Kernels: TypeAlias = Literal["auto", "native", "loops", "products", "broadcast", "triton"]

VARIABLE = "BESS_JAX_KERNELS"
"""Environment variable: what is chosen where `use_kernels` chooses nothing."""


def _of_today(name: str, module: str) -> Body:
    """A body that needs today's JAX, imported when it runs."""

    def run(part: str, *args: Any) -> Any:
        if not has_platforms():
            raise ValueError(f"kernels must be 'auto' or 'loops' under JAX {jax.__version__}, got {name!r}")
        try:
            return getattr(importlib.import_module(module), part)(*args)
        except UnavailableError as error:
            raise ValueError(f"kernels must be 'auto' or 'loops', got {name!r}: {error}") from error

    return Body(partial(run, "sums"), partial(run, "gradients"))


BODIES = {
    "native": _of_today("native", "bess_jax.kernels.native.call"),
    "loops": Body(loops.sums, loops.gradients),
    "products": Body(products.sums, products.gradients),
    "broadcast": Body(broadcast.sums, broadcast.gradients),
    "triton": _of_today("triton", "bess_jax.kernels.triton"),
}

_chosen: ContextVar[Kernels | None] = ContextVar("kernels", default=None)


@contextmanager
def use_kernels(kernels: Kernels) -> Iterator[None]:
    """Which body computes sums over pairs in functions that are traced within; a decorator of such functions, too.

    JAX traces a function once: for another body of one that has run already, decorate what `jit` or `pmap` is given.

    Raises:
        ValueError: on another name.
    """
    _checks.one_of("kernels", kernels, get_args(Kernels))
    token = _chosen.set(kernels)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> Kernels:
    """What `use_kernels` asks for, else the environment.

    Raises:
        ValueError: if BESS_JAX_KERNELS is none of the names.
    """
    given = _chosen.get()
    if given is None:
        given = cast(Kernels, os.environ.get(VARIABLE) or "auto")
        _checks.one_of(VARIABLE, given, get_args(Kernels))
    return given


def run(kernels: Kernels, part: Literal["sums", "gradients"], terms: Terms, *rows: Rows) -> Any:
    """A part of the body that the platform asks for, or of the chosen one."""

    def of(body: Body) -> Callable[..., Any]:
        return partial(getattr(body, part), terms)

    if kernels != "auto":
        say(f"{kernels}, as was asked for")
    if kernels != "auto" or not has_platforms():  # IPUs, and CPUs that stand for them
        return of(BODIES["loops" if kernels == "auto" else kernels])(*rows)
    return lax.platform_dependent(*rows, cpu=of(_on_cpu(terms, *rows)), default=of(BODIES["broadcast"]))


def _on_cpu(terms: Terms, query: Rows, key: Rows, *_: Any) -> Body:
    """The native body where there can be one: nothing is compiled for the host of an accelerator."""
    if jax.default_backend() != "cpu":
        say("XLA's reductions of broadcasts")
        return _by_xla(terms)
    from bess_jax.kernels.native import call

    try:
        say(call.describe(terms, query, key))
    except UnavailableError as error:
        say(f"XLA's loops, as {error}")
        return _by_xla(terms)
    return BODIES["native"]


def _by_xla(terms: Terms) -> Body:
    return BODIES["products" if terms is square_of_difference else "loops"]


_said: dict[str, None] = {}


def say(text: str) -> None:
    """Tells once in a process what computes sums over pairs, and why."""
    if text not in _said:
        _said[text] = None
        logging.getLogger("bess_jax").info("sums over pairs: %s", text)


def said() -> tuple[str, ...]:
    """What has computed sums over pairs in this process, a sentence each."""
    return tuple(_said)
