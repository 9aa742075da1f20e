"""Training: the compiled steps of one shard, and the state they carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bess_jax._compat import raw_key
from bess_jax._typing import AxisName, Batch
from bess_jax.step.bess import BessKGE, Params, ScoreState
from bess_jax.step.collectives import AXIS_NAME, sum_shards
from bess_jax.update.optim import UpdateRule
from bess_jax.update.precision import cast_params


class TrainState(NamedTuple):
    """What a step reads and replaces."""

    params: Params
    opt_state: Any  # of `UpdateRule.init`; sharded and replicated like the parameters it belongs to
    score_state: Any = ()  # a `ScoreState` if the model needs a key: with a network, or dropout of rows

    @property
    def inference_params(self) -> Params:
        """The parameters as ranking and prediction take them: with the statistics of a network."""
        return self.params._replace(score_state=self.score_state.statistics if self.score_state else ())


def init_train_state(
    model: BessKGE, rule: UpdateRule, key: jax.Array, shard: jax.Array, dtype: Any = "float32"
) -> TrainState:
    """Initial state of shard number `shard`, () int32, without shard axis. The same `key` serves all shards.

    For parameters of half precision give their `dtype`, and a rule of `low_precision`.
    """
    params = cast_params(model.init_shard(key, shard), dtype)
    params = params._replace(entity=rule.project(params.entity))
    if not model.needs_key:
        return TrainState(params, rule.init(params))
    statistics = model.score_fn.init_state() if model.score_fn.has_network else ()
    dropout_key = jax.random.fold_in(jax.random.fold_in(key, 1), shard)
    return TrainState(params, rule.init(params), ScoreState(statistics, raw_key(dropout_key)))


def make_train_step(
    model: BessKGE, rule: UpdateRule, axis_name: AxisName = AXIS_NAME
) -> Callable[[TrainState, Batch], tuple[jax.Array, TrainState]]:
    """A function `(state, batches) -> (losses, state)` of one shard, that runs T steps in one `lax.scan`.

    Running statistics of a network are averaged over the shards in every step, so that all shards go on with the same.

    Args:
        model: a model with a loss.
        rule: `dense(tx)` or `row_sparse(tx)`.
        axis_name: name of the shard axis that the function is mapped over.

    Returns:
        A pure function. `batches`: arrays (T, ...) of one shard, as `shard_major` makes them, and under `row_sparse`
        with merged ids. `losses`: (T,) float32, sums over the shard's micro-batches.

    Raises:
        ValueError: if the model has no loss, or a network that its distribution scheme does not train.
    """
    if model.loss_fn is None:
        raise ValueError("model must have a loss_fn to be trained, got None")
    needs_key, n_shard = model.needs_key, model.score_fn.sharding.n_shard
    model.check_training()
    model = dataclasses.replace(model, axis_name=axis_name)

    def one_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        if needs_key and not isinstance(state.score_state, ScoreState):
            raise ValueError(
                "state must have a score_state to train a network, or with dropout: make it with init_train_state"
            )
        statistics, key, next_key = (), None, None
        if needs_key:
            statistics = state.score_state.statistics
            key, next_key = jax.random.split(state.score_state.dropout_key)

        def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, Any]:
            params = params._replace(score_state=statistics)
            # The scan took the step axis, which `forward` has as BESS-KGE does.
            out = model.forward(params, **{name: array[None] for name, array in batch.items()}, dropout_key=key)
            return out["loss"], out.get("score_state", ())

        (loss, new), params, opt_state = rule.step(
            loss_fn, state.params, state.opt_state, batch, axis_name, has_aux=True
        )
        if needs_key:
            new = jax.tree_util.tree_map(lambda x: x / n_shard, sum_shards(new, axis_name))
        return TrainState(params, opt_state, ScoreState(new, next_key) if needs_key else ()), loss

    def train_step(state: TrainState, batches: Batch) -> tuple[jax.Array, TrainState]:
        state, losses = jax.lax.scan(one_step, state, batches)
        return losses, state

    return train_step
