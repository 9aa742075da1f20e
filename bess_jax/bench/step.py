"""The suite `step`: time and memory of a training step.

Its floor counts the operations of all pairs of a positive and a negative, for scores and both gradients, at the rate
of a matrix product: `flop_per_pair`. Gathers, exchange, loss and update are not counted.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np
import optax

import bess_jax as bj
from bess_jax import _checks
from bess_jax._typing import CorruptionScheme, HostBatch, Int32Array, Mapping_
from bess_jax.bench.ceilings import Ceilings, flop_per_pair
from bess_jax.bench.timing import Measure, in_turns, make_record, wait
from bess_jax.run.build import make_loss
from bess_jax.run.models import check_model_name, find_model, options_of
from bess_jax.run.settings import LossName
from bess_jax.step.spmd import nbytes
from bess_jax.update.train import TrainState, init_train_state, make_train_step

N_BATCH = 4  # batches that the calls take in turn, made beforehand


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What to measure."""

    model: str = "ComplEx"
    """Score function: one of `bess_jax.scoring` by its name, or one of your own as package.module:Class."""
    scoring_norm: Literal[1, 2] = 1
    """p of the p-norm, where the model has one."""
    loss: LossName = "softmax"
    """Loss function."""
    n_entity: int = 40_943
    """Entities of the random graph; the default is WN18RR's."""
    n_relation: int = 22
    """Rows of the relation table; the default is WN18RR's with inverse relations."""
    n_triple: int = 200_000
    """Triples of the random graph."""
    embedding_size: int = 128
    """Components of an entity (complex ones where the model is complex)."""
    n_shard: int = 4
    """Shards of the entity table."""
    n_device: int | None = None
    """Devices, a divisor of n_shard. Default: as many accelerators as fit, else n_shard virtual CPU devices."""
    mapping: Mapping_ = "pmap"
    """How shards are mapped to several devices ("vmap" has one device)."""
    batch_size: int = 1024
    """Positives per step over all shards, a multiple of n_shard ** 2 (2 * n_shard ** 2 for corruption "ht")."""
    n_negative: int = 1024
    """Sampled negatives that each positive is scored against, a multiple of n_shard."""
    corruption_scheme: CorruptionScheme = "t"
    """Replace heads, tails, or heads in one half of the positives and tails in the other."""
    shared_negative: bool = True
    """Positives of a shard share one set of negatives (two for corruption "ht"); else each has its own."""
    augment_negative: bool = False
    """Score each positive also against the entities of the other positives of its shard (needs shared_negative)."""
    optimizer: Literal["sgd", "adagrad", "adam"] = "adagrad"
    """Optimizer."""
    learning_rate: float = 1e-2
    """Step size of the optimizer."""
    update: Literal["row_sparse", "dense"] = "row_sparse"
    """Update the rows that a batch touched, or every row."""
    steps_per_call: int = 8
    """Steps that one call to the device makes."""
    n_call: int = 10
    """Calls that are timed."""
    n_warmup: int = 2
    """Calls before that."""
    seed: int = 0
    """Seed of graph, sharding, batches and parameters."""

    @property
    def n_virtual(self) -> int:
        """Virtual CPU devices to ask for."""
        return self.n_device or self.n_shard

    @property
    def micro_batch(self) -> int:
        """B, positives that a shard scores in a step."""
        return self.batch_size // self.n_shard

    @property
    def scored_per_step(self) -> int:
        """Scores computed in a step: of each positive, its negatives and, augmented, the B rows of its side and shard.

        Among those is the positive's own entity, which is scored and then masked.
        """
        own = self.micro_batch // len(self.corruption_scheme) if self.augment_negative else 0
        return self.batch_size * (1 + self.n_negative + own)

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        check_model_name(self.model)
        for name, hint in get_type_hints(BenchConfig).items():
            if get_origin(hint) is Literal:
                _checks.one_of(name, getattr(self, name), get_args(hint))
        lows = {"n_relation": 1, "n_triple": 1, "embedding_size": 1, "n_shard": 1, "steps_per_call": 1, "n_call": 1}
        for name, low in (lows | {"n_entity": max(2, self.n_shard), "n_warmup": 0, "seed": 0}).items():
            _checks.at_least(name, getattr(self, name), low)
        _checks.positive("learning_rate", self.learning_rate)
        sides = len(self.corruption_scheme)
        why = "n_shard ** 2" if sides == 1 else "2 * n_shard ** 2 for corruption_scheme 'ht'"
        _checks.multiple_of("batch_size", self.batch_size, sides * self.n_shard**2, why)
        _checks.multiple_of("n_negative", self.n_negative, self.n_shard, "n_shard")
        if self.n_device is not None:
            _checks.at_least("n_device", self.n_device, 1)
            _checks.multiple_of("n_shard", self.n_shard, self.n_device, "n_device")
        if self.augment_negative and not self.shared_negative:
            raise ValueError("augment_negative needs shared_negative, got shared_negative=False")


