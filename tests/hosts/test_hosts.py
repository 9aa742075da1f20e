"""Several processes train and answer as one does, and end when one of them is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts import answers
from shared.commands import records
from shared.processes import errors, free_port, run_all, started, wait

from bess_jax.cli.main import main
from bess_jax.step.spmd import Placement

SETTINGS = ["--n-shard", "4", "--n-device", "4", "--embedding-size", "8", "--batch-size", "64", "--n-negative", "8"]
COMMAND = ["-m", "bess_jax", "train", *SETTINGS]

PATIENCE_S = 4
"""After which a process is lost in the tests where one is."""

SUMS = {"rtol": 1e-4, "atol": 1e-7}
"""Gradients of relations are summed over shards in another order between processes: the last bits differ, and what they
move in a few epochs. All else is computed as in one process."""


def wait_for(run: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(run.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tables(run: Path) -> dict[str, Any]:
    last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    return {file.name: np.load(file) for file in last.glob("*.npy")}


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run) if "split" not in record]


def assert_same_runs(ours: Path, theirs: Path) -> None:
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=1e-6)
    expected = tables(theirs)
    assert set(tables(ours)) == set(expected)
    for name, table in tables(ours).items():
        np.testing.assert_allclose(table, expected[name], **SUMS, err_msg=name)


@pytest.fixture(scope="module")
def alone(nations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs in this process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    args = ["train", *SETTINGS, "--dataset", str(nations), "--n-epoch", "4", "--run", str(run)]
    assert main(args) == 0
    return run


@pytest.mark.long
@pytest.mark.parametrize("n_process", [2, pytest.param(4, marks=pytest.mark.slow)])  # four start for half a minute
def test_train_and_go_on_with_fewer(n_process: int, nations: Path, alone: Path, tmp_path: Path) -> None:
    """Two epochs by several processes and two by half as many give the run of one process; the first one prints."""
    run = tmp_path / "run"
    train = [*COMMAND, "--dataset", str(nations), "--n-epoch", "2", "--run", str(run)]
    assert run_all(n_process, train, tmp_path / "log") == [0] * n_process
    for process in range(n_process):
        assert bool((tmp_path / "log" / f"{process}.out").read_text()) == (process == 0)
        assert errors(tmp_path / "log", process) == []
    resume = ["--resume", str(run), "--n-epoch", "4"]
    if n_process == 2:
        assert main(["train", *resume]) == 0
    else:
        assert run_all(2, ["-m", "bess_jax", "train", *resume], tmp_path / "log2") == [0, 0]
    assert_same_runs(run, alone)


@pytest.mark.long
@pytest.mark.parametrize(("n_process", "n_device"), [(2, 2), (4, 4)])
def test_answers(n_process: int, n_device: int, tmp_path: Path) -> None:
    """Ranks, best answers, scores and neighbours are, on every process, those of one process with as many devices."""
    command = [answers.__file__, "--out", str(tmp_path), "--n-device", str(n_device)]
    with started(n_process, command, tmp_path / "log") as processes:
        expected = answers.answers(Placement.create(answers.N_SHARD, n_device, "shard_map"))
        assert wait(processes) == [0] * n_process, (tmp_path / "log" / "1.err").read_text()
    for process in range(n_process):
        with np.load(tmp_path / f"{process}.npz") as found:
            assert set(found) == set(expected)
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.long
def test_commands(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`evaluate` prints JSON once, and the same as in one process; `export` writes a file once, and the same."""
    assert main(["evaluate", str(alone), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert run_all(2, ["-m", "bess_jax", "evaluate", str(alone), "--json"], tmp_path / "log") == [0, 0]
    assert json.loads((tmp_path / "log" / "0.out").read_text()) == expected
    assert (tmp_path / "log" / "1.out").read_text() == ""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert main(["export", str(alone), str(one)]) == 0
    assert run_all(2, ["-m", "bess_jax", "export", str(alone), str(two)], tmp_path / "log of export") == [0, 0]
    assert two.read_text() == one.read_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("lost", "number"),
    [
        (1, signal.SIGKILL),
        (1, signal.SIGSTOP),
        (0, signal.SIGKILL),
        pytest.param(0, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_lost_process(lost: int, number: signal.Signals, nations: Path, tmp_path: Path) -> None:
    """The others end soon, with a line that names it and a checkpoint from which the run goes on."""
    run, log = tmp_path / "run", tmp_path / "log"
    train = [*COMMAND, "--dataset", str(nations), "--run", str(run), "--save-every", "50 steps"]
    with started(2, [*train, "--n-epoch", "1000"], log, PATIENCE_S) as processes:
        wait_for(run, "checkpoints/epoch-*")
        os.kill(processes[lost].pid, number)
        begin, other = time.monotonic(), 1 - lost
        [code] = wait(processes[other : other + 1])
    assert time.monotonic() - begin < 3 * PATIENCE_S + 5
    may_abort = (lost, number) == (0, signal.SIGKILL)  # JAX ends a process without its coordinator, if it is first
    assert code in ((1, -signal.SIGABRT) if may_abort else (1,))
    [line] = errors(log, other)
    assert f"process {lost}" in line
    assert "lost" in line
    n_done = max(int(path.name.split("-")[1]) for path in run.glob("checkpoints/epoch-*"))
    assert main(["train", "--resume", str(run), "--n-epoch", str(n_done + 1)]) == 0


@pytest.mark.long
def test_error_of_one(nations: Path, tmp_path: Path) -> None:
    """An error of one process ends the others, which tell it."""
    (tmp_path / "file").touch()
    train = [*COMMAND, "--dataset", str(nations), "--run", str(tmp_path / "file")]  # the first one alone looks there
    assert run_all(2, train, tmp_path / "log") == [1, 1]
    assert "expected a folder" in errors(tmp_path / "log", 0)[0]
    assert "process 0 ended" in errors(tmp_path / "log", 1)[0]


@pytest.mark.long
def test_signal_to_one(nations: Path, tmp_path: Path) -> None:
    """All stop together after the same call when one is told to, as a batch system may do."""
    run = tmp_path / "run"
    train = [*COMMAND, "--dataset", str(nations), "--run", str(run), "--n-epoch", "1000"]
    with started(2, train, tmp_path / "log") as processes:
        wait_for(run, "metrics.jsonl")
        processes[1].terminate()
        assert wait(processes) == [128 + signal.SIGTERM] * 2
    assert "the state is saved" in (tmp_path / "log" / "0.out").read_text()
    assert len(list(run.glob("checkpoints/epoch-*"))) == 1


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["slurm", "openmpi"])
def test_launchers(launcher: str, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under what SLURM and Open MPI tell their processes, nothing is said on the command line."""
    assert main(["evaluate", str(alone), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    processes, port = [], str(free_port())
    for number in map(str, range(2)):
        told = {
            "slurm": {
                **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"},
                **{"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": number, "SLURM_LOCALID": number},
            },
            "openmpi": {
                "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1",
                **{"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": number, "OMPI_COMM_WORLD_LOCAL_RANK": number},
            },
        }[launcher]
        command = [sys.executable, "-m", "bess_jax", "evaluate", str(alone), "--json"]
        with (tmp_path / number).open("wb") as out:
            processes.append(
                subprocess.Popen(command, env={**os.environ, **told, "JAX_COORDINATOR_PORT": port}, stdout=out)
            )
    assert wait(processes) == [0, 0]
    assert json.loads((tmp_path / "0").read_text()) == expected


@pytest.mark.long
def test_port_is_taken(tmp_path: Path) -> None:
    """What may be wrong is told where JAX gives up."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        command = [sys.executable, "-m", "bess_jax", "evaluate", str(tmp_path), "--n-process", "2", "--process", "0"]
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([*command, "--coordinator", address], capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, None)
    assert f"is one missing, or the port of process 0, {address}, taken" in done.stderr


@pytest.mark.long
def test_example(nations: Path, tmp_path: Path) -> None:
    """The script that anyone can run trains and evaluates."""
    script = Path(__file__).parents[2] / "examples" / "multihost" / "two_processes.sh"
    options = ["--dataset", str(nations), "--embedding-size", "8", "--batch-size", "64", "--n-negative", "8"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PORT": str(free_port())}
    command = ["sh", str(script), str(tmp_path / "run"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "test, filtered" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coordinator", "here"], "coordinator must be HOST:PORT"),
        (["--process", "0", "--lost-after", "0.5"], "lost_after must be >= 1"),
        (["--process", "1"], "give coordinator, n_process and process together"),
    ],
)
def test_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing or wrong is told."""
    assert main(["evaluate", "run", *options]) == 2
    assert message in capsys.readouterr().err
