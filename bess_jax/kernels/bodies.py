"""Which body of `sum_pairs` runs: a question of the platform that a program is compiled for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, get_args

from jax import lax

from bess_jax import _checks
from bess_jax._compat import TypeAlias, has_platforms
from bess_jax.kernels import broadcast, loops
from bess_jax.kernels.rows import Body, Rows, Terms

Kernels: TypeAlias = Literal["auto", "loops", "broadcast"]

BODIES = {
    "loops": Body(loops.sums, loops.gradients),
    "broadcast": Body(broadcast.sums, broadcast.gradients),
}

_chosen: ContextVar[Kernels] = ContextVar("kernels", default="auto")


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
    """What `use_kernels` asks for."""
    return _chosen.get()


def run(kernels: Kernels, part: Literal["sums", "gradients"], terms: Terms, *rows: Rows) -> Any:
    """A part of the body that the platform asks for, or of the chosen one."""

    def of(body: Body) -> Callable[..., Any]:
        return partial(getattr(body, part), terms)

    if kernels != "auto" or not has_platforms():  # IPUs, and CPUs that stand for them
        return of(BODIES["loops" if kernels == "auto" else kernels])(*rows)
    return lax.platform_dependent(*rows, cpu=of(BODIES["loops"]), default=of(BODIES["loops"]))
