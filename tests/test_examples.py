"""The examples run and learn something, and the one that the README shows is the one there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
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
    "ipu_loop": ({'default="ipu"': 'default="cpu"'}, [("validation MRR", 0.4)]),
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


def kinds(notebook: nbformat.NotebookNode) -> list[list[tuple[str, list[str]]]]:
    """What each cell gave: kinds of output, and in which formats; "stderr" for what is printed there."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[(out.get("name", out.output_type), sorted(out.get("data", ()))) for out in cell.outputs] for cell in code]


EXECUTE = """
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
kernel = AsyncKernelManager(transport="ipc", ip=sys.argv[3])
NotebookClient(notebook, km=kernel, timeout=300, coalesce_streams=True).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.long
def test_notebook_runs_and_its_outputs_are_stored(tmp_path: Path) -> None:
    stored = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    nbformat.validate(stored)
    done = tmp_path / "done.ipynb"
    folders = ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    environ = os.environ | {name: str(tmp_path / name) for name in folders}  # whatever is set up at home
    environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the kernel's debugger would warn of frozen modules
    command = [sys.executable, "-c", EXECUTE, "first_steps.ipynb", str(done), str(tmp_path / "kernel")]
    run = subprocess.run(command, cwd=EXAMPLES, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    executed = nbformat.read(done, as_version=4)
    assert kinds(executed) == kinds(stored)
    assert not any(name in ("stderr", "error") for cell in kinds(stored) for name, _ in cell)
    printed = "".join(out.text for cell in executed.cells for out in cell.get("outputs", ()) if "text" in out)
    assert float(re.findall(r"MRR (\d\.\d+)", printed)[-1]) > 0.5


def test_functional_loop_is_the_one_in_the_readme() -> None:
    code = (EXAMPLES / "functional_loop.py").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Your own training loop\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    assert code.split('"""', 2)[2].strip() == "\n".join(blocks).strip()
    assert len([line for line in blocks[0].splitlines() if line]) <= 30
