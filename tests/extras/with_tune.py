"""A search of two trials."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny

import bess_jax as bj
from bess_jax._optional import MissingExtraError

tiny.dataset().save(Path("graph.npz"))
lines = [*tiny.settings("graph.npz"), "[space]", "learning_rate = [0.1, 0.2]", "[study]", "n_trial = 2"]
Path("space.toml").write_text("\n".join(lines))
try:
    study = bj.search("space.toml", "search")
except MissingExtraError as error:
    sys.exit(str(error))
assert study.best() is not None
assert Path("search/best.toml").is_file()
assert Path("search/study.html").is_file()
