"""Values of the reference: moving scores, top-k queries, scores of all entities; see tests/golden/README.md."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.golden import golden, golden_cases, models_in_turn
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax.ask.all_scores import AllScoresBESS, AllScoresPipeline, get_entity_filter
from bess_jax.ask.topk import TopKQueryBessKGE
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler, TripleBasedShardedNegativeSampler
from bess_jax.step.score_moving import ScoreMovingBessKGE

pytestmark = pytest.mark.parity

SCORE = {"rtol": 1e-5, "atol": 1e-5}  # as the golden README suggests
GRADIENT = {"rtol": 1e-4, "atol": 1e-4}
AS_REFERENCE = {"RotatE", "BoxE"}  # whose default is the paper's formula
INPUTS = {"head", "relation", "tail", "negative", "negative_mask", "triple_mask", "triple_weight"}


class Case:
    """Arrays and configuration of one case; remembers which arrays were used."""

    def __init__(self, name: str, case: str) -> None:
        self.file, cases = golden(name)
        self.cfg: dict[str, Any] = cases[case]
        self.case = case
        self.names = {key.split("/")[1] for key in self.file.files if key.startswith(f"{case}/")}
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.seen.add(name)
        return self.file[f"{self.case}/{name}"]

    def inputs(self, names: set[str] = INPUTS) -> dict[str, jax.Array]:
        """Arrays (S, 1, ...) of a batch."""
        return {name: jnp.asarray(self[f"in_{name}"])[:, None] for name in names if f"in_{name}" in self.names}

    def sharding(self) -> bj.Sharding:
        config = self.cfg["sharding"]
        offsets = config["type_offsets"]
        offsets = None if offsets is None else np.array(offsets)
        sharding = bj.Sharding.create(config["n_entity"], config["n_shard"], config["seed"], offsets)
        for name in ("shard_and_idx_to_entity", "shard_counts", "entity_to_shard", "entity_to_idx"):
            np.testing.assert_array_equal(getattr(sharding, name), self.file[f"{self.cfg['world']}/{name}"])
        return sharding

    def score_fn(self, sharding: bj.Sharding) -> Any:
        """The score function, as far as the package has it."""
        config = dict(self.cfg["score_fn"])
        name = config.pop("name")
        kind = getattr(bj.scoring, name, None)
        if kind is None:
            pytest.fail(f"no score function {name}")
        if name in AS_REFERENCE:
            config["as_reference"] = True
        sharing = self.cfg.get("negative_sample_sharing", True)
        n_relation_type = self.cfg["n_relation_type"]
        return kind(negative_sample_sharing=sharing, sharding=sharding, n_relation_type=n_relation_type, **config)

    def params(self) -> bj.Params:
        entity, relation = (jnp.asarray(self.file[f"{self.cfg['tables']}/{name}"]) for name in ("entity", "relation"))
        shape = (self.cfg["n_shard"], *relation.shape)
        return bj.Params(entity, {"relation_embedding": jnp.broadcast_to(relation, shape)})

    def check(self, name: str, actual: Any, tolerance: dict[str, float], where: Any = ...) -> None:
        np.testing.assert_allclose(np.asarray(actual)[where], self[name][where], **tolerance)

    def check_all_seen(self, besides: set[str] = frozenset()) -> None:
        """Nothing in the file was left out."""
        assert self.seen | set(besides) == self.names


class SimpleSampler(bj.ShardedNegativeSampler):
    """Stands for the random samplers that made the recorded negatives."""

    def sample(self, *_: Any) -> Any:
        raise AssertionError("negatives are recorded")


def list_sampler(sharding: bj.Sharding, scheme: Any, flat: bool, mask_on_gather: bool) -> Any:
    """Stands for the sampler of given lists that made the recorded negatives."""
    lists = np.zeros((1 if flat else 2, 1), np.int32)
    return TripleBasedShardedNegativeSampler(
        sharding=sharding,
        corruption_scheme=scheme,
        negative_heads=lists,
        negative_tails=lists,
        seed=0,
        mask_on_gather=mask_on_gather,
    )


# --- moving scores ----------------------------------------------------------------------------------------------------


def score_moving(case: Case, sharding: bj.Sharding) -> ScoreMovingBessKGE:
    cfg = case.cfg
    flat = cfg["flat_negative_format"]
    if cfg["negative_sampler"]["kind"] == "triple":
        sampler = list_sampler(sharding, cfg["corruption_scheme"], flat, mask_on_gather=False)
    else:
        sampler = SimpleSampler(
            sharding=sharding, corruption_scheme=cfg["corruption_scheme"], flat_negative_format=flat
        )
    loss = dict(cfg["loss"])
    return ScoreMovingBessKGE(
        negative_sampler=sampler,
        score_fn=case.score_fn(sharding),
        loss_fn=getattr(bj, loss.pop("name"))(**loss),
        evaluation=bj.Evaluation(**cfg["evaluation"], return_ranks=True),
        return_scores=True,
    )


@pytest.mark.parametrize("name", models_in_turn(list(golden("bess_ScoreMoving")[1])))
def test_score_moving(name: str) -> None:
    case = Case("bess_ScoreMoving", name)
    cfg = case.cfg
    model = score_moving(case, case.sharding())
    batch = case.inputs()

    def total(p: Any) -> Any:
        out = jax.vmap(lambda q, b: model.forward(q, **b), axis_name="shard")(p, batch)
        return jnp.sum(out["loss"]), out

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, out), grads = step(case.params())
    case.check("positive_score", out["positive_score"], SCORE)
    masked = case["negative_score"] < -40_000
    assert masked.any() == bool("in_negative_mask" in case.names and not case["in_negative_mask"].all())
    case.check("negative_score", out["negative_score"], {"rtol": 1e-6, "atol": 0}, masked)
    case.check("negative_score", out["negative_score"], SCORE, ~masked)
    sure = case["rank_robust"] | cfg["exact_scores"]
    case.check("ranks", out["ranks"], EXACT, sure)
    if cfg["evaluation"]["reduction"] == "none":
        np.testing.assert_allclose(
            np.swapaxes(out["metrics"], 1, 2)[sure], np.swapaxes(case["metrics"], 1, 2)[sure], rtol=1e-6
        )
    elif sure.all():
        case.check("metrics", out["metrics"], {"rtol": 1e-6, "atol": 0})
    else:  # sums over ranks that rounding decides: the metrics of the recorded ranks
        mask = batch["triple_mask"].reshape(*case["ranks"].shape) if "triple_mask" in batch else [None] * cfg["n_shard"]
        evaluation = bj.Evaluation(**cfg["evaluation"])
        metrics = [evaluation.stacked_metrics_from_ranks(*x)[0] for x in zip(case["ranks"], mask, strict=True)]
        case.check("metrics", metrics, {"rtol": 1e-6, "atol": 0})
    case.check("loss", out["loss"], SCORE)
    case.check("grad_entity", grads.entity, GRADIENT)
    case.check("grad_relation", jnp.sum(grads.score_fn["relation_embedding"], axis=0), GRADIENT)
    check_triples(case)
    case.check_all_seen()


def check_triples(case: Case) -> None:
    """The recorded ids are those of the recorded triples."""
    world = {name: case.file[f"{case.cfg['world']}/{name}"] for name in ("triples", "triple_sort_idx")}
    slots = case.file[f"{case.cfg['world']}/shard_and_idx_to_entity"]
    here = np.arange(len(slots))[:, None, None]
    columns = (slots[here, case["in_head"]], case["in_relation"], np.swapaxes(slots[here, case["in_tail"]], 0, 1))
    filled = case["in_triple_mask"] if "in_triple_mask" in case.names else np.ones(columns[0].shape, bool)
    expected = world["triples"][world["triple_sort_idx"][case["in_triple_idx"]]]
    np.testing.assert_array_equal(np.stack(columns, axis=-1)[filled], expected[filled])


# --- top-k queries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_cases("topk"))
def test_top_k(name: str) -> None:
    case = Case("topk", name)
    cfg = case.cfg
    sharding = case.sharding()
    if cfg["candidates"] == "all":
        sampler: Any = PlaceholderNegativeSampler(corruption_scheme=cfg["corruption_scheme"])
    else:
        sampler = list_sampler(sharding, cfg["corruption_scheme"], cfg["flat_negative_format"], mask_on_gather=True)
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
        case.check("metrics", out["metrics"], {"rtol": 1e-6, "atol": 0})
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
        case.check(f"metrics_{metric}", out["metrics"][metric], {"rtol": 1e-6, "atol": 0})
        case.check(f"metrics_avg_{metric}", out["metrics_avg"][metric], {"rtol": 1e-6, "atol": 0})
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
