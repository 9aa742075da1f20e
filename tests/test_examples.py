"""The example runs, and is the one that the README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_functional_loop_runs_and_is_the_one_in_the_readme() -> None:
    code = (ROOT / "examples" / "functional_loop.py").read_text()
    section = (ROOT / "README.md").read_text().split("\n## Your own training loop\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    assert code.split('"""', 2)[2].strip() == "\n".join(blocks).strip()
    assert len([line for line in blocks[0].splitlines() if line]) <= 30
    program = code.replace("range(3)", "range(1)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) > 0.1
