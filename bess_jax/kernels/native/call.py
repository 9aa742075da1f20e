"""The native body: calls of what `build` has loaded, for what `formula` can translate."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from bess_jax.kernels.native.build import Library, find_library
from bess_jax.kernels.native.formula import Formula, UntranslatableError, translate
from bess_jax.kernels.rows import Rows, Sums, Terms, UnavailableError, length


def describe(terms: Terms, query: Rows, key: Rows) -> str:
    """What computes these terms of these rows; it is compiled if it has never been before.

    Raises:
        UnavailableError: if they have no native body; says why.
        ValueError: if the environment asks for instructions that are not there.
    """
    return _native(terms, query, key)[1].about


def sums(terms: Terms, query: Rows, key: Rows) -> Sums:
    """See `Body`."""
    formula, library = _native(terms, query, key)
    shape = jax.ShapeDtypeStruct((length(query), length(key)), jnp.float32)
    found: Sums = tuple(_call(library.sums, (shape,) * formula.n_sum, query, key))
    return found


def gradients(terms: Terms, query: Rows, key: Rows, cotangent: Sums) -> tuple[Rows, Rows]:
    """See `Body`."""
    _, library = _native(terms, query, key)
    leaves, structure = jax.tree_util.tree_flatten((query, key))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    parts = _call(library.gradients, shapes, query, key, cotangent)
    found: tuple[Rows, Rows] = jax.tree_util.tree_unflatten(structure, parts)
    return found


def _native(terms: Terms, query: Rows, key: Rows) -> tuple[Formula, Library]:
    leaves, structure = jax.tree_util.tree_flatten((query, key))
    if any(x.dtype != jnp.float32 or x.shape[1:] != leaves[0].shape[1:] for x in leaves):
        raise UnavailableError(f"rows are {', '.join(f'{x.dtype}{[*x.shape]}' for x in leaves)}")
    try:
        formula = _formula(terms, structure)
    except UntranslatableError as error:
        raise UnavailableError(f"the formula has no form in C++: {error}") from error
    return formula, find_library(formula.text)


@functools.lru_cache(maxsize=256)
def _formula(terms: Terms, structure: Any) -> Formula:
    """In a thread of its own, which knows nothing of axes that are traced within: the text is always the same.

    Raises:
        UntranslatableError: if there is none.
    """
    with ThreadPoolExecutor(1) as fresh:
        rows = jax.tree_util.tree_unflatten(structure, [0.0] * structure.num_leaves)
        return fresh.submit(translate, terms, *rows).result()


def _call(name: str, shapes: tuple[jax.ShapeDtypeStruct, ...], *args: Any) -> Any:
    """Mapped axes become leading axes of all arguments."""
    return jax.ffi.ffi_call(name, shapes, vmap_method="broadcast_all")(*jax.tree_util.tree_leaves(args))
