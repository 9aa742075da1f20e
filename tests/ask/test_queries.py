"""Both distribution schemes, top-k queries and scores of all entities agree, with each other and with brute force."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared import oracle
from shared.tolerance import ACCUMULATED, EXACT, FLOAT32

import bess_jax as bj
from bess_jax.ask.all_scores import AllScoresPipeline, get_entity_filter
from bess_jax.ask.topk import TopKQueryBessKGE
from bess_jax.data.negative_sampler import (
    PlaceholderNegativeSampler,
    TripleBasedShardedNegativeSampler,
)
from bess_jax.step.score_moving import ScoreMovingBessKGE

N_RELATION = 3
MODELS = {"TransE1": bj.TransE, "DistMult": bj.DistMult, "ComplEx": bj.ComplEx}
SCHEMES: dict[str, Any] = {"EmbeddingMoving": bj.EmbeddingMovingBessKGE, "ScoreMoving": ScoreMovingBessKGE}


@dataclasses.dataclass
class World:
    """A graph on shards, with NaN in the rows that are padding."""

    model: str
    n_entity: int
    n_shard: int
    mapping: Any = "vmap"
    n_device: int | None = None

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.n_shard)
        self.sharding = bj.Sharding.create(self.n_entity, self.n_shard, seed=4)
        triples = rng.integers([self.n_entity, N_RELATION, self.n_entity], size=(60, 3)).astype(np.int32)
        shard = self.sharding.entity_to_shard
        pair = shard[triples[:, 0]] * self.n_shard + shard[triples[:, 2]]
        if self.n_shard > 1:
            triples = triples[pair != pair[0]]  # an empty shard pair
        self.triples = np.unique(triples, axis=0)
        self.dataset = bj.KGDataset(n_entity=self.n_entity, n_relation_type=N_RELATION, triples={"test": self.triples})
        score_fn = self.score_fn(True)
        self.entity = rng.normal(size=(self.n_entity, score_fn.entity_width)).astype(np.float32)
        self.relation = rng.normal(size=(N_RELATION, score_fn.relation_width)).astype(np.float32)
        padding = np.full((self.n_shard * self.sharding.max_entity_per_shard, self.entity.shape[1]), np.nan)
        rows = np.concatenate([self.entity, padding.astype(np.float32)])[self.sharding.shard_and_idx_to_entity]
        relations = np.broadcast_to(self.relation, (self.n_shard, *self.relation.shape))
        self.placement = bj.Placement.create(self.n_shard, self.n_device, self.mapping)
        self.params = self.placement.put(bj.Params(rows, {"relation_embedding": relations}))

    def score_fn(self, shared: bool) -> Any:
        return MODELS[self.model](
            negative_sample_sharing=shared, sharding=self.sharding, n_relation_type=N_RELATION, embedding_size=6
        )

    def partitioned(self, mode: Any) -> bj.PartitionedTripleSet:
        return bj.PartitionedTripleSet.create_from_dataset(self.dataset, "test", self.sharding, mode)

    def map(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Like `Placement.map`, with results on the host."""
        mapped = self.placement.map(fn)
        return lambda *args: self.placement.get(mapped(*args))

    def batch(self, sampler: bj.RigidShardedBatchSampler) -> dict[str, np.ndarray]:
        """The only call of a sampler, without step axis."""
        assert sampler.calls_per_epoch == 1
        return {name: array[0] for name, array in sampler.batch(0, 0).items()}

    def sampler(self, triples: bj.PartitionedTripleSet, negative: Any) -> bj.RigidShardedBatchSampler:
        size = int(triples.triple_counts.max()) * (self.n_shard if triples.triple_counts.ndim == 2 else 1)
        return bj.RigidShardedBatchSampler(
            partitioned_triple_set=triples,
            negative_sampler=negative,
            shard_bs=2 * size,
            batches_per_step=1,
            seed=0,
            shuffle=False,
            return_triple_idx=True,
        )

    def brute_force(self, side: str) -> np.ndarray:
        """(n_triple, n_entity) float64 scores of all entities on one side of the triples."""
        h, r, t = self.triples.T
        entity, relation = self.entity.astype(np.float64), self.relation.astype(np.float64)
        head, tail = (entity[x][:, None] for x in (h, t))
        args = (entity[None], relation[r][:, None], tail) if side == "h" else (head, relation[r][:, None], entity[None])
        return oracle.SCORERS[self.model](*args)[0]


