"""Training steps against a dense float64 oracle, over shards, devices, mappings and updates."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from shared import oracle
from shared.oracle import Settings
from shared.steps import CASES, LR, MAPPINGS, SETTINGS, UPDATES, Case, adam, assert_replicated, sgd
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.update.train import TrainState, make_train_step

# --- one or a few steps against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.model}-{s.loss.kind}-{s.scheme}")
def test_oracle_gradient(settings: Settings) -> None:
    """The oracle's own gradients, by central differences in a random direction."""
    case = Case.create(settings, n_shard=3, n_step=1)
    batch = {k: v[0] for k, v in case.sampler.batch(0, 0).items()}
    tables = (case.entity.astype(np.float64), case.relation.astype(np.float64))
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=table.shape) for table in tables]
    at = oracle.step(*tables, batch, case.sharding, settings)
    weights = [settings.loss.weights(scores) for scores in at.negative]
    h = 1e-6

    def loss(sign: int) -> float:
        moved = [table + sign * h * d for table, d in zip(tables, direction, strict=True)]
        return float(oracle.step(*moved, batch, case.sharding, settings, frozen=weights).loss.sum())

    slope = (at.entity_grad * direction[0]).sum() + (at.relation_grad * direction[1]).sum()
    assert abs(slope) > 0.1
    np.testing.assert_allclose((loss(1) - loss(-1)) / (2 * h), slope, rtol=1e-6)


@pytest.mark.parametrize(("n_shard", "update"), CASES)
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_step(n_shard: int, update: str) -> None:
    """Losses, scores and tables after 3 steps, under every mapping."""
    settings = SETTINGS[CASES.index((n_shard, update)) % len(SETTINGS)]
    case = Case.create(settings, n_shard, n_step=3)
    batch = case.sampler.batch(0, 0)
    assert ("triple_weight" in batch) == (n_shard == 8)  # with 8 shards, some pairs have no triple
    make_rule, make_update = UPDATES[update]
    rule = make_rule()
    expected = oracle.train(case.entity, case.relation, batch, case.sharding, settings, make_update, rule.sparse)
    slots = case.sharding.shard_and_idx_to_entity
    start, results = case.state(rule), {}
    mappings = MAPPINGS if n_shard > 1 else MAPPINGS[:1]  # on one device they are the same
    for mapping in mappings:
        placement = bj.Placement.create(n_shard, None if mapping == "vmap" else n_shard, mapping)
        model = dataclasses.replace(case.model, axis_name=placement.axis_name)
        train_step = make_train_step(model, rule, placement.axis_name)

        def one_call(state: TrainState, fed: Any, first: Any, step: Any = train_step, model: Any = model) -> Any:
            out = model.forward(state.params, **first)
            return *step(state, fed), (out["positive_score"], out["negative_score"])

        first = placement.put({k: v[:, :1] for k, v in bj.shard_major(batch).items()})
        args = (placement.put(start), case.fed(batch, rule, placement), first)
        losses, state, scores = placement.get(placement.map(one_call)(*args))
        results[mapping] = (losses, state.params, scores)

        np.testing.assert_allclose(losses, np.stack([s.loss for s in expected.steps], axis=1), **ACCUMULATED)
        np.testing.assert_allclose(scores[0], expected.steps[0].positive, **ACCUMULATED)
        np.testing.assert_allclose(scores[1], expected.steps[0].negative, **ACCUMULATED)
        np.testing.assert_allclose(state.params.entity, expected.entity[slots], **ACCUMULATED)
        relation = state.params.score_fn["relation_embedding"]
        np.testing.assert_allclose(relation[0], expected.relation, **ACCUMULATED)
        assert_replicated(state.params.score_fn)
        if rule.sparse:
            assert_replicated(state.opt_state.score_fn)
            touched = [s.touched for s in expected.steps]
            still = ~np.isin(slots, np.concatenate(touched))
            if update == "sparse_adam":  # rows by which it differs from dense Adam
                assert still.any()
                assert not np.isin(touched[0], touched[1]).all()
            np.testing.assert_array_equal(state.params.entity[still], case.entity[slots][still])
    for mapping in mappings[1:]:
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (results[mapping], results["vmap"])), strict=True):
            np.testing.assert_allclose(ours, theirs, **ACCUMULATED)
    assert np.abs(expected.entity - case.entity).max() > LR / 2  # the steps did move something
    assert np.abs(expected.relation - case.relation).max() > LR / 2


# --- shards on fewer devices ------------------------------------------------------------------------------------------


@pytest.mark.long
@jax.numpy_dtype_promotion("standard")
def test_devices() -> None:
    """8 shards on 1, 2, 4 and 8 devices: 20 steps from one seed give the same losses and tables.

    Not bit by bit: sums over shards and over repeated rows come in another order.
    """
    case = Case.create(SETTINGS[2], n_shard=8, n_step=5)
    rule = bj.row_sparse(adam())
    start, batches, results = case.state(rule), [case.sampler.batch(0, call) for call in range(4)], []
    for mapping, n_device in [("vmap", 1), *((m, d) for d in (2, 4, 8) for m in ("pmap", "shard_map"))]:
        placement = bj.Placement.create(8, n_device, mapping)
        assert isinstance(placement.axis_name, tuple) == (n_device in (2, 4))
        step = placement.map(make_train_step(case.model, rule, placement.axis_name), donate_argnums=(0,))
        state, losses = placement.put(start), []
        for batch in batches:
            loss, state = step(state, case.fed(batch, rule, placement))
            losses.append(placement.get(loss))
        results.append((np.concatenate(losses, axis=1), placement.get(state)))
        assert_replicated(results[-1][1].params.score_fn)
    assert results[0][0].shape == (8, 20)
    assert results[0][0][:, -5:].sum() < 0.9 * results[0][0][:, :5].sum()
    for result in results[1:]:
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (result, results[0])), strict=True):
            np.testing.assert_allclose(ours, theirs, **ACCUMULATED)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_one_trace(mapping: Any) -> None:
    """Batches of one shape share one trace, also once the state is what the step returned."""
    case = Case.create(SETTINGS[1], n_shard=2, n_step=2)
    rule = bj.row_sparse(sgd())
    placement = bj.Placement.create(2, None if mapping == "vmap" else 2, mapping)
    train_step = make_train_step(case.model, rule, placement.axis_name)
    traces = []

    def counted(*args: Any) -> Any:
        traces.append(1)
        return train_step(*args)

    step, state = placement.map(counted, donate_argnums=(0,)), placement.put(case.state(rule))
    for epoch in range(2):
        for call in range(3):
            _, state = step(state, case.fed(case.sampler.batch(epoch, call), rule, placement))
    assert len(traces) == 1
