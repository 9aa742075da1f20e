"""Half precision: rounding without bias, float32 optimizers on narrow tables; gradient accumulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.tolerance import ACCUMULATED, EXACT

import bess_jax as bj
from bess_jax.update.accumulation import accumulate, group_steps
from bess_jax.update.precision import cast_params, low_precision, stochastic_round
from bess_jax.update.train import TrainState, make_train_step

HALF = (jnp.bfloat16, jnp.float16)
N_SHARD, N_ENTITY, N_RELATION, SIZE = 2, 23, 3, 6


def float32(x: Any) -> np.ndarray:
    return np.asarray(jnp.asarray(x).astype(jnp.float32))


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF)
def test_rounding_has_no_bias(dtype: Any) -> None:
    """The mean of many draws is the number, and each draw is one of its two neighbours in the type."""
    values = np.array([1.001, -1.001, 3.14159, -0.1, 0.2503, 100.3, 1.9999, 7e-4, -2.3e-3], np.float32)
    if dtype == jnp.float16:
        values = np.append(values, np.float32([1.3e-7, -3.1e-6]))  # among its subnormal numbers
    n = 40_000
    keys = jax.random.split(jax.random.key(0), n)
    drawn = float32(jax.jit(jax.vmap(lambda key: stochastic_round(jnp.asarray(values), dtype, key)))(keys))
    for value, column in zip(values, drawn.T, strict=True):
        low, high = np.unique(column).astype(np.float64)
        assert low < value < high
        middle = float32(jnp.asarray((low + high) / 2, jnp.float32).astype(dtype))
        assert middle in (np.float32(low), np.float32(high))  # nothing lies between
        error = (column.astype(np.float64).mean() - value) / (high - low)
        assert abs(error) < 5 * 0.5 / np.sqrt(n)
        assert column.std() > 0


@pytest.mark.parametrize("dtype", HALF)
def test_rounding_keeps_what_is_exact(dtype: Any) -> None:
    """And NaN, infinities and zeros; what is too large becomes infinite; float32 stays as it is."""
    key = jax.random.key(0)
    exact = jnp.asarray([0.0, -0.0, 1.0, -1.5, 0.0078125, 30_720.0, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    np.testing.assert_array_equal(float32(stochastic_round(exact, dtype, key)), exact)
    assert np.signbit(float32(stochastic_round(exact, dtype, key))[1])
    if dtype == jnp.float16:
        np.testing.assert_array_equal(
            float32(stochastic_round(jnp.asarray([-7e4], jnp.float32), dtype, key)), [-np.inf]
        )
    x = jax.random.normal(key, (100,))
    np.testing.assert_array_equal(stochastic_round(x, jnp.float32, key), x)
    assert stochastic_round(x, dtype, key).dtype == dtype


@pytest.mark.parametrize("dtype", HALF)
@jax.numpy_dtype_promotion("standard")  # optax.apply_updates needs it
def test_small_updates_add_up(dtype: Any) -> None:
    """Updates far below half a step: to nearest nothing moves, at random the mean moves as in float32."""
    n_step, rate = 200, 1e-4  # a step of the type at 1 is 8e-3 or 1e-3
    start = jnp.ones((5000,), dtype)

    def train(tx: Any) -> np.ndarray:
        def one(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jnp.ones_like(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(one, (start, tx.init(start)), None, length=n_step)
        assert params.dtype == dtype
        return float32(params)

    np.testing.assert_array_equal(train(low_precision(optax.sgd(rate))), 1)
    moved = 1 - train(low_precision(optax.sgd(rate), stochastic_rounding=True))
    step = float(jnp.finfo(dtype).eps) / 2  # below 1
    spread = np.sqrt(n_step * rate * step / len(start))  # of the mean: each update moves by a step, or not at all
    assert abs(moved.mean() - n_step * rate) < 5 * spread
    assert moved.std() > 0
    again = 1 - train(low_precision(optax.sgd(rate), stochastic_rounding=True))
    other = 1 - train(low_precision(optax.sgd(rate), stochastic_rounding=True, seed=1))
    np.testing.assert_array_equal(again, moved)  # a function of the seed and the number of the update
    assert (other != moved).any()


# --- training ---------------------------------------------------------------------------------------------------------


def make_sampler(steps: int, n_negative: int = 3) -> Any:
    sharding = bj.Sharding.create(N_ENTITY, N_SHARD, seed=1)
    triples = np.random.default_rng(0).integers([N_ENTITY, N_RELATION, N_ENTITY], size=(90, 3)).astype(np.int32)
    dataset = bj.KGDataset(n_entity=N_ENTITY, n_relation_type=N_RELATION, triples={"train": triples})
    return bj.RigidShardedBatchSampler(
        partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding),
        negative_sampler=bj.RandomShardedNegativeSampler(
            sharding=sharding, corruption_scheme="t", n_negative=n_negative, seed=3
        ),
        shard_bs=8,
        batches_per_step=steps,
        seed=4,
        hrt_freq_weighting=True,
    )


def make_model(sampler: Any, loss_scale: float = 1.0) -> bj.EmbeddingMovingBessKGE:
    score_fn = bj.DistMult(
        negative_sample_sharing=False,
        sharding=sampler.negative_sampler.sharding,
        n_relation_type=N_RELATION,
        embedding_size=SIZE,
    )
    loss_fn = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=False, loss_scale=loss_scale)
    return bj.EmbeddingMovingBessKGE(negative_sampler=sampler.negative_sampler, score_fn=score_fn, loss_fn=loss_fn)


def initial(model: Any) -> bj.Params:
    rng = np.random.default_rng(5)
    size = (N_SHARD, model.score_fn.sharding.max_entity_per_shard, SIZE)
    entity = jnp.asarray(rng.normal(size=size), jnp.float32)
    relation = jnp.asarray(rng.normal(size=(N_RELATION, SIZE)), jnp.float32)
    relations = {"relation_embedding": jnp.broadcast_to(relation, (N_SHARD, N_RELATION, SIZE))}
    return bj.Params(entity, relations)


def train(model: Any, rule: bj.UpdateRule, host: Any, params: Any, calls: int = 1) -> tuple[np.ndarray, TrainState]:
    """Losses (S, T) and the state after `calls` calls with the same batches."""
    if rule.sparse:
        host = bj.merge_ids(host, model.score_fn.sharding.max_entity_per_shard)
    batches = bj.shard_major({name: array for name, array in host.items() if name != "triple_mask"})
    step = jax.jit(jax.vmap(make_train_step(model, rule), axis_name="shard"))
    state, losses = TrainState(params, jax.vmap(rule.init)(params)), []
    for _ in range(calls):
        loss, state = step(state, batches)
        losses.append(np.asarray(loss))
    return np.concatenate(losses, axis=1), state


@pytest.mark.parametrize(("dtype", "rule"), [(jnp.bfloat16, bj.row_sparse), (jnp.float16, bj.dense)])
@jax.numpy_dtype_promotion("standard")
def test_half_precision_follows_float32(dtype: Any, rule: Any) -> None:
    """Types are kept, losses and moments are float32, copies stay equal, and losses are those of float32, nearly."""
    sampler = make_sampler(steps=2)
    model, host = make_model(sampler), sampler.batch(0, 0)
    params = initial(model)
    exact, _ = train(model, rule(optax.adam(0.05)), host, params, calls=10)
    tx = low_precision(optax.adam(0.05), stochastic_rounding=True)
    losses, state = train(model, rule(tx), host, cast_params(params, dtype), calls=10)
    assert losses.dtype == np.float32
    relation = state.params.score_fn["relation_embedding"]
    assert state.params.entity.dtype == relation.dtype == dtype
    np.testing.assert_array_equal(float32(relation[0]), float32(relation[1]))
    moments = [leaf for leaf in jax.tree_util.tree_leaves(state.opt_state) if leaf.ndim > 1]
    assert {leaf.dtype for leaf in moments} == {np.dtype(np.float32)}
    assert exact[:, -1].sum() < 0.6 * exact[:, 0].sum()
    np.testing.assert_allclose(losses, exact, rtol=0.05, atol=0.02)


@jax.numpy_dtype_promotion("standard")
def test_masked_negatives_in_half_precision() -> None:
    """Penalties are added in float32: masked negatives stay masked, the others keep their scores."""
    sharding = bj.Sharding.create(N_ENTITY, N_SHARD, seed=1)
    sampler = bj.AllEntitiesNegativeSampler(sharding=sharding, corruption_scheme="t")
    score_fn = bj.DistMult(
        negative_sample_sharing=True, sharding=sharding, n_relation_type=N_RELATION, embedding_size=SIZE
    )
    model = bj.EmbeddingMovingBessKGE(negative_sampler=sampler, score_fn=score_fn, return_scores=True)
    ids = {name: np.zeros((1, N_SHARD, N_SHARD, 2), np.int32) for name in ("head", "relation", "tail")}
    out = sampler.sample(ids["head"], 0, 0)
    batch = bj.shard_major({**ids, **out})
    scores = jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard")(
        cast_params(initial(model), jnp.float16), batch
    )["negative_score"]
    masked = ~out["negative_mask"][0].reshape(N_SHARD, 1, -1)
    assert masked.any()
    np.testing.assert_array_equal(np.asarray(scores) < -40_000, np.broadcast_to(masked, scores.shape))
    assert np.isfinite(scores).all()


@jax.numpy_dtype_promotion("standard")
def test_loss_scale_saves_small_gradients() -> None:
    """Gradients too small for float16 arrive with a scale, which the update takes out again."""
    sampler = make_sampler(steps=1)
    host = sampler.batch(0, 0)
    host["triple_weight"] = host["triple_weight"] * np.float32(1e-8)

    def moved(scale: float, dtype: Any) -> np.ndarray:
        model = make_model(sampler, scale)
        params = cast_params(initial(model), dtype)
        tx = low_precision(optax.sgd(1e7), loss_scale=scale)
        _, state = train(model, bj.row_sparse(tx), host, params)
        return float32(state.params.entity) - float32(params.entity)

    exact = moved(1.0, jnp.float32)
    assert np.abs(exact).max() > 0.05
    np.testing.assert_allclose(moved(2.0**14, jnp.float16), exact, atol=0.01)
    assert np.abs(moved(1.0, jnp.float16) - exact).max() > 0.03


# --- gradient accumulation --------------------------------------------------------------------------------------------


def joined(host: Any) -> Any:
    """One step whose partitions hold the triples of all steps, side by side."""
    T, S, _, P = host["head"].shape
    out = {n: np.concatenate(host[n], axis=-1)[None] for n in ("head", "relation", "tail")}
    negative = host["negative"].reshape(T, S, S, S, P, -1)  # [t, source, destination, (tail shard, place), n]
    out["negative"] = np.concatenate(negative, axis=3).reshape(1, S, S, S * T * P, -1)
    weight = host["triple_weight"].reshape(T, S, S, P)
    out["triple_weight"] = np.concatenate(weight, axis=2).reshape(1, S, -1)
    return out


@pytest.mark.parametrize(
    ("k", "rule", "optimizer"),
    [
        (3, bj.dense, lambda: optax.adam(0.05, eps=1e-2)),
        (3, bj.row_sparse, lambda: optax.adam(0.05, eps=1e-2)),
        (1, bj.row_sparse, lambda: optax.sgd(0.1)),
    ],
)
@jax.numpy_dtype_promotion("standard")
def test_accumulation_is_a_larger_batch(k: int, rule: Any, optimizer: Any) -> None:
    """k micro-batches make the step that one batch of all their triples makes; and then the next one."""
    sampler = make_sampler(steps=k)
    model, host = make_model(sampler), sampler.batch(0, 0)
    params = initial(model)
    loss, state = train(model, accumulate(rule(optimizer())), group_steps(host, k), params, calls=2)
    wanted_loss, wanted = train(model, rule(optimizer()), joined(host), params, calls=2)
    assert loss.shape == (N_SHARD, 2)
    np.testing.assert_allclose(loss, wanted_loss, **ACCUMULATED)
    for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (state, wanted)), strict=True):
        np.testing.assert_allclose(ours, theirs, **ACCUMULATED)
    assert np.abs(np.asarray(state.params.entity) - np.asarray(params.entity)).max() > 0.01


def test_group_steps() -> None:
    host = {"head": np.arange(4 * 2 * 3).reshape(4, 2, 3)}
    grouped = group_steps(host, 2)["head"]
    assert grouped.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(grouped[1, 0, 1], host["head"][3, 0], **EXACT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: group_steps({"head": np.zeros((4, 2, 2, 3))}, 3), r"k must divide the 4 steps of head, got 3"),
        (lambda: low_precision(optax.sgd(0.1), loss_scale=0.0), r"loss_scale must be > 0 and finite, got 0"),
        (lambda: low_precision(optax.sgd(0.1), seed=-1), r"seed must be >= 0, got -1"),
        (lambda: low_precision(optax.sgd(0.1)).update(0.0, None), r"params must be given to the update"),
        (lambda: cast_params(bj.Params(0, 0), jnp.int32), r"dtype must be one of 'float32', 'bfloat16', 'float16'"),
    ],
)
def test_errors_name_the_argument(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
