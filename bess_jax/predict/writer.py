"""Answers of many queries, to files."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bess_jax._optional import require
from bess_jax.predict.table import AnswerTable, Columns, on_one_line, rows

Write = Callable[[AnswerTable, int], None]
"""Takes answers and the number of their first query."""


def check_target(path: Path) -> None:
    """Checks where answers are to be written, before they are computed.

    Raises:
        ValueError: if it is not a `.parquet`, `.jsonl`, `.csv` or `.tsv` file in an existing folder.
        MissingExtraError: for parquet without pyarrow.
    """
    if path.suffix not in _WRITERS:
        raise ValueError(f"out must end with one of {', '.join(_WRITERS)}, got {path}")
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):
        raise ValueError(f"out must be a file in an existing folder, got {path}")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "tables", "writing parquet")


@contextlib.contextmanager
def answer_writer(path: Path, with_probability: bool) -> Iterator[Write]:
    """Gives a function that appends answers to a file, which appears under its name when all are there.

    Until then it stands beside it, as `.NAME.PROCESS.part`; an error removes it. A file of that name is replaced.
    JSON lines hold `AnswerTable.by_query`; parquet, CSV and TSV hold `AnswerTable.columns`. TSV has no quotes: tabs and
    line breaks of labels are escapes in it.

    Args:
        path: a target that `check_target` accepts.
        with_probability: whether the answers have probabilities.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _WRITERS[path.suffix](part, with_probability) as write:
            yield write
        part.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _json_lines(path: Path, with_probability: bool) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(table: AnswerTable, first: int) -> None:
            for number, record in enumerate(table.by_query(), first):
                file.write(json.dumps({"query": number} | record, ensure_ascii=False) + "\n")

        yield write


@contextlib.contextmanager
def _parquet(path: Path, with_probability: bool) -> Iterator[Write]:
    pa, parquet = (require(module, "tables", "writing parquet") for module in ("pyarrow", "pyarrow.parquet"))
    types = {"query": pa.int64(), "place": pa.int32(), "id": pa.int32(), "score": pa.float32()}
    if with_probability:
        types["probability"] = pa.float64()
    schema = pa.schema([(name, types.get(name, pa.string())) for name in _columns(with_probability)])
    with parquet.ParquetWriter(path, schema) as file:

        def write(table: AnswerTable, first: int) -> None:
            query = np.asarray(table.columns["query"]) + first
            file.write_table(pa.table({**table.columns, "query": query}, schema=schema))

        yield write


@contextlib.contextmanager
def _csv(path: Path, with_probability: bool) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield _delimited(csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"), with_probability, str)


@contextlib.contextmanager
def _tsv(path: Path, with_probability: bool) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        yield _delimited(writer, with_probability, on_one_line)


def _delimited(writer: Any, with_probability: bool, text: Callable[[str], str]) -> Write:
    """Writes a header, and gives what writes a line for each answer, by a writer of the `csv` module."""
    names = _columns(with_probability)
    writer.writerow(names)

    def write(table: AnswerTable, first: int) -> None:
        shown: Columns = {**table.columns, "query": np.asarray(table.columns["query"]) + first}
        shown["score"] = [float(f"{score:.9g}") for score in table.columns["score"]]  # all the digits of a float32
        for row in rows({name: shown[name] for name in names}):
            writer.writerow([text(value) if isinstance(value, str) else value for value in row.values()])

    return write


def _columns(with_probability: bool) -> list[str]:
    names = ("query", "place", "head", "relation", "tail", "score", "probability", "splits", "id", "name")
    return [name for name in names if name != "probability" or with_probability]


_WRITERS = {".parquet": _parquet, ".jsonl": _json_lines, ".csv": _csv, ".tsv": _tsv}
"""How files are written, by their endings."""
