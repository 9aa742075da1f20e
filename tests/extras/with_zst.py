"""Triples from a file that is packed with zstandard."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import bess_jax as bj
from bess_jax._optional import MissingExtraError

lines = [f"e{i}\t{p}\te{(i * k + 1) % 10}\n" for p, k in (("next", 1), ("twice", 2)) for i in range(10)]
packed = b"\x28\xb5\x2f\xfd"  # how such a file begins
try:
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    packed = zstd.compress("".join(lines).encode())
except ModuleNotFoundError:
    pass
Path("graph.tsv.zst").write_bytes(packed)
try:
    dataset = bj.KGDataset.from_file("graph.tsv.zst", split=(0.8, 0.1, 0.1))
except MissingExtraError as error:
    sys.exit(str(error))
assert (dataset.n_entity, dataset.n_relation_type, len(dataset.all_triples())) == (10, 2, 20)
