"""Triples from files of any format, told by the name of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bess_jax._typing import Int32Array
from bess_jax.data.files import PACKED, DataError
from bess_jax.data.formats.columnar import read_numpy, read_parquet
from bess_jax.data.formats.delimited import read_delimited
from bess_jax.data.formats.header import check_columns
from bess_jax.data.formats.rdf import read_rdf
from bess_jax.data.formats.vocabulary import Vocabulary

TEXT = (".tsv", ".txt", ".csv", ".nt", ".ttl")
ENDINGS = (*(f"{text}{packed}" for text in TEXT for packed in ("", *PACKED)), ".parquet", ".npy", ".npz")
"""Endings of the files that `read_triples` reads."""


def is_triples_file(name: str | Path) -> bool:
    """Whether a file is called like one that `read_triples` reads."""
    return Path(name).name.lower().endswith(ENDINGS)


def read_triples(file: Path, vocabulary: Vocabulary, columns: Sequence[str | int] | None = None) -> Int32Array:
    """Triples (n, 3) int32 of a file, in its order; names get the ids of `vocabulary`. See docs/data.md for the rules.

    Args:
        file: the file; the ending of its name tells the format.
        vocabulary: names and ids, to which those of the file are added.
        columns: which columns of a table are head, relation and tail: three names of its header, or three numbers
            from 0. None: those that are called so, else the three that there are.

    Raises:
        DataError: if something is wrong with the file, or it holds no triple.
        ValueError: if `columns` are not three different names or numbers.
        MissingExtraError: (an ImportError) if the format needs a library that is not installed.
    """
    check_columns(columns)
    endings = [suffix.lower() for suffix in file.suffixes]
    packed = bool(endings) and endings[-1] in PACKED
    ending = (endings[-2:-1] if packed else endings[-1:]) or [""]
    kind = ending[0]
    if kind in (".tsv", ".txt", ".csv"):
        triples = read_delimited(file, vocabulary, columns, is_csv=kind == ".csv")
    elif kind in (".nt", ".ttl"):
        triples = read_rdf(file, vocabulary, columns, is_turtle=kind == ".ttl")
    elif kind == ".parquet" and not packed:
        triples = read_parquet(file, vocabulary, columns)
    elif kind in (".npy", ".npz") and not packed:
        triples = read_numpy(file, vocabulary, columns)
    else:
        raise DataError(
            f"of a format that its name does not tell: expected an ending of {', '.join(TEXT)} (plain or "
            f"{', '.join(PACKED)}), .parquet, .npy or .npz",
            file,
        )
    if not len(triples):
        raise DataError("holds no triple", file)
    return triples
