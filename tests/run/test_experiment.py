"""The training loop: what it yields, with one call in flight and with two, and what its meter makes of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment, Meter, NonFiniteLossError, Progress
from bess_jax.run.folder import RunFolder
from bess_jax.step.spmd import Placement


def make_experiment(nations: Path, **settings: Any) -> Experiment:
    small: dict[str, Any] = {"n_shard": 2, "batch_size": 64, "n_negative": 16, "embedding_size": 8, "n_epoch": 2}
    return Experiment.create(TrainConfig(dataset=str(nations), steps_per_call=4, **(small | settings)))


def test_reprs_fit_a_screen(nations: Path) -> None:
    experiment = make_experiment(nations, mapping="vmap")
    at = next(experiment.calls(experiment.init()))
    for public in (experiment, at, RunFolder(Path("runs/nations"))):
        assert len(repr(public)) < 300
    assert "ComplEx on" in repr(experiment)
    assert "14 entities, embedding size 8; 2 shards on 1 cpu devices by vmap; 2 epochs of 14 calls" in repr(experiment)
    assert repr(at).startswith("Progress(n_call=1, waited_s=")


def test_a_graph_can_be_given(nations: Path) -> None:
    graph = bj.KGDataset(n_entity=9, n_relation_type=2, triples={"train": np.ones((50, 3), np.int32)})
    config = TrainConfig(dataset="no file", n_shard=2, batch_size=8, n_negative=2, inverse_relations=False)
    assert Experiment.create(config, graph).sharding.n_entity == 9


def test_a_script_may_end_with_calls_open(nations: Path) -> None:
    """Python then closes them at a time when its modules are empty."""
    code = f"""
import bess_jax as bj
from bess_jax.run.experiment import Experiment
experiment = Experiment.create(bj.TrainConfig(dataset={str(nations)!r}, batch_size=64, n_negative=16))
calls = experiment.calls(experiment.init())
for at in calls:
    break
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exception ignored" not in done.stderr


def test_runs_ahead() -> None:
    """Two calls with collectives may only be in flight where they cannot take each other's threads."""
    assert Placement.create(2, 1).runs_ahead
    assert Placement.create(2, mapping="vmap").runs_ahead
    assert not Placement.create(2, 2, "pmap").runs_ahead


@pytest.mark.long
def test_calls_are_the_same_with_one_call_in_flight_and_with_two(nations: Path) -> None:
    """Each yield holds the state and loss of its call, whether the loss is read at once, later or never."""
    runs = {}
    for mapping in ("vmap", "pmap"):
        for read_at_once in (True, False):
            experiment = make_experiment(nations, mapping=mapping)
            calls = [at for at in experiment.calls(experiment.init()) if not read_at_once or at.read_loss()]
            assert [at.n_call for at in calls] == list(range(1, 2 * experiment.sampler.calls_per_epoch + 1))
            assert all(at.waited_s >= 0 for at in calls)
            runs[mapping, read_at_once] = [at.read_loss() for at in calls], experiment.placement.get(calls[-1].state)
    losses, state = runs["vmap", True]
    assert losses[-1] < losses[0]
    for other, other_state in runs.values():
        np.testing.assert_allclose(other, losses, **ACCUMULATED)
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (other_state, state)), strict=True):
            np.testing.assert_allclose(ours, theirs, **ACCUMULATED)


@pytest.mark.long
def test_every_state_is_that_of_its_call(nations: Path) -> None:
    """Going on from the state of any call gives the state of the next."""
    experiment = make_experiment(nations, mapping="vmap")
    states = [experiment.placement.get(at.state) for at in experiment.calls(experiment.init())]
    for n_done, (before, after) in enumerate(itertools.pairwise(states), 1):
        again = next(experiment.calls(experiment.placement.put(before), n_done))
        assert again.n_call == n_done + 1
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (again.state, after)), strict=True):
            np.testing.assert_allclose(experiment.placement.get(ours), theirs, **ACCUMULATED)


@pytest.mark.parametrize(("mapping", "late"), [("vmap", 1), ("pmap", 0)])
@pytest.mark.parametrize("n_left", [1, 3])
def test_divergence_is_found_at_most_one_call_later(nations: Path, mapping: str, late: int, n_left: int) -> None:
    experiment = make_experiment(nations, mapping=mapping)
    state = experiment.init()
    state = state._replace(params=jax.tree_util.tree_map(lambda x: x * np.float32(np.nan), state.params))
    seen: list[Progress] = []
    with pytest.raises(NonFiniteLossError, match="lower learning_rate"):
        seen.extend(experiment.calls(state, 2 * experiment.sampler.calls_per_epoch - n_left))
    assert len(seen) == late


def test_meter() -> None:
    """The first call counts for no time; a call's loss is read when the next one is there."""
    meter = Meter(positives_per_call=10)
    assert (meter.speed, meter.waiting) == (0, 0)
    read = []

    def call(n: int) -> Progress:
        state: Any = None
        return Progress(n_call=n, waited_s=5.0, state=state, read_loss=lambda: read.append(n) or float(n))

    meter.read_last()
    meter.add(call(1))
    assert (read, meter.seconds) == ([], 0)
    meter.add(call(2))
    assert (read, meter.seconds, meter.waiting) == ([1], 0, 0)
    meter.read_last()
    assert meter.losses == [1, 2]
    np.testing.assert_allclose(meter.speed * meter.seconds, 10)
    np.testing.assert_allclose(meter.waiting * meter.seconds, 5)
    seconds = meter.seconds
    with meter.pause():
        meter.read_last()
    assert (meter.losses, meter.seconds) == ([1, 2], seconds)
