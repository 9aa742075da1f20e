"""Losses as users compile them, with the scores they are of, on more rows than jaxlib 0.10.2 sums rightly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.oracle import Array, Loss
from shared.steps import make_loss
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax._numerics import MASKED_SCORE
from bess_jax.step.loss import Labels
from bess_jax.step.relation import relation_loss

pytestmark = pytest.mark.optimized

ROWS = 33_000  # XLA's fault begins at 32,769, see test_xla_faults.py
LOSSES = (Loss("LogSigmoid", adversarial=1.0), Loss("MarginRanking"), Loss("SampledSoftmax", n_entity=1000))


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("width", "n_negative"), [(1, 3), (2, 1), (3, 3), (5, 2)])
def test_losses_of_products(width: int, n_negative: int) -> None:
    """Every loss of every row, and its gradients by row, where few negatives are shared by many positives."""
    query, target, key = draw(0, ROWS, width), draw(1, ROWS, width), draw(2, n_negative, width)

    def losses(query: Any, target: Any) -> list[Any]:
        positive, negative = jnp.sum(query * target, axis=-1), query @ key.T
        return [make_loss(loss).per_triple(positive, negative) for loss in LOSSES]

    @jax.jit
    def run(query: Any, target: Any) -> Any:
        gradients = [jax.grad(lambda *rows, i=i: jnp.sum(losses(*rows)[i]), (0, 1))(query, target) for i in range(3)]
        return losses(query, target), gradients

    values, gradients = run(query, target)
    q, t, k = (x.astype(np.float64) for x in (query, target, key))
    positive, negative = np.sum(q * t, axis=-1), q @ k.T
    for loss, value, (by_query, by_target) in zip(LOSSES, values, gradients, strict=True):
        theirs, by_positive, by_negative = loss(positive, negative, loss.weights(negative))
        np.testing.assert_allclose(value, theirs, **ACCUMULATED)
        np.testing.assert_allclose(by_target, by_positive[:, None] * q, **ACCUMULATED)
        np.testing.assert_allclose(by_query, by_positive[:, None] * t + by_negative @ k, **ACCUMULATED)


@pytest.mark.parametrize(("width", "n_entity"), [(1, 3), (3, 4), (5, 2)])
def test_losses_of_labels(width: int, n_entity: int) -> None:
    """All entities labelled: every loss of every row, with smoothing, shares of answers and padding."""
    query, key = draw(0, ROWS, width), draw(2, n_entity, width)
    share, mask = np.float32(1) / np.random.default_rng(1).integers(1, 4, ROWS), np.arange(n_entity + 1) < n_entity
    kinds = [
        kind(positive_among_negatives=True, label_smoothing=0.2)
        for kind in (bj.SoftmaxCrossEntropyLoss, bj.BCEWithLogitsLoss)
    ]

    @jax.jit
    def run(query: Any) -> Any:
        def losses(query: Any) -> Any:
            scores = jnp.pad(query @ key.T, ((0, 0), (0, 1)), constant_values=MASKED_SCORE)
            labels = Labels(jnp.broadcast_to(mask, scores.shape), share.astype(np.float32))
            return jnp.stack([kind.per_labelled_triple(scores[:, 0], scores, labels) for kind in kinds])

        return losses(query), [jax.grad(lambda query, i=i: jnp.sum(losses(query)[i]))(query) for i in range(2)]

    values, gradients = run(query)
    score, k = query.astype(np.float64) @ key.T.astype(np.float64), key.astype(np.float64)
    own = np.arange(n_entity) == 0
    softplus, total = np.logaddexp(0, score), np.logaddexp.reduce(score, axis=1, keepdims=True)
    theirs = (
        share * (total[:, 0] - 0.8 * score[:, 0] - 0.2 * score.mean(axis=1)),
        share * (softplus.sum(axis=1) - 0.2 * score.mean(axis=1)) - 0.8 * score[:, 0],
    )
    slopes = (
        share[:, None] * (np.exp(score - total) - 0.8 * own - 0.2 / n_entity),
        share[:, None] * (np.exp(score - softplus) - 0.2 / n_entity) - 0.8 * own,
    )
    for value, loss, gradient, slope in zip(values, theirs, gradients, slopes, strict=True):
        np.testing.assert_allclose(value, loss, **ACCUMULATED)
        np.testing.assert_allclose(gradient, slope @ k, **ACCUMULATED)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_relation_loss(width: int) -> None:
    """Of many triples of narrow rows, with its gradients."""
    n_relation = 3
    score_fn = bj.DistMult(
        negative_sample_sharing=True,
        sharding=bj.Sharding.create(9, 1, 0),
        n_relation_type=n_relation,
        embedding_size=width,
    )
    head, tail, table = draw(0, ROWS, width), draw(1, ROWS, width), draw(2, n_relation, width)
    relation = np.random.default_rng(3).integers(n_relation, size=ROWS).astype(np.int32)

    @jax.jit
    def run(*rows: Any) -> Any:
        def loss(head: Any, table: Any, tail: Any) -> Any:
            return relation_loss(score_fn, {"params": {"relation_embedding": table}}, head, relation, tail)

        return loss(*rows), jax.grad(lambda *rows: jnp.sum(loss(*rows)), (0, 1, 2))(*rows)

    value, gradients = run(head, table, tail)
    h, r, t = (x.astype(np.float64) for x in (head, table, tail))
    score = (h * t) @ r.T
    total = np.logaddexp.reduce(score, axis=1, keepdims=True)
    np.testing.assert_allclose(value, total[:, 0] - score[np.arange(ROWS), relation], **ACCUMULATED)
    slope = np.exp(score - total) - (np.arange(n_relation) == relation[:, None])
    for ours, theirs in zip(gradients, (slope @ r * t, slope.T @ (h * t), slope @ r * h), strict=True):
        atol = 1e-6 * max(10, np.abs(theirs).max())  # sums of many terms for the table
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def test_regularization() -> None:
    """Powers of the components of many narrow rows."""
    rows = draw(0, ROWS, 3)
    for p in (1, 2, 3):
        value = jax.jit(bj.LpRegularization(weight=0.5, p=p))(rows**2, 2 * rows**2, rows**2)
        expected = (1 + 2 ** (p / 2 - 1)) * np.sum(np.abs(rows.astype(np.float64)) ** p, axis=-1)
        np.testing.assert_allclose(value, expected, **ACCUMULATED)
