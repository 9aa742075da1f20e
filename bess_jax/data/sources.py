"""Triples from files of any format, told by the name of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bess_jax._typing import Int32Array
from bess_jax.data.text import read_columns
from bess_jax.data.vocabulary import Vocabulary

PACKED = ("", ".gz", ".bz2", ".zst")
TEXT = (".txt", ".tsv", ".csv", ".nt", ".ttl")
ENDINGS = (*(f"{text}{packed}" for text in TEXT for packed in PACKED), ".parquet", ".npy", ".npz")
"""Endings of the files that `read_triples` reads."""


def is_triples_file(name: str | Path) -> bool:
    """Whether a file is called like one that `read_triples` reads."""
    return Path(name).name.lower().endswith(ENDINGS)


def read_triples(file: Path, vocabulary: Vocabulary, columns: Sequence[str | int] | None = None) -> Int32Array:
    """Triples (n, 3) int32 of a file in the order of its lines; names get the ids of `vocabulary`.

    Raises:
        DataError: if something is wrong with the file.
    """
    rows = [row for _, row in read_columns(file, 3)]
    heads, relations, tails = zip(*rows, strict=True) if rows else ((), (), ())
    return np.asarray(vocabulary.ids(heads, relations, tails))
