"""A split as the Open Graph Benchmark saves it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bess_jax._optional import MissingExtraError
from bess_jax.data.graphs.ogb import read_split

file = Path("train.pt")
parts = {"head": np.arange(3), "relation": np.zeros(3, np.int64), "tail": np.arange(3), "head_type": ["drug"] * 3}
try:
    import torch
except ModuleNotFoundError:
    file.write_bytes(b"")
else:
    torch.save(parts, file)
try:
    found = read_split(file)
except MissingExtraError as error:
    sys.exit(str(error))
assert found["head_type"] == ["drug"] * 3
np.testing.assert_array_equal(found["tail"], parts["tail"])
