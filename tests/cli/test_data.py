"""The command `data`: the card it shows, what it writes, and that it needs no JAX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import bess_jax as bj
from bess_jax.cli import show
from bess_jax.cli.main import BAD_INPUT, main
from bess_jax.cli.output import CONTROL, warnings_as_lines

CSV = """source,score,type,target
"Ann, Dr.",1,knows,Bob
Bob,1,knows,"Ann, Dr."
Bob,1,knows,"Ann, Dr."
bob,1,likes,Carl
Carl,1,likes,"Ann, Dr."
Carl,1,knows,Bob
Carl,1,knows,Carl
Bob,1,likes,Carl
"Ann, Dr.",1,likes,Carl
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "people.csv"
    file.write_text(CSV)
    return file


def read_json(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main(["data", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_card(nations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["data", str(nations)]) == 0
    out = capsys.readouterr().out
    for line in (
        "entities    14",
        "relations   55",
        "triples     train 1,592, valid 199, test 201",
        "as head     110  156  174  175     11%  usa",
        "as tail     102  196  245  249     16%  usa",
        "128 to 255         8  █████████████████████████",
        "joined_reversed: 201 of 201 triples of test have their two",
        "rare_relations: 15 of 55 relations",
    ):
        assert line in out
    _, *lines = out.splitlines()
    assert max(map(len, lines)) <= 60


def test_card_without_unicode(nations: Path) -> None:
    """Bars are of letters that the output has."""
    run = subprocess.run(
        [sys.executable, "-m", "bess_jax", "data", str(nations)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0
    assert b"8  ######" in run.stdout
    assert run.stderr == b""


def test_json(nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json([str(nations)], capsys)
    dataset = bj.load_dataset(nations)
    record = json.loads(json.dumps(bj.describe(dataset).record()))
    assert found == {"dataset": str(nations), **record, "digest": dataset.digest()}


def test_no_jax(nations: Path, tmp_path: Path) -> None:
    """It answers before JAX would be imported; so do its errors."""
    code = f"""
import sys
from bess_jax.cli.main import main
print(main(["data", {str(nations)!r}, "--out", {str(tmp_path / "out")!r}]), main(["data", "absent"]))
print([name for name in ("jax", "jaxlib", "flax", "optax", "pandas", "pyarrow", "scipy") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.splitlines()[-2:] == [f"0 {BAD_INPUT}", "[]"]


def test_a_table_is_split_and_converted(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(table), "--columns", "source,type,target", "--split", "0.5,0.25,0.25", "--seed", "1"]
    assert main(["data", *options, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: ")
    assert "1 of 9 triples" in printed.err
    assert printed.err.count("\n") == 1
    assert f"written: {tmp_path / 'out'}" in printed.out
    assert {*os.listdir(tmp_path / "out")} == {"train.tsv", "valid.tsv", "test.tsv"}
    found = read_json([str(tmp_path / "out")], capsys)
    assert found["n_triple"] == {"train": 4, "valid": 2, "test": 2}
    assert found["findings"][-1]["examples"] in (["'bob' / 'Bob'"], ["'Bob' / 'bob'"])
    written = read_json([*options, "--out", str(tmp_path / "again")], capsys)
    assert written["digest"] == found["digest"]
    saved = read_json([*options, "--out", str(tmp_path / "graph.npz")], capsys)
    assert bj.load_dataset(tmp_path / "graph.npz").digest() == saved["digest"]
    options[-1] = "2"
    assert read_json([*options, "--out", str(tmp_path / "other")], capsys)["digest"] != found["digest"]


def test_what_is_there_is_not_overwritten(nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("folder", "graph.npz"):
        (tmp_path / name).mkdir()
        assert main(["data", str(nations), "--out", str(tmp_path / name)]) == BAD_INPUT
        assert "exists already" in capsys.readouterr().err
    assert main(["data", str(nations), "--out", str(tmp_path / "absent" / "folder")]) == BAD_INPUT
    assert "--out must be a new file or folder in an existing folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--split", "0.5,0.6,0.1"], "split must be three parts of at least 0 that add up to 1"),
        (["--split", "half"], "split must be three parts"),
        (["--columns", "source,type"], "columns must be three of a file"),
        (["--columns", "source,type,nobody"], "nobody"),
    ],
)
def test_wrong_options(table: Path, options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(table), *options]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert text in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("name", ["a.csv", "a.NPZ", "a.tsv.gz", "a.parquet", "nowhere/a", "people.csv/a"])
def test_where_no_graph_is_written(name: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [*table.parent.iterdir()]
    assert main(["data", "nations", "--out", str(table.parent / name)]) == BAD_INPUT
    assert capsys.readouterr().err.startswith("error: --out must ")
    assert [*table.parent.iterdir()] == before


def test_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no markup and control no terminal, in the card, in findings and in warnings."""
    bad = "\x1b]0;title\x07[red]x[/] :smile:"
    rows = "".join(f"{h}{bad}\t{bad}\t{t}\n" for h, t in ((1, 1), (1, 2), (2, 1)))
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_text(rows)
    (tmp_path / "types.tsv").write_text(f"1\t{bad}\n")
    assert main(["data", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert not {chr(number) for number in CONTROL} & {*printed.out.replace("\n", ""), *printed.err.replace("\n", "")}
    assert "[red]x[/] :smile:" in printed.out
    assert "warning: " in printed.err
    assert "\\x1b]0;title\\x07" in printed.err


def test_warnings_about_files_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_lines():
        for _ in range(2):
            warnings.warn("one\ntwo", bj.DataWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="other"):
            warnings.warn("other", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: one\\ntwo\n" * 2
    with pytest.raises(bj.DataWarning):
        warnings.warn("after", bj.DataWarning, stacklevel=1)


def test_findings_of_a_graph_that_is_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = bj.KGDataset(n_entity=2, n_relation_type=1, triples={"train": np.array([[1, 0, 1]] * 10, np.int32)})
    show.findings(Console(width=20), dataset)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "warning: 9 of 10 triples of train repeat an earlier one of it, such as (1, 0, 1)"
    assert second.startswith("warning: 10 of 10 triples join an entity with itself")
