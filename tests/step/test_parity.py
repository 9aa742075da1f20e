"""Losses, metrics and one distributed step against the reference, array by array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.golden import (
    GRADIENT,
    METRIC,
    SCORE,
    Case,
    close,
    golden,
    golden_cases,
    make_loss,
    models_in_turn,
    recorded_sampler,
)
from shared.tolerance import EXACT

import bess_jax as bj

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", golden_cases("losses"))
def test_loss(case: str) -> None:
    file = golden("losses")
    cfg = file.cases[case]
    loss_fn = make_loss(cfg["loss"])
    scores = cfg["scores"]
    positive, negative = file[f"{scores}/positive_score"], file[f"{scores}/negative_score"]
    weight = file[f"{scores}/triple_weight"] if cfg["triple_weight"] == "vector" else cfg["triple_weight"]

    @jax.jit
    def run(positive: Any, negative: Any) -> Any:
        weights = loss_fn.negative_weights(negative) if "negative_weights" in names else None
        return jax.value_and_grad(loss_fn, (0, 1))(positive, negative, weight), weights

    names = file.below(case)
    (loss, (d_positive, d_negative)), weights = run(positive, negative)
    close(loss, file[f"{case}/loss"], SCORE)
    close(d_positive, file[f"{case}/grad_positive"], GRADIENT)
    close(d_negative, file[f"{case}/grad_negative"], GRADIENT)
    if weights is not None:
        close(weights, file[f"{case}/negative_weights"], SCORE)


@pytest.mark.parametrize("case", golden_cases("evaluation"))
def test_evaluation(case: str) -> None:
    file = golden("evaluation")
    cfg = file.cases[case]
    arguments = {k: cfg[k] for k in ("mode", "worst_rank_infty")}
    evaluation = bj.Evaluation(cfg.get("metric_list", ["mrr"]), **arguments)
    if cfg["kind"] == "from_indices":
        source = cfg["indices"]
        ranks = evaluation.ranks_from_indices(file[f"{source}/ground_truth"], file[f"{source}/candidate_indices"])
    else:
        source = cfg.get("scores", case)
        positive, candidate = file[f"{source}/positive_score"], file[f"{source}/candidate_score"]
        ranks = evaluation.ranks_from_scores(jnp.asarray(positive), jnp.asarray(candidate))
    close(ranks, file[f"{case}/ranks"], EXACT)
    stacked = [name for name in file.below(case) if name.startswith("stacked")]
    if stacked:
        assert list(evaluation.metric_order) == cfg["metric_order"]
    for name in stacked:
        _, reduction, masked = name.split("_")
        mask = jnp.asarray(file[f"{source}/triple_mask"]) if masked == "mask" else None
        reduced = bj.Evaluation(metric_list=cfg["metric_list"], reduction=reduction, **arguments)
        close(reduced.stacked_metrics_from_ranks(ranks, mask), file[f"{case}/{name}"], METRIC)
        by_name = reduced.dict_metrics_from_ranks(ranks, mask)
        assert list(by_name) == cfg["metric_order"]
        close(np.stack(list(by_name.values()))[None], file[f"{case}/{name}"], METRIC)


# --- one distributed step ---------------------------------------------------------------------------------------------


def make_scheme(kind: Any, case: Case) -> Any:
    cfg, sharding = case.cfg, case.sharding()
    return kind(
        negative_sampler=recorded_sampler(cfg, sharding),
        score_fn=case.score_fn(sharding),
        loss_fn=make_loss(cfg["loss"]),
        evaluation=bj.Evaluation(**cfg["evaluation"], return_ranks=True),
        return_scores=True,
        augment_negative=cfg["augment_negative"],
    )


def check_step(kind: Any, case: Case) -> None:
    cfg, batch = case.cfg, case.inputs()
    model = make_scheme(kind, case)

    def loss(params: Any, batch: Any) -> Any:
        out = model.forward(params, **batch)
        return out["loss"], out

    step = jax.jit(jax.vmap(jax.grad(loss, has_aux=True), axis_name="shard"))
    grads, out = jax.device_get(step(case.params(), batch))
    case.check("positive_score", out["positive_score"], SCORE)
    masked = case["negative_score"] < -40_000
    case.check("negative_score", out["negative_score"], {"rtol": 1e-6, "atol": 0}, masked)
    case.check("negative_score", out["negative_score"], SCORE, ~masked)
    padded = "in_negative_mask" in case.names and not case["in_negative_mask"].all()
    assert masked.any() == (padded or model.augment_negative)
    sure = case["rank_robust"] | cfg["exact_scores"]
    check_ranks(case, out["ranks"], sure)
    check_metrics(case, out)
    case.check("loss", out["loss"], SCORE)
    case.check("grad_entity", grads.entity, GRADIENT)
    case.check("grad_relation", grads.score_fn["relation_embedding"].sum(axis=0), GRADIENT)
    check_triples(case)
    case.check_all_seen()


def check_ranks(case: Case, ranks: np.ndarray, sure: np.ndarray) -> None:
    """The recorded ones; where rounding decides between these and others, any that lies between their bounds."""
    case.check("ranks", ranks, EXACT, sure)
    positive, negative = case["positive_score"][..., None], case["negative_score"]
    width = 2e-4 * (1 + np.abs(positive))
    least, most = ((negative > positive + sign * width).sum(axis=-1) for sign in (1, -1))
    assert ((ranks >= 1 + least) & ((ranks <= 1 + most) | (most == negative.shape[-1]))).all()


def check_metrics(case: Case, out: Any) -> None:
    """All recorded metrics are those of the recorded ranks, and those of the step are those of its ranks."""
    given = "in_triple_mask" in case.names
    masks = case["in_triple_mask"].reshape(out["ranks"].shape) if given else [None] * case.cfg["n_shard"]
    evaluation = bj.Evaluation(**case.cfg["evaluation"])
    for ranks, metrics in ((case["ranks"], case["metrics"]), (out["ranks"], out["metrics"])):
        stacked = [evaluation.stacked_metrics_from_ranks(*shard)[0] for shard in zip(ranks, masks, strict=True)]
        close(np.stack(stacked), metrics, METRIC)


def check_triples(case: Case) -> None:
    """The recorded ids are those of the recorded triples."""
    world = {name: case.file[f"{case.cfg['world']}/{name}"] for name in ("triples", "triple_sort_idx")}
    slots = case.file[f"{case.cfg['world']}/shard_and_idx_to_entity"]
    here = np.arange(len(slots))[:, None, None]
    columns = (slots[here, case["in_head"]], case["in_relation"], np.swapaxes(slots[here, case["in_tail"]], 0, 1))
    filled = case["in_triple_mask"] if "in_triple_mask" in case.names else np.ones(columns[0].shape, bool)
    expected = world["triples"][world["triple_sort_idx"][case["in_triple_idx"]]]
    np.testing.assert_array_equal(np.stack(columns, axis=-1)[filled], expected[filled])


@pytest.mark.parametrize("name", models_in_turn("bess_EmbeddingMoving"))
def test_embedding_moving(name: str) -> None:
    check_step(bj.EmbeddingMovingBessKGE, Case("bess_EmbeddingMoving", name))


@pytest.mark.parametrize("name", models_in_turn("bess_ScoreMoving"))
def test_score_moving(name: str) -> None:
    check_step(bj.ScoreMovingBessKGE, Case("bess_ScoreMoving", name))
