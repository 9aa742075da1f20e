"""`fit`: early stopping, schedules and going on, each compared bit by bit with a run that was not stopped."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from shared.commands import untimed

import bess_jax as bj
from bess_jax.ask.ranks import Metrics
from bess_jax.data.files import read_checked, write_checked
from bess_jax.run.checkpoint import LAST, Checkpoint
from bess_jax.run.log import Record
from bess_jax.run.signals import StoppedError


@pytest.fixture(autouse=True, scope="module")
def optax_promotes_types() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def small(nations: Path) -> Any:
    """Settings that train fast."""

    def make(**settings: Any) -> bj.TrainConfig:
        tiny: dict[str, Any] = {"n_shard": 2, "mapping": "vmap", "steps_per_call": 8, "batch_size": 256}
        tiny |= {"n_negative": 8, "embedding_size": 4, "eval_every": 1, "n_epoch": 9}
        return bj.TrainConfig(dataset=str(nations), **(tiny | settings))

    return make


class StopAfter(bj.Callback):
    """Stops a run after a number of calls."""

    def __init__(self, n_call: int) -> None:
        self.n_call = n_call

    def call(self, run: bj.Run) -> None:
        if run.n_call == self.n_call:
            run.stop("told so")


class Scripted(bj.Callback):
    """Validations with given MRRs, epoch by epoch, in place of ranking."""

    def __init__(self, *mrr: float) -> None:
        self.mrr = mrr

    def start(self, run: bj.Run) -> None:
        def metrics() -> Metrics:
            return {side: {"mrr": self.mrr[run.epoch - 1]} for side in ("head", "tail", "both")}

        run.ranks = lambda *args, **options: SimpleNamespace(metrics=metrics)  # type: ignore[method-assign,assignment,return-value]


MRR = (0.3, 0.5, 0.5, 0.4, 0.6, 0.59, 0.6, 0.1, 0.9)
"""Of nine epochs: with patience 3, none is better after the fifth, and the eighth is the last."""


@pytest.fixture(scope="module")
def experiment(small: Any) -> bj.Experiment:
    """Of nine epochs with patience 3. Its compiled step serves all runs."""
    return bj.Experiment.create(small(patience=3, keep=1))


@pytest.fixture(scope="module")
def straight(experiment: bj.Experiment, tmp_path_factory: pytest.TempPathFactory) -> bj.Run:
    return bj.fit(experiment, run=tmp_path_factory.mktemp("runs") / "straight", callbacks=[Scripted(*MRR)])


def last(run: bj.Run) -> Checkpoint:
    return run.folder.checkpoints.pick(LAST)


def assert_same(one: bj.Run, other: bj.Run, but: tuple[str, ...] = ()) -> None:
    """Checkpoints bit by bit, histories, and metrics but for the speed and for some of the settings."""
    assert last(one).xxh3 == last(other).xxh3
    assert one.history == other.history
    assert one.stopped == other.stopped
    ours, theirs = last(one).about, last(other).about
    assert ours._replace(settings={}) == theirs._replace(settings={})
    assert {k: v for k, v in ours.settings.items() if k not in but} == {
        k: v for k, v in theirs.settings.items() if k not in but
    }


# --- early stopping ---------------------------------------------------------------------------------------------------


def test_early_stopping_gives_back_the_best_state(small: Any, straight: bj.Run, tmp_path: Path) -> None:
    assert straight.stopped == "stopped early after epoch 8: no better valid mrr in 3 validations"
    assert straight.epoch == 8
    assert [str(point) for point in straight.folder.checkpoints.points()] == ["epoch-5", "epoch-8"]
    five = bj.fit(small(n_epoch=5), run=tmp_path / "five", callbacks=[Scripted(*MRR)])
    assert straight.best().xxh3 == last(five).xxh3
    found, expected = straight.best_params(), five.state.params
    np.testing.assert_array_equal(found.entity, expected.entity)
    np.testing.assert_array_equal(found.score_fn["relation_embedding"], expected.score_fn["relation_embedding"])
    assert not np.array_equal(straight.state.params.entity, expected.entity)
    for source in (straight, straight.folder, straight.folder.path):
        predictor = bj.Predictor.load(source)
        assert predictor.checkpoint.startswith("epoch-5 ")
    np.testing.assert_array_equal(predictor.params.entity, expected.entity)


@pytest.mark.parametrize("n_call_after", [0, 1])
def test_a_resumed_run_stops_where_it_would_have(
    n_call_after: int, experiment: bj.Experiment, straight: bj.Run, tmp_path: Path
) -> None:
    """Also without its metrics: the validations are in the checkpoint."""
    stop = StopAfter(7 * straight.calls_per_epoch + n_call_after)
    half = bj.fit(experiment, run=tmp_path / "half", callbacks=[Scripted(*MRR), stop])
    assert (half.stopped, half.n_call) == ("told so", stop.n_call)
    (half.folder.path / "metrics.jsonl").unlink()
    whole = bj.fit(experiment, resume=half.folder.path, callbacks=[Scripted(*MRR)])
    assert_same(whole, straight)


def test_a_stopped_run_goes_on_with_more_patience(small: Any, straight: bj.Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight.folder.path, run)
    again = bj.fit(small(patience=3, n_epoch=20, min_improvement=0.35), resume=run, callbacks=[Scripted(*MRR)])
    assert (again.epoch, again.meter.losses) == (8, [])
    assert again.stopped == "stopped early after epoch 8: no better valid mrr in 7 validations"
    on = bj.fit(small(patience=4), resume=run, callbacks=[Scripted(*MRR)])
    assert (on.stopped, on.epoch, on.best().path.name) == (None, 9, "epoch-9")


def test_lower_is_better(small: Any, tmp_path: Path) -> None:
    """By real ranks; the mean rank falls at first, and the best is the lowest of one side."""
    config = small(metric="tail.mean_rank", n_epoch=4, learning_rate=0.05, keep=1)
    run = bj.fit(config, run=tmp_path / "run", callbacks=())
    values = [validation.metrics["tail"]["mean_rank"] for validation in run.history]
    assert values[-1] < values[0]
    assert run.best().about.metric == min(values)
    assert run.best().path.name == f"epoch-{1 + int(np.argmin(values))}"


def test_another_metric_finds_another_best_state(small: Any, tmp_path: Path) -> None:
    run = bj.fit(small(n_epoch=3, keep=3), run=tmp_path / "run", callbacks=[Scripted(0.3, 0.9, 0.4)])
    assert run.best().path.name == "epoch-2"
    history = [v._replace(metrics={s: m | {"hits@1": v.epoch} for s, m in v.metrics.items()}) for v in run.history]
    for path in (run.folder.path / "checkpoints").glob("epoch-*/about.json"):
        document = read_checked(path)
        document["about"][4] = history[: document["about"][0][0]]
        write_checked(path, {name: document[name] for name in ("about", "entries", "xxh3")})
    other = bj.fit(small(n_epoch=3, keep=3, metric="hits@1"), resume=run.folder.path, callbacks=[Scripted()])
    assert other.best().path.name == "epoch-3"


def test_checkpoints_without_a_history_load(experiment: bj.Experiment, tmp_path: Path) -> None:
    """As they were before there was one: the best stays the best, and what is ranked from now on counts."""
    stop = StopAfter(2 * experiment.sampler.calls_per_epoch)
    run = bj.fit(experiment, run=tmp_path / "run", callbacks=[Scripted(0.1, 0.9), stop])
    for path in (run.folder.path / "checkpoints").glob("epoch-*/about.json"):
        document = read_checked(path)
        document["about"] = document["about"][:4]
        del document["about"][1]["metric"]
        write_checked(path, {name: document[name] for name in ("about", "entries", "xxh3")})
    on = bj.fit(experiment, resume=run.folder.path, callbacks=[Scripted(*[0.9] * 9)])
    assert [validation.epoch for validation in on.history] == [2, 3, 4, 5]
    assert on.best().path.name == "epoch-2"


# --- schedules --------------------------------------------------------------------------------------------------------


def rates(run: bj.Run) -> list[float]:
    return [line["learning_rate"] for line in untimed(run.folder.path) if "split" not in line]


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        pytest.param({"schedule": "cosine_decay_schedule", "warmup": 2.0, "n_epoch": 6}, None, id="cosine"),
        pytest.param(
            {"schedule": "plateau", "update": "dense", "mapping": "pmap", "n_shard": 4, "n_device": 2},
            (1, 1, 1, 0.5, 0.25, 0.25),
            id="plateau, dense, devices",
        ),
        pytest.param(
            {"schedule": "plateau", "optimizer": "adam", "accumulate": 2, "table_dtype": "bfloat16"},
            (1, 1, 1, 0.5, 0.25, 0.25),
            id="plateau, row-sparse, accumulated, bfloat16",
        ),
    ],
)
def test_rates_after_going_on(settings: dict[str, Any], scales: Any, small: Any, tmp_path: Path) -> None:
    """Those of a run that was not stopped, and so are all tables."""
    if scales is not None:
        settings = settings | {"schedule_options": {"patience": 1}}
    experiment = bj.Experiment.create(small(**({"n_epoch": 6} | settings)))
    script = Scripted(0.3, 0.5, 0.5, 0.4, 0.6, 0.7)
    straight = bj.fit(experiment, run=tmp_path / "straight", callbacks=[script])
    stop = StopAfter(4 * straight.calls_per_epoch + 1)
    half = bj.fit(experiment, run=tmp_path / "half", callbacks=[script, stop])
    whole = bj.fit(experiment, resume=half.folder.path, callbacks=[script])
    assert rates(whole) == rates(straight)
    assert_same(whole, straight)
    assert untimed(whole.folder.path) == untimed(straight.folder.path)
    if scales is None:
        np.testing.assert_allclose(rates(straight)[:2], [0.1, 0.2], atol=0.02)  # a step less than the whole epoch
        assert rates(straight)[2:] == sorted(rates(straight)[2:], reverse=True)
        assert rates(straight)[-1] < 0.01
    else:
        np.testing.assert_allclose(rates(straight), 0.2 * np.array(scales), rtol=1e-6)
        saved = [float(last(straight).array(name)) for name in last(straight).entries if name.endswith("scale")]
        assert saved == [0.25] * (1 if settings.get("update") == "dense" else 2)


# --- around the loop --------------------------------------------------------------------------------------------------


class Notes(bj.Callback):
    def __init__(self, notes: list[str], name: str) -> None:
        self.notes, self.name = notes, name

    def start(self, run: bj.Run) -> None:
        self.notes.append(f"{self.name} starts")

    def call(self, run: bj.Run) -> None:
        if run.n_call % run.calls_per_epoch == 0:
            self.notes.append(f"{self.name} {run.epoch}")

    def record(self, run: bj.Run, record: Record) -> None:
        assert record is run.records[-1]
        self.notes.append(f"{self.name} {record.get('split', 'train')} {record['epoch']}")

    def end(self, run: bj.Run) -> None:
        self.notes.append(f"{self.name} ends {run.error!r}")


def test_callbacks_are_called_in_order(experiment: bj.Experiment, tmp_path: Path) -> None:
    notes, stop = list[str](), StopAfter(2 * experiment.sampler.calls_per_epoch)
    callbacks = [Notes(notes, "a"), Notes(notes, "b"), Scripted(*MRR), stop]
    run = bj.fit(experiment, run=tmp_path / "run", callbacks=callbacks)
    expected = ["starts", "train 1", "valid 1", "1", "train 2", "valid 2", "2"]
    assert notes == [f"{name} {what}" for what in expected for name in "ab"] + ["b ends None", "a ends None"]
    first, *others = [line for line in run.records if "loss" in line]
    timed = ["positives_per_second", "waiting", "seconds", "compiling", "saving"]
    assert list(first) == ["epoch", "loss", "learning_rate", *timed]
    assert all("compiling" not in line and line["positives_per_second"] > 0 for line in others)


class Failing(bj.Callback):
    def call(self, run: bj.Run) -> None:
        raise ArithmeticError("no")


def test_callbacks_end_after_an_error(experiment: bj.Experiment, tmp_path: Path) -> None:
    notes = list[str]()
    with pytest.raises(ArithmeticError):
        bj.fit(experiment, run=tmp_path / "run", callbacks=[Notes(notes, "a"), Failing(), Notes(notes, "b")])
    assert notes == ["a starts", "b starts", "b ends ArithmeticError('no')", "a ends ArithmeticError('no')"]


class Interrupt(bj.Callback):
    """Presses Ctrl-C in the second call."""

    def call(self, run: bj.Run) -> None:
        if run.n_call == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves(
    experiment: bj.Experiment, straight: bj.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(StoppedError, match="stopped by SIGINT"):
            bj.fit(experiment, run=tmp_path / "run", callbacks=[Interrupt(), Scripted(*MRR)])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert bj.RunFolder(tmp_path / "run").checkpoints.pick(LAST).about.point.progress == 1
    assert capsys.readouterr().out == ""
    run = bj.fit(experiment, resume=tmp_path / "run", callbacks=[Scripted(*MRR)])
    assert_same(run, straight)


def test_an_experiment_of_a_graph_in_memory(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder given there is one by the names of graph and model; the graph goes on with the run."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    triples = {name: rng.integers(0, 9, (40, 3), np.int32) for name in ("train", "valid", "test")}
    graph = bj.KGDataset(n_entity=9, n_relation_type=9, triples=triples)
    settings: dict[str, Any] = {"n_shard": 1, "batch_size": 16, "n_negative": 4, "embedding_size": 4}
    config = bj.TrainConfig(dataset="mine", n_epoch=1, **settings)
    script = Scripted(0.1, 0.2)
    run = bj.fit(bj.Experiment.create(config, graph), callbacks=[script])
    assert run.folder.path.parts[0] == "runs"
    assert run.folder.path.name.startswith("mine-complex-")
    assert (
        bj.fit(bj.TrainConfig(dataset="mine", n_epoch=2, **settings), resume=run.folder.path, callbacks=[script]).epoch
        == 2
    )
    other = bj.KGDataset(n_entity=9, n_relation_type=9, triples=triples | {"test": triples["valid"]})
    with pytest.raises(ValueError, match="the graph of the experiment is not that of the run, in triples/test"):
        bj.fit(bj.Experiment.create(config, other), resume=run.folder.path)
    with pytest.raises(ValueError, match="give one of run, a new folder, and resume"):
        bj.fit(run=tmp_path / "new", resume=run.folder.path)
    for given in ({"config": bj.Experiment.create(config, graph)}, {"resume": run.folder.path}):
        with pytest.raises(ValueError, match="dataset is for settings of a new run"):
            bj.fit(dataset=graph, **given)


def test_a_run_knows_its_graph_from_everywhere(
    small: Any, nations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(nations, tmp_path / "graph")
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(small(n_epoch=1, eval_every=0), dataset="graph")
    run = bj.fit(config, run="run", callbacks=())
    assert run.folder.config().dataset == str(tmp_path / "graph")


def test_misspelt_metrics_write_nothing(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric must be one of mrr, .*, got 'tail\.mmr'; did you mean 'tail\.mrr'\?"):
        bj.fit(small(metric="tail.mmr"), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "umls"}, "config must be a TrainConfig or an Experiment, got 'umls'"),
        ({"config": {"dataset": "umls"}}, "config must be a TrainConfig or an Experiment, got {'dataset': 'umls'}"),
        (
            {"callbacks": bj.EpochLines()},
            "callbacks must be a list of Callback objects, got <bess_jax.run.callbacks.Ep",
        ),
        (
            {"callbacks": [bj.EpochLines]},
            "callbacks must be a list of Callback objects, got <class 'bess_jax.run.callb",
        ),
    ],
)
def test_arguments_that_are_something_else(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        bj.fit(run=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
