"""Training: the compiled steps of one shard, and the state they carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bess_jax._typing import AxisName, Batch
from bess_jax.bess import BessKGE, Params
from bess_jax.optim import UpdateRule
from bess_jax.spmd import AXIS_NAME


class TrainState(NamedTuple):
    """What a step reads and replaces."""

    params: Params
    opt_state: Any  # of `UpdateRule.init`; sharded and replicated like the parameters it belongs to


def make_train_step(
    model: BessKGE, rule: UpdateRule, axis_name: AxisName = AXIS_NAME
) -> Callable[[TrainState, Batch], tuple[jax.Array, TrainState]]:
    """A function `(state, batches) -> (losses, state)` of one shard, that runs T steps in one `lax.scan`.

    Args:
        model: a model with a loss.
        rule: `dense(tx)` or `row_sparse(tx)`.
        axis_name: name of the shard axis that the function is mapped over.

    Returns:
        A pure function. `batches`: arrays (T, ...) of one shard, as `shard_major` makes them, and under `row_sparse`
        with merged ids. `losses`: (T,) float32, sums over the shard's micro-batches.

    Raises:
        ValueError: if the model has no loss.
    """
    if model.loss_fn is None:
        raise ValueError("model must have a loss_fn to be trained, got None")
    model = dataclasses.replace(model, axis_name=axis_name)

    def loss_fn(params: Params, batch: Batch) -> jax.Array:
        return model.forward(params, **{name: array[None] for name, array in batch.items()})["loss"]

    def one_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        loss, *new_state = rule.step(loss_fn, *state, batch, axis_name)
        return TrainState(*new_state), loss

    def train_step(state: TrainState, batches: Batch) -> tuple[jax.Array, TrainState]:
        state, losses = jax.lax.scan(one_step, state, batches)
        return losses, state

    return train_step
