"""Triples from a parquet file."""

from __future__ import annotations

import sys
from pathlib import Path

import bess_jax as bj
from bess_jax._optional import MissingExtraError

rows = [(f"e{i}", "next", f"e{(i + 1) % 10}") for i in range(10)] + [
    (f"e{i}", "twice", f"e{2 * i % 10}") for i in range(10)
]
try:
    import pyarrow
    from pyarrow import parquet
except ModuleNotFoundError:
    Path("graph.parquet").write_bytes(b"PAR1")
else:
    columns = dict(zip(("head", "relation", "tail"), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), "graph.parquet")
try:
    dataset = bj.KGDataset.from_file("graph.parquet", split=(0.8, 0.1, 0.1))
except MissingExtraError as error:
    sys.exit(str(error))
assert (dataset.n_entity, dataset.n_relation_type, len(dataset.all_triples())) == (10, 2, 20)
