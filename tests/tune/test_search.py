"""Searches on a small graph: killed, stopped, shared, and trained again from what they found."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from shared.commands import records

import bess_jax as bj
from bess_jax.cli.main import main
from bess_jax.run.loop import Run
from bess_jax.run.signals import Stop, StoppedError
from bess_jax.tune.page import PAGE
from bess_jax.tune.search import search
from bess_jax.tune.study import Study

SPACE = """
dataset = "{dataset}"
n_shard = 2
n_device = 1
mapping = "vmap"
batch_size = 256
n_negative = 16
embedding_size = 8
regularization = 0.01
n_epoch = {n_epoch}
eval_every = 2
keep = 1

[space]
learning_rate = {{ low = 1e-3, high = 1.0, log = true }}

[study]
n_trial = {n_trial}
sampler = "random"
"""


@pytest.fixture
def space(tmp_path: Path, nations: Path) -> Path:
    file = tmp_path / "space.toml"
    file.write_text(SPACE.format(dataset=nations, n_epoch=4, n_trial=2))
    return file


def epochs(run: Path) -> list[tuple[int, str | None]]:
    return [(record["epoch"], record.get("split")) for record in records(run)]


class AtEpoch(Stop):
    """A signal that comes in an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def call(self, run: Run) -> None:
        if run.epoch == self.epoch and self.number is None:
            self.handle(signal.SIGINT, None)


