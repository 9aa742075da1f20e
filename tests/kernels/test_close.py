"""Distances and their gradients where queries and keys are close, or equal, by every body, against float64."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import Case
from shared.oracle import Array

from bess_jax.kernels import products, square_of_difference, use_kernels
from bess_jax.kernels.bodies import BODIES, Kernels
from bess_jax.kernels.native import build
from bess_jax.scoring.distance import Distance, ModulusDistance

B, N, F = 33, 70, 24  # queries, keys, components
ERROR = 1e-4
"""Of a distance, relative; that of products is some ten times smaller."""
CLOSE = {"one in a thousand": [5, 14], "one of each query": list(range(B)), "all": list(range(N))}
"""Keys that are close to a query; at "all", to every one, as the queries are equal."""


@pytest.fixture(params=list(BODIES))
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """The name of a body that runs here."""
    if request.param == "native" and not build._instructions():
        pytest.skip("there is no native body for this machine")
    name: Kernels = request.param
    return name


def on_grid(seed: int, *shape: int) -> Array:
    """Rows that add up without rounding."""
    return np.round(np.random.default_rng(seed).normal(size=shape) * 64).astype(np.float32) / 64


def keys_near(query: Array, close: list[int], seed: int) -> Array:
    """Keys (N, F) float32: those that are close, at distances from 1e-6 to 1 of queries (B, F) float64 and at 0."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(N, F))
    direction *= 10.0 ** rng.uniform(-6, 0, (N, 1)) / np.linalg.norm(direction, axis=1, keepdims=True)
    direction[::7] = 0
    key = rng.normal(size=(N, F))
    key[close] = (query[np.arange(N) % B] + direction)[close]
    return key.astype(np.float32)


