"""The native body: calls of what `build` has loaded, for what `formula` can translate."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bess_jax.kernels.native import build
from bess_jax.kernels.native.formula import Formula, UntranslatableError, translate
from bess_jax.kernels.rows import Body, Rows, Sums, Terms, length


def why_not(terms: Terms, query: Rows, key: Rows) -> str:
    """Why there is no native body for these terms and rows; "" if there is, which may take to compile it.

    Raises:
        ValueError: if the environment asks for instructions that are not there.
    """
    leaves = jax.tree_util.tree_leaves((query, key))
    if any(x.dtype != jnp.float32 or x.shape[1:] != leaves[0].shape[1:] for x in leaves):
        return f"rows are {', '.join(f'{x.dtype}{list(x.shape)}' for x in leaves)}"
    try:
        build.library(_formula(terms, jax.tree_util.tree_structure((query, key))).text)
    except UntranslatableError as error:
        return f"the formula has no form in C++: {error}"
    except build.UnavailableError as error:
        return str(error)
    return ""


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`."""
    formula = _checked(terms, query, key)
    shape = jax.ShapeDtypeStruct((length(query), length(key)), jnp.float32)
    found: Sums = tuple(_call(build.library(formula.text).sums, (shape,) * formula.n_sum, query, key))
    return found


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body`."""
    formula = _checked(terms, query, key)
    leaves, structure = jax.tree_util.tree_flatten((query, key))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    call = _call(build.library(formula.text).gradients, shapes, query, key, cotangent)
    found: tuple[Rows, Rows] = jax.tree_util.tree_unflatten(structure, call)
    return found


BODY = Body(sums, gradients)


def _checked(terms: Terms, query: Rows, key: Rows) -> Formula:
    if why := why_not(terms, query, key):
        raise ValueError(f"kernels must be those that there are, as 'auto' or 'loops', got 'native': {why}")
    return _formula(terms, jax.tree_util.tree_structure((query, key)))


@functools.lru_cache(maxsize=256)
def _formula(terms: Terms, structure: Any) -> Formula:
    """Raises UntranslatableError."""
    return translate(terms, *jax.tree_util.tree_unflatten(structure, [0.0] * structure.num_leaves))


def _call(name: str, shapes: tuple[jax.ShapeDtypeStruct, ...], *args: Any) -> Any:
    """Mapped axes become leading axes of all arguments."""
    return jax.ffi.ffi_call(name, shapes, vmap_method="broadcast_all")(*jax.tree_util.tree_leaves(args))
