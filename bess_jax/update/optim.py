"""Updates of sharded parameters with optax: of whole tables, or of the rows that a batch touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bess_jax import _checks
from bess_jax._compat import TypeAlias, scale_by_learning_rate
from bess_jax._numerics import normalize
from bess_jax._typing import AxisName, Batch
from bess_jax.step.bess import Params
from bess_jax.step.collectives import sum_shards

LossFn: TypeAlias = "Callable[[Params, Batch], Any]"
"""`(params, batch) -> ()` loss of one shard's micro-batch, or the loss and what else to return; may use collectives."""


class StepFn(Protocol):
    """One update."""

    def __call__(
        self, loss_fn: LossFn, params: Params, state: Any, batch: Batch, axis_name: AxisName, has_aux: bool = False
    ) -> tuple[Any, Params, Any]:
        """The result of `loss_fn` (the loss first, if `has_aux`), new parameters and new optimizer state."""


def _same(rows: jax.Array) -> jax.Array:
    return rows


def _unit_rows(rows: jax.Array) -> jax.Array:
    """Rows (n, E) scaled to 2-norm 1, in float32; zeros stay."""
    return normalize(rows.astype(jnp.float32)).astype(rows.dtype)


class UpdateRule(NamedTuple):
    """A pair of pure functions that see one shard, as an optax transform does."""

    init: Callable[[Params], Any]  # params -> optimizer state
    step: StepFn  # (loss_fn, params, state, batch, axis_name, has_aux=False) -> (loss, params, state)
    sparse: bool  # True if batches must carry "entity_rows", see `bess_jax.merge_ids`
    project: Callable[[jax.Array], jax.Array] = _same  # new or initial entity rows (n, E) -> what is stored of them


def dense(tx: optax.GradientTransformation, unit_entities: bool = False) -> UpdateRule:
    """Updates every row in every step: the optimizer as it is, on the sharded table.

    Args:
        tx: an optax optimizer that treats every row alone; the result is then the same for any number of shards.
        unit_entities: scale entity rows to 2-norm 1 after every update (Bordes et al. 2013, TransE, algorithm 1, where
            it is before every step), and before the first one (`init_train_state`).

    Raises:
        ValueError: if the update of a row depends on other rows (as under `optax.clip_by_global_norm`), which would be
            other rows on every shard; in a step, on a batch with merged ids.
    """
    check_rowwise(tx)
    project = _unit_rows if unit_entities else _same

    def step(
        loss_fn: LossFn, params: Params, state: Any, batch: Batch, axis_name: AxisName, has_aux: bool = False
    ) -> tuple[Any, Params, Any]:
        if "entity_rows" in batch:
            raise ValueError(
                'batch must have ids of the whole table for `dense`, got merged ones ("entity_rows"); leave out '
                "bess_jax.merge_ids, or use row_sparse"
            )
        loss, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, batch)
        grads = grads._replace(score_fn=sum_shards(grads.score_fn, axis_name))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return loss, params._replace(entity=project(params.entity)), state

    return UpdateRule(tx.init, step, sparse=False, project=project)


def row_sparse(tx: optax.GradientTransformation, unit_entities: bool = False) -> UpdateRule:
    """Updates the rows that a batch touched, each once a step; time and memory do not grow with the table.

    The batch's ids must have been merged (`bess_jax.merge_ids`): "entity_rows", U int32, lists the touched rows,
    ascending, padded with ids that are out of range; the other ids are positions in that list. The loss is then
    differentiated with respect to those U rows, so repeated ids add up, and no gradient of the table's size exists.
    Rows that are not touched stay as they are, with their optimizer state (a moment does not decay, a decayed weight
    does not shrink); step counts are those of the run. Relation rows and networks are updated densely.

    Args:
        tx: an optax optimizer that treats every row alone (sgd, adagrad, adam, ...).
        unit_entities: as in `dense`; only the rows that a step touches can change their norm.

    Raises:
        ValueError: if it does not; in a step, on a batch whose ids were not merged.
    """
    check_rowwise(tx)
    project = _unit_rows if unit_entities else _same

    def init(params: Params) -> RowSparseState:
        return RowSparseState(tx.init(params.entity), tx.init(params.score_fn))

    def step(
        loss_fn: LossFn, params: Params, state: Any, batch: Batch, axis_name: AxisName, has_aux: bool = False
    ) -> tuple[Any, Params, Any]:
        if "entity_rows" not in batch:
            raise ValueError(
                f'batch must have merged ids for `row_sparse`, got {", ".join(batch)} without "entity_rows"; apply '
                "bess_jax.merge_ids to every host batch, or use dense"
            )
        rest = {name: array for name, array in batch.items() if name != "entity_rows"}
        rows = batch["entity_rows"].reshape(-1)
        is_row = _row_leaves(tx, params.entity)

        def read(leaf: jax.Array, per_row: bool = True) -> jax.Array:
            return leaf.at[rows].get(mode="fill", fill_value=0) if per_row else leaf

        def write(leaf: jax.Array, new: jax.Array, per_row: bool = True) -> jax.Array:
            if not per_row:
                return new
            return leaf.at[rows].set(new, mode="drop", unique_indices=True, indices_are_sorted=True)

        touched = params._replace(entity=read(params.entity))
        loss, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(touched, rest)
        entity_updates, touched_state = tx.update(
            grads.entity, jax.tree_util.tree_map(read, state.entity, is_row), touched.entity
        )
        score_fn_grads = sum_shards(grads.score_fn, axis_name)
        score_fn_updates, score_fn_state = tx.update(score_fn_grads, state.score_fn, params.score_fn)
        params = Params(
            write(params.entity, project(optax.apply_updates(touched.entity, entity_updates))),
            optax.apply_updates(params.score_fn, score_fn_updates),
        )
        entity_state = jax.tree_util.tree_map(write, state.entity, touched_state, is_row)
        return loss, params, RowSparseState(entity_state, score_fn_state)

    return UpdateRule(init, step, sparse=True, project=project)


