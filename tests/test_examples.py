"""The examples run and learn something, and the one that the README shows is the one there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# What is shorter in the test than in the file, and what then is printed at the end of each: (name, more than)
SHORTER = {
    "functional_loop": ({"range(3)": "range(1)"}, [("validation MRR", 0.1)]),
    "own_data": ({"N_EPOCH = 40": "N_EPOCH = 20"}, [("test MRR", 0.3)]),
    "typed_training": ({"N_EPOCH = 10": "N_EPOCH = 4"}, [("hits@10", 0.4), ("mrr", 0.15)]),
    "top_k": ({"N_EPOCH = 20": "N_EPOCH = 8"}, [("hits@10", 0.25), ("mrr", 0.08)]),
    "all_scores": ({"N_EPOCH = 30": "N_EPOCH = 10"}, [("hits@10", 0.6), ("mrr", 0.3)]),
    "half_precision": ({"N_EPOCH = 8": "N_EPOCH = 6"}, [("hits@10", 0.4), ("mrr", 0.2)]),
}
"""Where answers are drawn at random, an MRR is below 0.1, and Hits@10 below 0.2."""


def test_all_examples_are_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHORTER, "small_graphs"}


@pytest.mark.long
@pytest.mark.parametrize("name", SHORTER)
def test_example_runs_and_learns(name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert code.startswith('"""')
    changes, printed = SHORTER[name]
    for long, short in changes.items():
        assert long in code
        code = code.replace(long, short)
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for metric, least in printed:
        found = re.findall(rf"^(?:.*, )?{re.escape(metric)} (\d\.\d+)", done.stdout, flags=re.MULTILINE)
        assert len(found) >= 1, done.stdout
        assert float(found[-1]) > least, done.stdout


def test_functional_loop_is_the_one_in_the_readme() -> None:
    code = (EXAMPLES / "functional_loop.py").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Your own training loop\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    assert code.split('"""', 2)[2].strip() == "\n".join(blocks).strip()
    assert len([line for line in blocks[0].splitlines() if line]) <= 30
