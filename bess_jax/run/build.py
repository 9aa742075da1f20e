"""What a run is made of, from its settings and its graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bess_jax.data.batch_sampler import RandomShardedBatchSampler, RigidShardedBatchSampler, ShardedBatchSampler
from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs import load_dataset
from bess_jax.data.groups import group_by_query
from bess_jax.data.negative_sampler import (
    AllEntitiesNegativeSampler,
    RandomShardedNegativeSampler,
    ShardedNegativeSampler,
    TripleBasedShardedNegativeSampler,
    TypeBasedShardedNegativeSampler,
)
from bess_jax.data.options import parse_columns, parse_split
from bess_jax.data.sharding import PartitionedTripleSet, Sharding
from bess_jax.run import models
from bess_jax.run.config import TrainConfig
from bess_jax.run.conflicts import conflicts_of_model
from bess_jax.run.settings import LossName
from bess_jax.scoring.base import BaseScoreFunction
from bess_jax.step import loss
from bess_jax.step.bess import BessKGE
from bess_jax.step.embedding_moving import EmbeddingMovingBessKGE
from bess_jax.step.rows import RowDropout
from bess_jax.step.score_moving import ScoreMovingBessKGE


def read_graph(config: TrainConfig) -> KGDataset:
    """The graph that the settings name.

    Raises:
        ValueError: if there is none of that name, or it cannot be read.
        MissingExtraError: if its format needs a package that is not installed.
    """
    return load_dataset(config.dataset, parse_columns(config.columns), parse_split(config.split))


def make_score_fn(config: TrainConfig, dataset: KGDataset, sharding: Sharding) -> BaseScoreFunction:
    """The score function that the settings ask for.

    Raises:
        ValueError: if there is none of that name, or a setting does not fit it.
    """
    kind = models.find_model(config.model)
    if found := "; ".join(conflicts_of_model(config, kind)):
        raise ValueError(found)
    return models.make_score_fn(config, kind, dataset.n_relation_type, sharding)


def make_sampler(config: TrainConfig, dataset: KGDataset) -> ShardedBatchSampler:
    """Sampler of the training batches; T is the largest that fits an epoch without waste.

    Raises:
        ValueError: if the settings do not fit the graph.
    """
    offsets = dataset.type_offsets
    types = None if offsets is None else np.fromiter(offsets.values(), np.int32)
    sharding = Sharding.create(dataset.n_entity, config.n_shard, config.seed, types)
    if config.negatives == "given":
        _check_lists(config, dataset)
    triples = PartitionedTripleSet.create_from_dataset(
        dataset, "train", sharding, add_inverse_triples=config.inverse_relations
    )
    k = config.answers_per_query
    counts = group_by_query(triples, k).counts if k > 1 else triples.triple_counts
    n_batch = -(-int(counts.max()) // config.positive_per_partition)
    n_update = -(-n_batch // config.accumulate)
    n_call = -(-n_update // (config.steps_per_call // config.accumulate))
    kind: Any = RandomShardedBatchSampler
    if config.order != "random":
        kind = partial(RigidShardedBatchSampler, shuffle=config.order == "shuffled")
    sampler: ShardedBatchSampler = kind(
        partitioned_triple_set=triples,
        negative_sampler=make_negative_sampler(config, triples),
        shard_bs=config.batch_size // config.n_shard,
        batches_per_step=-(-n_update // n_call) * config.accumulate,
        seed=config.seed,
        hrt_freq_weighting=config.frequency_weights,
        weight_smoothing=config.weight_smoothing,
        duplicate_batch=config.duplicate_batch,
        answers_per_query=k,
        return_answer_share=config.answers == "all",
    )
    return sampler


def make_negative_sampler(config: TrainConfig, triples: PartitionedTripleSet) -> ShardedNegativeSampler:
    """Sampler of the negatives of training triples.

    Raises:
        ValueError: if the graph has no types, which the settings need, or some are absent where they must not be.
    """
    common: dict[str, Any] = {"sharding": triples.sharding, "corruption_scheme": config.corruption}
    drawn: dict[str, Any] = {
        "n_negative": config.n_negative // config.n_shard,
        "seed": config.seed,
        "local_sampling": config.local_negatives,
    }
    own = config.scheme == "score_moving" and config.share_negatives
    if config.negatives == "random":
        return RandomShardedNegativeSampler(flat_negative_format=config.share_negatives, **common, **drawn)
    if config.negatives == "all":
        return AllEntitiesNegativeSampler(**common)
    if config.negatives == "given":
        given = TripleBasedShardedNegativeSampler(
            negative_heads=triples.neg_heads, negative_tails=triples.neg_tails, **common
        )
        if own and not given.flat_negative_format:
            raise ValueError(
                "scheme='score_moving' needs share_negatives=False where each triple has a list of its own, as with "
                "inverse_relations"
            )
        return given
    if triples.types is None:
        raise ValueError(
            f"negatives='typed' needs entity types, but {config.dataset} has none; put a file of types beside the "
            "triples (docs/data.md), or set negatives='random'"
        )
    typed = TypeBasedShardedNegativeSampler(triple_types=triples.types, **common, **drawn)
    if own and typed.needs_mask:
        raise ValueError(
            "scheme='score_moving' needs share_negatives=False where a shard has no entity of some type, or a lower "
            f"n_shard, got {config.n_shard}"
        )
    return typed


def _check_lists(config: TrainConfig, dataset: KGDataset) -> None:
    """Raises ValueError if the graph lacks lists of negatives that the settings need."""
    needed = "ht" if config.inverse_relations else config.corruption
    lists = {"heads": dataset.neg_heads, "tails": dataset.neg_tails}
    missing = [name for name, by_split in lists.items() if name[0] in needed and "train" not in (by_split or {})]
    if missing:
        also = "; for tails alone, set inverse_relations=False" if missing == ["heads"] else ""
        raise ValueError(
            f"negatives='given' needs lists of {' and '.join(missing)} for each triple of train, but {config.dataset} "
            f"has none; put files of candidates beside the triples (docs/data.md), or set negatives='random'{also}"
        )


def make_model(config: TrainConfig, dataset: KGDataset, sampler: ShardedBatchSampler) -> BessKGE:
    """The distributed step of the settings, with score function, loss and regularizer."""
    rates = {"entity": config.entity_dropout, "relation": config.relation_dropout}
    kind: type[BessKGE] = ScoreMovingBessKGE if config.scheme == "score_moving" else EmbeddingMovingBessKGE
    return kind(
        negative_sampler=sampler.negative_sampler,
        score_fn=make_score_fn(config, dataset, sampler.partitioned_triple_set.sharding),
        loss_fn=make_loss(
            config.loss,
            dataset.n_entity,
            margin=config.margin,
            adversarial_scale=config.adversarial_scale,
            offset=config.offset,
            has_all=config.negatives == "all",
            label_smoothing=config.label_smoothing,
            loss_scale=config.loss_scale,
        ),
        augment_negative=config.augment_negative,
        regularizer=make_regularizer(config),
        relation_weight=config.relation_weight,
        dropout=RowDropout(**rates) if any(rates.values()) else None,
    )


def make_regularizer(config: TrainConfig) -> loss.Regularization | None:
    """The penalty of the settings, None if it is 0."""
    weights: dict[str, Any] = {"weight": config.regularization, "relation_weight": config.relation_regularization}
    if not any(weights.values()):
        return None
    if config.regularizer == "dura":
        return loss.DuraRegularization(**weights)
    return loss.LpRegularization(**weights, p=config.regularization_power)


def make_loss(
    name: LossName,
    n_entity: int,
    *,
    margin: float,
    adversarial_scale: float,
    offset: float = 0.0,
    has_all: bool = False,
    label_smoothing: float = 0.0,
    loss_scale: float = 1.0,
) -> loss.BaseLossFunction:
    """A loss by its name; other arguments as in the settings, `has_all` if all entities are negatives."""
    if name == "softmax":
        return loss.SampledSoftmaxCrossEntropyLoss(n_entity=n_entity, loss_scale=loss_scale)
    labels: dict[str, Any] = {"positive_among_negatives": has_all, "label_smoothing": label_smoothing}
    if name == "cross_entropy":
        return loss.SoftmaxCrossEntropyLoss(**labels, loss_scale=loss_scale)
    if name == "bce":
        return loss.BCEWithLogitsLoss(**labels, offset=offset, loss_scale=loss_scale)
    kind = loss.LogSigmoidLoss if name == "logsigmoid" else loss.MarginRankingLoss
    return kind(
        margin=margin,
        negative_adversarial_sampling=adversarial_scale > 0,
        negative_adversarial_scale=adversarial_scale,
        loss_scale=loss_scale,
    )
