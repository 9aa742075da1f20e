"""How fast a training step runs: `python -m bess_jax.bench` (needs `bess_jax[cli]`)."""

from __future__ import annotations

import dataclasses
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
import optax

import bess_jax
from bess_jax import _checks
from bess_jax._typing import CorruptionScheme, HostBatch, Mapping_
from bess_jax.batch_sampler import RandomShardedBatchSampler
from bess_jax.bess import EmbeddingMovingBessKGE
from bess_jax.dataset import KGDataset
from bess_jax.loader import merge_ids, shard_major
from bess_jax.loss import BaseLossFunction, LogSigmoidLoss, MarginRankingLoss, SampledSoftmaxCrossEntropyLoss
from bess_jax.negative_sampler import RandomShardedNegativeSampler
from bess_jax.optim import UpdateRule, dense, row_sparse
from bess_jax.scoring import BaseScoreFunction, ComplEx, DistMult, TransE
from bess_jax.sharding import PartitionedTripleSet, Sharding
from bess_jax.spmd import Placement, nbytes, request_devices
from bess_jax.train import TrainState, make_train_step

N_BATCH = 4
"""Batches that the calls take in turn, made beforehand."""


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What to measure."""

    model: Literal["ComplEx", "DistMult", "TransE"] = "ComplEx"
    """Score function."""
    scoring_norm: Literal[1, 2] = 1
    """p of the p-norm (TransE only)."""
    loss: Literal["softmax", "logsigmoid", "margin"] = "softmax"
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
    """Devices, a divisor of n_shard; on a CPU as many virtual ones. Default: as many as there are."""
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
    json: bool = False
    """Print one line of JSON and nothing else."""

    @property
    def micro_batch(self) -> int:
        """B, positives per step and shard."""
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
        for name in ("n_relation", "n_triple", "embedding_size", "n_shard", "steps_per_call", "n_call"):
            _checks.at_least(name, getattr(self, name), 1)
        _checks.at_least("n_entity", self.n_entity, max(2, self.n_shard))
        for name in ("n_warmup", "seed"):
            _checks.at_least(name, getattr(self, name), 0)
        _checks.positive("learning_rate", self.learning_rate)
        sides = len(self.corruption_scheme)
        why = "n_shard ** 2" if sides == 1 else "2 * n_shard ** 2 for corruption_scheme 'ht'"
        _checks.multiple_of("batch_size", self.batch_size, sides * self.n_shard**2, why)
        _checks.multiple_of("n_negative", self.n_negative, self.n_shard, "n_shard")
        if self.n_device is not None:
            _checks.at_least("n_device", self.n_device, 1)
        if self.augment_negative and not self.shared_negative:
            raise ValueError("augment_negative needs shared_negative, got shared_negative=False")


class Bench:
    """A compiled training step with its state and its batches, ready to be called.

    Attributes:
        config: what is measured.
        placement: the devices.
        host_ms: milliseconds per step to sample and merge a batch on the host, median.
        compile_s: seconds to trace and compile.
        shapes: shapes of the tables and of a batch, with the axes (S, ...) and (S, T, ...).

    Raises:
        ValueError: if the configuration is not valid, or asks for more devices than there are.
    """

    def __init__(self, config: BenchConfig) -> None:
        config.check()
        self.config = config
        self.placement = Placement.create(config.n_shard, config.n_device, config.mapping)
        sampler, model, rule = _make_parts(config)
        host, self.host_ms = _make_batches(config, sampler, rule.sparse)
        self._batches = [self.placement.put(batch) for batch in host]

        def init(key: jax.Array, shard: jax.Array) -> TrainState:
            params = model.init_shard(key, shard)
            return TrainState(params, rule.init(params))

        key = self.placement.replicate(np.asarray(jax.random.PRNGKey(config.seed)))
        shard = self.placement.put(np.arange(config.n_shard, dtype=np.int32))
        self.state: TrainState = self.placement.map(init)(key, shard)
        self.shapes = {name: list(array.shape) for name, array in host[0].items()}
        width = model.score_fn.entity_width
        self.shapes["entity"] = [config.n_shard, model.score_fn.sharding.max_entity_per_shard, width]
        step = make_train_step(model, rule, self.placement.axis_name)
        start = time.perf_counter()
        mapped = self.placement.map(step, donate_argnums=(0,))
        self._step = mapped.lower(self.state, self._batches[0]).compile()
        self.compile_s = time.perf_counter() - start
        self._n_done = 0

    def call(self) -> float:
        """Makes the steps of one call and waits for them.

        Returns:
            Seconds that took.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        batch = self._batches[self._n_done % len(self._batches)]
        jax.block_until_ready(self.state)
        start = time.perf_counter()
        losses, self.state = self._step(self.state, batch)
        jax.block_until_ready((losses, self.state))
        seconds = time.perf_counter() - start
        self._n_done += 1
        if not np.isfinite(jax.device_get(losses)).all():
            raise FloatingPointError(
                f"the loss is not finite in call {self._n_done}; learning_rate is {self.config.learning_rate}"
            )
        return seconds


