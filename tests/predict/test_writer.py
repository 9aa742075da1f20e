"""Answers to many queries, in files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared.trained import SIDES, Trained

import bess_jax as bj
from bess_jax.predict import predictor as predictor_module

SUFFIXES = [".jsonl", ".parquet", ".csv", ".tsv"]


def mixed_queries(dataset: bj.KGDataset, n: int) -> list[tuple[str, ...]]:
    """Queries of all sides, one after the other."""
    found = []
    for number, (h, r, t) in enumerate(dataset.triples["test"][:n].tolist()):
        row = [f"e{h}", f"r{r}", f"e{t}"]
        row[number % 3] = "?"
        found.append(tuple(row))
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_queries_are_answered_as_one_by_one(
    world: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import pandas as pd

    monkeypatch.setattr(predictor_module, "_HELD", 30)  # 8 queries at a time
    queries, file, out = mixed_queries(world.predictor.dataset, 30), tmp_path / "q.tsv.gz", tmp_path / f"a{suffix}"
    with gzip.open(file, "wt") as lines:
        lines.writelines("\t".join(row) + "\n" for row in queries)
    out.write_text("what was there")
    done: list[tuple[int, int]] = []
    for source in (file, queries):
        n = world.predictor.write_answers(
            source, out, k=3, new_only=True, probability="isotonic", progress=lambda *at: done.append(at)
        )
        assert n == 30
        assert sum(at[0] for at in done) == 30
        assert {at[1] for at in done} == {30}
        done.clear()
        expected = []
        for number, row in enumerate(queries):
            one = {name: value for name, value in zip(SIDES, row, strict=True) if value != "?"}
            table = world.predictor.top_k(**one, k=3, new_only=True, probability="isotonic")
            expected.append(table.frame().assign(query=number))
        every = pd.concat(expected, ignore_index=True)
        if suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(out), every, check_dtype=False, rtol=1e-5)
        elif suffix != ".jsonl":
            options = {"sep": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {}
            frame = pd.read_csv(out, keep_default_na=False, **options)
            pd.testing.assert_frame_equal(frame, every, check_dtype=False, rtol=1e-5)
        else:
            records = [json.loads(line) for line in out.read_text().splitlines()]
            assert [record["query"] for record in records] == list(range(30))
            flat = [answer["id"] for record in records for answer in record["answers"]]
            assert flat == every["id"].tolist()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, out.name])


def test_labels_with_delimiters_and_line_breaks(world: Trained, tmp_path: Path) -> None:
    """CSV gives them back; TSV has a line for each answer and escapes in it, and the id beside them."""
    label = 'a "b",\tc\rd\ne'
    odd = dataclasses.replace(world.predictor.dataset, entity_labels={"e0": label})
    predictor = dataclasses.replace(world.predictor, dataset=odd)
    for suffix in (".csv", ".tsv"):
        assert predictor.write_answers([("e0", "r0", "?")], tmp_path / f"a{suffix}", k=2) == 1
    with (tmp_path / "a.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert [answer["head"] for answer in answers] == [label, label]
    found = predictor.top_k("e0", "r0", k=2)
    scores = np.array([answer["score"] for answer in answers], np.float64).astype(np.float32)
    np.testing.assert_array_equal(scores, found.columns["score"])
    header, *lines = (tmp_path / "a.tsv").read_bytes().decode().removesuffix("\n").split("\n")
    for line, answer in zip(lines, answers, strict=True):
        shown = dict(zip(header.split("\t"), line.split("\t"), strict=True))
        assert shown == answer | {"head": 'a "b",\\tc\\rd\\ne'}


def test_nothing_half_written_stays(world: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "_HELD", 30)
    out = tmp_path / "a.jsonl"
    out.write_text("what was there")
    real, calls = bj.Predictor.answer, []

    def answer(self: bj.Predictor, *args: Any) -> Any:
        calls.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(bj.Predictor, "answer", answer)
    with pytest.raises(KeyboardInterrupt):
        world.predictor.write_answers(mixed_queries(world.predictor.dataset, 30), out, k=3)
    assert len(calls[-1]) == 2  # the part, beside what was there
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert out.read_text() == "what was there"


@contextlib.contextmanager
def small_files(n_byte: int) -> Iterator[None]:
    """No file may grow longer, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_byte, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk(world: Trained, tmp_path: Path, suffix: str) -> None:
    out, queries = tmp_path / f"a{suffix}", mixed_queries(world.predictor.dataset, 30)
    world.predictor.write_answers(queries, out, k=3)  # compiles, which writes files as well
    out.write_text("what was there")
    with small_files(1000), pytest.raises(OSError, match=f"a{suffix} cannot be written: .*File too large"):
        world.predictor.write_answers(queries, out, k=3)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "what was there"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folders_that_cannot_be_written_to_or_vanish(world: Trained, tmp_path: Path, suffix: str) -> None:
    queries = mixed_queries(world.predictor.dataset, 30)
    with pytest.raises(OSError, match=f"/proc/a{suffix} cannot be written: "):
        world.predictor.write_answers(queries, f"/proc/a{suffix}", k=3)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match=f"folder/a{suffix} cannot be written: No such file or directory"):
        world.predictor.write_answers(
            queries, folder / f"a{suffix}", k=3, progress=lambda *at: shutil.rmtree(folder, ignore_errors=True)
        )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Anna\tr0\n", "q.tsv, line 1: expected 3 non-empty columns"),
        ("Anna\tr0\t?\n\nAnna\tr0\tBen\n", "q.tsv, line 3: a query is .* with '[?]' for one of them, got"),
        ("?\tr0\t?\n", "q.tsv, line 1: a query is"),
        ("Anna\tr0\t?\nAnnna\tr0\t?\n", "q.tsv, line 2: no entity is named or labelled 'Annna'; nearest: 'Anna'"),
        ("Anna\t?\tBen\n", "k must be between 1 and the number of relations, 4, got 7"),
    ],
)
def test_malformed_queries(world: Trained, tmp_path: Path, text: str, message: str) -> None:
    file, out = tmp_path / "q.tsv", tmp_path / "out.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        world.predictor.write_answers(file, out, k=7)
    assert not out.exists()


def test_targets(world: Trained, tmp_path: Path) -> None:
    for target in (tmp_path / "a.xls", tmp_path / "a"):
        with pytest.raises(ValueError, match=r"out must end with one of \.parquet, \.jsonl, \.csv, \.tsv, got"):
            world.predictor.write_answers([], target)
    with pytest.raises(ValueError, match="out must be a file in an existing folder"):
        world.predictor.write_answers([], tmp_path / "no" / "a.jsonl")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match="out must be a file in an existing folder"):  # a rename would replace it
        world.predictor.write_answers([], tmp_path / "pipe.csv")
    assert world.predictor.write_answers([], tmp_path / "a.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_text() == ""
