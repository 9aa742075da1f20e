"""`benchmarks/gpu.py` runs here too, with small sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_a_stage_is_written(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--stages", "scatter", "--out", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["platform"] == "cpu"
    assert [row["rows"] for row in found["stages"]["scatter"]] == [64, 64, 64]
    assert (tmp_path / "found.md").read_text().count("| scatter |") == 3
