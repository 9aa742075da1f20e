"""Dropout of the rows of a batch: what is drawn, and steps with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import N_RELATION, Array, Negatives, normal, random_batch
from shared.oracle import SCORERS
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.step.rows import Embedded, drop

EMBEDDING, SCORE = bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE
DROPOUT = bj.RowDropout(entity=0.4, relation=0.25)
WIDTH, WEIGHTS = 6, (0.3, 0.1, 0.3)  # the latter of head, relation, tail


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9])
def test_what_is_dropped(rate: float) -> None:
    """By the key; kept ones are larger, so that means stay; neighbours, and the two halves, are independent."""
    x = 1 + np.abs(normal(0, 3, 199, 67))
    one, again, other = (np.asarray(drop(jax.random.PRNGKey(i), x, rate)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    kept = one != 0
    np.testing.assert_allclose(one[kept], x[kept] / (1 - rate), rtol=2**-14 / (1 - rate))
    spread = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(kept.mean() - (1 - rate)) <= 5 * spread
    if rate:
        flat = kept.reshape(-1)
        half = len(flat) // 2
        for a, b in ((kept, other != 0), (flat[1:], flat[:-1]), (flat[:half], flat[-half:])):
            assert abs(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) < 5 / np.sqrt(half)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays(dtype: str) -> None:
    dropped = drop(jax.random.PRNGKey(0), jnp.ones((4, 5), dtype), 0.5)
    assert dropped.dtype == dtype
    assert {*np.unique(dropped).tolist()} == {0.0, 2.0}


@pytest.mark.parametrize("rates", [{"entity": 1.0}, {"relation": -0.1}, {"entity": float("nan")}])
def test_rates(rates: dict[str, float]) -> None:
    (name,) = rates
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and less than 1, got"):
        bj.RowDropout(**rates)


def make(moving: Any, n_shard: int, shared: bool, dropout: Any) -> Any:
    sharding = bj.Sharding.create(9, n_shard, seed=1)
    score_fn = bj.ComplEx(
        negative_sample_sharing=shared, sharding=sharding, n_relation_type=2 * N_RELATION, embedding_size=WIDTH // 2
    )
    return moving(
        negative_sampler=Negatives(sharding, "t", True),
        score_fn=score_fn,
        loss_fn=bj.SoftmaxCrossEntropyLoss(),
        regularizer=bj.LpRegularization(weight=WEIGHTS[0], relation_weight=WEIGHTS[1], p=2),
        dropout=dropout,
    )


def expected(model: Any, entity: Array, relation: Array, batch: dict[str, Array], keys: Any) -> Any:
    """Losses of the shards, and the gradients of their sum, in float64."""
    slots, n_shard = model.score_fn.sharding.shard_and_idx_to_entity, len(keys)
    scorer, here = SCORERS["ComplEx"], np.arange(n_shard)
    losses, d_entity, d_relation = np.zeros(n_shard), np.zeros(entity.shape), np.zeros(relation.shape)
    held = slots[here[:, None, None], batch["negative"][:, :, 0]]  # (holds, for, N)
    stays = isinstance(model, SCORE)
    ids = held if stays else np.swapaxes(held, 0, 1)
    factors = [factors_of(model, batch, key) for key in keys]
    for shard in range(n_shard):
        rows = (
            slots[shard, batch["head"][shard]].reshape(-1),
            batch["relation"][shard].reshape(-1),
            slots[here[:, None], batch["tail"][:, shard]].reshape(-1),
        )
        if not stays:
            met, of_met = ids[shard].reshape(-1), factors[shard].negative[0]
        else:
            of_all = np.stack([f.negative[0].reshape(n_shard, -1, WIDTH) for f in factors])  # (holds, for, N, E)
            chosen = np.s_[:] if model.score_fn.negative_sample_sharing else np.s_[:, shard]
            met, of_met = ids[chosen].reshape(-1), of_all[chosen].reshape(-1, WIDTH)
        tables, grads = (entity, relation, entity), (d_entity, d_relation, d_entity)
        whole = [table[i] for table, i in zip(tables, rows, strict=True)]
        h, r, t = (x * f for x, f in zip(whole, factors[shard][:3], strict=True))
        positive, by_own = scorer(h, r, t)
        negative, by_met = scorer(h[:, None], r[:, None], (entity[met] * of_met)[None])
        every = np.concatenate([positive[:, None], negative], axis=1)
        total = np.logaddexp.reduce(every, axis=1)
        share = np.exp(every - total[:, None])
        losses[shard] = (total - positive).sum() + sum(w * (x**2).sum() for w, x in zip(WEIGHTS, whole, strict=True))
        for k, (grad, i) in enumerate(zip(grads, rows, strict=True)):
            by_row = (share[:, :1] - 1) * by_own[k]
            if k < 2:
                by_row = by_row + (share[:, 1:, None] * by_met[k]).sum(1)
            np.add.at(grad, i, factors[shard][k] * by_row + 2 * WEIGHTS[k] * whole[k])
        np.add.at(d_entity, met, of_met * (share[:, 1:, None] * by_met[2]).sum(0))
    return losses, d_entity, d_relation


def factors_of(model: Any, batch: dict[str, Array], key: Any) -> Embedded:
    """What the rows of a shard are multiplied with."""
    n, n_negative = batch["head"][0].size, batch["negative"][0].size
    ones = jnp.ones((n, WIDTH))
    whole = Embedded(ones, jnp.zeros(n, jnp.int32), ones, jnp.ones((1, n_negative, WIDTH)))
    dropped = model.dropout(key, whole, lambda ids: jnp.ones((len(ids), WIDTH)))
    for x, rate in zip(dropped, (0.4, 0.25, 0.4, 0.4), strict=True):
        np.testing.assert_allclose(np.unique(x), [0, 1 / (1 - rate)], rtol=1e-4)
    drawn = [np.asarray(x).reshape(-1)[: 2 * WIDTH] != 0 for x in dropped]
    assert len(np.unique(drawn, axis=0)) == 4  # each has draws of its own
    return Embedded(*(np.asarray(x, np.float64) for x in dropped))


@pytest.mark.parametrize(
    ("moving", "n_shard", "shared"),
    [
        (EMBEDDING, 1, True),
        (EMBEDDING, 2, True),
        (EMBEDDING, 4, True),
        (SCORE, 1, True),
        (SCORE, 2, True),
        (SCORE, 4, False),
    ],
)
def test_a_step(moving: Any, n_shard: int, shared: bool) -> None:
    """Scores are of dropped rows, wherever they are computed, and the penalty is of whole ones."""
    model = make(moving, n_shard, shared, DROPOUT)
    sharding, keys = model.score_fn.sharding, jax.random.split(jax.random.PRNGKey(7), n_shard)
    batch = random_batch(sharding, 1, 3)
    entity = normal(1, n_shard * sharding.max_entity_per_shard, WIDTH).astype(np.float32)
    relation = normal(2, 2 * N_RELATION, WIDTH).astype(np.float32)
    relations = np.broadcast_to(relation, (n_shard, *relation.shape))
    params = bj.Params(entity[sharding.shard_and_idx_to_entity], {"relation_embedding": relations})

    def loss(params: Any, batch: Any, key: Any) -> jax.Array:
        value: jax.Array = model.forward(params, **batch, dropout_key=key)["loss"]
        return value

    step = jax.jit(jax.vmap(jax.value_and_grad(loss), axis_name="shard"))
    losses, grads = step(params, {name: array[:, None] for name, array in batch.items()}, keys)
    expected_losses, d_entity, d_relation = expected(
        model, entity.astype(np.float64), relation.astype(np.float64), batch, keys
    )
    np.testing.assert_allclose(losses, expected_losses, **ACCUMULATED)
    np.testing.assert_allclose(grads.entity, d_entity[sharding.shard_and_idx_to_entity], **ACCUMULATED)
    np.testing.assert_allclose(grads.score_fn["relation_embedding"].sum(0), d_relation, **ACCUMULATED)


def test_never_without_key() -> None:
    """Bit by bit as without dropout."""
    batch = {name: array[:, None] for name, array in random_batch(bj.Sharding.create(9, 2, seed=1), 1, 3).items()}
    found = []
    for dropout in (DROPOUT, None):
        model = make(EMBEDDING, 2, True, dropout)
        assert model.needs_key == (dropout is not None)
        params = model.init(jax.random.PRNGKey(0))
        forward = jax.vmap(lambda p, b, model=model: model.forward(p, **b)["loss"], axis_name="shard")
        found.append(jax.jit(forward)(params, batch))
    np.testing.assert_array_equal(*found)
