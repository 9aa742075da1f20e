"""Where the metrics of a run go besides `metrics.jsonl`: a table, TensorBoard, Weights & Biases, MLflow.

A tracker that fails warns once; metrics are in `metrics.jsonl` anyway, and a run never ends because of it. What fails
raises `OSError` (a disk, a network) or an error of its library; anything else is a fault of the program.
"""

from __future__ import annotations

import abc
import contextlib
import csv
import io
import os
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bess_jax._optional import require
from bess_jax.data.files import DataWarning, replace_file
from bess_jax.run.arguments import suggestion
from bess_jax.run.callbacks import Callback
from bess_jax.run.log import Record

if TYPE_CHECKING:
    from bess_jax.run.loop import Run


def flat(record: Record) -> Record:
    """A record without tables in it: the MRR of both sides is "both.mrr"."""
    found: Record = {}
    for name, value in record.items():
        found |= {f"{name}.{inner}": x for inner, x in value.items()} if isinstance(value, dict) else {name: value}
    return found


def numbers(record: Record) -> dict[str, float]:
    """The numbers of a record by the names that trackers show: "train/loss", "valid/both.mrr"."""
    group = record.get("split", "train")
    return {
        f"{group}/{name}": float(value)
        for name, value in flat(record).items()
        if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class Csv(Callback):
    """Keeps `metrics.csv` in the run folder: a line for each record, and a column for each number that one has."""

    def __init__(self) -> None:
        self._has_told = False

    def start(self, run: Run) -> None:
        """Drops the lines of records that the run makes again."""
        if run.records:
            self.record(run, run.records[-1])

    def record(self, run: Run, record: Record) -> None:
        """Writes all of it anew, so that it is whole at any time."""
        if not run.team.is_first:
            return
        rows = [flat(row) for row in run.records]
        columns = dict.fromkeys(["epoch", "split", *(name for row in rows for name in row)])
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        try:
            with replace_file(run.folder.path / "metrics.csv") as stream:
                stream.write(text.getvalue().encode())
        except OSError as error:
            if not self._has_told:
                warnings.warn(f"metrics.csv could not be written ({error})", DataWarning, stacklevel=2)
            self._has_told = True


class Tracker(Callback, abc.ABC):
    """Sends the numbers of every record somewhere, until that fails.

    A subclass says how: `open`, `send`, `close`, and which `errors` its library raises. What the run had recorded
    before it was tracked is sent at the start. Of several processes the first one tracks.
    """

    name: str
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self) -> None:
        self._is_open = False

    @abc.abstractmethod
    def open(self, run: Run) -> bool:
        """Begins, or goes on with what it has of the run; whether it has nothing of it yet."""

    @abc.abstractmethod
    def send(self, epoch: int, values: dict[str, float]) -> None:
        """Sends numbers by their names."""

    @abc.abstractmethod
    def close(self, is_good: bool) -> None:
        """Ends, after a run that came to its end or was stopped, or after one that failed."""

    def start(self, run: Run) -> None:
        """Opens it."""
        if run.team.is_first:
            self._attempt(lambda: self._open(run))

    def record(self, run: Run, record: Record) -> None:
        """Sends the numbers."""
        if self._is_open:
            self._attempt(lambda: self.send(record["epoch"], numbers(record)))

    def end(self, run: Run) -> None:
        """Closes it."""
        if self._is_open:
            self._attempt(lambda: self.close(run.error is None))
        self._is_open = False

    def _open(self, run: Run) -> None:
        for record in run.records if self.open(run) else ():
            self.send(record["epoch"], numbers(record))
        self._is_open = True

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except self.errors as error:
            self._is_open = False
            text = f"{self.name} is given up, as it failed ({_brief(error)}); the metrics are in metrics.jsonl"
            warnings.warn(text, DataWarning, stacklevel=2)


