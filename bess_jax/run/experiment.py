"""A run built from its settings: graph, sharding, model, update rule and placement, and the loop that trains it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import optax

from bess_jax._typing import HostBatch
from bess_jax.ask.known import KnownAnswers
from bess_jax.ask.ranker import Ranker
from bess_jax.data.batch_sampler import RigidShardedBatchSampler
from bess_jax.data.dataset import KGDataset
from bess_jax.data.graphs import load_dataset
from bess_jax.data.loader import merge_ids, prefetch, shard_major
from bess_jax.data.negative_sampler import RandomShardedNegativeSampler
from bess_jax.data.sharding import PartitionedTripleSet, Sharding
from bess_jax.run.build import make_score_fn
from bess_jax.run.config import TrainConfig
from bess_jax.step import loss
from bess_jax.step.bess import BessKGE
from bess_jax.step.embedding_moving import EmbeddingMovingBessKGE
from bess_jax.step.spmd import Placement, nbytes
from bess_jax.update.optim import UpdateRule, dense, row_adagrad, row_sparse
from bess_jax.update.train import TrainState, init_train_state, make_train_step


class NonFiniteLossError(ArithmeticError):
    """Training diverged: the loss is not a number."""


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """Where a run stands after one call of the compiled steps, which may still be running.

    Attributes:
        n_call: calls since the start of the run, this one included.
        state: after this call, on the devices; the next call takes over its memory.
        waited_s: seconds for which this call could not start because its batch was not made yet.
        read_loss: see `loss`.
    """

    n_call: int
    state: TrainState
    waited_s: float
    read_loss: Callable[[], float] = dataclasses.field(repr=False)

    @cached_property
    def loss(self) -> float:
        """Mean per positive over this call. Waits for its end: reading it one call later leaves the devices no gap.

        Raises:
            NonFiniteLossError: if it is NaN or infinite.
        """
        return self.read_loss()


class Meter:
    """Losses and speed of the calls of a run. The first call, which compiles, counts for no time.

    Attributes:
        losses: mean per positive over each call whose end was waited for.
        seconds: time from the end of the first of them to the end of the last, pauses left out.
    """

    def __init__(self, positives_per_call: int) -> None:
        self.losses: list[float] = []
        self.seconds = 0.0
        self._positives_per_call = positives_per_call
        self._last: Progress | None = None
        self._since = self._waited_s = 0.0

    def add(self, at: Progress) -> None:
        """Takes note of a call, and reads the losses of the one before it."""
        self.read_last()
        self._last = at

    def read_last(self) -> None:
        """Reads the losses of the last call, waiting for its end."""
        if self._last is None:
            return
        self.losses.append(self._last.loss)
        now = time.perf_counter()
        if len(self.losses) > 1:
            self.seconds += now - self._since
            self._waited_s += self._last.waited_s
        self._since, self._last = now, None

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out the time spent in the context."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    @property
    def speed(self) -> float:
        """Positives per second."""
        return max(len(self.losses) - 1, 0) * self._positives_per_call / max(self.seconds, 1e-9)

    @property
    def waiting(self) -> float:
        """Part of the time for which no call could start because its batch was not made yet."""
        return self._waited_s / max(self.seconds, 1e-9)


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
        dataset = load_dataset(config.dataset)
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
        score_fn = make_score_fn(config, self.dataset, self.sharding)
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

        A call starts before the losses of the one before it are read, where the placement `runs_ahead`.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite; at most one more call has been started by then.
        """
        step = self.placement.map(make_train_step(self.model, self.rule, self.placement.axis_name), donate_argnums=(0,))
        calls = range(n_done, self.config.n_epoch * self.sampler.calls_per_epoch)
        before: Progress | None = None
        with contextlib.closing(prefetch(self._device_batch, calls)) as batches:
            for n_call in calls:
                start = time.perf_counter()
                batch = next(batches)
                waited_s = time.perf_counter() - start
                losses, state = step(state, batch)
                at = Progress(n_call + 1, state, waited_s, partial(self._mean_loss, n_call, losses))
                ended = before if self.placement.runs_ahead else at
                if ended is not None:
                    ended.loss  # noqa: B018  (waits and checks)
                yield at
                before = at
        if before is not None:
            before.loss  # noqa: B018

    def _mean_loss(self, n_call: int, losses: jax.Array) -> float:
        """Mean per positive over call number `n_call`, from 0."""
        mean = float(np.sum(self.placement.get(losses))) / self.positives_per_call
        if not np.isfinite(mean):
            raise NonFiniteLossError(
                f"the loss is {mean} after {n_call * self.sampler.batches_per_step} steps; "
                f"lower learning_rate (now {self.config.learning_rate})"
            )
        return mean

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
    "row_adagrad": row_adagrad,
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