def measure(config: BenchConfig) -> dict[str, Any]:
    """Times the training step.

    Args:
        config: what to measure. `n_device` virtual CPU devices must have been asked for (`request_devices`).

    Returns:
        A record that JSON can hold; times per step in milliseconds, sizes in bytes.

    Raises:
        ValueError: if the configuration is not valid.
        FloatingPointError: if a loss is not finite.
    """
    bench = Bench(config)
    for _ in range(config.n_warmup):
        bench.call()
    step_s = [bench.call() / config.steps_per_call for _ in range(config.n_call)]
    median = statistics.median(step_s)
    devices = bench.placement.devices
    state_bytes = {f"{name}_bytes": nbytes(tree) for name, tree in bench.state._asdict().items()}
    return {
        "step_ms": median * 1e3,
        "step_ms_min": min(step_s) * 1e3,
        "step_ms_max": max(step_s) * 1e3,
        "positives_per_s": config.batch_size / median,
        "scored_per_s": config.scored_per_step / median,
        "scored_per_step": config.scored_per_step,
        "host_ms": bench.host_ms,
        "compile_s": bench.compile_s,
        "table_bytes": nbytes(bench.state.params.entity),
        **state_bytes,
        "peak_rss_bytes": _peak_rss(),
        "peak_device_bytes": _peak_device(devices),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "n_device": len(devices),
        "mapping": bench.placement.mapping if len(devices) > 1 else "vmap",
        "shapes": bench.shapes,
        "versions": {"bess_jax": bess_jax.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "json"},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 for a configuration that is not valid, 1 for a failed run."""
    try:
        import rich.console
        import rich.table
        import tyro
    except ImportError:
        print("install bess_jax[cli]", file=sys.stderr)
        return 2
    config = tyro.cli(BenchConfig, args=argv, description=__doc__)
    try:
        config.check()
        if config.n_device is not None:
            request_devices(config.n_device)
        record = measure(config)
    except (ValueError, FloatingPointError) as error:
        print(f"bess_jax.bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    if config.json:
        print(json.dumps(record))
        return 0
    table = rich.table.Table(title="bess_jax.bench")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in record.items():
        table.add_row(name, _show(name, value))
    rich.console.Console().print(table)
    return 0


def _make_parts(config: BenchConfig) -> tuple[RandomShardedBatchSampler, EmbeddingMovingBessKGE, UpdateRule]:
    rng = np.random.default_rng(config.seed)
    high = (config.n_entity, config.n_relation, config.n_entity)
    triples = rng.integers(high, size=(config.n_triple, 3), dtype=np.int32)
    graph = KGDataset(n_entity=config.n_entity, n_relation_type=config.n_relation, triples={"train": triples})
    sharding = Sharding.create(config.n_entity, config.n_shard, config.seed)
    negative = RandomShardedNegativeSampler(
        sharding=sharding,
        corruption_scheme=config.corruption_scheme,
        flat_negative_format=config.shared_negative,
        n_negative=config.n_negative // config.n_shard,
        seed=config.seed,
    )
    sampler = RandomShardedBatchSampler(
        partitioned_triple_set=PartitionedTripleSet.create_from_dataset(graph, "train", sharding),
        negative_sampler=negative,
        shard_bs=config.micro_batch,
        batches_per_step=config.steps_per_call,
        seed=config.seed,
    )
    model = EmbeddingMovingBessKGE(
        negative_sampler=negative,
        score_fn=_make_score_fn(config, sharding),
        loss_fn=_make_loss(config),
        augment_negative=config.augment_negative,
    )
    tx = {"sgd": optax.sgd, "adagrad": optax.adagrad, "adam": optax.adam}[config.optimizer](config.learning_rate)
    return sampler, model, row_sparse(tx) if config.update == "row_sparse" else dense(tx)


def _make_score_fn(config: BenchConfig, sharding: Sharding) -> BaseScoreFunction:
    shape: dict[str, Any] = {
        "negative_sample_sharing": config.shared_negative,
        "sharding": sharding,
        "n_relation_type": config.n_relation,
        "embedding_size": config.embedding_size,
    }
    if config.model == "TransE":
        return TransE(**shape, scoring_norm=config.scoring_norm)
    return ComplEx(**shape) if config.model == "ComplEx" else DistMult(**shape)


def _make_loss(config: BenchConfig) -> BaseLossFunction:
    if config.loss == "softmax":
        return SampledSoftmaxCrossEntropyLoss(n_entity=config.n_entity)
    kind = LogSigmoidLoss if config.loss == "logsigmoid" else MarginRankingLoss
    return kind(margin=1.0, negative_adversarial_sampling=False)


def _make_batches(
    config: BenchConfig, sampler: RandomShardedBatchSampler, sparse: bool
) -> tuple[list[HostBatch], float]:
    """The batches, and the median milliseconds per step to make one."""
    batches, seconds = [], []
    for number in range(N_BATCH):
        start = time.perf_counter()
        batch = sampler.batch(0, number)
        if sparse:
            batch = merge_ids(batch, sampler.partitioned_triple_set.sharding.max_entity_per_shard)
        batches.append(shard_major(batch))
        seconds.append(time.perf_counter() - start)
    return batches, statistics.median(seconds) / config.steps_per_call * 1e3


def _peak_rss() -> int:
    """Most memory this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_device(devices: Sequence[jax.Device]) -> int | None:
    """Most memory in use on any device, in bytes; None where the device does not tell (CPU)."""
    stats = [device.memory_stats() or {} for device in devices]
    return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


def _show(name: str, value: Any) -> str:
    """A value for people to read."""
    if isinstance(value, dict):
        return "\n".join(f"{k} {v}" for k, v in value.items())
    if name.endswith("_bytes") and value is not None:
        return f"{value / 2**20:,.1f} MiB"
    return f"{value:,.3f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
