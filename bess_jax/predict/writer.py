"""Answers of many queries, to files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bess_jax._optional import require
from bess_jax.predict.table import AnswerTable

Write = Callable[[AnswerTable, int], None]
"""Takes answers and the number of their first query."""


def check_target(path: Path) -> None:
    """Checks where answers are to be written, before they are computed.

    Raises:
        ValueError: if it is not a `.parquet` or `.jsonl` file in an existing folder.
        MissingExtraError: for parquet without pyarrow.
    """
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"out must end with .parquet or .jsonl, got {path}")
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"out must be a file in an existing folder, got {path}")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "frames", "writing parquet")


@contextlib.contextmanager
def answer_writer(path: Path, with_probability: bool) -> Iterator[Write]:
    """Gives a function that appends answers to a file, which appears under its name when all are there.

    Until then it stands beside it, as `.NAME.PROCESS.part`; an error removes it. A file of that name is replaced.
    JSON lines hold `AnswerTable.by_query`, parquet holds `AnswerTable.columns`.

    Args:
        path: a target that `check_target` accepts.
        with_probability: whether the answers have probabilities.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        writer = _parquet if path.suffix == ".parquet" else _json_lines
        with writer(part, with_probability) as write:
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
    pa, parquet = (require(module, "frames", "writing parquet") for module in ("pyarrow", "pyarrow.parquet"))
    types = {"query": pa.int64(), "place": pa.int32(), "id": pa.int32(), "score": pa.float32()}
    if with_probability:
        types["probability"] = pa.float64()
    names = ("query", "place", "head", "relation", "tail", "score", "probability", "splits", "id", "name")
    kept = [name for name in names if name != "probability" or with_probability]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in kept])
    with parquet.ParquetWriter(path, schema) as file:

        def write(table: AnswerTable, first: int) -> None:
            query = np.asarray(table.columns["query"]) + first
            file.write_table(pa.table({**table.columns, "query": query}, schema=schema))

        yield write
