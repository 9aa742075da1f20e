"""Trackers: event files are read back; W&B and MLflow are stood in for by modules that record what they are told."""

from __future__ import annotations

import csv
import errno
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from shared.commands import records
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event, SessionLog

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.data.files import DataWarning
from bess_jax.run.trackers import Csv, TensorBoard, make_trackers, numbers, parse_track


@pytest.fixture(scope="module")
def experiment(nations: Path) -> bj.Experiment:
    return bj.Experiment.create(settings(nations))


def settings(nations: Path, **others: Any) -> bj.TrainConfig:
    tiny: dict[str, Any] = {"n_shard": 2, "mapping": "vmap", "steps_per_call": 8, "batch_size": 256, "n_negative": 8}
    tiny |= {"embedding_size": 4, "n_epoch": 3, "eval_every": 2, "save_every": "1steps", "keep": 99}
    return bj.TrainConfig(dataset=str(nations), **(tiny | others))


@pytest.fixture
def fit(experiment: bj.Experiment) -> Callable[..., bj.Run]:
    """Trains with given callbacks; the compiled step is that of all."""

    def train(*callbacks: bj.Callback, **options: Any) -> bj.Run:
        return bj.fit(experiment, callbacks=callbacks, **options)

    return train


def event_files(run: Path) -> list[list[Event]]:
    """The events of each file, in the order in which TensorBoard reads them."""
    found = []
    for file in sorted((run / "tensorboard").iterdir()):
        content, events = file.read_bytes(), []
        while content:
            (n,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + n]))
            content = content[16 + n :]
        found.append(events)
    return found


def points(run: Path) -> dict[str, dict[int, list[float]]]:
    """Tag -> step -> values that TensorBoard shows: a file that begins at a step hides those from it on before."""
    shown: dict[str, dict[int, list[float]]] = {}
    for event in (event for file in event_files(run) for event in file):
        if event.session_log.status == SessionLog.START:
            shown = {tag: {i: x for i, x in steps.items() if i < event.step} for tag, steps in shown.items()}
        for value in event.summary.value:
            shown.setdefault(value.tag, {}).setdefault(event.step, []).append(value.simple_value)
    return shown


def expected(run: Path) -> dict[str, dict[int, list[Any]]]:
    """What `points` has to be, by the JSON lines."""
    found: dict[str, dict[int, list[Any]]] = {}
    for record in records(run):
        for name, value in numbers(record).items():
            found.setdefault(name, {})[record["epoch"]] = [pytest.approx(value, rel=1e-6)]
    return found


