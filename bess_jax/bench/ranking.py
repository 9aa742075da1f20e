"""The suites `rank` and `topk`: exact ranks, and best answers, over all entities by `Ranker`.

Counted are the scores of all pairs of a query and an entity. Omitting known answers, counting and sorting are not.
The time is that of the whole method, with the preparation of the queries on the host.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax

import bess_jax as bj
from bess_jax import _checks
from bess_jax._typing import Mapping_
from bess_jax.bench.ceilings import Ceilings
from bess_jax.bench.step import BenchConfig, flop_of_model, make_parts, random_triples
from bess_jax.bench.timing import Calls, Measure, in_turns, make_record


@dataclasses.dataclass(frozen=True)
class RankConfig(Calls):
    """What to measure."""

    n_call: int = 5
    """Calls that are timed."""
    n_warmup: int = 1
    """Calls before that, besides the one that compiles."""
    model: tuple[str, ...] = ("ComplEx", "TransE")
    """Score functions, named as in the suite `step`; one or more."""
    scoring_norm: Literal[1, 2] = 1
    """p of the p-norm, where a model has one."""
    n_entity: int = 40_943
    """Entities of the random graph; the default is WN18RR's."""
    n_relation: int = 11
    """Relations; the default is WN18RR's."""
    n_triple: int = 200_000
    """Triples of the random graph: the known answers, which are omitted."""
    n_query: int = 2048
    """Queries of a call, an even number: half of them ask for heads, half for tails."""
    embedding_size: int = 128
    """Components of an entity (complex ones where the model is complex)."""
    n_shard: int = 4
    """Shards of the entity table."""
    n_device: int | None = None
    """Devices, a divisor of n_shard. Default: as many accelerators as fit, else n_shard virtual CPU devices."""
    mapping: Mapping_ = "pmap"
    """How shards are mapped to several devices ("vmap" has one device)."""
    chunk: int = 512
    """Queries that the devices work on at a time."""
    window: int = 1024
    """Rows of a shard scored at a time."""
    seed: int = 0
    """Seed of graph, sharding and parameters."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        super().check()
        for name in ("chunk", "window"):
            _checks.at_least(name, getattr(self, name), 1)
        _checks.multiple_of("n_query", self.n_query, 2, "heads and tails")
        _checks.at_least("n_triple", self.n_triple, self.n_query // 2)
        if not self.model:
            raise ValueError("model must not be empty; leave it out or name score functions")
        for model in self.model:
            self.step(model).check()

    @property
    def n_virtual(self) -> int:
        """Virtual CPU devices to ask for."""
        return self.n_device or self.n_shard

    def step(self, model: str) -> BenchConfig:
        """A step on the same graph with the same model."""
        names = ("scoring_norm", "n_entity", "n_relation", "n_triple", "embedding_size", "n_shard", "n_device")
        same = {name: getattr(self, name) for name in (*names, "mapping", "seed")}
        return BenchConfig(model=model, batch_size=self.n_shard**2, n_negative=self.n_shard, **same)


@dataclasses.dataclass(frozen=True)
class TopKConfig(RankConfig):
    """What to measure."""

    k: int = 10
    """Answers to each query."""

    def check(self) -> None:
        """Raises ValueError, naming the field, if a value is out of range."""
        super().check()
        if not 1 <= self.k <= self.n_entity:
            raise ValueError(f"k must be between 1 and n_entity, {self.n_entity}, got {self.k}")


def run(config: RankConfig) -> dict[str, Any]:
    """Times `Ranker.ranks`, or `Ranker.top_k` of a `TopKConfig`, of each model in turns."""
    config.check()
    placement = bj.Placement.create(config.n_shard, config.n_device, config.mapping)
    works = {model: _work(config, model, placement) for model in config.model}
    # A chunk of queries meets a window of a table of rows as wide as the entities are.
    shape = (config.chunk, config.window, max(score_fn.entity_width for _, score_fn in works.values()))
    ceilings = Ceilings(placement.devices, matmul_shapes=(shape,))
    first = {model: work() for model, (work, _) in works.items()}
    jobs = ceilings.jobs | {model: work for model, (work, _) in works.items()}
    times = in_turns(jobs, config.n_call, config.n_warmup)
    measures = []
    for model, (_, score_fn) in works.items():
        compile_s = max(0.0, first[model] - statistics.median(times[model]))
        needed = config.n_query * config.n_entity * flop_of_model(score_fn, gradient=False)
        name = f"{model} top {config.k}" if isinstance(config, TopKConfig) else f"{model} ranks"
        measures.append(Measure(name, times[model], config.n_query, "queries", compile_s, needed, "matmul"))
    suite = "topk" if isinstance(config, TopKConfig) else "rank"
    return make_record(suite, config, placement.devices, measures, ceilings.rates(times))


def _work(config: RankConfig, model: str, placement: bj.Placement) -> tuple[Callable[[], float], bj.BaseScoreFunction]:
    """A call of the method, and the score function."""
    step = config.step(model)
    bess, triples = make_parts(step)[1], random_triples(step)
    asked, known = triples[: config.n_query // 2], bj.KnownAnswers(triples, config.n_relation)
    ranker = bj.Ranker(score_fn=bess.score_fn, placement=placement, chunk=config.chunk, window=config.window)
    params = placement.put(jax.device_get(bess.init(jax.random.PRNGKey(config.seed))))

    def call() -> float:
        start = time.perf_counter()
        if isinstance(config, TopKConfig):
            ranker.top_k(params, "tail", asked, config.k, known)
            ranker.top_k(params, "head", asked, config.k, known)
        else:
            ranker.ranks(params, asked, known)
        return time.perf_counter() - start

    return call, bess.score_fn
