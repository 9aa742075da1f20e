"""Which folder of the package may import which, and what its files may contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bess_jax

PACKAGE = Path(bess_jax.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

ROOT = ("_compat", "_typing", "_checks", "_optional", "_numerics")
STORY = (
    *ROOT,
    "data",
    "kernels",
    "scoring",
    "step",
    "update",
    "ask",
    "audit",
    "run",
    "predict",
    "report",
    "tune",
    "cli",
    "bench",
)
"""Folders, and the files beside them: each may import only from those before it, and a folder from itself."""

STRANGERS = {("ask", "update"), ("data", "_numerics")}
"""(who, what) that must not be imported all the same; `_numerics` is on devices."""

FACADES = ("__init__.py", "__main__.py", "init.py", "reference.py")
"""What users import; nothing inside does."""

NUMPY_ONLY = {"jax", "jaxlib", "flax", "optax", "chex"}
"""What `data` does without."""


def room(module: str) -> str:
    """The folder of a module of the package, or the file beside the folders: "step", "_checks"; "" for neither."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bess_jax" and len(parts) > 1 and parts[1] in STORY else ""


def imports_of(tree: ast.Module) -> set[str]:
    """Dotted names of all modules and names that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def against_the_rule(file: str, tree: ast.Module) -> list[str]:
    """What a file imports that it must not."""
    if file in FACADES:
        return []
    here = room("bess_jax." + file.removesuffix(".py").replace("/", "."))
    assert here, f"{file} is in no folder of the story"
    before = set(STORY[: STORY.index(here)]) | ({here} - set(ROOT))
    allowed = before - {what for who, what in STRANGERS if who == here}
    wrong = []
    for name in sorted(imports_of(tree)):
        root = name.split(".")[0]
        if here == "bench" and name == "bess_jax":
            continue  # `import bess_jax as bj`, as users do
        if (root == "bess_jax" and room(name) not in allowed) or (here == "data" and root in NUMPY_ONLY):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("file", FILES)
def test_imports_follow_the_story(file: str) -> None:
    assert against_the_rule(file, TREES[file]) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/loader.py", "import jax"),
        ("data/loader.py", "from bess_jax._numerics import norm"),
        ("scoring/base.py", "from bess_jax.step.collectives import exchange"),
        ("update/train.py", "from bess_jax.ask.ranker import Ranker"),
        ("ask/ranker.py", "def f():\n    from bess_jax.update import train"),
        ("run/config.py", "from bess_jax import cli"),
        ("step/bess.py", "from bess_jax import TransE"),
        ("step/bess.py", "import bess_jax"),
        ("_checks.py", "import bess_jax.data.dataset"),
        ("_compat.py", "from bess_jax import _checks"),
    ],
)
def test_the_rule_can_fail(file: str, line: str) -> None:
    """Each of these lines, added to the file, turns the test above red."""
    source = FILES[file].read_text(encoding="utf-8") + "\n" + line
    assert len(against_the_rule(file, ast.parse(source))) == 1


def test_every_folder_says_what_lives_there() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__", "recipes"}  # which is data
    assert folders == set(STORY) - set(ROOT)
    for folder in folders:
        assert len(ast.get_docstring(TREES[f"{folder}/__init__.py"]).splitlines()) >= 3, folder


@pytest.mark.parametrize("file", FILES)
def test_contents(file: str) -> None:
    """Checks are not asserts (`python -O` drops those), nothing is pickled, and files stay short."""
    for node in ast.walk(TREES[file]):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}: allow_pickle"
            assert node.value.value is False, f"line {node.lineno}: allow_pickle"
    text = FILES[file].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for word in ("noqa: B018", "object.__setattr__", "argsort(np.concatenate"):
        assert word not in text, word


@pytest.mark.parametrize("file", FILES)
def test_a_docstring_says_what_it_is_about(file: str) -> None:
    """None begins "The same", which only a reader of what stands before it understands."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert not node.value.value.startswith("The same"), f"line {node.lineno}"


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("scoring/")])
def test_a_model_is_known_to_its_own_file(file: str) -> None:
    """Nothing outside `scoring` asks which model it has."""
    models = {name for name, kind in vars(bess_jax.scoring).items() if isinstance(kind, type)} - {"BaseScoreFunction"}
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = {getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node.args[1])}
            assert not asked & models, f"line {node.lineno}"


def run_python(code: str) -> list[str]:
    """Lines that a new process prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_import_is_light() -> None:
    """Importing all of it starts no backend (their number can still be set) and leaves optional libraries out."""
    code = """
import sys
from bess_jax import *
import jax
heavy = {"pandas", "pyarrow", "sklearn", "matplotlib"}
heavy |= {"tyro", "tomli_w", "scipy", "torch", "tensorflow", "hypothesis", "pytest"}
print(sorted(heavy & set(sys.modules)))
jax.config.update("jax_num_cpu_devices", 3)
print(len(jax.devices("cpu")))
try:
    jax.config.update("jax_num_cpu_devices", 4)
except RuntimeError:
    print("too late")
"""
    assert run_python(code) == ["[]", "3", "too late"]


def test_import_waits_for_the_first_use() -> None:
    """The package alone imports no library; a graph, its batches and their ids need NumPy only."""
    code = """
import sys
import bess_jax as bj
print(sorted({"jax", "flax", "optax", "chex", "numpy"} & set(sys.modules)), len(sys.modules) < 300)
dataset = bj.load_dataset("wn18rr")
sharding = bj.Sharding.create(dataset.n_entity, 2, seed=0)
triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding)
negatives = bj.RandomShardedNegativeSampler(
    n_negative=2, sharding=sharding, seed=1, corruption_scheme="t", flat_negative_format=True
)
batches = bj.RigidShardedBatchSampler(
    partitioned_triple_set=triples, negative_sampler=negatives, shard_bs=4, batches_per_step=1, seed=2
)
print(bj.shard_major(bj.merge_ids(batches.batch(0, 0), sharding.max_entity_per_shard))["head"].shape)
print(sorted({"jax", "flax", "optax", "chex"} & set(sys.modules)))
bj.ComplEx
print("flax" in sys.modules)
"""
    assert run_python(code) == ["[] True", "(2, 1, 2, 2)", "[]", "True"]


def test_names_of_the_package() -> None:
    """Every public name stands once in the stub, is imported from there, and is documented."""
    assert len(bess_jax.__all__) == len(set(bess_jax.__all__))
    for name in bess_jax.__all__:
        value = getattr(bess_jax, name)
        assert value is getattr(bess_jax, name)
        assert value.__doc__, name
        assert name in dir(bess_jax)
    for facade in (bess_jax.init, bess_jax.reference):
        for name in (name for name in vars(facade) if not name.startswith("_")):
            assert name not in bess_jax.__all__
            assert getattr(bess_jax, name) is getattr(facade, name)  # users of BESS-KGE look for it here
            assert getattr(facade, name).__doc__, name
    assert bess_jax.scoring.ComplEx is bess_jax.ComplEx
    with pytest.raises(AttributeError, match="module 'bess_jax' has no attribute 'Complex'"):
        bess_jax.Complex  # noqa: B018
