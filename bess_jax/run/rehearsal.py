"""The programs of a run without running them: what is compiled, and for arguments of which shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from bess_jax.ask.all_scores import AllScoresPipeline
from bess_jax.ask.similarity import Neighbours
from bess_jax.data.batch_sampler import RigidShardedBatchSampler
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler
from bess_jax.data.sharding import PartitionedTripleSet
from bess_jax.run.experiment import Experiment
from bess_jax.step.spmd import Mapped, Placement
from bess_jax.update.train import TrainState

K = 10
"""Answers to a query, as `predict` gives them by default."""

_SPLIT = "valid"
"""What is ranked during training."""


class Call(NamedTuple):
    """A compiled function, and what it was called with: arrays are `jax.ShapeDtypeStruct`."""

    mapped: Mapped
    args: tuple[Any, ...]

    def lower(self, platform: str | None = None) -> jax.stages.Lowered:
        """The program before it is compiled; for another platform than JAX's own, where one is given."""
        if platform is None:
            lowered: jax.stages.Lowered = self.mapped.lower(*self.args)  # type: ignore[attr-defined]
        else:
            lowered = self.mapped.trace(*self.args).lower(lowering_platforms=(platform,))  # type: ignore[attr-defined]
        return lowered


class _CalledError(Exception):
    """A compiled function was called."""

    def __init__(self, call: Call) -> None:
        super().__init__("a compiled function was called on a Rehearsal")
        self.call = call


class Rehearsal(Placement):
    """A placement that holds shapes in place of arrays, and on which the first call of a compiled function is the last.

    Its devices may be descriptions of devices that are not there.
    """

    def put(self, tree: Any) -> Any:
        """Shapes of what the devices would hold."""
        lead = self._axes(len(self.devices))

        def shape(x: Any) -> jax.ShapeDtypeStruct:
            dtype = jax.dtypes.canonicalize_dtype(x.dtype)
            return jax.ShapeDtypeStruct((*lead, *x.shape[1:]), dtype, sharding=self._sharding)

        return jax.tree_util.tree_map(shape, tree)

    def put_local(self, tree: Any) -> Any:
        """Shapes of what the devices would hold."""
        return self.put(tree)

    def map(self, fn: Callable[..., Any], donate_argnums: Sequence[int] = ()) -> Mapped:
        """What raises `_CalledError` when it is called."""
        return partial(_stop, super().map(fn, donate_argnums))


class RehearsalOnIpus(Rehearsal):
    """A rehearsal whose devices stand for IPUs: each has a shard, also where there is only one."""

    @property
    def _is_one_vmap(self) -> bool:
        return False


def _stop(mapped: Mapped, *args: Any) -> Any:
    raise _CalledError(Call(mapped, args))


def _init(experiment: Experiment, _: TrainState) -> None:
    experiment.init()


def _step(experiment: Experiment, state: TrainState) -> None:
    next(experiment.calls(state), None)


def _rank(side: Any, experiment: Experiment, state: TrainState) -> None:
    triples = experiment.dataset.triples[_SPLIT]
    experiment.ranker.ranks(state.inference_params, triples, experiment.known, sides=(side,))


def _top_k(experiment: Experiment, state: TrainState) -> None:
    triples, k = experiment.dataset.triples[_SPLIT], min(K, experiment.dataset.n_entity)
    experiment.ranker.top_k(state.inference_params, "tail", triples, k, experiment.known)


def _score(experiment: Experiment, state: TrainState) -> None:
    experiment.ranker.score(state.inference_params, experiment.dataset.triples[_SPLIT])


def _similar(experiment: Experiment, state: TrainState) -> None:
    k = min(K, experiment.dataset.n_entity)
    Neighbours.of_entities(experiment.ranker, state.inference_params).nearest(np.zeros(1, np.int32), k)


def _all_scores(experiment: Experiment, state: TrainState) -> None:
    sampler = RigidShardedBatchSampler(
        partitioned_triple_set=PartitionedTripleSet.create_from_dataset(
            experiment.dataset, _SPLIT, experiment.sharding, partition_mode="h_shard"
        ),
        negative_sampler=PlaceholderNegativeSampler(corruption_scheme="t"),
        shard_bs=max(1, experiment.ranker.chunk // experiment.config.n_shard),
        batches_per_step=1,
        seed=experiment.config.seed,
    )
    pipeline = AllScoresPipeline(
        batch_sampler=sampler,
        corruption_scheme="t",
        score_fn=experiment.model.score_fn,
        placement=experiment.placement,
        return_scores=True,
    )
    pipeline.forward(state.inference_params)


PROGRAMS: dict[str, Callable[[Experiment, TrainState], None]] = {
    "step": _step,
    "rank": partial(_rank, "tail"),
    "rank-heads": partial(_rank, "head"),
    "rank-relations": partial(_rank, "relation"),
    "top-k": _top_k,
    "score": _score,
    "similar": _similar,
    "all-scores": _all_scores,
    "init": _init,
}
"""Name of each program -> what comes to it."""


def rehearse(experiment: Experiment, program: str) -> Call:
    """The call of a program of `PROGRAMS` as a run makes it, up to the point where it would begin.

    Args:
        experiment: the run, on a `Rehearsal`; ranks and scores are of its validation split.
        program: its name.

    Raises:
        TypeError: if the placement is another one.
        RuntimeError: if no compiled function was called.
    """
    placement = experiment.placement
    if not isinstance(placement, Rehearsal):
        raise TypeError(f"the experiment must be on a Rehearsal, got a {type(placement).__name__}")
    state = placement.put(placement.shapes(experiment.shapes))
    try:
        PROGRAMS[program](experiment, state)
    except _CalledError as called:
        return called.call
    raise RuntimeError(f"{program} called no compiled function")
