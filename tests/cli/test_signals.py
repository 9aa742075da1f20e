"""Signals at any moment of `train`: what was done is saved, nothing is said but one line, and the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shared.commands import SMALL, train, untimed

from bess_jax.ask.ranker import Ranker
from bess_jax.cli.main import main
from bess_jax.run import experiment, fit, signals
from bess_jax.run.checkpoint import LAST, Checkpoints
from bess_jax.run.folder import RunFolder
from bess_jax.run.loop import Run
from bess_jax.run.signals import SIGNALS, StoppedError, stop_on_signals

OPTIONS = ("--n-epoch", "3", "--eval-every", "1", "--keep", "9", "--mapping", "vmap")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("runs") / "straight"
    assert train(nations, path, *OPTIONS) == 0
    return path


def assert_same(run: Path, other: Path) -> None:
    """Checkpoints bit by bit, and metrics but for the speed."""
    one, two = (RunFolder.open(path).checkpoints.pick(LAST) for path in (run, other))
    assert one.about == two.about
    assert one.xxh3 == two.xxh3
    assert untimed(run) == untimed(other)


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """Signals are what they are in a terminal, also where tests run behind `nohup` or in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS if number != signal.SIGINT}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


MOMENTS: dict[str, tuple[object, str]] = {
    "start-up": (fit, "read_graph"),
    "compilation": (experiment, "make_train_step"),
    "training": (Run, "_after"),
    "validation": (Ranker, "ranks"),
    "saving": (Checkpoints, "write"),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_signals(
    moment: str,
    number: signal.Signals,
    straight: Path,
    tmp_path: Path,
    nations: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    place, name = MOMENTS[moment]
    original: Callable[..., Any] = getattr(place, name)
    n_sent = 0

    def send(*args: Any, **options: Any) -> Any:
        nonlocal n_sent
        n_sent += 1
        if n_sent == 1:
            os.kill(os.getpid(), number)
            time.sleep(0.05)  # where this is another thread, the main one gets it
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, send)
        assert train(nations, run, *OPTIONS) == 128 + number
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    if moment == "start-up":
        assert printed.err == f"stopped by {number.name}\n"
        assert not run.exists()
        return
    assert "the state is saved" in printed.out.replace("\n", " ")
    assert Checkpoints(run / "checkpoints").points()
    assert main(["train", "--resume", str(run)]) == 0
    assert_same(run, straight)


@pytest.mark.parametrize("moment", ["validation", "saving"])
def test_the_second_signal_does_not_wait(
    moment: str, tmp_path: Path, nations: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    place, name = MOMENTS[moment]
    original: Callable[..., Any] = getattr(place, name)

    def send(*args: Any, **options: Any) -> Any:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(signals, "_TOGETHER_S", 0.01)
        patch.setattr(place, name, send)
        assert train(nations, run, *OPTIONS) == 128 + signal.SIGTERM
    assert main(["train", "--resume", str(run)]) == 0
    assert_same(run, straight)


def test_two_signals_at_once_are_one() -> None:
    """As `timeout` sends them: to the process, then to its group."""
    reasons = list[str]()
    run: Any = SimpleNamespace(stop=reasons.append)
    with stop_on_signals() as stop:
        stop.start(run)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        assert reasons == ["stopped by SIGTERM"]


def test_ignored_signals_stay_ignored(tmp_path: Path, nations: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def process(tmp_path: Path, nations: Path) -> Iterator[subprocess.Popen[str]]:
    """A run without end."""
    line = [
        sys.executable,
        "-m",
        "bess_jax",
        "train",
        "--dataset",
        str(nations),
        *SMALL,
        "--run",
        str(tmp_path / "run"),
    ]
    with subprocess.Popen(
        [*line, "--n-epoch", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.long
def test_ctrl_c_of_a_process(process: subprocess.Popen[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out
    assert err == ""
    assert main(["evaluate", str(run)]) == 0


@pytest.mark.long
def test_ctrl_c_while_packages_are_imported() -> None:
    code = """
import os, signal, sys
import bess_jax.__main__

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "jax":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.exit(bess_jax.__main__.main())
"""
    command = [sys.executable, "-c", code, "train", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (130, -signal.SIGINT)
    assert ended.stderr in ("", "stopped\n")


def test_a_signal_among_the_garbage_is_not_lost() -> None:
    """Where Python ignores errors, as in `__del__` and while it collects garbage, the signal comes again."""

    class Signals:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))  # the handler runs here

    def collected() -> None:
        with stop_on_signals():
            Signals()
            time.sleep(10)

    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        collected()
