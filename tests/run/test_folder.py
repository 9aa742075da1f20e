"""Run folders: begun whole or not at all, for one process at a time, and what becomes of a run whose folder fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared.commands import records, train

import bess_jax as bj
from bess_jax.cli.main import main
from bess_jax.data.files import DataError
from bess_jax.run.checkpoint import BEST, LAST, Checkpoint, Checkpoints
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder
from bess_jax.run.log import RunLog


@pytest.fixture
def graph() -> bj.KGDataset:
    names = ("a\nb", "[red]", "\u202e", "ü")
    triples = {"train": np.zeros((1, 3), np.int32)}
    return bj.KGDataset(n_entity=4, n_relation_type=1, triples=triples, entity_dict=names)


def begin(path: Path, graph: bj.KGDataset) -> RunFolder:
    folder = RunFolder(path)
    with folder.locked():
        folder.begin(TrainConfig(seed=7), graph)
    return folder


def test_a_folder_stands_alone(tmp_path: Path, graph: bj.KGDataset) -> None:
    folder = begin(tmp_path / "a [b] *" / "run", graph)
    again = RunFolder.open(folder.path)
    assert again.config() == TrainConfig(seed=7)
    assert again.graph().digest() == graph.digest()
    assert again.graph().entity_dict == graph.entity_dict


def test_a_graph_that_was_moved_away(tmp_path: Path, graph: bj.KGDataset) -> None:
    folder = begin(tmp_path / "run", graph)
    folder.graph_file.rename(tmp_path / "graph.npz")
    with pytest.raises(DataError, match=r"graph\.npz is missing: tell by --dataset where the graph is now"):
        folder.graph()
    assert folder.graph(tmp_path / "graph.npz").digest() == graph.digest()


@pytest.mark.parametrize("at", ["graph", "settings"])
def test_a_run_that_ended_before_it_had_begun_can_be_started(
    at: str, tmp_path: Path, graph: bj.KGDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = {"graph": (bj.KGDataset, "save"), "settings": (RunFolder, "write_config")}[at]

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, name, full)
        with pytest.raises(OSError, match="No space"):
            begin(tmp_path / "run", graph)
    with pytest.raises(DataError, match=r"not a run folder: it has no config\.toml"):
        RunFolder.open(tmp_path / "run")
    assert begin(tmp_path / "run", graph).config().seed == 7


def test_a_run_without_a_checkpoint_starts_again(
    tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", killed)
        assert train(nations, run, "--n-epoch", "1") == 130
    assert not Checkpoints(run / "checkpoints").points()
    assert main(["evaluate", str(run)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 0
    assert "there is no checkpoint yet: the run starts from the beginning" in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0


@pytest.mark.parametrize("name", ["notes.txt", "config.toml"])
def test_other_folders_are_left_alone(name: str, tmp_path: Path, graph: bj.KGDataset) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match="exists already: give another --run"):
        begin(tmp_path, graph)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(DataError, match="expected a folder for the run, got a file"):
        RunFolder(tmp_path / name).check_new()


@pytest.mark.long
def test_one_process_at_a_time(tmp_path: Path, nations: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock goes with its process, also where that is killed."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    code = f"""
import sys, pathlib
from bess_jax.run.folder import RunFolder
with RunFolder(pathlib.Path({str(copy)!r})).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert main(["train", "--resume", str(copy), "--n-epoch", "21"]) == 2
        assert "another process trains in this folder" in capsys.readouterr().err
        assert main(["evaluate", str(copy)]) == 0  # reading is free
        other.kill()
    assert main(["train", "--resume", str(copy), "--n-epoch", "21"]) == 0


