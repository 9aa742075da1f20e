"""What commands print while they work: a line for each epoch, or a bar; without a terminal, on a dumb one, quietly."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from bess_jax.cli import progress as progress_module
from bess_jax.cli.main import main
from bess_jax.cli.output import CONTROL
from bess_jax.cli.progress import Verbosity, progress, training
from bess_jax.data.files import open_file, watch_reading
from bess_jax.run.callbacks import EpochLines
from bess_jax.run.metric import Metric, Validation

TINY = [
    *("--n-shard", "2", "--mapping", "vmap", "--batch-size", "256", "--n-negative", "8", "--embedding-size", "4"),
    *("--steps-per-call", "8", "--eval-every", "2"),
]


class Trained(NamedTuple):
    run: Path
    printed: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Trained:
    """A run of three epochs, and what was printed into a file."""
    path = tmp_path_factory.mktemp("runs")
    with (path / "log").open("w+", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        assert train(nations, path / "run", "3") == 0
    return Trained(path / "run", (path / "log").read_text(encoding="utf-8"))


def train(nations: Path, run: Path, n_epoch: str, *options: str) -> int:
    return main(["train", "--dataset", str(nations), *TINY, "--run", str(run), "--n-epoch", n_epoch, *options])


def on_terminal(args: list[str], term: str, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints on a terminal of that kind and width."""
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        with io.FileIO(outside) as stream:
            try:
                while part := stream.read(65536):
                    parts.append(part)
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    with open(inside, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setenv("TERM", term)
        patch.setenv("COLUMNS", str(width))
        code = main(args)
    reader.join()
    assert code == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def has_controls(text: str) -> bool:
    return bool({chr(number) for number in CONTROL} & set(text.replace("\n", "")))


EPOCH = re.compile(
    r"epoch (\d)/3  loss \d\.\d{4}(?:  [\d,]+ positives/s)?(  valid mrr 0\.\d{4}  best .*)?  [\d.]+ s"
    r"(  \d:\d\d:\d\d left)?"
)


def test_without_a_terminal_a_line_for_each_epoch(trained: Trained) -> None:
    out = trained.printed
    assert not has_controls(out)
    found = [EPOCH.fullmatch(line) for line in out.splitlines() if line.startswith("epoch")]
    assert [match[1] for match in found if match] == ["1", "2", "3"]
    assert [bool(match[2]) for match in found if match] == [False, True, True]  # the last epoch is ranked, too
    assert [bool(match[3]) for match in found if match] == [True, True, False]
    places = [out.index(text) for text in ("graph  ", "epoch 1/3", "ranking 201 test triples ...", "both sides", "(")]
    assert places[:4] == sorted(places[:4])
    assert re.search(r"^ranking 201 test triples: \d+\.\d s$", out, flags=re.MULTILINE)


def test_examples_tell_the_rank(trained: Trained) -> None:
    """The answer that was held out stands in the table at its rank, others that are known do not."""
    out = trained.printed
    shown = re.findall(r"^(right|near|wrong): (\w+) was held out, and ranks ([\d.]+) of \d+$", out, flags=re.MULTILINE)
    assert len(shown) >= 2
    tables = re.split(r"^(?:right|near|wrong): .*$", out, flags=re.MULTILINE)[1:]
    for (kind, answer, rank), table in zip(shown, tables, strict=True):
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line[:1] == "│"]
        assert all(row[3] in ("", "test") for row in rows)
        places = [int(row[0]) for row in rows if row[1] == answer]
        assert places == ([] if kind == "wrong" else [pytest.approx(float(rank), abs=0.5)])


