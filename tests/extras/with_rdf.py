"""Triples from N-Triples."""

from __future__ import annotations

import sys
from pathlib import Path

import bess_jax as bj
from bess_jax._optional import MissingExtraError

lines = [f"<x:{i}> <x:{p}> <x:{(i * k + 1) % 10}> .\n" for p, k in (("next", 1), ("twice", 2)) for i in range(10)]
Path("graph.nt").write_text("".join(lines))
try:
    dataset = bj.KGDataset.from_file("graph.nt", split=(0.8, 0.1, 0.1))
except MissingExtraError as error:
    sys.exit(str(error))
assert (dataset.n_entity, dataset.n_relation_type, len(dataset.all_triples())) == (10, 2, 20)