class Bench:
    """A compiled training step with its state and its batches, ready to be called.

    Attributes:
        config: what is measured.
        placement, batches, state: the devices and what they hold.
        score_fn: the score function.
        host_ms: milliseconds per step to sample and merge a batch on the host, median.
        compile_s: seconds to trace and compile.
        shapes: shapes of the tables and of a batch, with the axes (S, ...) and (S, T, ...).

    Raises:
        ValueError: if the configuration is not valid, or asks for more devices than there are.
    """

    def __init__(self, config: BenchConfig) -> None:
        config.check()
        self.config = config
        self.placement = bj.Placement.create(config.n_shard, config.n_device, config.mapping)
        sampler, model, rule = make_parts(config)
        host, self.host_ms = _make_batches(config, sampler, rule.sparse)
        self.batches = [self.placement.put(batch) for batch in host]
        self.score_fn = model.score_fn
        key = self.placement.replicate(np.asarray(jax.random.PRNGKey(config.seed)))
        shard = self.placement.put(np.arange(config.n_shard, dtype=np.int32))
        self.state: TrainState = self.placement.map(partial(init_train_state, model, rule))(key, shard)
        table = (config.n_shard, self.score_fn.sharding.max_entity_per_shard, self.score_fn.entity_width)
        self.shapes = {"entity": table} | {name: array.shape for name, array in host[0].items()}
        step = make_train_step(model, rule, self.placement.axis_name)
        mapped: Any = self.placement.map(step, donate_argnums=(0,))
        start = time.perf_counter()
        self._step = mapped.lower(self.state, self.batches[0]).compile()
        self.compile_s = time.perf_counter() - start
        self._n_done = 0

    def call(self) -> float:
        """Makes the steps of one call; returns the seconds until they were done.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        wait(self.state)
        start = time.perf_counter()
        losses, self.state = self._step(self.state, self.batches[self._n_done % N_BATCH])
        wait((losses, self.state))
        seconds = time.perf_counter() - start
        self._n_done += 1
        if not np.isfinite(jax.device_get(losses)).all():
            raise FloatingPointError(
                f"the loss is not finite in call {self._n_done}; learning_rate is {self.config.learning_rate}"
            )
        return seconds


def measure(config: BenchConfig) -> dict[str, Any]:
    """Times the training step, as a record that JSON can hold; virtual CPU devices must have been asked for.

    Raises:
        ValueError: if the configuration is not valid.
        FloatingPointError: if a loss is not finite.
    """
    bench = Bench(config)
    devices = bench.placement.devices
    width = bench.shapes["entity"][-1]
    bench.call()
    memory = _peak_bytes(devices)  # before the ceilings need theirs
    ceilings = Ceilings(devices, matmul_shapes=((config.micro_batch, config.n_negative, width),))
    times = in_turns(ceilings.jobs | {"step": bench.call}, config.n_call, config.n_warmup)
    step_s = [seconds / config.steps_per_call for seconds in times["step"]]
    median = statistics.median(step_s)
    n_pair = config.scored_per_step - config.batch_size
    step = Measure(
        "step",
        step_s,
        config.batch_size,
        "positives",
        bench.compile_s,
        n_pair * flop_of_model(bench.score_fn, gradient=True),
        "matmul",
    )
    record = make_record("step", config, devices, (step,), ceilings.rates(times))
    return record | {
        "step_ms": median * 1e3,
        "step_ms_min": min(step_s) * 1e3,
        "step_ms_max": max(step_s) * 1e3,
        "positives_per_s": config.batch_size / median,
        "scored_per_s": config.scored_per_step / median,
        "scored_per_step": config.scored_per_step,
        "host_ms": bench.host_ms,
        "compile_s": bench.compile_s,
        "table_bytes": nbytes(bench.state.params.entity),
        "opt_state_bytes": nbytes(bench.state.opt_state),
        **memory,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "n_device": len(devices),
        "mapping": bench.placement.mapping if len(devices) > 1 else "vmap",
        "shapes": bench.shapes,
    }


def _peak_bytes(devices: Sequence[jax.Device]) -> dict[str, int | None]:
    """Most memory so far, of the process and of a device (a CPU does not tell)."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stats = [device.memory_stats() or {} for device in devices]
    return {
        "peak_rss_bytes": rss * (1 if sys.platform == "darwin" else 1024),
        "peak_device_bytes": max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None),
    }


