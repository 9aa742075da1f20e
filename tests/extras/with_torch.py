"""A checkpoint as LibKGE saves it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import bess_jax as bj
from bess_jax._optional import MissingExtraError

file = Path("checkpoint.pt")
entity, relation = np.ones((5, 4), np.float32), np.zeros((2, 4), np.float32)
try:
    import torch
except ModuleNotFoundError:
    file.write_bytes(b"")
else:
    state = {
        "_entity_embedder._embeddings.weight": torch.tensor(entity),
        "_relation_embedder._embeddings.weight": torch.tensor(relation),
    }
    torch.save({"model": (state, {}), "config": {"model": "distmult", "distmult": {}}}, file)
try:
    tables = bj.from_libkge(file)
except MissingExtraError as error:
    sys.exit(str(error))
np.testing.assert_array_equal(tables.entity, entity)
np.testing.assert_array_equal(tables.relation, relation)
