"""The numbers of a run in files for Weights & Biases."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tiny

from bess_jax._optional import MissingExtraError
from bess_jax.run.trackers import Wandb

os.environ["WANDB_MODE"] = "offline"
try:
    tracker = Wandb()
except MissingExtraError as error:
    sys.exit(str(error))
assert tracker.open(tiny.run(Path("run")))
tracker.send(1, {"train/loss": 0.5, "valid/both.hits@10": 0.25})
tracker.close(is_good=True)
assert any(Path("run", "wandb").rglob("*.wandb"))