def flop_of_model(score_fn: bj.BaseScoreFunction, gradient: bool) -> float:
    """Float32 operations of the score of a positive against one shared negative, see `flop_per_pair`."""
    entity, relation = (
        jax.ShapeDtypeStruct((1, n), np.float32) for n in (score_fn.entity_width, score_fn.relation_width)
    )
    if score_fn.has_network:  # only its last product meets every candidate
        return flop_per_pair(score_fn.combiner, entity, entity, gradient)
    query = jax.eval_shape(score_fn.query_tail, entity, relation)
    return flop_per_pair(score_fn.combiner, query, jax.eval_shape(score_fn.key_tail, entity), gradient)


def random_triples(config: BenchConfig) -> Int32Array:
    """The triples (n_triple, 3) of the random graph."""
    high = (config.n_entity, config.n_relation, config.n_entity)
    return np.random.default_rng(config.seed).integers(high, size=(config.n_triple, 3), dtype=np.int32)


def make_parts(config: BenchConfig) -> tuple[bj.RandomShardedBatchSampler, bj.EmbeddingMovingBessKGE, bj.UpdateRule]:
    """Sampler on a random graph, model and update rule."""
    triples = random_triples(config)
    graph = bj.KGDataset(n_entity=config.n_entity, n_relation_type=config.n_relation, triples={"train": triples})
    sharding = bj.Sharding.create(config.n_entity, config.n_shard, config.seed)
    negative = bj.RandomShardedNegativeSampler(
        sharding=sharding,
        corruption_scheme=config.corruption_scheme,
        flat_negative_format=config.shared_negative,
        n_negative=config.n_negative // config.n_shard,
        seed=config.seed,
    )
    sampler = bj.RandomShardedBatchSampler(
        partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(graph, "train", sharding),
        negative_sampler=negative,
        shard_bs=config.micro_batch,
        batches_per_step=config.steps_per_call,
        seed=config.seed,
    )
    kind = find_model(config.model)
    model = bj.EmbeddingMovingBessKGE(
        negative_sampler=negative,
        score_fn=kind(
            negative_sample_sharing=config.shared_negative,
            sharding=sharding,
            n_relation_type=config.n_relation,
            embedding_size=config.embedding_size,
            **options_of(kind, scoring_norm=config.scoring_norm),
        ),
        loss_fn=make_loss(config.loss, config.n_entity, margin=1.0, adversarial_scale=0.0),
        augment_negative=config.augment_negative,
    )
    tx = {"sgd": optax.sgd, "adagrad": optax.adagrad, "adam": optax.adam}[config.optimizer](config.learning_rate)
    return sampler, model, (bj.row_sparse if config.update == "row_sparse" else bj.dense)(tx)


def _make_batches(
    config: BenchConfig, sampler: bj.RandomShardedBatchSampler, sparse: bool
) -> tuple[list[HostBatch], float]:
    """The batches, and the median milliseconds per step to make one."""
    batches, seconds = [], []
    for number in range(N_BATCH):
        start = time.perf_counter()
        batch = sampler.batch(0, number)
        if sparse:
            batch = bj.merge_ids(batch, sampler.partitioned_triple_set.sharding.max_entity_per_shard)
        batches.append(bj.shard_major(batch))
        seconds.append(time.perf_counter() - start)
    return batches, statistics.median(seconds) / config.steps_per_call * 1e3
