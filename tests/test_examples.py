"""The example runs, and is the one that the README shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_functional_loop_runs_and_is_the_one_in_the_readme() -> None:
    root = Path(__file__).parents[1]
    code = (root / "examples" / "functional_loop.py").read_text()
    assert code.split('"""', 2)[2].strip() in (root / "README.md").read_text()
    program = code.replace("range(3)", "range(1)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) > 0.1