class TensorBoard(Tracker):
    """Writes event files into the folder `tensorboard` of the run. Where a run goes on, later points are purged.

    tensorboardX writes them, but not its `SummaryWriter`, whose thread ends at a full disk: the next points would wait
    for it for ever.
    """

    name = "tensorboard"

    def __init__(self) -> None:
        super().__init__()
        self._record_writer = require("tensorboardX.record_writer", "tensorboard", "track=tensorboard").RecordWriter
        self._event = require("tensorboardX.proto.event_pb2", "tensorboard", "track=tensorboard")
        self._summary = require("tensorboardX.proto.summary_pb2", "tensorboard", "track=tensorboard").Summary
        self._file: Any = None

    def open(self, run: Run) -> bool:
        """A new file; whether it is the first one."""
        folder = run.folder.path / "tensorboard"
        is_new = not any(folder.glob("*tfevents*"))
        folder.mkdir(exist_ok=True)
        self._file = self._record_writer(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._write(0, file_version="brain.Event:2")
        if not is_new:
            next_epoch = 1 + run.n_call // run.calls_per_epoch
            self._write(next_epoch, session_log=self._event.SessionLog(status=self._event.SessionLog.START))
        return is_new

    def send(self, epoch: int, values: dict[str, float]) -> None:
        """Writes scalars."""
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(epoch, summary=self._summary(value=scalars))

    def close(self, is_good: bool) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._event.Event(wall_time=time.time(), step=step, **content)
        try:
            self._file.write(event.SerializeToString())
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._file.close()
            raise


class Wandb(Tracker):
    """Sends to Weights & Biases, or writes for it into the folder `wandb` of the run, where WANDB_MODE is offline.

    Project and name are those of WANDB_PROJECT and WANDB_NAME, else bess_jax and the name of the run folder.
    """

    name = "wandb"

    def __init__(self) -> None:
        super().__init__()
        self._wandb = require("wandb", "wandb", "track=wandb")
        self.errors = (OSError, self._wandb.Error)
        self._run: Any = None

    def open(self, run: Run) -> bool:
        """Begins a run of theirs, or goes on with the one whose id is in `wandb.id`."""
        known = _read_id(run.folder.path / "wandb.id")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "bess_jax"),
            name=os.environ.get("WANDB_NAME", run.folder.path.name),
            id=known,
            resume=None if known is None else "allow",
            dir=str(run.folder.path),
            config=run.experiment.config.to_dict(),
            settings=self._wandb.Settings(console="off"),  # what is printed stays here
        )
        _write_id(run.folder.path / "wandb.id", self._run.id)
        return known is None

    def send(self, epoch: int, values: dict[str, float]) -> None:
        """Logs them at the epoch; those of an epoch that it has passed are left out there."""
        self._run.log(values, step=epoch)

    def close(self, is_good: bool) -> None:
        """Ends their run, waiting until all is sent."""
        self._run.finish(exit_code=0 if is_good else 1)


class Mlflow(Tracker):
    """Sends to MLflow: where MLFLOW_TRACKING_URI says, to the experiment MLFLOW_EXPERIMENT_NAME, else bess_jax."""

    name = "mlflow"

    def __init__(self) -> None:
        super().__init__()
        self._mlflow = require("mlflow", "mlflow", "track=mlflow")
        self.errors = (OSError, self._mlflow.exceptions.MlflowException)
        self._run_id = ""
        try:
            self._client = self._mlflow.MlflowClient()
        except self.errors as error:
            hint = "set MLFLOW_TRACKING_URI to a server, or pip install mlflow, which has a database of its own"
            raise ValueError(f"track=mlflow cannot begin ({_brief(error)}); {hint}") from None

    def open(self, run: Run) -> bool:
        """Begins a run of theirs, or goes on with the one whose id is in `mlflow.id`."""
        file = run.folder.path / "mlflow.id"
        known = _read_id(file)
        if known is not None:
            self._run_id = known
            self._client.update_run(known, status="RUNNING")
            return False
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "bess_jax")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._run_id = self._client.create_run(experiment, run_name=run.folder.path.name).info.run_id
        _write_id(file, self._run_id)
        settings = run.experiment.config.to_dict()
        params = [self._mlflow.entities.Param(key, str(value)) for key, value in settings.items()]
        self._client.log_batch(self._run_id, params=params)
        return True

    def send(self, epoch: int, values: dict[str, float]) -> None:
        """Logs them at the epoch, "hits@10" as "hits_at_10": names there have no @."""
        now, metric = int(1000 * time.time()), self._mlflow.entities.Metric
        metrics = [metric(name.replace("@", "_at_"), value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, is_good: bool) -> None:
        """Ends their run."""
        self._client.set_terminated(self._run_id, "FINISHED" if is_good else "FAILED")


def _brief(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder="...")


def _read_id(file: Path) -> str | None:
    """The id of a run elsewhere, or None where there is none yet."""
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def _write_id(file: Path, run_id: str) -> None:
    with replace_file(file) as stream:
        stream.write(f"{run_id}\n".encode())


TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, Wandb, Mlflow)}
"""What `TrainConfig.track` may name."""


def parse_track(track: str | None) -> tuple[str, ...]:
    """The names in `TrainConfig.track`.

    Raises:
        ValueError: if one is none of `TRACKERS`, or stands twice.
    """
    names = () if track is None else tuple(name.strip() for name in track.split(","))
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise ValueError(
                f"track must be names of {known}, joined by commas, got {track!r}{suggestion(name, TRACKERS)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"track must name each tracker once, got {track!r}")
    return names


def make_trackers(track: str | None) -> list[Callback]:
    """The table that is always written, and the trackers that `TrainConfig.track` names.

    Raises:
        MissingExtraError: if the package of one is not installed.
        ValueError: if a name is none of a tracker, or MLflow cannot reach what it is to write to.
    """
    return [Csv(), *(TRACKERS[name]() for name in parse_track(track))]
