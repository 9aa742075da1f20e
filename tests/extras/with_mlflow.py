"""The numbers of a run in files of MLflow."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tiny

from bess_jax._optional import MissingExtraError
from bess_jax.run.trackers import Mlflow

os.environ |= {"MLFLOW_TRACKING_URI": Path("mlruns").absolute().as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
try:
    tracker = Mlflow()
except MissingExtraError as error:
    sys.exit(str(error))
assert tracker.open(tiny.run(Path("run")))
tracker.send(1, {"train/loss": 0.5, "valid/both.hits@10": 0.25})
tracker.close(is_good=True)
assert [path.read_text().split()[1] for path in Path("mlruns").rglob("metrics/train/loss")] == ["0.5"]
