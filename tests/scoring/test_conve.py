"""Networks in score functions: batch statistics, dropout, and the state that training carries."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.formulas import (
    VARIANTS,
    Array,
    Case,
    Negatives,
    normal,
    random_batch,
)
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.update.optim import dense
from bess_jax.update.train import ScoreState, TrainState, init_train_state, make_train_step


def small_conve(sharding: bj.Sharding, **more: Any) -> Any:
    arguments = {"input_dropout": 0.0, "feature_map_dropout": 0.0, "hidden_dropout": 0.0, **more}
    return Case("ConvE", {**VARIANTS["ConvE"][0], **arguments}, sharding).make()


def conve_scheme(score_fn: Any, scheme: str = "t", **more: Any) -> bj.EmbeddingMovingBessKGE:
    return bj.EmbeddingMovingBessKGE(
        negative_sampler=Negatives(score_fn.sharding, scheme, True),
        score_fn=score_fn,
        loss_fn=bj.LogSigmoidLoss(margin=2.0, negative_adversarial_sampling=False),
        return_scores=True,
        **more,
    )


def train(score_fn: Any, n_step: int = 2, seed: int = 0) -> tuple[TrainState, Array, dict[str, Array]]:
    """State and losses (S, T) after some steps of gradient descent on one batch, all shards on one device."""
    sharding, rule = score_fn.sharding, dense(optax.sgd(0.1))
    model, shards = conve_scheme(score_fn), np.arange(sharding.n_shard)
    batch = {k: np.stack([v] * n_step, axis=1) for k, v in random_batch(sharding, 1, 2).items()}

    def run(key: jax.Array, shard: jax.Array, batches: Any) -> Any:
        return make_train_step(model, rule)(init_train_state(model, rule, key, shard), batches)

    mapped = jax.jit(jax.vmap(run, in_axes=(None, 0, 0), axis_name="shard"))
    losses, state = mapped(jax.random.key(seed), shards, batch)
    return jax.device_get(state), np.asarray(losses), batch


@pytest.mark.parametrize("synchronize", [True, False])
def test_batch_statistics(synchronize: bool) -> None:
    """Those of all shards together are those of one shard with the whole batch; else each shard has its own."""
    sharding = bj.Sharding.create(9, 2, seed=1)
    score_fn = small_conve(sharding, synchronize_batch_norm=synchronize)
    params = jax.jit(score_fn.init_params)(jax.random.key(0))
    head, tail = normal(1, 2, 4, 7), normal(2, 2, 4, 7)
    relation = np.random.default_rng(3).integers(6, size=(2, 4))
    weight = normal(4, 2, 4)

    def run(score_fn: Any, head: Any, relation: Any, tail: Any, weight: Any) -> Any:
        def total(params: Any) -> Any:
            variables = {"params": params, "batch_stats": score_fn.init_state()}
            fn = score_fn.in_training("shard")
            scores, new = fn.apply(variables, head, relation, tail, method="score_triple", mutable=["batch_stats"])
            return jnp.sum(scores * weight), (scores, new["batch_stats"])

        return jax.grad(total, has_aux=True)(params)

    args = (head, relation, tail, weight)
    sharded = jax.vmap(partial(run, score_fn), axis_name="shard")
    one_shard = partial(run, small_conve(bj.Sharding.create(9, 1, seed=1)))
    grads, (scores, new) = jax.jit(sharded)(*args)
    if synchronize:
        dense_args = [x.reshape(-1, *x.shape[2:]) for x in args]
        d_grads, (d_scores, d_new) = jax.jit(one_shard)(*dense_args)
        np.testing.assert_allclose(scores.reshape(-1), d_scores, **ACCUMULATED)
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (new, d_new)), strict=True):
            np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), **ACCUMULATED)
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (grads, d_grads)), strict=True):
            np.testing.assert_allclose(ours.sum(0), theirs, **ACCUMULATED)
        return
    alone = jax.jit(lambda: [one_shard(*(x[shard] for x in args)) for shard in range(2)])
    for shard, result in enumerate(alone()):
        of_shard = jax.tree_util.tree_map(lambda x, shard=shard: x[shard], (grads, (scores, new)))
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (of_shard, result)), strict=True):
            np.testing.assert_allclose(ours, theirs, **ACCUMULATED)


@pytest.mark.long
def test_training_a_network() -> None:
    """Weights and statistics stay replicated and move; dropout follows the key; inference takes the statistics."""
    sharding = bj.Sharding.create(9, 2, seed=1)
    score_fn = small_conve(sharding, hidden_dropout=0.5)
    state, losses, batch = train(score_fn)
    assert isinstance(state.score_state, ScoreState)
    for leaf in jax.tree_util.tree_leaves((state.params.score_fn, state.score_state.statistics)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        assert np.isfinite(leaf).all()
    for leaf, start in zip(
        *map(jax.tree_util.tree_leaves, (state.score_state.statistics, score_fn.init_state())), strict=True
    ):
        assert (leaf[0] != start).any()
    assert len(np.unique(state.score_state.dropout_key, axis=0)) == 2
    _, again, _ = train(score_fn)
    np.testing.assert_array_equal(losses, again)
    assert state.params.score_state == ()
    model = conve_scheme(score_fn)
    first = {name: array[:, :1] for name, array in batch.items()}
    forward = jax.jit(jax.vmap(lambda params, batch: model.forward(params, **batch), axis_name="shard"))
    assert np.isfinite(forward(state.inference_params, first)["loss"]).all()
    with pytest.raises(ValueError, match="ConvE needs its running statistics"):
        forward(state.params, first)


def test_dropout() -> None:
    """In training only, by the key, with the expectation kept; whole channels of the feature map at a time."""
    sharding = bj.Sharding.create(9, 1, seed=1)
    score_fn = small_conve(sharding, batch_normalization=False, hidden_dropout=0.5)
    variables = {"params": jax.jit(score_fn.init_params)(jax.random.key(1))}
    row = np.broadcast_to(normal(1, 7), (4000, 7))
    relation_row = jnp.repeat(variables["params"]["relation_embedding"][:1], 4000, axis=0)

    @partial(jax.jit, static_argnums=0)
    def query(fn: Any, key: jax.Array) -> Any:
        return fn.apply(variables, row, relation_row, method="query_tail", rngs={"dropout": key})

    plain = query(score_fn, jax.random.key(1))
    training = [query(score_fn.in_training("shard"), jax.random.key(i)) for i in (1, 1, 2)]
    np.testing.assert_array_equal(plain, query(score_fn, jax.random.key(2)))
    np.testing.assert_array_equal(training[0], training[1])
    assert (training[0] != training[2]).any()
    positive = np.asarray(plain[0, :-1]) > 0
    assert positive.any()
    kept = np.asarray(training[0])[:, :-1][:, positive] > 0
    assert abs(kept.mean() - 0.5) < 0.05
    channels = score_fn.clone(hidden_dropout=0.0, feature_map_dropout=0.5).in_training("shard")
    seen = np.unique(np.asarray(query(channels, jax.random.key(1))).round(4), axis=0)
    assert 2 <= len(seen) <= 4  # of 2 channels, each kept or not


@pytest.mark.parametrize("scheme", ["h", "ht"])
def test_conve_has_no_heads(scheme: str) -> None:
    score_fn = small_conve(bj.Sharding.create(9, 1, seed=1))
    with pytest.raises(
        ValueError, match=f"corruption_scheme='t' for ConvE, .* got '{scheme}'; .*inverse_relations=True"
    ):
        conve_scheme(score_fn, scheme)
    row, params = np.zeros((2, 7), np.float32), {"relation_embedding": np.zeros((6, 6), np.float32)}
    with pytest.raises(ValueError, match="ConvE scores only tails: ask for heads as tails of inverse relations"):
        score_fn.apply({"params": params}, row[None], np.zeros(2, np.int32), row, method="score_heads")


def test_network_runs_once() -> None:
    """One product each for convolution, linear map and scores in the forward step: one query for all candidates."""
    sharding = bj.Sharding.create(9, 2, seed=1)
    model = conve_scheme(small_conve(sharding), augment_negative=True)
    batch = {k: v[:, None] for k, v in random_batch(sharding, 1, 2).items()}
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(lambda: jax.vmap(lambda _: model.score_fn.init_state())(jnp.arange(2)))
    params = params._replace(score_state=state)
    text = str(jax.make_jaxpr(jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard"))(params, batch))
    assert text.count("dot_general[") == 3


def test_moved_scores_are_those_of_moved_embeddings() -> None:
    sharding = bj.Sharding.create(9, 3, seed=1)
    score_fn = small_conve(sharding).clone(negative_sample_sharing=False)
    batch = {k: v[:, None] for k, v in random_batch(sharding, 1, 2).items()}
    scores = []
    for kind in (bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE):
        model = kind(negative_sampler=Negatives(sharding, "t", True), score_fn=score_fn, return_scores=True)
        params = model.init(jax.random.key(0))
        state = jax.vmap(lambda _: score_fn.init_state())(jnp.arange(3))
        forward = jax.vmap(lambda p, b, model=model: model.forward(p, **b), axis_name="shard")
        scores.append(jax.jit(forward)(params._replace(score_state=state), batch))
    assert np.std(scores[0]["negative_score"]) > 0
    for name in ("positive_score", "negative_score"):
        np.testing.assert_allclose(scores[1][name], scores[0][name], **ACCUMULATED)


def test_scores_that_move_train_no_network() -> None:
    sharding = bj.Sharding.create(9, 2, seed=1)
    loss_fn = bj.SampledSoftmaxCrossEntropyLoss(n_entity=9)
    model = bj.ScoreMovingBessKGE(
        negative_sampler=Negatives(sharding, "t", True), score_fn=small_conve(sharding), loss_fn=loss_fn
    )
    batch = {k: v[:, None] for k, v in random_batch(sharding, 1, 2).items()}
    params = jax.eval_shape(model.init, jax.random.key(0))
    refused = pytest.raises(ValueError, match=r"model must be an EmbeddingMovingBessKGE .* to train ConvE")
    with refused:
        make_train_step(model, dense(optax.sgd(0.1)))
    with refused:
        key = jnp.zeros((2, 2), jnp.uint32)
        forward = jax.vmap(lambda p, b, k: model.forward(p, **b, dropout_key=k), axis_name="shard")
        jax.eval_shape(forward, params, batch, key)


def test_state_is_needed_to_train() -> None:
    model = conve_scheme(small_conve(bj.Sharding.create(9, 2, seed=1)))
    rule = dense(optax.sgd(0.1))
    params = jax.eval_shape(model.init, jax.random.key(0))
    state = TrainState(params, jax.eval_shape(jax.vmap(rule.init), params))
    batch = {k: v[:, None] for k, v in random_batch(model.score_fn.sharding, 1, 2).items()}
    with pytest.raises(ValueError, match="make it with init_train_state"):
        jax.eval_shape(jax.vmap(make_train_step(model, rule), axis_name="shard"), state, batch)


def test_channels_are_summed_by_products() -> None:
    """Statistics and all gradients of a network: as sums, XLA on a CPU would go through their terms once a channel."""
    score_fn = small_conve(bj.Sharding.create(9, 1, seed=1))
    variables = {"params": score_fn.init_params(jax.random.key(0)), "batch_stats": score_fn.init_state()}

    def total(params: Any, query: Any) -> Any:
        fn, given = score_fn.in_training("shard"), {**variables, "params": params}
        return jnp.sum(fn.apply(given, *query, method="query_tail", mutable=["batch_stats"])[0])

    query = normal(1, 5, 7), normal(2, 5, 6)
    jaxpr = str(jax.make_jaxpr(jax.grad(total))(variables["params"], query))
    assert "reduce_sum[axes=(0, 1)" in jaxpr  # that of `total`: so this is how sums are written
    assert "reduce_sum[axes=(0, 1, 2)" not in jaxpr
