"""What a run is made of, from its settings and its graph."""

from __future__ import annotations

from functools import partial

import optax

from bess_jax.data.batch_sampler import RigidShardedBatchSampler
from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs import load_dataset
from bess_jax.data.negative_sampler import RandomShardedNegativeSampler
from bess_jax.data.options import parse_columns, parse_split
from bess_jax.data.sharding import PartitionedTripleSet, Sharding
from bess_jax.run.config import TrainConfig
from bess_jax.run.models import find_model, options_of
from bess_jax.run.settings import LossName
from bess_jax.scoring.base import BaseScoreFunction
from bess_jax.scoring.initializers import init_KGE_normal
from bess_jax.step import loss
from bess_jax.step.bess import BessKGE
from bess_jax.step.embedding_moving import EmbeddingMovingBessKGE
from bess_jax.update.optim import UpdateRule, dense, row_adagrad, row_sparse

# Adagrad as in PyTorch, which published settings are for; optax starts its accumulator at 0.1, far above the squared
# gradients of small initial embeddings.
_OPTIMIZERS = {
    "adagrad": partial(optax.adagrad, initial_accumulator_value=0.0, eps=1e-20),
    "row_adagrad": row_adagrad,
    "adam": optax.adam,
    "sgd": optax.sgd,
}


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
    kind = find_model(config.model)
    normal = partial(init_KGE_normal, std=config.init_scale, divide_by_embedding_size=False)
    initializer = normal if config.init_scale else None
    return kind(
        negative_sample_sharing=config.share_negatives,
        sharding=sharding,
        n_relation_type=dataset.n_relation_type,
        embedding_size=config.embedding_size,
        entity_initializer=initializer,
        relation_initializer=initializer,
        inverse_relations=config.inverse_relations,
        **options_of(kind, scoring_norm=config.scoring_norm),
    )


def make_sampler(config: TrainConfig, dataset: KGDataset) -> RigidShardedBatchSampler:
    """Sampler of the training batches; T is the largest that fits an epoch without waste.

    Raises:
        ValueError: if the settings do not fit the graph.
    """
    sharding = Sharding.create(dataset.n_entity, config.n_shard, config.seed)
    triples = PartitionedTripleSet.create_from_dataset(
        dataset, "train", sharding, add_inverse_triples=config.inverse_relations
    )
    n_step = -(-int(triples.triple_counts.max()) // config.positive_per_partition)
    n_call = -(-n_step // config.steps_per_call)
    return RigidShardedBatchSampler(
        partitioned_triple_set=triples,
        negative_sampler=RandomShardedNegativeSampler(
            n_negative=config.n_negative // config.n_shard,
            sharding=sharding,
            seed=config.seed,
            corruption_scheme=config.corruption,
            flat_negative_format=config.share_negatives,
        ),
        shard_bs=config.positive_per_partition * config.n_shard,
        batches_per_step=-(-n_step // n_call),
        seed=config.seed,
    )


def make_model(config: TrainConfig, dataset: KGDataset, sampler: RigidShardedBatchSampler) -> BessKGE:
    """The distributed step of the settings, with score function, loss and regularizer."""
    penalty = loss.LpRegularization(weight=config.regularization, p=config.regularization_power)
    return EmbeddingMovingBessKGE(
        negative_sampler=sampler.negative_sampler,
        score_fn=make_score_fn(config, dataset, sampler.partitioned_triple_set.sharding),
        loss_fn=make_loss(config.loss, dataset.n_entity, config.margin, config.adversarial_scale),
        augment_negative=config.augment_negative,
        regularizer=penalty if config.regularization else None,
    )


def make_loss(name: LossName, n_entity: int, margin: float, adversarial_scale: float) -> loss.BaseLossFunction:
    """A loss by its name; `margin` and `adversarial_scale` (0: equal weights) are for all but the softmax."""
    if name == "softmax":
        return loss.SampledSoftmaxCrossEntropyLoss(n_entity=n_entity)
    kind = loss.LogSigmoidLoss if name == "logsigmoid" else loss.MarginRankingLoss
    return kind(
        margin=margin,
        negative_adversarial_sampling=adversarial_scale > 0,
        negative_adversarial_scale=adversarial_scale,
    )


def make_rule(config: TrainConfig) -> UpdateRule:
    """The update rule of the settings."""
    tx = _OPTIMIZERS[config.optimizer](config.learning_rate)
    return row_sparse(tx) if config.update == "row_sparse" else dense(tx)
