"""PyTorch's files: a checkpoint of LibKGE, and a split of the Open Graph Benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.data.graphs.ogb import read_split

checkpoint, split = Path("checkpoint.pt"), Path("train.pt")
entity, relation = np.ones((5, 4), np.float32), np.zeros((2, 4), np.float32)
parts = {"head": np.arange(3), "relation": np.zeros(3, np.int64), "tail": np.arange(3), "head_type": ["drug"] * 3}
try:
    import torch
except ModuleNotFoundError:
    checkpoint.write_bytes(b"")
    split.write_bytes(b"")
else:
    state = {
        "_entity_embedder._embeddings.weight": torch.tensor(entity),
        "_relation_embedder._embeddings.weight": torch.tensor(relation),
    }
    torch.save({"model": (state, {}), "config": {"model": "distmult", "distmult": {}}}, checkpoint)
    torch.save(parts, split)
told = []
for read in (lambda: bj.from_libkge(checkpoint), lambda: read_split(split)):
    try:
        read()
    except MissingExtraError as error:
        told.append(str(error))
if told:
    assert len(told) == 2, told
    sys.exit(told[0])
tables, found = bj.from_libkge(checkpoint), read_split(split)
np.testing.assert_array_equal(tables.entity, entity)
np.testing.assert_array_equal(tables.relation, relation)
assert found["head_type"] == ["drug"] * 3
np.testing.assert_array_equal(found["tail"], parts["tail"])