def test_tensorboard_after_going_on_has_every_point_once(fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(TensorBoard(), run=run)
    first = points(run)
    assert first == expected(run)
    assert {"train/loss", "train/learning_rate", "valid/both.mrr", "valid/head.hits@10"} <= set(first)
    assert sorted(first["train/loss"]) == [1, 2, 3]
    fit(TensorBoard(), resume=run, checkpoint="epoch-1")
    assert len(event_files(run)) == 2
    assert points(run) == expected(run)
    unpurged = [event.step for events in event_files(run) for event in events if event.summary.value]
    assert unpurged.count(2) > 2  # loss and validation, twice: only the purge hides them


def test_a_run_tracked_from_its_middle_has_all_points(fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(run=run)
    fit(TensorBoard(), resume=run, checkpoint="epoch-2")
    assert points(run) == expected(run)
    assert sorted(points(run)["train/loss"]) == [1, 2, 3]


def test_csv_has_the_records(fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    """Written always; where a run goes on, lines of later epochs go at once."""
    run = tmp_path / "run"
    seen: list[int] = []

    class Look(bj.Callback):
        def call(self, run: bj.Run) -> None:
            seen.append(len((run.folder.path / "metrics.csv").read_text().splitlines()))

    fit(run=run)
    table = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert list(table[0])[:4] == ["epoch", "split", "loss", "learning_rate"]
    lines = records(run)
    assert [(row["epoch"], row["split"]) for row in table] == [(str(x["epoch"]), x.get("split", "")) for x in lines]
    assert float(table[2]["both.mrr"]) == lines[2]["both"]["mrr"]
    assert float(table[3]["loss"]) == lines[3]["loss"]
    fit(Look(), resume=run, checkpoint="epoch-1")
    assert seen == [2, 2, 4, 4, 6]  # a header and epoch 1; epoch 2 and its validation, and epoch 3, of two calls each
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + len(records(run))


class FullDisk:
    """Fails from a number of calls on."""

    def __init__(self, n_good: int) -> None:
        self.n_call, self.n_good = 0, n_good

    def __call__(self, *args: Any, **options: Any) -> None:
        self.n_call += 1
        if self.n_call > self.n_good:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("n_good", [0, 2])
def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(
    n_good: int, fit: Callable[..., bj.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FullDisk(n_good)
    monkeypatch.setattr(record_writer.RecordWriter, "write", write)
    with pytest.warns(DataWarning, match=r"tensorboard is given up.*No space left.*metrics\.jsonl") as caught:
        run = fit(TensorBoard(), run=tmp_path / "run")
    assert len(caught) == 1
    assert write.n_call == n_good + 1
    assert (run.epoch, run.stopped, run.error) == (3, None, None)
    assert len(records(run.folder.path)) == 5


def test_a_table_that_cannot_be_written_warns_once(fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    run = fit(run=tmp_path / "run")
    table = run.folder.path / "metrics.csv"
    table.unlink()
    table.mkdir()
    with pytest.warns(DataWarning, match=r"metrics\.csv could not be written") as caught:
        fit(resume=run.folder.path, checkpoint="epoch-1")
    assert len(caught) == 1
    assert len(records(run.folder.path)) == 5


@pytest.mark.parametrize(
    ("track", "text"),
    [
        (
            "tensorbord",
            "track must be names of tensorboard, wandb, mlflow, joined by commas, got 'tensorbord'; did you",
        ),
        ("", "got ''"),
        ("wandb,", "got 'wandb,'"),
        ("wandb, wandb", "must name each tracker once"),
    ],
)
def test_names_of_trackers(track: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        bj.TrainConfig(track=track)


def test_several_trackers() -> None:
    assert parse_track(None) == ()
    assert parse_track("wandb, tensorboard") == ("wandb", "tensorboard")
    assert [type(tracker) for tracker in make_trackers("tensorboard")] == [Csv, TensorBoard]


@pytest.mark.parametrize(
    ("track", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_told_before_anything_is_written(
    track: str, package: str, nations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"track={track} needs the package {package}.*bess_jax\[{track}\]"):
        bj.fit(settings(nations, track=track), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- W&B and MLflow ---------------------------------------------------------------------------------------------------


class Told(list[tuple[Any, ...]]):
    """What a stand-in was told; what is `broken` fails."""

    broken: str | None = None

    def note(self, error: type[Exception], name: str, *what: Any) -> None:
        self.append((name, *what))
        if name == self.broken:
            raise error("the server has gone\n" + "so it has " * 100)

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [what[1:] for what in self if what[0] == name]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Told:
    told, module = Told(), ModuleType("wandb")

    class Error(Exception):
        pass

    class Run:
        def __init__(self, id: str) -> None:
            self.id = id

        def log(self, data: dict[str, Any], step: int | None = None) -> None:
            told.note(Error, "log", data, step)

        def finish(self, exit_code: int | None = None) -> None:
            told.note(Error, "finish", exit_code)

    def init(
        *, project: str, name: str, id: str | None, resume: str | None, dir: str, config: Any, settings: Any
    ) -> Run:
        told.note(Error, "init", project, name, id, resume, dir, config["model"], settings.console)
        return Run(id or "abc123")

    module.__dict__.update(Error=Error, init=init, Settings=lambda console: SimpleNamespace(console=console))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("WANDB_NAME", raising=False)
    return told


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Told:
    told, module = Told(), ModuleType("mlflow")

    class MlflowException(Exception):  # noqa: N818
        pass

    class MlflowClient:
        def __init__(self) -> None:
            told.note(MlflowException, "client")

        def get_experiment_by_name(self, name: str) -> Any:
            told.note(MlflowException, "get_experiment_by_name", name)

        def create_experiment(self, name: str) -> str:
            return f"experiment {name}"

        def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
            told.note(MlflowException, "create_run", experiment_id, run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id="f00"))

        def update_run(self, run_id: str, status: str | None = None) -> None:
            told.note(MlflowException, "update_run", run_id, status)

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            for key, value in params:
                told.note(MlflowException, "param", run_id, key, value)
            for key, value, timestamp, step in metrics:
                assert timestamp > 1e12  # milliseconds
                told.note(MlflowException, "metric", run_id, key, value, step)

        def set_terminated(self, run_id: str, status: str | None = None) -> None:
            told.note(MlflowException, "set_terminated", run_id, status)

    module.__dict__.update(
        MlflowClient=MlflowClient,
        exceptions=SimpleNamespace(MlflowException=MlflowException),
        entities=SimpleNamespace(Metric=lambda *what: what, Param=lambda *what: what),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return told


def test_wandb_goes_on_with_the_same_run(wandb: Told, fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    run = tmp_path / "my run"
    fit(*make_trackers("wandb")[1:], run=run)
    assert wandb.of("init") == [("bess_jax", "my run", None, None, str(run), "ComplEx", "off")]
    assert [(data, step) for data, step in wandb.of("log")] == [(numbers(x), x["epoch"]) for x in records(run)]
    assert wandb.of("finish") == [(0,)]
    wandb.clear()
    fit(*make_trackers("wandb")[1:], resume=run, checkpoint="epoch-2")
    ((_, _, known, resume, *_),) = wandb.of("init")
    assert (known, resume) == ("abc123", "allow")
    assert [step for _, step in wandb.of("log")] == [3, 3]


def test_mlflow_goes_on_with_the_same_run(mlflow: Told, fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    run = tmp_path / "my run"
    fit(*make_trackers("mlflow")[1:], run=run)
    assert mlflow.of("create_run") == [("experiment bess_jax", "my run")]
    params = {key: value for _, key, value in mlflow.of("param")}
    assert (params["n_shard"], params["model"], params["share_negatives"]) == ("2", "ComplEx", "True")
    told = [(key, value, step) for _, key, value, step in mlflow.of("metric")]
    assert told == [
        (name.replace("@", "_at_"), value, record["epoch"])
        for record in records(run)
        for name, value in numbers(record).items()
    ]
    assert mlflow.of("set_terminated") == [("f00", "FINISHED")]
    mlflow.clear()
    fit(*make_trackers("mlflow")[1:], resume=run, checkpoint="epoch-2")
    assert not mlflow.of("create_run")
    assert not mlflow.of("param")
    assert mlflow.of("update_run") == [("f00", "RUNNING")]
    assert {x[3] for x in mlflow.of("metric")} == {3}


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_wandb_that_fails_ends_no_run(broken: str, wandb: Told, fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    wandb.broken = broken
    with pytest.warns(DataWarning, match="wandb is given up, as it failed .the server has gone so it has") as caught:
        run = fit(*make_trackers("wandb")[1:], run=tmp_path / "run")
    assert len(caught) == 1
    assert len(str(caught[0].message)) < 400
    assert len(wandb.of(broken)) == 1
    assert len(records(run.folder.path)) == 5


def test_mlflow_that_cannot_begin_is_told_before_anything_is_written(
    mlflow: Told, nations: Path, tmp_path: Path
) -> None:
    mlflow.broken = "client"
    with pytest.raises(ValueError, match=r"track=mlflow cannot begin .the server has gone.*MLFLOW_TRACKING_URI"):
        bj.fit(settings(nations, track="mlflow"), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_is_marked_so(wandb: Told, mlflow: Told, fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    class Fault(bj.Callback):
        def record(self, run: bj.Run, record: bj.Record) -> None:
            raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        fit(*make_trackers("wandb,mlflow")[1:], Fault(), run=tmp_path / "run")
    assert wandb.of("finish") == [(1,)]
    assert mlflow.of("set_terminated") == [("f00", "FAILED")]


def test_faults_of_a_tracker_are_not_hidden(wandb: Told, fit: Callable[..., bj.Run], tmp_path: Path) -> None:
    """Only `OSError` and errors of the library are failures."""
    sys.modules["wandb"].Settings = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="console"):
        fit(*make_trackers("wandb")[1:], run=tmp_path / "run")


def test_only_the_first_process_tracks(wandb: Told, tmp_path: Path) -> None:
    run: Any = SimpleNamespace(
        team=SimpleNamespace(is_first=False), records=[{"epoch": 1, "loss": 1.0}], error=None, n_call=3
    )
    for tracker in make_trackers("tensorboard,wandb"):
        tracker.start(run)
        tracker.record(run, run.records[0])
        tracker.end(run)
    assert wandb == []
    assert list(tmp_path.iterdir()) == []
