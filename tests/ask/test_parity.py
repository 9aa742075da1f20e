"""Top-k queries and scores of all entities against the reference, array by array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.golden import METRIC, SCORE, Case, golden_cases, recorded_lists
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax.ask.all_scores import AllScoresBESS, AllScoresPipeline, get_entity_filter
from bess_jax.ask.topk import TopKQueryBessKGE
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler

pytestmark = pytest.mark.parity


# --- top-k queries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_cases("topk"))
def test_top_k(name: str) -> None:
    case = Case("topk", name)
    cfg = case.cfg
    sharding = case.sharding()
    if cfg["candidates"] == "all":
        sampler: Any = PlaceholderNegativeSampler(corruption_scheme=cfg["corruption_scheme"])
    else:
        sampler = recorded_lists(sharding, cfg["corruption_scheme"], cfg["flat_negative_format"], mask_on_gather=True)
        check_lists(case, sharding)
    evaluation = dict(cfg["evaluation"] or {})
    order = evaluation.pop("metric_order", None)
    module = TopKQueryBessKGE(
        k=cfg["k"],
        candidate_sampler=sampler,
        score_fn=case.score_fn(sharding),
        evaluation=bj.Evaluation(**evaluation, return_ranks=True) if evaluation else None,
        return_scores=True,
        window_size=cfg["window_size"],
    )
    forward = jax.vmap(lambda p, b: module.forward(p, **b), axis_name="shard")
    out = jax.jit(forward)(case.params(), case.inputs())
    case.check("topk_global_id", out["topk_global_id"], EXACT)
    case.check("topk_scores", out["topk_scores"], SCORE)
    if module.evaluation is not None:
        assert list(module.evaluation.metric_order) == order
        case.check("ranks", out["ranks"], EXACT)
        case.check("metrics", out["metrics"], METRIC)
    case.check_all_seen({"global_triples"})


def check_lists(case: Case, sharding: bj.Sharding) -> None:
    """The recorded candidates are the lists, shard by shard."""
    mask, lists = case["in_negative_mask"], case["candidate_lists"]
    entity = sharding.shard_and_idx_to_entity[np.arange(len(mask))[:, None, None, None], case["in_negative"]]
    for replica in range(mask.shape[1]):
        for row in range(mask.shape[2]):
            found = entity[:, replica, row][mask[:, replica, row]]
            expected = lists[0] if lists.ndim == 2 else lists[replica, row]
            np.testing.assert_array_equal(np.sort(found), np.sort(expected))


# --- scores of all entities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_cases("allscores", kind="module"))
def test_all_scores_module(name: str) -> None:
    case = Case("allscores", name)
    cfg = case.cfg
    sampler = PlaceholderNegativeSampler(corruption_scheme=cfg["corruption_scheme"])
    sharding = case.sharding()
    module = AllScoresBESS(candidate_sampler=sampler, score_fn=case.score_fn(sharding), window_size=cfg["window_size"])
    assert module.n_step == cfg["n_step"]

    def forward(params: Any, batch: Any) -> Any:
        return jax.lax.map(lambda step: module.forward(params, step, **batch), jnp.arange(module.n_step))

    scores = jax.jit(jax.vmap(forward, axis_name="shard", out_axes=1))(case.params(), case.inputs())
    case.check("scores", scores, SCORE)
    case.check_all_seen({"global_triples"})


def triple_set(case: Case, sharding: bj.Sharding) -> bj.PartitionedTripleSet:
    """The recorded set, whose order within partitions depends on the reference's machine."""
    cfg = case.cfg
    arrays = {
        name: case.file[f"{cfg['triple_set']}/{name}"]
        for name in ("triples", "triple_counts", "triple_offsets", "triple_sort_idx")
    }
    return bj.PartitionedTripleSet(sharding=sharding, partition_mode=cfg["partition_mode"], dummy=None, **arrays)


@pytest.mark.parametrize("name", golden_cases("allscores", kind="pipeline"))
def test_all_scores_pipeline(name: str) -> None:
    case = Case("allscores", name)
    cfg = case.cfg
    sharding = case.sharding()
    sampler = {k: v for k, v in cfg["batch_sampler"].items() if k != "kind"}
    filters = None
    if cfg["filter_triples"] != "none":
        filters = [case.file[f"{cfg['world']}/triples"]]
    if cfg["filter_triples"] == "same+extra":
        filters.append(case["in_extra_triples"])
    evaluation = dict(cfg["evaluation"])
    order = evaluation.pop("metric_order")
    placement = bj.Placement.create(cfg["n_shard"], mapping="pmap")
    pipeline = AllScoresPipeline(
        batch_sampler=bj.RigidShardedBatchSampler(
            partitioned_triple_set=triple_set(case, sharding),
            negative_sampler=PlaceholderNegativeSampler(corruption_scheme=cfg["corruption_scheme"]),
            seed=0,
            return_triple_idx=True,
            **sampler,
        ),
        corruption_scheme=cfg["corruption_scheme"],
        score_fn=case.score_fn(sharding),
        placement=placement,
        evaluation=bj.Evaluation(**evaluation, return_ranks=True),
        filter_triples=filters,
        candidate_ents=case["in_candidate_ents"] if cfg["candidate_ents"] else None,
        return_scores=True,
        return_topk=True,
        k=cfg["k"],
        window_size=cfg["window_size"],
        as_reference=cfg["candidate_ents"],
    )
    out = pipeline.forward(placement.put(case.params()))
    assert (case["scores"] == np.finfo(np.float32).min).any() == cfg["candidate_ents"]
    case.check("scores", out["scores"], SCORE)
    case.check("triple_idx", out["triple_idx"], EXACT)
    case.check("topk_global_id", out["topk_global_id"], EXACT)
    case.check("ranks", out["ranks"], EXACT)
    assert list(out["metrics"]) == list(out["metrics_avg"]) == order
    for metric in order:
        case.check(f"metrics_{metric}", out["metrics"][metric], METRIC)
        case.check(f"metrics_avg_{metric}", out["metrics_avg"][metric], METRIC)
    world = case.file[f"{cfg['world']}/triples"]
    back = case.file[f"{cfg['triple_set']}/triple_sort_idx"]
    case.check("global_triples", world[back[out["triple_idx"]]], EXACT)
    case.check_all_seen()


@pytest.mark.parametrize("name", golden_cases("allscores", kind="entity_filter"))
def test_entity_filter(name: str) -> None:
    case = Case("allscores", name)
    found = get_entity_filter(case["triples"], case["filter_triples"], case.cfg["filter_mode"])
    case.check("filter", found, EXACT)
    case.check_all_seen()