def test_quiet(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(trained.run), "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("test, filtered, epoch-")
    assert lines[-1].startswith("run folder: ")
    assert len(lines) == 9  # and a table of seven


def test_verbose(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Of `train`: on the dumb terminal below."""
    assert "compiling" not in trained.printed
    assert main(["similar", str(trained.run), "--entity", "uk", "-v"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^model: ComplEx, epoch-\d [0-9a-f]{8}, read in \d+\.\d s$", out, flags=re.MULTILINE)
    assert "devices: 2 on each of 1 cpu device (cpu), by vmap" in out
    assert re.search(
        r"^compiling: \d+\.\d s for \d+ programs?, \d+ of them cached\ncache: \S+$", out, flags=re.MULTILINE
    )
    assert re.search(r"^memory of the process: [\d,]+ MiB at most$", out, flags=re.MULTILINE)


def test_json_alone_on_standard_output(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text("uk\tembassy\t?\n")
    for args, story in (
        (["evaluate"], r"ranking 201 test triples \.\.\.\nranking 201 test triples: \d+\.\d s\n"),
        (
            ["predict", "--queries", str(queries), "--out", str(tmp_path / "a.jsonl")],
            r"answering queries.tsv ...\nanswering queries.tsv: \d+\.\d s\n",
        ),
        (["predict", "--head", "uk", "--relation", "embassy"], ""),
        (["score", "--head", "uk", "--relation", "embassy", "--tail", "usa"], ""),
        (["similar", "--entity", "uk"], ""),
    ):
        command = [args[0], str(trained.run), *args[1:], "--json"]
        assert main(command) == 0
        out, err = capsys.readouterr()
        assert out.count("\n") == 1
        assert json.loads(out)["run"] == str(trained.run)
        assert re.fullmatch(story, err), err
        assert main([*command, "--quiet"]) == 0
        assert capsys.readouterr().err == ""


def test_a_dumb_terminal_of_60_columns(
    nations: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", "--dataset", str(nations), *TINY, "--run", "run", "--n-epoch", "3", "-v"]
    monkeypatch.chdir(tmp_path)
    out = on_terminal(args, "dumb", 60, monkeypatch)
    assert not has_controls(out)
    assert "…" not in out
    long = [line for line in out.splitlines() if len(line.rstrip()) > 60]
    assert all(line.startswith(("warning: ", "run folder: ")) or "waiting for batches" in line for line in long)
    joined = re.sub(r"\n  (?=\S)", "  ", out)
    assert [match[1] for line in joined.splitlines() if (match := EPOCH.fullmatch(line))] == ["1", "2", "3"]
    assert "saved epoch-3\n" in out
    assert "compiling: " in out
    options = ("--per", "category", "--confidence", "--macro", "--sides", "head", "relation", "tail")
    out = on_terminal(["evaluate", str(trained.run), *options], "dumb", 60, monkeypatch)
    assert not has_controls(out)
    assert "…" not in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 60
    for text in ("both sides", "relations", "Hits@10", "mean rank", "AMRI"):
        assert text in out


def test_a_terminal_has_a_bar(nations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["train", "--dataset", str(nations), *TINY, "--run", str(tmp_path / "run"), "--n-epoch", "2"]
    out = on_terminal(args, "xterm", 60, monkeypatch)
    assert "\x1b[?25l" in out  # hides the cursor
    assert out.count("\x1b[?25h") == out.count("\x1b[?25l")  # and shows it again
    frames = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out).split("\r")
    last = [frame for frame in frames if frame.startswith("epoch 2/2")][-1].splitlines()[0]
    assert re.fullmatch(r"epoch 2/2 ━{10} loss \d\.\d{4}  valid mrr 0\.\d{4} \d\d:\d\d", last.strip()), last
    assert not any(EPOCH.fullmatch(line) for line in out.splitlines())


def test_quiet_or_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["data", "umls"], ["evaluate", "RUN"]):
        assert main([*command, "-q", "-v"]) == 2
        assert "give one of --quiet and --verbose, got both" in capsys.readouterr().err


# --- reading ----------------------------------------------------------------------------------------------------------


def test_large_files_are_told(
    nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["data", str(nations), "--json"]) == 0
    document, err = capsys.readouterr()
    assert err == ""
    train_size = max(path.stat().st_size for path in nations.iterdir())
    monkeypatch.setattr(progress_module, "LARGE", train_size)
    assert main(["data", str(nations), "--json"]) == 0
    out, err = capsys.readouterr()
    assert out == document
    assert re.fullmatch(r"reading train\.txt\.gz, 0 MiB \.\.\.\nreading: \d+\.\d s\n", err)
    assert main(["data", str(nations), "--json", "-q"]) == 0
    assert capsys.readouterr() == (document, "")
    out = on_terminal(["data", str(nations)], "xterm", 80, monkeypatch)
    assert re.search(r"reading train\.txt\.gz .*━", out)
    assert "reading" not in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out).split("\r")[-1]  # it has gone


@pytest.mark.parametrize("read", [lambda stream: stream.read(7), lambda stream: stream.read(100_000)])
def test_what_is_read_is_counted(read: Callable[[Any], bytes], tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"b")
    opened, n_read = [], []

    def watch(file: Path, n_byte: int) -> Callable[[int], None] | None:
        opened.append((file.name, n_byte))
        return n_read.append if file.name == "a" else None

    with watch_reading(watch), open_file(tmp_path / "a") as stream, open_file(tmp_path / "b") as other:
        found = b""
        while part := read(stream):
            found += part
        assert other.read() == b"b"
    assert found == content
    assert opened == [("a", len(content)), ("b", 1)]
    assert sum(n_read) == len(content)
    assert len(n_read) > 2
    with open_file(tmp_path / "a") as stream:
        stream.read()
    assert len(opened) == 2


# --- lines of epochs --------------------------------------------------------------------------------------------------


class Stream(io.StringIO):
    """Notes what has been written when it is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def fake_run(**settings: Any) -> Any:
    config = SimpleNamespace(n_epoch=12, schedule="constant", warmup=0.0, **settings)
    experiment = SimpleNamespace(config=config, n_call=24)
    return SimpleNamespace(
        experiment=experiment,
        metric=Metric.parse("mean_rank"),
        history=[],
        note="",
        stopped=None,
        error=None,
        n_call=0,
        calls_per_epoch=2,
        team=SimpleNamespace(is_first=True),
    )


def epoch(run: Any, lines: EpochLines, number: int, mean_rank: float | None = None, **more: float) -> None:
    """An epoch of two calls."""
    run.n_call = 2 * number - 1
    lines.call(run)
    run.n_call = 2 * number
    lines.record(run, {"epoch": number, "loss": 0.5, "positives_per_second": 1234.5, "seconds": 0.25} | more)
    if mean_rank is not None:
        metrics = {"both": {"mean_rank": mean_rank}}
        run.history.append(Validation(number, metrics))
        lines.record(run, {"epoch": number, "split": "valid", **metrics})
    lines.call(run)


def test_lines_of_epochs() -> None:
    printed: list[str] = []
    run, lines = fake_run(), EpochLines(printed.append)
    run.note = "goes on from epoch-0"
    lines.start(run)
    epoch(run, lines, 1, mean_rank=5.0)
    epoch(run, lines, 2, mean_rank=7.0)
    epoch(run, lines, 3, mean_rank=4.0)
    run.experiment.config.schedule = "cosine_decay_schedule"
    epoch(run, lines, 12, learning_rate=0.012345)
    run.stopped = "stopped early"
    lines.end(run)
    left = "  0:00:00 left"
    assert printed == [
        "goes on from epoch-0",
        f"epoch  1/12  loss 0.5000  1,234 positives/s  valid mean_rank 5.0000  best so far  0.2 s{left}",
        f"epoch  2/12  loss 0.5000  1,234 positives/s  valid mean_rank 7.0000  best 5.0000  0.2 s{left}",
        f"epoch  3/12  loss 0.5000  1,234 positives/s  valid mean_rank 4.0000  best so far  0.2 s{left}",
        "epoch 12/12  loss 0.5000  learning rate 0.0123  1,234 positives/s  0.2 s",
        "stopped early",
    ]


def test_the_time_left_leaves_compiling_out(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    run, lines = fake_run(), EpochLines(printed.append)
    clock = iter([100.0, 100.0 + 60 + 30, 100.0 + 60 + 60])
    monkeypatch.setattr("bess_jax.run.callbacks.time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines.start(run)
    epoch(run, lines, 1, compiling=60.0)
    epoch(run, lines, 2)
    assert [line.rpartition("  ")[2] for line in printed] == ["0:05:30 left", "0:05:00 left"]


def test_lines_are_flushed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `fit`, and those of the command."""
    for name in ("fit", "train"):
        stream = Stream()
        monkeypatch.setattr(sys, "stdout", stream)
        (lines,) = [EpochLines()] if name == "fit" else training(Console(file=stream), Verbosity())
        assert isinstance(lines, EpochLines)
        run = fake_run()
        lines.start(run)
        for number in (1, 2, 3):
            epoch(run, lines, number)
            assert stream.flushed[-1].count("\n") == number, name


def test_other_processes_print_nothing() -> None:
    printed: list[str] = []
    run, lines = fake_run(), EpochLines(printed.append)
    run.team.is_first, run.note, run.stopped = False, "goes on", "stopped"
    lines.start(run)
    epoch(run, lines, 1)
    lines.end(run)
    assert printed == []


def test_work_that_fails_has_no_end() -> None:
    stream = io.StringIO()

    def fail() -> None:
        with progress(Console(file=stream), "counting [red]", 3) as advance:
            advance(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stream.getvalue() == "counting [red] ...\n"