def lists(world: World, side: str, triples: bj.PartitionedTripleSet, kind: str, mask_on_gather: bool) -> Any:
    """Sampler of all entities as candidates, in one list or in one list for each triple, in another order each."""
    rng = np.random.default_rng(0)
    n = 1 if kind == "flat" else len(triples.triples)
    entities = np.stack([rng.permutation(world.n_entity) for _ in range(n)]).astype(np.int32)
    return TripleBasedShardedNegativeSampler(
        sharding=world.sharding,
        corruption_scheme=side,
        negative_heads=entities,
        negative_tails=entities,
        mask_on_gather=mask_on_gather,
    )


def scores_of_scheme(world: World, scheme: str, side: str, kind: str) -> np.ndarray:
    """(n_triple, n_entity) scores, from the negative scores of a distribution scheme."""
    triples = world.partitioned("ht_shardpair")
    sampler = lists(world, side, triples, kind, mask_on_gather=False)
    model = SCHEMES[scheme](
        negative_sampler=sampler,
        score_fn=world.score_fn(kind == "flat"),
        return_scores=True,
        axis_name=world.placement.axis_name,
    )
    batch = world.batch(world.sampler(triples, sampler))
    names = ("head", "relation", "tail", "negative", "negative_mask")
    inputs = {name: batch[name][:, None] for name in names}
    out = world.map(lambda p, b: model.forward(p, **b))(world.params, world.placement.put(inputs))
    slots = world.sharding.shard_and_idx_to_entity
    column = slots[np.arange(world.n_shard)[:, None, None, None], batch["negative"]]  # (src, dst, sets, N)
    column = np.moveaxis(column, 0, 2)  # as the mask: (dst, sets, src, N)
    found = np.full((len(world.triples), world.n_entity), np.nan)
    positive = np.full(len(world.triples), np.nan)
    for shard in range(world.n_shard):
        rows = batch["triple_idx"][shard].ravel()
        for number in np.flatnonzero(batch["triple_mask"][shard].ravel()):
            entry = 0 if kind == "flat" else number
            real = batch["negative_mask"][shard, entry].ravel()
            row = triples.triple_sort_idx[rows[number]]
            found[row, column[shard, entry].ravel()[real]] = out["negative_score"][shard, number][real]
            positive[row] = out["positive_score"][shard, number]
    answer = world.triples[:, 0 if side == "h" else 2]
    np.testing.assert_allclose(found[np.arange(len(found)), answer], positive, **FLOAT32)
    return found