@pytest.mark.parametrize(("model", "p"), [("TransE", 2), ("RotatE", 2), ("RotatE", 1)])
def test_scores_of_close_entities(kernels: Kernels, model: str, p: int) -> None:
    """`score_triple`, `score_heads` and `score_tails`, shared and not, are the one function that the formula is.

    Sums of TransE are exact here, but for those of a head that is near. Queries of RotatE are not, and no distance can
    be more precise than they are.
    """
    case = Case(model, {"scoring_norm": p, "embedding_size": F if model == "TransE" else F // 2})
    shared, own = case.make(), case.make(shared=False)

    @partial(jax.jit, static_argnums=0)
    @use_kernels(kernels)
    def scores(side: str, known: Any, relation: Any, candidate: Any) -> Any:
        def score(fn: Any, method: str, candidate: Any) -> Any:
            rows = (known, relation, candidate) if side == "tail" else (candidate, relation, known)
            return fn.apply(case.variables(case.table, case.network), *rows, method=method)

        lists = f"score_{side}s"
        every = score(shared, lists, candidate[None]), score(own, lists, jnp.broadcast_to(candidate, (B, N, F)))
        return every, score(own, "score_triple", candidate[:B])

    for seed, (few, close) in enumerate(CLOSE.items()):
        known, relation = on_grid(seed, B, F), on_grid(9, B, case.model.relation_width)
        if few == "all":
            known, relation = (np.repeat(x[:1], B, axis=0) for x in (known, relation))
        for side, sign in (("tail", 1), ("head", -1)):
            if model == "TransE":
                query, rounding = np.float64(known) + sign * np.float64(relation), 0.0
            else:
                turned = (known[:, : F // 2] + 1j * known[:, F // 2 :]) * np.exp(1j * sign * np.float64(relation))
                query, rounding = np.concatenate([turned.real, turned.imag], axis=1), 2.0**-22 * np.abs(known).sum(1)
            candidate = keys_near(query, close, seed)
            pair = known[:, None], candidate[None]
            head, tail = pair if side == "tail" else pair[::-1]
            exact = case.formula(head, relation[:, None], tail)
            allowed = ERROR * np.abs(exact) + np.reshape(rounding, (-1, 1))
            every, triple = scores(side, known, relation, candidate)
            for found in every:
                assert np.all(np.abs(np.float64(found) - exact) <= allowed), (few, side)
            if side == "head":
                allowed = allowed + 2.0**-22 * np.abs(known).sum(1)[:, None]
            assert np.all(np.abs(np.float64(triple) - np.diagonal(exact)) <= np.diagonal(allowed)), (few, side)


def test_the_score_of_a_positive_is_that_of_a_candidate(kernels: Kernels) -> None:
    """TransE, h = [1, 1], r = 0, t = [1.0015, 1]: -0.0015 everywhere."""
    case = Case("TransE", {"scoring_norm": 2, "embedding_size": 2})
    head, tail, relation = np.float32([[1, 1]]), np.float32([[1.0015, 1]]), np.zeros((1, 2), np.float32)

    @use_kernels(kernels)
    def score(method: str, head: Any, tail: Any) -> Any:
        variables = case.variables(case.table, case.network)
        return case.model.apply(variables, head, relation, tail, method=method)

    np.testing.assert_allclose(score("score_triple", head, tail), [-0.0015], rtol=1e-4)
    np.testing.assert_allclose(score("score_heads", head[None], tail), [[-0.0015]], rtol=1e-4)
    np.testing.assert_allclose(score("score_tails", head, tail[None]), [[-0.0015]], rtol=1e-4)


@pytest.mark.parametrize("combiner", [Distance(2), ModulusDistance()], ids=["2-norm", "moduli"])
def test_gradients_of_close_rows(kernels: Kernels, combiner: Any) -> None:
    """A key pulls at a query along their difference, however small; an equal one does not."""

    @jax.jit
    @use_kernels(kernels)
    def gradients(query: Any, key: Any, cotangent: Any) -> Any:
        return jax.vjp(combiner.pairwise, query, key)[1](cotangent)

    for seed, (few, close) in enumerate(CLOSE.items()):
        query = np.random.default_rng(seed).normal(size=(B, F)).astype(np.float32)
        query = np.repeat(query[:1], B, axis=0) if few == "all" else query
        key, cotangent = keys_near(query.astype(np.float64), close, seed), on_grid(seed, B, N)
        difference = np.float64(query)[:, None] - key
        parts = difference.reshape(B, N, *((2, -1) if combiner != Distance(2) else (-1, 1)))
        length = np.linalg.norm(parts, axis=2, keepdims=True)
        unit = (parts / np.where(length == 0, 1, length)).reshape(difference.shape)
        pull = cotangent[..., None] * unit
        by_query, by_key = gradients(query, key, cotangent)
        np.testing.assert_allclose(by_query, -pull.sum(1), atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(by_key, pull.sum(0), atol=1e-5, rtol=1e-4)


def test_equal_keys_tie_in_all_calls() -> None:
    """The square of a close pair is the same bits where it is the only one and where all are, of shards as well."""
    rng, n = np.random.default_rng(0), 128
    query = rng.normal(size=(B, F)).astype(np.float32)
    one = rng.normal(size=(n, F)).astype(np.float32)
    one[77] = query[3] + 1e-3
    shards = np.stack([one, np.repeat(one[77:78], n, axis=0), rng.normal(size=(n, F)).astype(np.float32)])
    squares = partial(products.sums, square_of_difference)
    mapped = np.asarray(jax.jit(jax.vmap(squares, (None, 0)))(query, shards)[0])
    for keys, found in zip(shards[:2], mapped, strict=False):
        np.testing.assert_array_equal(jax.jit(squares)(query, keys)[0][3, 77], found[3, 77])
    np.testing.assert_array_equal(mapped[1, 3], np.repeat(mapped[0, 3, 77], n))
    np.testing.assert_allclose(mapped[0, 3, 77], np.sum((np.float64(query[3]) - one[77]) ** 2), rtol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("mapped", [False, True])
def test_nothing_is_recomputed_where_nothing_is_close(mapped: bool) -> None:
    """All differences are within loops, of as many rounds as are needed; gradients take the product of the scores."""
    score = use_kernels("products")(Distance(2).pairwise)
    score = jax.vmap(score) if mapped else score
    lead = (2,) if mapped else ()
    query, key = np.zeros((*lead, 64, 32), np.float32), np.zeros((*lead, 128, 32), np.float32)
    step = jax.jit(jax.value_and_grad(lambda *rows: jnp.sum(jnp.exp(score(*rows))), (0, 1)))
    text = step.lower(query, key).compile().as_text()
    assert len(re.findall(r" while\(", text.split("\nENTRY ")[1])) == 4
    assert len(re.findall(r" dot\(", text)) == 3
