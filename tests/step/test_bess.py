"""How a micro-batch splits by corrupted side, which negatives its positives meet, and what may enter a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.steps import SETTINGS, Case

import bess_jax as bj
from bess_jax.step.sides import Lists, Sides


def test_split_and_join() -> None:
    """Under two sides the first half of every shard pair's positives has the first; joining undoes it."""
    positives = np.arange(2 * 4)  # S = 2, P = 4
    both = Sides(("head", "tail"), n_shard=2)
    parts = both.split({"x": positives, "row": positives[:, None] * np.ones(3)})
    assert [part["x"].tolist() for part in parts] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert [part["row"].shape for part in parts] == [(4, 3), (4, 3)]
    np.testing.assert_array_equal(both.join([part["x"] for part in parts]), positives)
    np.testing.assert_array_equal(both.join([part["row"] for part in parts])[:, 2], positives)
    assert Sides(("tail",), n_shard=2).split(positives)[0] is positives


@pytest.mark.parametrize("scheme", [bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE])
@pytest.mark.parametrize(
    ("flat", "shared", "expected"),
    [
        (True, True, {"EmbeddingMovingBessKGE": Lists.ONE, "ScoreMovingBessKGE": Lists.ALL}),
        (True, False, {"EmbeddingMovingBessKGE": Lists.ONE, "ScoreMovingBessKGE": Lists.ONE}),
        (False, True, {"EmbeddingMovingBessKGE": Lists.ALL, "ScoreMovingBessKGE": Lists.ALL}),
        (False, False, {"EmbeddingMovingBessKGE": Lists.OWN, "ScoreMovingBessKGE": Lists.OWN}),
    ],
)
def test_lists_that_a_positive_meets(scheme: Any, flat: bool, shared: bool, expected: dict[str, Lists]) -> None:
    sharding = bj.Sharding.create(20, 2, seed=0)
    negatives = bj.RandomShardedNegativeSampler(
        sharding=sharding, n_negative=3, seed=0, corruption_scheme="ht", flat_negative_format=flat
    )
    score_fn = bj.DistMult(negative_sample_sharing=shared, sharding=sharding, n_relation_type=2, embedding_size=4)
    model = scheme(negative_sampler=negatives, score_fn=score_fn, return_scores=True)
    assert model.lists is expected[scheme.__name__]
    n_list = negatives.n_list(2 * 4)
    batch = {name: np.zeros((2, 1, 2, 4), np.int32) for name in ("head", "relation", "tail")}
    batch["negative"] = np.zeros((2, 1, 2, n_list, 3), np.int32)
    out = jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard")(model.init(jax.random.key(0)), batch)
    n_pooled = {"EmbeddingMovingBessKGE": n_list // 2, "ScoreMovingBessKGE": n_list}[scheme.__name__]
    met = {Lists.ONE: 1, Lists.OWN: 1, Lists.ALL: n_pooled}[model.lists]
    assert out["negative_score"].shape == (2, 8, met * 2 * 3)


def test_padding_beside_augmented_negatives() -> None:
    """Masked are the places that fill up the shorter lists, and each row's own entity among those of the others."""
    sharding = bj.Sharding.create(9, 2, seed=0)
    everyone = np.arange(9, dtype=np.int32)[None]
    sampler = bj.TripleBasedShardedNegativeSampler(
        sharding=sharding, corruption_scheme="ht", negative_heads=everyone, negative_tails=everyone
    )
    score_fn = bj.DistMult(negative_sample_sharing=True, sharding=sharding, n_relation_type=2, embedding_size=4)
    model = bj.EmbeddingMovingBessKGE(
        negative_sampler=sampler, score_fn=score_fn, return_scores=True, augment_negative=True
    )
    batch = {name: np.zeros((2, 1, 2, 2), np.int32) for name in ("head", "relation", "tail")}
    drawn = sampler.sample(np.zeros((1, 2, 2, 2), np.int32), 0, 0)
    batch.update({name: array[0][:, None] for name, array in drawn.items()})
    out = jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard")(model.init(jax.random.key(0)), batch)
    is_padding = ~batch["negative_mask"][:, 0].reshape(2, 2, -1)[:, [0, 1, 0, 1]]  # by side of each positive
    own = np.broadcast_to(np.eye(2, dtype=bool)[[0, 0, 1, 1]], (2, 4, 2))
    assert is_padding.sum() == 2 * 4
    np.testing.assert_array_equal(out["negative_score"] < -40_000, np.concatenate([own, is_padding], axis=-1))


def enter(**changes: Callable[[np.ndarray], np.ndarray]) -> Any:
    case = Case.create(SETTINGS[2], n_shard=2, n_step=1)  # "ht", flat
    batch = {name: jnp.asarray(array[0]) for name, array in case.sampler.batch(0, 0).items()}
    batch.update({name: change(batch[name]) for name, change in changes.items()})
    forward = jax.vmap(lambda p, b: case.model.forward(p, **{k: v[None] for k, v in b.items()}), axis_name="shard")
    return forward(case.state(bj.row_sparse(bj.row_adagrad(0.1))).params, batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": lambda x: x[..., 0]}, r"head must have shape \(1, S, P\) = \(1, 2, 2\), got \(1, 2\)"),
        ({"tail": lambda x: x[..., :-1]}, r"tail must have shape \(1, S, P\) = \(1, 2, 4\), got \(1, 2, 3\)"),
        ({"head": lambda x: x[..., :-1]}, r"head must hold an even number of triples per partition .* got 3"),
        (
            {"negative": lambda x: x[:, :, :1]},
            r"negative must have shape \(1, S, L, N\) = .*, got \(1, 2, 1, 2\)",
        ),
        (
            {"triple_mask": lambda x: x[:, :1]},
            r"triple_mask must have shape \(1, S, P\) = .*, got \(1, 1, 4\)",
        ),
    ],
)
def test_shapes_are_checked_where_they_enter(changes: dict[str, Any], message: str) -> None:
    enter()
    with pytest.raises(ValueError, match=message):
        enter(**changes)


def test_exact_ties_are_asked_for_by_name() -> None:
    """Equal rows tie in every bit with `exact_ties`, at the price of other products; the program is another without."""
    case = Case.create(SETTINGS[1], n_shard=2, n_step=1)
    batch = {name: array[0][:, None] for name, array in case.sampler.batch(0, 0).items()}

    def program(exact: bool) -> str:
        evaluation = bj.Evaluation(metric_list=["mrr"], exact_ties=exact)
        model = dataclasses.replace(case.model, evaluation=evaluation)
        forward = jax.vmap(lambda p, b: model.forward(p, **b)["metrics"], axis_name="shard")
        return str(jax.make_jaxpr(forward)(case.state(bj.row_sparse(bj.row_adagrad(0.1))).params, batch))

    exact, rounded = program(True), program(False)
    assert ("pad" in exact, "pad" in rounded) == (True, False)
