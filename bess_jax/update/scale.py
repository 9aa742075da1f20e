"""A factor of all updates that is part of the optimizer's state, and set between calls of the compiled steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bess_jax._compat import filled


class AdjustableState(NamedTuple):
    """State of `adjustable`."""

    scale: jax.Array  # () float32, factor of the updates
    inner: Any  # of the wrapped optimizer


def adjustable(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Multiplies the updates of an optimizer by a factor in its state, 1 at first, which `set_scale` changes.

    For an optimizer that ends with its learning rate, as those of optax do, it is a factor of that rate. Use it inside
    `dense`, `row_sparse` or `low_precision`.

    Args:
        tx: an optax optimizer.
    """

    def init(params: Any) -> AdjustableState:
        return AdjustableState(jnp.ones((), jnp.float32), tx.init(params))

    def update(grads: Any, state: AdjustableState, params: Any = None) -> tuple[Any, AdjustableState]:
        updates, inner = tx.update(grads, state.inner, params)
        scaled = jax.tree_util.tree_map(lambda x: x * state.scale.astype(x.dtype), updates)
        return scaled, AdjustableState(state.scale, inner)

    return optax.GradientTransformation(init, update)


def set_scale(opt_state: Any, scale: float) -> Any:
    """An optimizer's state with another factor in every `adjustable` in it; all else stays where it is.

    Args:
        opt_state: of a shard, or of all with a leading axis, on their devices.
        scale: the factor.

    Raises:
        ValueError: if there is no `adjustable` in it.
    """
    n_set = 0

    def replaced(node: Any) -> Any:
        nonlocal n_set
        if not isinstance(node, AdjustableState):
            return node
        n_set += 1
        return node._replace(scale=filled(node.scale, scale))

    state = jax.tree_util.tree_map(replaced, opt_state, is_leaf=lambda node: isinstance(node, AdjustableState))
    if not n_set:
        raise ValueError("opt_state must be of an optimizer wrapped by `adjustable`, got none")
    return state


def plateau(values: Sequence[float], factor: float, patience: int, min_scale: float) -> float:
    """The scale after validations: multiplied by `factor` whenever `patience` of them were not the best so far.

    It follows from the values alone, so that a run that goes on has the scale it would have had.

    Args:
        values: of all validations, in order; higher is better.
        factor: between 0 and 1.
        patience: validations without a new best one until the scale falls, and until it falls again.
        min_scale: it falls no lower.
    """
    scale, best, n = 1.0, -float("inf"), 0
    for value in values:
        n += 1
        if value > best:
            best, n = value, 0
        elif n == patience:
            scale, n = max(scale * factor, min_scale), 0
    return scale