def top_k(world: World, side: str, kind: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n_triple, k) ids and scores, and the ranks of the ground truth."""
    triples = world.partitioned("t_shard" if side == "h" else "h_shard")
    if kind == "all":
        sampler: Any = PlaceholderNegativeSampler(corruption_scheme=side)
    else:
        sampler = lists(world, side, triples, kind, mask_on_gather=True)
    module = TopKQueryBessKGE(
        k=k,
        candidate_sampler=sampler,
        score_fn=world.score_fn(kind != "specific"),
        evaluation=bj.Evaluation(metric_list=["mrr"], return_ranks=True),
        return_scores=True,
        window_size=3,
        axis_name=world.placement.axis_name,
    )
    batch = world.batch(world.sampler(triples, sampler))
    idx, mask = batch.pop("triple_idx"), batch["triple_mask"]
    inputs = {name: array[:, None] for name, array in batch.items() if name != "triple_weight"}
    entity_id = world.placement.put(world.sharding.shard_and_idx_to_entity)
    if kind == "flat":  # the ids can also be handed in
        forward = world.map(lambda p, b, i: module.forward(p, entity_id=i, **b))
        out = forward(world.params, world.placement.put(inputs), entity_id)
    else:
        out = world.map(lambda p, b: module.forward(p, **b))(world.params, world.placement.put(inputs))
    np.testing.assert_allclose(out["metrics"][:, 0], np.where(mask, 1 / out["ranks"], 0), **FLOAT32)
    back = np.argsort(triples.triple_sort_idx[idx[mask]])
    return tuple(out[name][mask][back] for name in ("topk_global_id", "topk_scores", "ranks"))  # type: ignore[return-value]


def all_scores(world: World, side: Any, **arguments: Any) -> dict[str, Any]:
    """Output of the pipeline, in the order of the triples."""
    triples = world.partitioned("t_shard" if side == "h" else "h_shard")
    pipeline = AllScoresPipeline(
        batch_sampler=dataclasses.replace(
            world.sampler(triples, PlaceholderNegativeSampler(corruption_scheme=side)),
            shard_bs=5,
            batches_per_step=2,
            shuffle=True,
        ),
        corruption_scheme=side,
        score_fn=world.score_fn(True),
        placement=world.placement,
        **arguments,
    )
    out = pipeline.forward(world.params)
    back = np.argsort(triples.triple_sort_idx[out.pop("triple_idx")])
    assert len(back) == len(world.triples)
    return {name: x[back] if isinstance(x, np.ndarray) else x for name, x in out.items()}


@pytest.mark.parametrize(
    ("n_shard", "few", "mapping", "n_device"),
    [(n_shard, few, "vmap", None) for n_shard in (1, 2, 3, 4, 8) for few in (False, True)]
    + [(4, False, "pmap", 4), (4, True, "shard_map", 4), (4, True, "pmap", 2)],
)
def test_all_ways_agree(n_shard: int, few: bool, mapping: str, n_device: int | None) -> None:
    model = list(MODELS)[(n_shard + few) % 3]
    world = World(model, max(n_shard + 1, 3) if few else 8 * n_shard + 1, n_shard, mapping, n_device)
    if n_shard > 1:
        assert (world.partitioned("ht_shardpair").triple_counts == 0).any()
        assert few == (world.n_entity < 2 * n_shard) or n_shard < 3
        assert len(set(world.sharding.shard_counts.tolist())) > 1
    side = "ht"[(n_shard // 2 + few) % 2]
    expected = world.brute_force(side)
    for scheme in SCHEMES:
        for kind in ("flat", "specific") if scheme == "ScoreMoving" or mapping == "vmap" else ("flat",):
            np.testing.assert_allclose(scores_of_scheme(world, scheme, side, kind), expected, **FLOAT32)

    k = min(4, world.n_entity)
    order = np.argsort(-expected, axis=1)
    place = np.argmax(order == world.triples[:, [0 if side == "h" else 2]], axis=1) + 1
    for kind in ("all", "flat", "specific"):
        entity, score, ranks = top_k(world, side, kind, k)
        np.testing.assert_allclose(entity, order[:, :k], **EXACT)
        np.testing.assert_allclose(score, -np.sort(-expected, axis=1)[:, :k], **FLOAT32)
        np.testing.assert_allclose(ranks, np.minimum(place, k + 1), **EXACT)

    evaluation = bj.Evaluation(metric_list=["mrr", "hits@3"], return_ranks=True)
    out = all_scores(world, side, evaluation=evaluation, return_scores=True, return_topk=True, k=k, window_size=5)
    np.testing.assert_allclose(out["scores"], expected, **FLOAT32)
    np.testing.assert_allclose(out["topk_global_id"], order[:, :k], **EXACT)
    np.testing.assert_allclose(out["ranks"], place, **EXACT)
    assert out["metrics_avg"]["mrr"] == pytest.approx((1 / place).mean(), rel=1e-5)


@pytest.mark.parametrize("scheme", ["h", "ht"])
def test_moving_scores_train_like_moving_embeddings(scheme: str) -> None:
    """One list of negatives for all triples: the same loss and the same update, dense and on touched rows."""
    world = World("DistMult", 29, 4)
    triples = world.partitioned("ht_shardpair")
    sampler = lists(world, scheme, triples, "flat", mask_on_gather=False)
    host = world.sampler(triples, sampler).batch(0, 0)
    host = {k: v for k, v in host.items() if k not in ("triple_idx", "triple_mask")}
    merged = bj.merge_ids(host, world.sharding.max_entity_per_shard)
    params = world.params._replace(entity=jnp.nan_to_num(world.params.entity))
    loss_fn = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=True)
    results = []
    for kind in SCHEMES.values():
        model = kind(negative_sampler=sampler, score_fn=world.score_fn(True), loss_fn=loss_fn)
        for rule in (bj.dense(optax.sgd(0.1)), bj.row_sparse(optax.sgd(0.1))):
            step = jax.jit(jax.vmap(bj.make_train_step(model, rule), axis_name="shard"))
            fed = bj.shard_major(merged if rule.sparse else host)
            loss, state = step(bj.TrainState(params, jax.vmap(rule.init)(params)), fed)
            results.append((loss, state.params.entity, state.params.score_fn["relation_embedding"]))
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            np.testing.assert_allclose(x, y, **ACCUMULATED)


@pytest.mark.parametrize("kind", [bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", list(MODELS))
def test_equal_entities_tie_with_the_positive(kind: Any, flat: bool, shared: bool, name: str) -> None:
    """Where all rows are equal, a positive ranks in the middle of its 22 candidates, as `average` says, to the bit."""
    world = World(name, 33, 2)
    negative = bj.RandomShardedNegativeSampler(
        sharding=world.sharding, corruption_scheme="ht", flat_negative_format=flat, n_negative=11, seed=0
    )
    model = kind(
        negative_sampler=negative,
        score_fn=world.score_fn(shared),
        evaluation=bj.Evaluation(metric_list=["mrr"], return_ranks=True),
        return_scores=True,
    )
    params = model.init(jax.random.key(0))
    params = params._replace(entity=jnp.broadcast_to(params.entity[:1, :1], params.entity.shape))
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=world.partitioned("ht_shardpair"),
        negative_sampler=negative,
        shard_bs=8,
        batches_per_step=1,
        seed=0,
    )
    batch = {k: jnp.asarray(v[0])[:, None] for k, v in sampler.batch(0, 0).items()}
    out = jax.vmap(lambda p, b: model.forward(p, **b), axis_name="shard")(params, batch)
    n = out["negative_score"].shape[-1]
    np.testing.assert_array_equal(out["negative_score"], np.repeat(out["positive_score"][..., None], n, axis=-1))
    np.testing.assert_array_equal(out["ranks"], np.full(out["ranks"].shape, 1 + n / 2))


def test_fewer_candidates_than_asked_for() -> None:
    """What is missing is -1, never padding or an entity that is no candidate."""
    world = World("TransE1", 9, 4)
    triples = world.partitioned("h_shard")
    candidates = np.array([[7, 2, 5]], np.int32)
    sampler = TripleBasedShardedNegativeSampler(
        sharding=world.sharding,
        corruption_scheme="t",
        negative_heads=None,
        negative_tails=candidates,
        mask_on_gather=True,
    )
    module = TopKQueryBessKGE(k=6, candidate_sampler=sampler, score_fn=world.score_fn(True), return_scores=True)
    batch = world.batch(world.sampler(triples, sampler))
    inputs = {name: batch[name][:, None] for name in ("relation", "head", "negative", "negative_mask")}
    out = world.map(lambda p, b: module.forward(p, **b))(world.params, inputs)
    found = out["topk_global_id"][batch["triple_mask"]]
    assert (np.sort(found[:, :3], axis=1) == [2, 5, 7]).all()
    assert (found[:, 3:] == -1).all()
    assert np.isneginf(out["topk_scores"][batch["triple_mask"]][:, 3:]).all()


def test_equal_scores_come_in_the_order_of_the_ids() -> None:
    world = World("TransE1", 33, 4)
    world.params = world.params._replace(entity=jnp.ones_like(world.params.entity))
    found, *_ = top_k(world, "t", "all", 7)
    assert (found == np.arange(7)).all()
    assert (all_scores(world, "t", return_topk=True, k=7)["topk_global_id"] == np.arange(7)).all()


# --- the pipeline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["h", "t"])
def test_filters_and_candidates(side: Any) -> None:
    world = World("ComplEx", 33, 4)
    candidates = np.array([3, 9, 4, 30, 31, 3, 12], np.int32)
    extra = np.random.default_rng(1).integers([33, N_RELATION, 33], size=(200, 3)).astype(np.int32)
    expected = world.brute_force(side)
    answer = world.triples[:, 0 if side == "h" else 2]
    n = np.arange(len(answer))
    outside = ~np.isin(answer, candidates)
    assert outside.any()
    assert not outside.all()
    expected[:, ~np.isin(np.arange(33), candidates)] = -np.inf
    truth = expected[n, answer]
    known = set(map(tuple, np.concatenate([world.triples, extra]).tolist()))
    for row, (h, r, t) in enumerate(world.triples.tolist()):
        hits = [e for e in range(33) if ((e, r, t) if side == "h" else (h, r, e)) in known]
        expected[row, hits] = -np.inf
    ranks = 1 + (expected > truth[:, None]).sum(axis=1)
    expected[n, answer] = truth
    arguments = {
        "filter_triples": [world.triples, extra],
        "candidate_ents": candidates,
        "evaluation": bj.Evaluation(metric_list=["mrr"], mode="optimistic", return_ranks=True, reduction="sum"),
        "return_scores": True,
        "return_topk": True,
        "k": 6,
    }
    out = all_scores(world, side, **arguments)
    np.testing.assert_allclose(out["scores"], expected, **FLOAT32)
    np.testing.assert_allclose(out["ranks"], ranks, **EXACT)
    assert out["metrics"]["mrr"] == pytest.approx((1 / ranks).sum(), rel=1e-5)
    best = np.sort(expected, axis=1)[:, :-7:-1]
    order = np.where(best > -np.inf, np.argsort(-expected, axis=1, kind="stable")[:, :6], -1)
    np.testing.assert_allclose(out["topk_global_id"], order, **EXACT)
    assert (order[outside] == -1).any()

    reference = all_scores(world, side, **arguments, as_reference=True)
    assert (reference["scores"][n, answer][outside] == np.finfo(np.float32).min).all()
    np.testing.assert_allclose(reference["ranks"], ranks, **EXACT)


def test_queries_without_ground_truth() -> None:
    world = World("DistMult", 33, 4)
    queries = world.triples[:, :2]
    triples = bj.PartitionedTripleSet.create_from_queries(world.dataset, world.sharding, queries, "hr")
    arguments: dict[str, Any] = {
        "batch_sampler": world.sampler(triples, PlaceholderNegativeSampler(corruption_scheme="t")),
        "corruption_scheme": "t",
        "score_fn": world.score_fn(True),
        "placement": world.placement,
        "return_scores": True,
    }
    out = AllScoresPipeline(**arguments, filter_triples=[world.triples]).forward(world.params)
    expected = world.brute_force("t")
    for row, (h, r) in enumerate(queries.tolist()):
        known = (world.triples[:, 0] == h) & (world.triples[:, 1] == r)
        expected[row, world.triples[known, 2]] = -np.inf  # nothing is restored
    np.testing.assert_allclose(out["scores"], expected[triples.triple_sort_idx[out["triple_idx"]]], **FLOAT32)
    with pytest.raises(ValueError, match="evaluation needs the ground truth, but the queries have no tails"):
        AllScoresPipeline(**arguments, evaluation=bj.Evaluation(metric_list=["mrr"]))


def test_no_array_of_queries_times_triples() -> None:
    triples = np.stack([np.arange(50_000), np.zeros(50_000), np.arange(50_000)], axis=1).astype(np.int32)
    tracemalloc.start()
    found = get_entity_filter(triples, triples, "t")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.stack([np.arange(50_000)] * 2, axis=1))
    assert peak < 50_000**2 / 100