class RowSparseState(NamedTuple):
    """State of `row_sparse`."""

    entity: Any  # of the optimizer for the entity table (M, E): leaves with one entry per row, and counts
    score_fn: Any  # of the optimizer for the parameters of the score function, replicated


class RowAdagradState(NamedTuple):
    """State of `row_adagrad`, first in the chain."""

    sum_of_squares: Any  # (M, 1) for a table (M, E): mean squared gradient of each row, summed over the updates


def row_adagrad(
    learning_rate: optax.ScalarOrSchedule, initial_accumulator_value: float = 0.0, eps: float = 1e-10
) -> optax.GradientTransformation:
    """Adagrad with one accumulator per row: `g / (sqrt(sum of mean(g**2)) + eps)`, the state of a table is one column.

    Rows are those of the first axis; a vector has rows of one component. Rows without gradient stay as they are, so
    `dense` and `row_sparse` give the same.

    Args:
        learning_rate: step size, or an optax schedule of it.
        initial_accumulator_value: value that the sums start from.
        eps: added to the root.

    Raises:
        ValueError: if `initial_accumulator_value` is negative or `eps` not positive.

    Source: `RowAdagrad` of PyTorch-BigGraph (Lerer et al. 2019, arXiv 1903.12287).
    """
    _checks.at_least("initial_accumulator_value", initial_accumulator_value, 0)
    _checks.positive("eps", eps)

    def init(params: Any) -> RowAdagradState:
        def column(x: jax.Array) -> jax.Array:
            return jnp.full((*x.shape[:1], *(1,) * (x.ndim - 1)), initial_accumulator_value, x.dtype)

        return RowAdagradState(jax.tree_util.tree_map(column, params))

    def update(grads: Any, state: RowAdagradState, params: Any = None) -> tuple[Any, RowAdagradState]:
        def add(total: jax.Array, grad: jax.Array) -> jax.Array:
            return total + jnp.mean(grad * grad, axis=tuple(range(1, grad.ndim)), keepdims=True)

        totals = jax.tree_util.tree_map(add, state.sum_of_squares, grads)
        updates = jax.tree_util.tree_map(lambda grad, total: grad / (jnp.sqrt(total) + eps), grads, totals)
        return updates, RowAdagradState(totals)

    return optax.chain(optax.GradientTransformation(init, update), scale_by_learning_rate(learning_rate))


def _row_leaves(tx: optax.GradientTransformation, table: jax.Array) -> Any:
    """Tree of bools over the state of a table: True for leaves with one entry per row."""
    n_row = table.shape[0]
    two_sizes = (
        jax.eval_shape(tx.init, jax.ShapeDtypeStruct((n, *table.shape[1:]), table.dtype)) for n in (n_row, n_row + 1)
    )
    return jax.tree_util.tree_map(lambda a, b: a.shape != b.shape, *two_sizes)


def check_rowwise(tx: optax.GradientTransformation) -> None:
    """Raises ValueError unless `tx` updates each row as if it were alone.

    Tried on a table and its two halves, with small, large and missing (NaN) gradients.
    """
    rng = np.random.default_rng(0)
    table, direction = (jnp.asarray(rng.normal(size=(256, 128)), jnp.float32) for _ in range(2))

    @jax.jit
    def two_steps(params: jax.Array, grad: jax.Array) -> jax.Array:
        state = tx.init(params)
        for factor in (1.0, -0.5):
            updates, state = tx.update(factor * grad, state, params)
            params = optax.apply_updates(params, updates)
        return params

    for grad in (1e-3 * direction, 1e4 * direction, direction.at[0].set(jnp.nan)):
        together = two_steps(table, grad)
        alone = jnp.concatenate([two_steps(table[half], grad[half]) for half in (np.s_[:128], np.s_[128:])])
        if not np.allclose(together, alone, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise ValueError(
                "the optimizer must update each row as if it were alone, but the update of a row depends on the others "
                "(as under clip_by_global_norm or LAMB); clip by value (optax.clip), or use sgd, adagrad, adam, ..."
            )