def test_a_finished_run_goes_on_only_with_more_epochs(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = records(copy)
    assert main(["train", "--resume", str(copy), "--n-epoch", "19"]) == 2
    assert "n_epoch must be at least 20, got 19: the checkpoint epoch-20 has done that much" in capsys.readouterr().err
    assert main(["train", "--resume", str(copy)]) == 0
    assert records(copy) == before
    assert main(["train", "--resume", str(copy), "--checkpoint", "epoch-10", "--n-epoch", "12"]) == 0
    assert "goes on from epoch-10\n" in capsys.readouterr().out
    assert [str(point) for point in Checkpoints(copy / "checkpoints").points()] == ["epoch-10", "epoch-12"]
    assert [line["epoch"] for line in records(copy) if "loss" in line] == list(range(1, 13))


@pytest.mark.parametrize(
    "edit", ['{"epoch": 20, "split": "valid"}', '{"epoch": 20, "split": "valid", "both": {"mrr": 9}}']
)
def test_edited_metrics_make_no_checkpoint_the_best(edit: str, tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    best = Checkpoints(copy / "checkpoints").pick(BEST).about.metric
    file = copy / "metrics.jsonl"
    others = [line for line in file.read_text().splitlines() if "valid" not in line or '"epoch": 20' not in line]
    file.write_text("\n".join([*others, edit, ""]))
    assert main(["train", "--resume", str(copy)]) == 0
    assert Checkpoints(copy / "checkpoints").pick(BEST).about.metric == best


def test_other_shards_are_told(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert main(["train", "--resume", str(copy), "--n-epoch", "21", "--n-shard", "1", "--n-device", "1"]) == 0
    printed = capsys.readouterr().out
    assert "goes on from epoch-20, which has 2 shards: from here on the batches are others\n" in printed


@pytest.mark.long
def test_going_on_with_other_shards(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what has to be a multiple of their number; and back again."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    resume = ["train", "--resume", str(copy), "--n-epoch"]
    assert main([*resume, "21", "--batch-size", "72"]) == 2
    assert "batch_size cannot change" in capsys.readouterr().err
    assert main([*resume, "21", "--n-shard", "3", "--batch-size", "72", "--n-negative", "15"]) == 0
    assert "goes on from epoch-20, which has 2 shards: from here on the batches are others" in capsys.readouterr().out
    assert main(["evaluate", str(copy), "--checkpoint", "last"]) == 0
    assert main([*resume, "22", "--n-shard", "2", "--batch-size", "64", "--n-negative", "16"]) == 0
    assert [line["epoch"] for line in records(copy) if "loss" in line] == list(range(1, 23))
    assert main(["train", "--resume", str(copy), "--n-shard", "4", "--embedding-size", "8"]) == 2
    assert "embedding_size cannot change" in capsys.readouterr().err


def test_a_checkpoint_that_is_removed_while_it_is_read(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that is under way removes it: another one is chosen."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    original, gone = Checkpoint.array, list[str]()

    def removed(self: Checkpoint, name: str, shard: int = 0) -> Any:
        if not gone:
            gone.append(self.path.name)
            shutil.rmtree(self.path)
        return original(self, name, shard)

    monkeypatch.setattr(Checkpoint, "array", removed)
    [other] = {"epoch-10", "epoch-20"} - {bj.Predictor.load(copy).checkpoint.split()[0]}
    assert gone == [other]
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(DataError, match="holds no checkpoint"):
        bj.Predictor.load(copy)


def test_settings_are_looked_at_before_the_graph(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "config.toml").write_text("")
    assert main(["train", "--resume", str(copy)]) == 2
    assert "embedding_size is 128, but the checkpoint epoch-20 was trained with 16" in capsys.readouterr().err


# --- folders that fail while a run is under way -----------------------------------------------------------------------


def no_space(*args: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


FAILURES: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "checkpoint": (Checkpoints, "write", no_space),
    "metrics": (RunLog, "flush", no_space),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_disk_that_is_full_for_a_while(
    what: str, tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on with a warning, and nothing is lost if there is room again before it ends."""
    place, name, fail = FAILURES[what]
    original, n = getattr(place, name), 0

    def sometimes(*args: Any, **options: Any) -> Any:
        nonlocal n
        n += 1
        return fail() if n < 4 else original(*args, **options)

    monkeypatch.setattr(place, name, sometimes)
    options = ("--n-epoch", "4", "--eval-every", "1", "--save-every", "4steps", "--steps-per-call", "4")
    assert train(nations, tmp_path / "run", *options) == 0
    printed = capsys.readouterr().err
    assert "warning: " in printed
    assert "No space left on device" in printed
    assert [line["epoch"] for line in records(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4]
    assert Checkpoints(tmp_path / "run" / "checkpoints").pick(LAST).about.point.epoch == 4


def test_the_best_is_the_best_if_its_first_writing_failed(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, n = Checkpoints.write, 0

    def at_last(*args: Any, **options: Any) -> Any:
        nonlocal n
        n += 1
        return no_space() if n == 1 else original(*args, **options)

    monkeypatch.setattr(Checkpoints, "write", at_last)
    assert train(nations, tmp_path / "run", "--n-epoch", "1", "--eval-every", "1", "--save-every", "9h") == 0
    (valid,) = [line for line in records(tmp_path / "run") if line.get("split") == "valid"]
    assert Checkpoints(tmp_path / "run" / "checkpoints").pick(BEST).about.metric == valid["both"]["mrr"]


def test_a_disk_that_stays_full(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    """Ends with one line, and what was saved before is as it was."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", no_space)
        assert main(["train", "--resume", str(copy), "--n-epoch", "22"]) == 1
    assert capsys.readouterr().err == "error: No space left on device\n"
    assert RunFolder(copy).checkpoints.pick(LAST).path.name == "epoch-20"
    assert main(["train", "--resume", str(copy), "--n-epoch", "22"]) == 0


def test_settings_that_go_away(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a folder is left that is removed while a checkpoint is written into it."""
    original = Checkpoints.write

    def removed(*args: Any, **options: Any) -> Any:
        (tmp_path / "run" / "config.toml").unlink()
        return original(*args, **options)

    monkeypatch.setattr(Checkpoints, "write", removed)
    assert train(nations, tmp_path / "run", "--n-epoch", "1") == 1
    printed = capsys.readouterr()
    assert printed.err == f"error: No such file or directory: {tmp_path / 'run' / 'config.toml'}\n"
    assert "is saved" not in printed.out


def test_a_folder_that_goes_away(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, original = tmp_path / "run", Checkpoints.write

    def vanish(*args: Any, **options: Any) -> None:
        shutil.rmtree(run, ignore_errors=True)
        original(*args, **options)

    monkeypatch.setattr(Checkpoints, "write", vanish)
    assert train(nations, run, "--n-epoch", "2", "--eval-every", "1") == 1
    *warnings, error = capsys.readouterr().err.splitlines()
    assert any("the state could not be saved" in warning for warning in warnings)
    assert all(warning.startswith("warning: ") for warning in warnings)
    assert error.startswith("error: No such file or directory: ")
    assert not run.exists()


def test_diverged_states_are_not_saved(
    tmp_path: Path, nations: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the loss, which does not look at every row, is finite."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    original = Checkpoints.write

    def spoiled(self: Checkpoints, about: Any, parts: Any, *args: Any) -> None:
        parts["params.entity"].array[0, -1, -1] = float("nan")
        original(self, about, parts, *args)

    monkeypatch.setattr(Checkpoints, "write", spoiled)
    assert main(["train", "--resume", str(copy), "--n-epoch", "21"]) == 1
    assert "params.entity holds NaN or infinity" in capsys.readouterr().err
    assert RunFolder(copy).checkpoints.pick(LAST).path.name == "epoch-20"
