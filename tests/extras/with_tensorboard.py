"""The numbers of a run in TensorBoard's files."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny

from bess_jax._optional import MissingExtraError
from bess_jax.run.trackers import TensorBoard

try:
    tracker = TensorBoard()
except MissingExtraError as error:
    sys.exit(str(error))
assert tracker.open(tiny.run(Path("run")))
tracker.send(1, {"train/loss": 0.5, "valid/both.hits@10": 0.25})
tracker.close(is_good=True)
assert b"valid/both.hits@10" in next(Path("run", "tensorboard").glob("*tfevents*")).read_bytes()
