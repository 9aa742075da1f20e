"""A report of a run, as a page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tiny

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.report.runs import check

try:
    check()
except MissingExtraError as error:
    sys.exit(str(error))
tiny.dataset().save(Path("graph.npz"))
bj.fit(tiny.config("graph.npz"), run="run", callbacks=())
done = subprocess.run([sys.executable, "-m", "bess_jax", "report", "run"], capture_output=True, text=True, check=False)
if done.returncode:
    sys.exit(done.stderr)
assert "<h1" in Path("report.html").read_text(encoding="utf-8")
