"""A run built from its settings, and the loop that trains it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from bess_jax._typing import HostBatch
from bess_jax.ask.known import KnownAnswers
from bess_jax.ask.ranker import Ranker
from bess_jax.data.batch_sampler import ShardedBatchSampler
from bess_jax.data.dataset import KGDataset
from bess_jax.data.loader import merge_ids, prefetch, shard_major
from bess_jax.data.sharding import Sharding
from bess_jax.run.build import make_model, make_sampler, read_graph
from bess_jax.run.config import TrainConfig
from bess_jax.run.optimizer import learning_rate_at, make_rule
from bess_jax.step.bess import BessKGE
from bess_jax.step.spmd import Placement, nbytes
from bess_jax.update.accumulation import group_steps
from bess_jax.update.optim import UpdateRule
from bess_jax.update.train import TrainState, init_train_state, make_train_step


class NonFiniteLossError(ArithmeticError):
    """Training diverged: the loss is not a number."""


@dataclasses.dataclass(eq=False)
class Progress:
    """Where a run stands after one call of the compiled steps, which may still be running.

    Attributes:
        n_call: calls since the start of the run, this one included.
        waited_s: seconds for which this call could not start because its batch was not made yet.
        state: after this call, on the devices. The next call starts from it, or from what is put in its place, and
            takes over its memory.
        read_loss: mean loss per positive over this call. Waits for its end: reading it one call later leaves the
            devices no gap. Raises NonFiniteLossError if it is NaN or infinite.
    """

    n_call: int
    waited_s: float
    state: TrainState = dataclasses.field(repr=False)
    read_loss: Callable[[], float] = dataclasses.field(repr=False)


class Meter:
    """Losses and speed of the calls of a run. The first call, which compiles, counts for no time.

    Attributes:
        losses: mean per positive over each call whose end was waited for.
        seconds: time from the end of the first of them to the end of the last, without pauses.
        compiling_s: time from the beginning to the end of the first call.
        saving_s: time of pauses in which the state was saved.
    """

    def __init__(self, positives_per_call: float) -> None:
        self.losses: list[float] = []
        self.seconds = self.compiling_s = self.saving_s = 0.0
        self._positives_per_call = positives_per_call
        self._last: Progress | None = None
        self._waited_s = 0.0
        self._since = time.perf_counter()
        self._lap = _Lap()

    def add(self, at: Progress) -> None:
        """Notes a call, and reads the loss of the one before it."""
        self.read_last()
        self._last = at

    def read_last(self) -> None:
        """Reads the loss of the last call, waiting for its end."""
        if self._last is None:
            return
        self.losses.append(self._last.read_loss())
        now = time.perf_counter()
        if len(self.losses) > 1:
            self.seconds += now - self._since
            self._waited_s += self._last.waited_s
        else:
            self.compiling_s = now - self._since
        self._since, self._last = now, None

    @contextlib.contextmanager
    def pause(self, is_save: bool = False) -> Iterator[None]:
        """Omits the time spent in the context."""
        start = time.perf_counter()
        yield
        paused_s = time.perf_counter() - start
        self._since += paused_s
        self.saving_s += paused_s if is_save else 0.0

    @property
    def speed(self) -> float:
        """Positives per second."""
        return max(len(self.losses) - 1, 0) * self._positives_per_call / max(self.seconds, 1e-9)

    @property
    def waiting(self) -> float:
        """Part of the time for which no call could start because its batch was not made yet."""
        return self._waited_s / max(self.seconds, 1e-9)

    def lap(self) -> dict[str, float]:
        """Speed, seconds and what they went to since the last time this was called, as metrics have them.

        Seconds of compilation are in the first one alone.
        """
        before = self._lap
        now = self._lap = _Lap(len(self.losses), self.seconds, self._waited_s, self.saving_s)
        n_call, seconds, waited_s, saving_s = (new - old for new, old in zip(now, before, strict=True))
        is_first = before.n_call == 0 and now.n_call > 0
        compiling = {"compiling": self.compiling_s} if is_first else {}
        return {
            "positives_per_second": (n_call - is_first) * self._positives_per_call / max(seconds, 1e-9),
            "waiting": waited_s / max(seconds, 1e-9),
            "seconds": seconds,
            **compiling,
            "saving": saving_s,
        }


class _Lap(NamedTuple):
    """Where a meter stood."""

    n_call: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    saving_s: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Experiment:
    """A run as its settings describe it; nothing is on a device before `init` or `calls`.

    Attributes:
        config: the settings.
        dataset: the graph.
        placement: where the shards run.
        sampler: the training batches.
        model: the distributed step, with its score function and loss.
        rule: how a step updates the parameters.
    """

    config: TrainConfig
    dataset: KGDataset
    placement: Placement
    sampler: ShardedBatchSampler
    model: BessKGE
    rule: UpdateRule

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        dataset: KGDataset | None = None,
        sampler: ShardedBatchSampler | None = None,
        placement: Placement | None = None,
    ) -> Experiment:
        """Reads the graph, finds the devices and builds the rest.

        Args:
            config: the settings.
            dataset: the graph; default: the one that the settings name.
            sampler: the training batches; default: those of the settings.
            placement: where the shards run; default: on the devices that the settings name.

        Raises:
            ValueError: if the graph is not readable or does not fit the settings, the model is unknown or does not fit
                them, or devices are missing.
        """
        graph = read_graph(config) if dataset is None else dataset
        sampler = make_sampler(config, graph) if sampler is None else sampler
        n_update = _n_update(config, sampler)
        if placement is None:
            where = (config.n_shard, config.n_device, config.mapping, config.platform, config.kernels)
            placement = Placement.create(*where)
        return cls(
            config=config,
            dataset=graph,
            placement=placement,
            sampler=sampler,
            model=make_model(config, graph, sampler),
            rule=make_rule(config, config.n_epoch * n_update, n_update),
        )

    def __repr__(self) -> str:
        config, devices = self.config, self.placement.devices
        return (
            f"Experiment({config.model} on {config.dataset}: {self.dataset.n_entity:,} entities, embedding size "
            f"{config.embedding_size}; {config.n_shard} shards on {len(devices)} {devices[0].platform} devices by "
            f"{self.placement.mapping}; {config.n_epoch} epochs of {self.sampler.calls_per_epoch} calls)"
        )

    @property
    def sharding(self) -> Sharding:
        """Sharding of the entities."""
        return self.model.score_fn.sharding

    @property
    def n_call(self) -> int:
        """Calls of the compiled steps in the whole run."""
        return self.config.n_epoch * self.sampler.calls_per_epoch

    @property
    def positives_per_call(self) -> float:
        """Positives that one call trains on, over all shards; the mean where answers are grouped."""
        return self.sampler.batches_per_step * self.sampler.positives_per_step

    @cached_property
    def ranker(self) -> Ranker:
        """Ranks queries with this model."""
        return Ranker(score_fn=self.model.score_fn, placement=self.placement)

    @cached_property
    def known(self) -> KnownAnswers:
        """The triples of all splits, omitted from each other's ranks."""
        return KnownAnswers(self.dataset.all_triples(), self.dataset.n_relation_type)

    @cached_property
    def shapes(self) -> TrainState:
        """Shapes of the state of one shard."""
        shapes: TrainState = jax.eval_shape(self._init_shard, jax.random.PRNGKey(0), jax.numpy.int32(0))
        return shapes

    @property
    def bytes_per_device(self) -> dict[str, int]:
        """Bytes that the tables, the optimizer's state and the rows of one step take on each device."""
        batch = self.host_batch(0, 0, range(1))
        ids = sum(batch[name][0, 0].size for name in ("head", "tail", "negative"))
        per_shard = {
            "parameters": nbytes(self.shapes.params),
            "optimizer state": nbytes(self.shapes.opt_state),
            "rows of a step": 2 * 4 * ids * self.model.score_fn.entity_width,  # float32 rows and their gradients
            "ids of a call": nbytes(batch),
        }
        return {name: n * self.placement.shards_per_device for name, n in per_shard.items()}

    def learning_rate(self, n_call: int) -> float:
        """Step size of the last update within `n_call` calls, without what a plateau does to it."""
        n_update = _n_update(self.config, self.sampler)
        rate = learning_rate_at(self.config, self.config.n_epoch * n_update, n_update)
        return rate(n_call * n_update // self.sampler.calls_per_epoch - 1)

    def init(self) -> TrainState:
        """Initial state, made on the devices that hold it."""
        keys = self.placement.replicate(jax.random.PRNGKey(self.config.seed))
        shards = self.placement.put(np.arange(self.config.n_shard, dtype=np.int32))
        state: TrainState = self._init(keys, shards)
        return state

    @cached_property
    def step(self) -> Callable[[TrainState, Any], tuple[jax.Array, TrainState]]:
        """Compiled: (state, batches) -> (losses (S, T), state); takes over the memory of the state.

        Batches are those of one call, as `host_batch` gives and `placement.put` brings them to the devices.
        """
        step = make_train_step(self.model, self.rule, self.placement.axis_name)
        return self.placement.map(step, donate_argnums=(0,))

    @cached_property
    def _init(self) -> Callable[[jax.Array, jax.Array], TrainState]:
        return self.placement.map(self._init_shard)

    def calls(self, state: TrainState, n_done: int = 0) -> Generator[Progress, None, None]:
        """Trains on from `n_done` calls to the last epoch, yielding after every call; takes over the memory of `state`.

        A call starts before the loss of the one before it is read, where the placement `runs_ahead`.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite; at most one more call has been started by then.
        """
        calls = range(n_done, self.n_call)
        before: Progress | None = None
        with contextlib.closing(prefetch(self._device_batch, calls)) as batches:
            for n_call in calls:
                start = time.perf_counter()
                batch = next(batches)
                waited_s = time.perf_counter() - start
                losses, state = self.step(state, batch)
                losses = self.placement.spread(losses)
                now = Progress(n_call + 1, waited_s, state, partial(self._mean_loss, n_call, losses))
                ended = before if self.placement.runs_ahead else now
                if ended is not None:
                    ended.read_loss()
                yield now
                before, state = now, now.state
        if before is not None:
            before.read_loss()

    def host_batch(self, epoch: int, call: int, shards: range | None = None) -> HostBatch:
        """Batches of one call, arrays (n, T, ...) of n shards (default: all), as the train step wants them."""
        batch = self.sampler.batch(epoch, call, shards)
        batch.pop("triple_mask", None)  # for metrics only
        if self.config.accumulate > 1:
            batch = group_steps(batch, self.config.accumulate)
        if self.rule.sparse:
            batch = merge_ids(batch, self.sharding.max_entity_per_shard)
        return shard_major(batch)

    @property
    def _init_shard(self) -> Callable[[jax.Array, jax.Array], TrainState]:
        return partial(init_train_state, self.model, self.rule, dtype=self.config.table_dtype)

    def _device_batch(self, n_call: int) -> Any:
        place = divmod(n_call, self.sampler.calls_per_epoch)
        return self.placement.put_local(self.host_batch(*place, self.placement.local_shards))

    def _mean_loss(self, n_call: int, losses: jax.Array) -> float:
        """Mean per positive over call number `n_call`, from 0, of `losses` (S, T), sums over a step on a shard."""
        mean = float(np.sum(self.placement.get(losses))) / self.positives_per_call / self.config.loss_scale
        if not np.isfinite(mean):
            raise NonFiniteLossError(
                f"the loss is {mean} within {(n_call + 1) * self.sampler.batches_per_step} steps; "
                f"lower learning_rate (now {self.config.learning_rate})"
            )
        return mean


def _n_update(config: TrainConfig, sampler: ShardedBatchSampler) -> int:
    """Updates of an epoch."""
    return sampler.calls_per_epoch * sampler.batches_per_step // config.accumulate
