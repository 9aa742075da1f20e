"""Gradient accumulation: one update from several micro-batches, in the memory of one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax import _checks
from bess_jax._typing import AxisName, Batch, HostBatch
from bess_jax.step.bess import Params
from bess_jax.update.optim import LossFn, UpdateRule


def group_steps(batch: HostBatch, k: int) -> HostBatch:
    """Joins each k steps of a host batch into one step of k micro-batches: (T, S, ...) becomes (T / k, S, k, ...).

    Under `row_sparse`, group before `merge_ids`, so that the rows of all k are listed together.

    Raises:
        ValueError: if k does not divide T.
    """
    _checks.at_least("k", k, 1)
    for name, array in batch.items():
        if len(array) % k:
            raise ValueError(f"k must divide the {len(array)} steps of {name}, got {k}; change batches_per_step")
    grouped = {name: array.reshape(-1, k, *array.shape[1:]) for name, array in batch.items()}
    return {name: np.ascontiguousarray(np.swapaxes(array, 1, 2)) for name, array in grouped.items()}


def accumulate(rule: UpdateRule) -> UpdateRule:
    """Updates once with the gradients of all micro-batches of a step, as one batch of all their triples would.

    Batches come from `group_steps`. The loss of a step is the sum over its micro-batches. Only one of them is in memory
    at a time: each is computed once more for its gradient. Statistics of a network are averaged over the micro-batches,
    which start from the same ones. Dropout has one key for all of them, and draws the same for each.

    Args:
        rule: `dense(tx)` or `row_sparse(tx)`.
    """

    def step(
        loss_fn: LossFn, params: Params, state: Any, batch: Batch, axis_name: AxisName, has_aux: bool = False
    ) -> tuple[Any, Params, Any]:
        def total(params: Params, micro_batches: Batch) -> Any:
            @jax.checkpoint
            def add(loss: jax.Array, micro_batch: Batch) -> tuple[jax.Array, Any]:
                out = loss_fn(params, micro_batch)
                value, aux = out if has_aux else (out, ())
                return loss + value, aux

            loss, aux = jax.lax.scan(add, jnp.zeros((), jnp.float32), micro_batches)
            return (loss, jax.tree_util.tree_map(lambda x: jnp.mean(x, axis=0), aux)) if has_aux else loss

        return rule.step(total, params, state, batch, axis_name, has_aux=has_aux)

    return rule._replace(step=step)
