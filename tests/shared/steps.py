"""Small models with batches, tables and updates, to try a step on and to compare it with the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from shared import oracle
from shared.oracle import Loss, Settings

import bess_jax as bj

N_ENTITY, N_RELATION, SIZE = 211, 5, 6  # SIZE even: components of ComplEx come in two halves
LR, EPS = 0.05, 1e-2  # a large eps: with a small one, Adam's g / |g| magnifies rounding where g is near 0
MAPPINGS = ("vmap", "pmap", "shard_map")

MODELS: dict[str, Callable[..., bj.BaseScoreFunction]] = {
    "TransE1": lambda **kw: bj.TransE(embedding_size=SIZE, scoring_norm=1, **kw),
    "TransE2": lambda **kw: bj.TransE(embedding_size=SIZE, scoring_norm=2, **kw),
    "DistMult": lambda **kw: bj.DistMult(embedding_size=SIZE, **kw),
    "ComplEx": lambda **kw: bj.ComplEx(embedding_size=SIZE // 2, **kw),
}
LOG_SIGMOID = Loss("LogSigmoid", margin=2.0, adversarial=0.7, scale=3.0)
RANKING = Loss("MarginRanking", margin=1.5)
SOFTMAX = Loss("SampledSoftmax", n_entity=N_ENTITY, scale=0.5)
FLAT, OWN, EVERYONE = {"shared": True, "flat": True}, {"shared": False, "flat": False}, {"shared": True, "flat": False}
SETTINGS = (
    Settings("TransE1", LOG_SIGMOID, "h", augment=True, **FLAT),
    Settings("DistMult", RANKING, "t", **FLAT),
    Settings("ComplEx", SOFTMAX, "ht", augment=True, **FLAT),
    Settings("TransE2", dataclasses.replace(RANKING, adversarial=1.0), "ht", **OWN),
    Settings("ComplEx", LOG_SIGMOID, "t", augment=True, **EVERYONE),
    Settings("DistMult", SOFTMAX, "h", shared=False, flat=True),
    Settings("TransE2", SOFTMAX, "ht", augment=True, **EVERYONE),
    Settings("DistMult", dataclasses.replace(LOG_SIGMOID, adversarial=None), "ht", local=True, **OWN),
)


def sgd() -> Any:
    return optax.sgd(LR)


def adam() -> Any:
    return optax.adam(LR, eps=EPS)


def row_adagrad() -> Any:
    return bj.row_adagrad(LR, eps=EPS)


UPDATES: dict[str, tuple[Callable[[], bj.UpdateRule], Callable[[], Any]]] = {
    "sparse_sgd": (lambda: bj.row_sparse(sgd()), lambda: oracle.Sgd(LR)),
    "sparse_adam": (lambda: bj.row_sparse(adam()), lambda: oracle.Adam(LR, eps=EPS)),
    "dense_adam": (lambda: bj.dense(adam()), lambda: oracle.Adam(LR, eps=EPS)),
    "sparse_row_adagrad": (lambda: bj.row_sparse(row_adagrad()), lambda: oracle.RowAdagrad(LR, eps=EPS)),
    "dense_row_adagrad": (lambda: bj.dense(row_adagrad()), lambda: oracle.RowAdagrad(LR, eps=EPS)),
}
# Every number of shards meets SGD and both kinds of Adam, and every setting comes at least once.
CASES = [(n_shard, update) for n_shard in (1, 2, 3, 4, 8) for update in ("sparse_sgd", "sparse_adam", "dense_adam")]
CASES += [(2, "sparse_row_adagrad"), (3, "dense_row_adagrad"), (8, "sparse_row_adagrad")]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with the batches and the tables to try it on."""

    sharding: bj.Sharding
    model: bj.EmbeddingMovingBessKGE
    sampler: bj.RigidShardedBatchSampler
    entity: np.ndarray  # (S * M, E) by entity_global id, padding last
    relation: np.ndarray

    @classmethod
    def create(
        cls, settings: Settings, n_shard: int, n_step: int, n_entity: int = N_ENTITY, n_triple: int = 300
    ) -> Case:
        rng = np.random.default_rng(n_shard)
        sharding = bj.Sharding.create(n_entity, n_shard, seed=3)
        triples = rng.integers([n_entity, N_RELATION, n_entity], size=(n_triple, 3)).astype(np.int32)
        dataset = bj.KGDataset(n_entity=n_entity, n_relation_type=N_RELATION, triples={"train": triples})
        negatives = bj.RandomShardedNegativeSampler(
            sharding=sharding,
            corruption_scheme=settings.scheme,
            n_negative=2,
            seed=1,
            flat_negative_format=settings.flat,
            local_sampling=settings.local,
        )
        sampler = bj.RigidShardedBatchSampler(
            partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding),
            negative_sampler=negatives,
            shard_bs=max(8, 2 * n_shard),
            batches_per_step=n_step,
            seed=2,
        )
        score_fn = MODELS[settings.model](
            negative_sample_sharing=settings.shared, sharding=sharding, n_relation_type=N_RELATION
        )
        model = bj.EmbeddingMovingBessKGE(
            negative_sampler=negatives,
            score_fn=score_fn,
            loss_fn=make_loss(settings.loss),
            return_scores=True,
            augment_negative=settings.augment,
        )
        n_slot = n_shard * sharding.max_entity_per_shard
        entity = rng.normal(size=(n_slot, score_fn.entity_width)).astype(np.float32)
        relation = rng.normal(size=(N_RELATION, score_fn.relation_width)).astype(np.float32)
        return cls(sharding, model, sampler, entity, relation)

    def state(self, rule: bj.UpdateRule) -> bj.TrainState:
        """State of all shards, on the host."""
        entity = self.entity[self.sharding.shard_and_idx_to_entity]
        relation = np.broadcast_to(self.relation, (self.sharding.n_shard, *self.relation.shape))
        params = bj.Params(entity, {"relation_embedding": relation})
        return jax.device_get(bj.TrainState(params, jax.vmap(rule.init)(params)))

    def fed(self, batch: dict[str, np.ndarray], rule: bj.UpdateRule, placement: bj.Placement) -> Any:
        merged = bj.merge_ids(batch, self.sharding.max_entity_per_shard) if rule.sparse else batch
        return placement.put(bj.shard_major(merged))


def make_loss(loss: Loss) -> Any:
    if loss.kind == "SampledSoftmax":
        return bj.SampledSoftmaxCrossEntropyLoss(n_entity=loss.n_entity, loss_scale=loss.scale)
    kind = {"LogSigmoid": bj.LogSigmoidLoss, "MarginRanking": bj.MarginRankingLoss}[loss.kind]
    return kind(
        margin=loss.margin,
        negative_adversarial_sampling=loss.adversarial is not None,
        negative_adversarial_scale=loss.adversarial or 1.0,
        loss_scale=loss.scale,
    )


def assert_replicated(tree: Any) -> None:
    """Every shard holds the same bits."""
    for leaf in jax.tree_util.tree_leaves(tree):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
