"""A run built from its settings: graph, sharding, model, update rule and placement, and the loop that trains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from bess_jax import datasets, loss, scoring
from bess_jax._typing import HostBatch
from bess_jax.batch_sampler import RigidShardedBatchSampler
from bess_jax.bess import BessKGE, EmbeddingMovingBessKGE
from bess_jax.config import TrainConfig
from bess_jax.dataset import KGDataset
from bess_jax.embedding import init_KGE_normal
from bess_jax.loader import merge_ids, prefetch, shard_major
from bess_jax.negative_sampler import RandomShardedNegativeSampler
from bess_jax.optim import UpdateRule, dense, row_sparse
from bess_jax.pipeline import KnownAnswers, Ranker
from bess_jax.sharding import PartitionedTripleSet, Sharding
from bess_jax.spmd import Placement, nbytes
from bess_jax.train import TrainState, init_train_state, make_train_step


class NonFiniteLossError(ArithmeticError):
    """Training diverged: the loss is not a number."""


class Progress(NamedTuple):
    """Where a run stands after one call of the compiled steps."""

    n_call: int  # calls done since the start of the run
    loss: float  # mean per positive over this call
    state: TrainState  # on the devices; the next call takes over its memory


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that follows from the settings; nothing is on a device before `init` or `fit`.

    Attributes:
        config: the settings.
        dataset: the graph.
        placement: where the shards run.
    """

    config: TrainConfig
    dataset: KGDataset
    placement: Placement

    @classmethod
    def create(cls, config: TrainConfig) -> Experiment:
        """Reads the graph and finds the devices.

        Raises:
            ValueError: if the graph is not readable or does not fit the settings, or devices are missing.
        """
        dataset = datasets.load_dataset(config.dataset)
        placement = Placement.create(config.n_shard, config.n_device, config.mapping, config.platform)
        experiment = cls(config, dataset, placement)
        experiment.sampler  # noqa: B018  (checks that settings and graph fit)
        return experiment

    @cached_property
    def sharding(self) -> Sharding:
        """Sharding of the entities."""
        return Sharding.create(self.dataset.n_entity, self.config.n_shard, self.config.seed)

    @cached_property
    def sampler(self) -> RigidShardedBatchSampler:
        """Sampler of the training batches; T is the largest that fits an epoch without waste."""
        config = self.config
        triples = PartitionedTripleSet.create_from_dataset(
            self.dataset, "train", self.sharding, add_inverse_triples=config.inverse_relations
        )
        n_step = -(-int(triples.triple_counts.max()) // config.positive_per_partition)
        n_call = -(-n_step // config.steps_per_call)
        return RigidShardedBatchSampler(
            partitioned_triple_set=triples,
            negative_sampler=RandomShardedNegativeSampler(
                n_negative=config.n_negative // config.n_shard,
                sharding=self.sharding,
                seed=config.seed,
                corruption_scheme=config.corruption,
                flat_negative_format=config.share_negatives,
            ),
            shard_bs=config.positive_per_partition * config.n_shard,
            batches_per_step=-(-n_step // n_call),
            seed=config.seed,
        )

    @cached_property
    def model(self) -> BessKGE:
        """The model, with its loss."""
        config = self.config
        normal = partial(init_KGE_normal, std=config.init_scale, divide_by_embedding_size=False)
        initializer = normal if config.init_scale else None
        kind: type[scoring.BaseScoreFunction] = getattr(scoring, config.model)
        has_norm = "scoring_norm" in (field.name for field in dataclasses.fields(kind))
        extra: dict[str, Any] = {"scoring_norm": config.scoring_norm} if has_norm else {}
        score_fn = kind(
            negative_sample_sharing=config.share_negatives,
            sharding=self.sharding,
            n_relation_type=self.dataset.n_relation_type,
            embedding_size=config.embedding_size,
            entity_initializer=initializer,
            relation_initializer=initializer,
            inverse_relations=config.inverse_relations,
            **extra,
        )
        penalty = loss.LpRegularization(weight=config.regularization, p=config.regularization_power)
        return EmbeddingMovingBessKGE(
            negative_sampler=self.sampler.negative_sampler,
            score_fn=score_fn,
            loss_fn=_make_loss(config, self.dataset.n_entity),
            augment_negative=config.augment_negative,
            regularizer=penalty if config.regularization else None,
        )

    @cached_property
    def rule(self) -> UpdateRule:
        """The update rule."""
        tx = _OPTIMIZERS[self.config.optimizer](self.config.learning_rate)
        return row_sparse(tx) if self.config.update == "row_sparse" else dense(tx)

    @cached_property
    def ranker(self) -> Ranker:
        """Ranks queries with this model."""
        return Ranker(score_fn=self.model.score_fn, placement=self.placement)

    @cached_property
    def known(self) -> KnownAnswers:
        """The triples of all splits, left out of each other's ranks."""
        return KnownAnswers(self.dataset.all_triples(), self.dataset.n_relation_type)

    @cached_property
    def shapes(self) -> TrainState:
        """Shapes of the state of one shard."""
        shapes: TrainState = jax.eval_shape(self._init_shard, jax.random.PRNGKey(0), jax.numpy.int32(0))
        return shapes

    @property
    def _init_shard(self) -> Callable[[jax.Array, jax.Array], TrainState]:
        return partial(init_train_state, self.model, self.rule)

    @property
    def bytes_per_device(self) -> dict[str, int]:
        """Bytes that the tables, the optimizer's state and the rows of one step take on each device."""
        batch = self.host_batch(0, 0)
        ids = sum(batch[name][0, 0].size for name in ("head", "tail", "negative"))
        per_shard = {
            "parameters": nbytes(self.shapes.params),
            "optimizer state": nbytes(self.shapes.opt_state),
            "rows of a step": 2 * 4 * ids * self.model.score_fn.entity_width,  # float32 rows and their gradients
            "ids of a call": nbytes(batch) // self.config.n_shard,
        }
        return {name: n * self.placement.shards_per_device for name, n in per_shard.items()}

    def init(self) -> TrainState:
        """Initial state, made on the devices that hold it."""
        keys = self.placement.replicate(jax.random.PRNGKey(self.config.seed))
        shards = self.placement.put(np.arange(self.config.n_shard, dtype=np.int32))
        state: TrainState = self.placement.map(self._init_shard)(keys, shards)
        return state

    def host_batch(self, epoch: int, call: int) -> HostBatch:
        """Batches of one call, (S, T, ...), as the train step wants them."""
        batch = self.sampler.batch(epoch, call)
        del batch["triple_mask"]  # for metrics only
        if self.rule.sparse:
            batch = merge_ids(batch, self.sharding.max_entity_per_shard)
        return shard_major(batch)

    def fit(self, state: TrainState, n_done: int = 0) -> Iterator[Progress]:
        """Trains on from `n_done` calls to the last epoch, yielding after every call; takes over the memory of `state`.

        Raises:
            NonFiniteLossError: if the loss is NaN or infinite.
        """
        step = self.placement.map(make_train_step(self.model, self.rule, self.placement.axis_name), donate_argnums=(0,))
        calls = range(n_done, self.config.n_epoch * self.sampler.calls_per_epoch)
        for n_call, batch in zip(calls, prefetch(self._device_batch, calls), strict=True):
            losses, state = step(state, batch)
            mean = float(np.sum(self.placement.get(losses))) / self.positives_per_call
            if not np.isfinite(mean):
                raise NonFiniteLossError(
                    f"the loss is {mean} after {n_call * self.sampler.batches_per_step} steps; "
                    f"lower learning_rate (now {self.config.learning_rate})"
                )
            yield Progress(n_call + 1, mean, state)

    def _device_batch(self, n_call: int) -> Any:
        return self.placement.put(self.host_batch(*divmod(n_call, self.sampler.calls_per_epoch)))

    @property
    def positives_per_call(self) -> int:
        """Positives that one call trains on, over all shards."""
        return self.sampler.batches_per_step * self.config.batch_size


# Adagrad as in PyTorch, which published settings are for; optax starts its accumulator at 0.1, far above the squared
# gradients of small initial embeddings.
_OPTIMIZERS = {
    "adagrad": partial(optax.adagrad, initial_accumulator_value=0.0, eps=1e-20),
    "adam": optax.adam,
    "sgd": optax.sgd,
}


def _make_loss(config: TrainConfig, n_entity: int) -> loss.BaseLossFunction:
    if config.loss == "softmax":
        return loss.SampledSoftmaxCrossEntropyLoss(n_entity=n_entity)
    kind = loss.LogSigmoidLoss if config.loss == "logsigmoid" else loss.MarginRankingLoss
    return kind(
        margin=config.margin,
        negative_adversarial_sampling=config.adversarial_scale > 0,
        negative_adversarial_scale=config.adversarial_scale,
    )
