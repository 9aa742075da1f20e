"""What is printed: hostile labels and paths do no harm, and outputs that are closed or full end no command half way."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shared.commands import SMALL, train

from bess_jax.cli import main as main_module
from bess_jax.cli.main import BAD_INPUT, FAILED, main
from bess_jax.cli.output import CONTROL, Output, shell_word, visible

TITLE = "\x1b]0;title\x07"
"""Changes the title of a terminal's window; nothing that rich prints begins like that."""

HOSTILE = (
    "[red]r[/]",
    "[/bold]",
    "[[x]",
    "*",
    "a  b",
    "-x",
    f"{TITLE}osc",
    "\x9b31mcsi",
    "\u202egnirts\u2066",
    "\x08\x7fback",
    ":smile:",
    "\\[y]",
    "é☃",
    "%s {0} {task}",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name is hostile too, with a graph and a run of it."""
    folder = tmp_path_factory.mktemp("hostile") / f"[x] *red* [red] {TITLE.replace('/', '')}"
    (folder / "graph").mkdir(parents=True)
    rng = np.random.default_rng(0)
    triples = np.unique(rng.integers([14, 14, 14], size=(300, 3)), axis=0)
    for split, ids in zip(("train", "valid", "test"), np.split(rng.permutation(triples), [200, 240]), strict=True):
        rows = ("\t".join(HOSTILE[i] for i in row) + "\n" for row in ids)
        (folder / "graph" / f"{split}.tsv").write_text("".join(rows), encoding="utf-8")
    assert train(folder / "graph", folder / "run", "--n-epoch", "1") == 0
    return folder


def harmless(text: str) -> bool:
    """Whether nothing of it, but for line ends, controls a terminal."""
    return not {chr(number) for number in CONTROL} & set(text.replace("\n", ""))


COMMANDS: dict[str, tuple[str, ...]] = {
    "evaluate": ("--per", "relation", "--classification", "--sides", "head", "relation", "tail"),
    "predict": ("--head", f"{TITLE}osc", "--relation", "[red]r[/]", "-k", "14", "--probability", "platt"),
    "similar": ("--entity=[/bold]", "-k", "13"),
    "score": ("--head", "\x9b31mcsi", "--relation", "*", "--tail=-x", "--classify"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_labels_are_shown_as_they_are_or_escaped(
    command: str, hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    args = [command, str(hostile / "run"), *COMMANDS[command]]
    assert main(args) == 0
    table = capsys.readouterr()
    assert harmless(table.out + table.err)
    assert main([*args, "--json"]) == 0
    printed = capsys.readouterr()
    assert harmless(printed.out + printed.err)
    document = json.loads(printed.out)
    assert document["run"] == str(hostile / "run")
    found = {text for text in strings(document) if text in HOSTILE}
    assert len(found) >= (3 if command == "score" else 13)
    for label in found:
        assert visible(label) in table.out, label


def strings(value: Any) -> list[str]:
    """All strings in a JSON document."""
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in strings(item)] if isinstance(value, list) else [value]


def test_terminals_get_the_escapes_of_tables_alone(
    hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    queries = hostile / "[q] *.tsv"
    queries.write_text("[red]r[/]\t*\t?\n", encoding="utf-8")
    out = hostile / "[red] answers.jsonl"
    run = str(hostile / "run")
    for args in (
        ["evaluate", run, "--per", "relation"],
        ["predict", run, "--head", "[red]r[/]", "--relation", "*"],
        ["predict", run, "--queries", str(queries), "--out", str(out)],
        ["train", "--resume", run, "--n-epoch", "2"],
    ):
        assert main(args) == 0
        printed = capsys.readouterr()
        assert "\x1b[" in printed.out  # a terminal, to rich
        assert TITLE not in printed.out + printed.err
        assert "\x9b" not in printed.out + printed.err
    assert json.loads(out.read_text())["head"] == "[red]r[/]"


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["evaluate", f"{TITLE}[red]nowhere\n"], BAD_INPUT, r"\x1b]0;title\x07[red]nowhere\n"),
        (["predict", "RUN", "--head", f"{TITLE}\nosd", "--relation", "*"], BAD_INPUT, r"\nosd"),
        (["predict", "RUN", "--head=[red]s[/]", "--relation", "*"], BAD_INPUT, "nearest: '[red]r[/]'"),
        (["predict", "RUN", "--head", "*", "--relation", "*", "--candidates", f"{TITLE}c"], BAD_INPUT, r"\x07c"),
        (["train", "--dataset", f"{TITLE}[x]"], BAD_INPUT, r"title\x07[x]"),
        (["train", "--dataset", f"LOOP{TITLE}"], BAD_INPUT, r"title\x07"),
        (["predict", "RUN", "--head", "*", "--relation", "*", "-k", "9" * 30], BAD_INPUT, "k must be between 1 and"),
        (["train", "--config", f"{TITLE}[x].toml"], BAD_INPUT, r"title\x07[x].toml"),
        (["train", "--resume", f"{TITLE}[x]"], BAD_INPUT, r"title\x07[x]"),
    ],
)
def test_errors_are_one_line(
    args: list[str],
    code: int,
    text: str,
    hostile: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(f"LOOP{TITLE}", f"LOOP{TITLE}")  # to itself
    assert main([str(hostile / "run") if arg == "RUN" else arg for arg in args]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert text in printed.err
    assert harmless(printed.out + printed.err)


def test_visible_text_and_words_of_a_shell() -> None:
    assert visible("a\tb\nc\x1b[0m\x9b\u202e\u2069é [x]") == r"a\tb\nc\x1b[0m\x9b\u202e\u2069é [x]"
    assert shell_word(Path("runs/a")) == "runs/a"
    assert shell_word("-x") == "./-x"
    assert shell_word("a b*") == "'a b*'"


# --- outputs that fail ------------------------------------------------------------------------------------------------


class Broken(io.StringIO):
    """A stream that cannot be written for a while."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


def test_output_drops_what_cannot_be_written_and_goes_on() -> None:
    stream = Broken()
    output = Output(stream)
    print("one", file=output)
    stream.error = OSError(errno.ENOSPC, "No space left on device")
    print("two", file=output)
    stream.error = None
    print("three", file=output)
    assert stream.getvalue() == "one\nthree\n"
    assert output.error is not None
    assert output.error.errno == errno.ENOSPC
    assert Output(None).error is not None
    print("nothing", file=Output(None))


def test_no_stream_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python has it, if they were closed before it began."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["score", str(run), "--head", "usa", "--relation", "treaties", "--tail", "uk"]) == FAILED
    assert main(["score", str(run)]) == BAD_INPUT
    assert sys.stdout is None


def command(text: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, within a line of a shell."""
    line = text.replace("COMMAND", '"$0" -m bess_jax "$@"')
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}", sys.executable, *args], capture_output=True, text=True, check=False
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "errors"),
    [
        ("COMMAND | true", [""]),
        ("COMMAND > /dev/full", ["error: No space left on device: standard output\n"]),
        ("COMMAND >&-", ["error: Bad file descriptor: standard output\n"]),
        ("COMMAND >&- 2>&- <&-", [""]),
    ],
)
@pytest.mark.parametrize("json", ["", "--json"])
def test_answers_that_cannot_be_printed_are_a_failure(run: Path, line: str, errors: list[str], json: str) -> None:
    done = command(line, "score", str(run), "--head", "usa", "--relation", "treaties", "--tail", "uk", *json.split())
    assert (done.returncode, done.stderr) in [(FAILED, text) for text in errors]


@pytest.mark.long
@pytest.mark.parametrize("line", ["COMMAND | head -1", "COMMAND > /dev/full 2> /dev/full", "COMMAND >&- 2>&- <&-"])
def test_training_needs_no_output(tmp_path: Path, nations: Path, line: str) -> None:
    args = ("train", "--dataset", str(nations), *SMALL, "--n-epoch", "2", "--run", str(tmp_path / "run"))
    done = command(line, *args)
    assert done.returncode == 0
    assert "Exception ignored" not in done.stderr
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["split"] == "test"
    assert main(["evaluate", str(tmp_path / "run")]) == 0


# --- errors that are no one's fault here ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a b"), FAILED, "No such file or directory: a b"),
        (OSError("it broke"), FAILED, "it broke"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), FAILED, None),
        (MemoryError(), FAILED, "out of memory"),
        (MemoryError("Unable to allocate 7 TiB"), FAILED, "out of memory: Unable to allocate 7 TiB"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 bytes\nmore"),
            FAILED,
            "out of memory: RESOURCE_EXHAUSTED: 8 bytes",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: Out of memory"), FAILED, "out of memory: INTERNAL: Out of memory"),
        (OverflowError("too large"), BAD_INPUT, "too large"),
        (RecursionError("too deep"), BAD_INPUT, "too deep"),
        (main_module.zlib.error("Error -3"), BAD_INPUT, "Error -3"),
        (EOFError(), BAD_INPUT, "EOFError"),
    ],
)
def test_exit_codes(
    error: Exception, code: int, text: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(main_module, "read_command", fail)
    assert main(["score"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {text}") if text else not printed
    assert printed.count("\n") == (text is not None)


def test_faults_of_programs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setattr(main_module, "read_command", fail)
    with pytest.raises(jax.errors.JaxRuntimeError):
        main(["score"])


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
def test_more_memory_than_there_is(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(nations, tmp_path / "run", "--embedding-size", "99999999999") == FAILED
    assert "error: out of memory" in capsys.readouterr().err


def test_absent_platform(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(nations, tmp_path / "run", "--platform", "tpu") == BAD_INPUT
    assert "error: platform must be one" in capsys.readouterr().err
    assert train(nations, tmp_path / "run", "--platform", "ipu") == BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert "IPUs need the JAX of graphcore-research/jax-experimental" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefix", ["./", "="])
def test_names_that_begin_like_options(
    prefix: str, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(nations, "-x")
    dataset = ["--dataset=-x"] if prefix == "=" else ["--dataset", "./-x"]
    folder = ["--run=-r"] if prefix == "=" else ["--run", "./-r"]
    assert main(["train", *SMALL, *dataset, *folder, "--n-epoch", "1"]) == 0
    assert "evaluate ./-r)" in capsys.readouterr().out
    assert main(["evaluate", "./-r"]) == 0


def test_a_working_directory_that_has_gone(tmp_path: Path) -> None:
    code = f"""
import os, sys
from bess_jax.__main__ import main
os.chdir({str(tmp_path)!r})
os.rmdir({str(tmp_path)!r})
sys.argv[1:] = ["evaluate", "run"]
sys.exit(main())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert done.stderr == "error: the working directory has gone: change to another one\n"