@pytest.mark.long
def test_a_search_that_is_stopped_goes_on(space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What came before stays; the best settings, trained anew, give its metric to all digits."""
    study = tmp_path / "study"
    shown: list[str] = []
    with pytest.raises(StoppedError, match="stopped by SIGINT"):
        search(space, study, show=shown.append, stop=AtEpoch(3))
    assert shown == []
    before = records(study / "trials" / "0")
    assert [record["epoch"] for record in before] == [1, 2, 2, 3]
    assert main(["tune", str(space), "--study", str(study), "--json"]) == 0
    after = records(study / "trials" / "0")
    assert after[: len(before)] == before  # also the times: it was not trained again
    assert [record["epoch"] for record in after] == [1, 2, 2, 3, 4, 4]
    out, err = capsys.readouterr()
    assert re.findall(r"^trial (\d+): mrr 0\.\d{4}", err, flags=re.MULTILINE) == ["0", "1"]
    found = json.loads(out)
    assert [trial["state"] for trial in found["trials"]] == ["complete", "complete"]
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"])

    again = tmp_path / "again"
    assert main(["train", "--config", found["settings"], "--run", str(again), "--quiet"]) == 0
    valid = [record["both"]["mrr"] for record in records(again) if record.get("split") == "valid"]
    assert max(valid) == found["best"]["value"]
    assert bj.Predictor.load(found["run"]).checkpoint.startswith("epoch-")
    assert (study / PAGE).exists()
    assert main(["tune", str(space), "--study", str(study), "--quiet"]) == 0  # there is nothing to do
    assert capsys.readouterr().out.splitlines()[-3].startswith(f"best: trial {found['best']['number']} of 2, valid mrr")


@pytest.mark.long
def test_a_trial_that_is_worse_is_ended(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Study, "_pruner", lambda self: optuna.pruners.ThresholdPruner(lower=2.0))
    space.write_text(space.read_text().replace("n_trial = 2", "n_trial = 1"))
    shown: list[str] = []
    found = search(space, tmp_path / "study", show=shown.append)
    (trial,) = found.trials()
    assert (trial.state, trial.epoch, found.best()) == ("pruned", 2, None)
    assert shown[0].startswith(f"trial 0: mrr {trial.value:.4f}, pruned after epoch 2 (learning_rate ")
    assert epochs(found.run_folder(0).path) == [(1, None), (2, None), (2, "valid")]
    assert not found.run_folder(0).checkpoints.folder.exists()


def test_a_search_whose_trials_all_fail_ends(space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nations has no types, which is seen when a trial begins."""
    text = space.read_text().replace("n_trial = 2", "n_trial = 9")
    space.write_text(text.replace("keep = 1", 'negatives = "typed"'))
    assert main(["tune", str(space), "--study", str(tmp_path / "study")]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"error: the first 5 trials all failed, the last with: negatives='typed' needs entity types", err)
    assert out.count("failed: negatives='typed' needs entity types") == 5


def test_a_search_that_diverges_fails(space: Path, tmp_path: Path) -> None:
    text = space.read_text().replace("low = 1e-3, high = 1.0", "low = 1e30, high = 1e35")
    space.write_text(text.replace("n_trial = 2", "n_trial = 1").replace("keep = 1", 'optimizer = "sgd"'))
    with pytest.raises(ValueError, match=r"the first 1 trials all failed, the last with: .*(loss|NaN|nan|infinite)"):
        search(space, tmp_path / "study", show=lambda line: None)


def test_no_trial_begins_when_time_is_up(space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space.write_text(f'{space.read_text()}timeout = "0.000000001s"\n')
    assert main(["tune", str(space), "--study", str(tmp_path / "study")]) == 0
    assert capsys.readouterr().out == "no trial is complete yet\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.toml"], "missing.toml: cannot be read"),
        (["space.toml", "--study", "space.toml"], "expected a folder for the study, got a file"),
    ],
)
def test_bad_input(
    words: list[str], message: str, space: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(space.parent)
    assert main(["tune", *(words if "--study" in words else [*words, "--study", "study"])]) == 2
    assert message in capsys.readouterr().err


# --- kill -9, and several processes -----------------------------------------------------------------------------------


@contextlib.contextmanager
def started(space: Path, study: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    cache = {"JAX_ENABLE_COMPILATION_CACHE": "1", "JAX_COMPILATION_CACHE_DIR": str(space.parent / "cache")}
    command = [sys.executable, "-m", "bess_jax", "tune", str(space), "--study", str(study)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | cache)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(run: Path) -> None:
    """Waits until a run is some epochs beyond its first checkpoint."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            if len(records(run)) > 6 and any((run / "checkpoints").glob("epoch-*")):
                return
        time.sleep(0.05)
    raise TimeoutError(run)


@pytest.mark.long
def test_a_killed_search_goes_on_in_two_processes(tmp_path: Path, nations: Path) -> None:
    """Killed by -9 in the middle of a trial; two go on, one of them with that trial, and do none twice."""
    space, study = tmp_path / "space.toml", tmp_path / "study"
    space.write_text(SPACE.format(dataset=nations, n_epoch=60, n_trial=2))
    run = study / "trials" / "0"
    with started(space, study, tmp_path / "killed.log") as killed:
        wait_for(run)
        killed.kill()
    saved = max(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("epoch-*"))
    before = records(run)
    assert saved <= before[-1]["epoch"] < 60
    with started(space, study, tmp_path / "one.log") as one, started(space, study, tmp_path / "other.log") as other:
        codes = [process.wait(300) for process in (one, other)]
    logs = [(tmp_path / f"{name}.log").read_text() for name in ("killed", "one", "other")]
    assert codes == [0, 0], logs
    told = [re.findall(r"^trial (\d+): mrr", log, flags=re.MULTILINE) for log in logs]
    assert told[0] == []
    assert sorted(told[1] + told[2]) == ["0", "1"]
    with (study / "trials.csv").open() as table:
        assert [line.split(",")[:2] for line in table.readlines()[1:]] == [["0", "complete"], ["1", "complete"]]
    kept = [record for record in before if record["epoch"] <= saved]
    assert records(run)[: len(kept)] == kept  # also the times: the trial went on where it was
    straight = [(epoch, split) for epoch in range(1, 61) for split in ([None] if epoch % 2 else [None, "valid"])]
    assert epochs(run) == straight
