"""Tables in half precision: the optimizer works in float32, and its result is rounded to nearest or at random."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bess_jax import _checks
from bess_jax._compat import new_key
from bess_jax.step.bess import Params


class LowPrecisionState(NamedTuple):
    """State of `low_precision`."""

    n_update: jax.Array  # () int32, updates made
    inner: Any  # of the wrapped optimizer, float32


def cast_params(params: Params, dtype: Any) -> Params:
    """The entity table and the parameters of the score function in `dtype`: float32, bfloat16 or float16.

    Rows are exchanged and scores computed in that type; losses are float32 always.
    """
    _checks.one_of("dtype", jnp.dtype(dtype).name, ("float32", "bfloat16", "float16"))
    entity, score_fn = jax.tree_util.tree_map(lambda x: x.astype(dtype), (params.entity, params.score_fn))
    return params._replace(entity=entity, score_fn=score_fn)


def low_precision(
    tx: optax.GradientTransformation,
    loss_scale: float = 1.0,
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Lets an optimizer work in float32, state included, on parameters of half precision.

    Use it inside `dense` or `row_sparse`. Parameters in float32 are updated as by `tx` alone.

    Args:
        tx: an optax optimizer.
        loss_scale: that of the loss; gradients are divided by it, in float32. A scale keeps small gradients from
            vanishing in float16.
        stochastic_rounding: round new parameters up or down at random, so that their mean is what float32 would hold;
            else to nearest, where an update below half a step of the type is lost. Draws depend on (`seed`, number of
            the update, leaf, place in it), and are the same on all shards, which replicated parameters need.
        seed: seed of those draws.

    Raises:
        ValueError: if `loss_scale` is not positive and finite, or `seed` is negative.
    """
    _checks.positive("loss_scale", loss_scale)
    _checks.at_least("seed", seed, 0)

    def init(params: Any) -> LowPrecisionState:
        return LowPrecisionState(jnp.zeros((), jnp.int32), tx.init(_to_float32(params)))

    def update(grads: Any, state: LowPrecisionState, params: Any = None) -> tuple[Any, LowPrecisionState]:
        if params is None:
            raise ValueError("params must be given to the update of low_precision, got None")
        scaled = jax.tree_util.tree_map(lambda g: g / loss_scale, _to_float32(grads))
        full = _to_float32(params)
        updates, inner = tx.update(scaled, state.inner, full)
        if stochastic_rounding:
            key = jax.random.fold_in(new_key(seed), state.n_update)
            leaves, tree = jax.tree_util.tree_flatten(params)
            keys = jax.tree_util.tree_unflatten(tree, [jax.random.fold_in(key, i) for i in range(len(leaves))])
            updates = jax.tree_util.tree_map(_rounded_update, params, full, updates, keys)
        return updates, LowPrecisionState(state.n_update + 1, inner)

    return optax.GradientTransformation(init, update)


def stochastic_round(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """`x` float32 in a narrower type: one of its two neighbours there, with the probabilities whose mean is `x`.

    What the type holds exactly stays as it is; beyond its largest number the result is infinite.

    Args:
        x: any shape, float32.
        dtype: bfloat16 or float16; float32 returns `x`.
        key: key of the draws.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return x
    nearest = x.astype(dtype)
    bits = jax.lax.bitcast_convert_type(nearest, jnp.uint16)  # sign and magnitude: + 1 is away from zero
    too_far = jnp.abs(nearest.astype(jnp.float32)) > jnp.abs(x)
    bits = jnp.where(too_far, bits - jnp.uint16(1), bits)
    low, high = (jax.lax.bitcast_convert_type(b, dtype) for b in (bits, bits + jnp.uint16(1)))
    low32, high32 = low.astype(jnp.float32), high.astype(jnp.float32)
    take_high = jax.random.uniform(key, x.shape) < (x - low32) / (high32 - low32)
    return jnp.where(jnp.isfinite(nearest), jnp.where(take_high, high, low), nearest)


def _rounded_update(param: jax.Array, full: jax.Array, update: jax.Array, key: jax.Array) -> jax.Array:
    """The float32 update that leads to the randomly rounded parameter: what is added gets rounded once more, to it."""
    if param.dtype == jnp.float32:
        return update
    return stochastic_round(full + update, param.dtype, key).astype(jnp.float32) - full


def _to_float32(tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda x: x.astype(jnp.float32), tree)
