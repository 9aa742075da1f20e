"""Row-sparse steps as users compile them, on more rows than jaxlib 0.10.2 sums rightly, against float64, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
from shared import oracle
from shared.tolerance import ACCUMULATED

import bess_jax as bj

pytestmark = pytest.mark.optimized

ROWS, TOUCHED = 50_000, 33_000  # XLA's fault begins at 32,769, see test_xla_faults.py
LR, EPS = 0.05, 1e-2

UPDATES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "sgd": (lambda: optax.sgd(LR), lambda: oracle.Sgd(LR)),
    "adam": (lambda: optax.adam(LR, eps=EPS), lambda: oracle.Adam(LR, eps=EPS)),
    "adagrad": (lambda: optax.adagrad(LR), lambda: oracle.Adagrad(LR)),
    "row_adagrad": (lambda: bj.row_adagrad(LR, eps=EPS), lambda: oracle.RowAdagrad(LR, eps=EPS)),
}
MODELS: dict[str, Any] = {
    "TransE1": (bj.TransE, {"scoring_norm": 1}),
    "TransE2": (bj.TransE, {"scoring_norm": 2}),
    "DistMult": (bj.DistMult, {}),
}


@pytest.mark.parametrize(
    ("model", "update", "width"),
    [
        (list(MODELS)[(i + j) % len(MODELS)], update, width)  # models take turns
        for i, update in enumerate(UPDATES)
        for j, width in enumerate((1, 2, 3, 5))
    ],
)
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_step(model: str, update: str, width: int) -> None:
    """One step of one shard whose triples touch most rows, many of them several times."""
    kind, options = MODELS[model]
    sharding = bj.Sharding.create(ROWS, 1, seed=0)
    negatives = bj.RandomShardedNegativeSampler(
        sharding=sharding, n_negative=1, seed=0, corruption_scheme="t", flat_negative_format=False
    )
    score_fn = kind(
        negative_sample_sharing=False, sharding=sharding, n_relation_type=3, embedding_size=width, **options
    )
    loss = oracle.Loss("LogSigmoid", margin=1.0)
    loss_fn = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=False)
    scheme = bj.EmbeddingMovingBessKGE(negative_sampler=negatives, score_fn=score_fn, loss_fn=loss_fn)
    rng = np.random.default_rng(0)
    triples = rng.integers([ROWS, 3, ROWS], size=(TOUCHED, 3)).astype(np.int32)
    negative = rng.integers(ROWS, size=(1, 1, 1, TOUCHED, 1)).astype(np.int32)
    batch = {
        name: column.reshape(1, 1, 1, -1) for name, column in zip(("head", "relation", "tail"), triples.T, strict=True)
    }
    batch["negative"] = negative
    sign = rng.choice([-1, 1], size=(2, ROWS, width))
    entity = (sign[0] * rng.uniform(0.5, 1.5, size=(ROWS, width))).astype(np.float32)
    relation = (sign[1, :3] * rng.uniform(0.5, 1.5, size=(3, width))).astype(np.float32)
    make_rule, make_update = UPDATES[update]
    settings = oracle.Settings(model, loss, "t", shared=False, flat=False)
    expected = oracle.train(entity, relation, batch, sharding, settings, make_update, sparse=True)

    rule = bj.row_sparse(make_rule())
    merged = {name: array[0] for name, array in bj.merge_ids(batch, ROWS).items()}
    assert len(np.unique(np.concatenate([triples[:, [0, 2]].ravel(), negative.ravel()]))) > 32_768
    params = bj.Params(entity[None], {"relation_embedding": relation[None]})

    def step(params: Any, batch: Any) -> Any:
        def loss_of(params: Any, batch: Any) -> Any:
            return scheme.forward(params, **batch)["loss"]

        return rule.step(loss_of, params, rule.init(params), batch, "shard")

    compiled = jax.jit(jax.vmap(step, axis_name="shard"))
    value, params, _ = compiled(params, {name: array[:, None] for name, array in merged.items()})
    np.testing.assert_allclose(value, expected.steps[0].loss, rtol=1e-5)
    np.testing.assert_allclose(params.entity[0], expected.entity, **ACCUMULATED)
    np.testing.assert_allclose(params.score_fn["relation_embedding"][0], expected.relation, **ACCUMULATED)
    assert np.abs(expected.entity - entity).max() > LR / 2
