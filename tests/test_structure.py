"""What the package's files may contain and import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bess_jax

PACKAGE = Path(bess_jax.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

# A module may import those above it. In `scoring`, models stand beside each other.
ORDER = (
    *("_typing", "_checks", "_optional", "_numerics"),
    *("dataset", "datasets", "sharding", "negative_sampler", "batch_sampler"),
    *(
        "embedding",
        "spmd",
        "compilation",
        "loader",
        "scoring.pairs",
        "scoring.combine",
        "scoring.base",
        "scoring.*",
        "scoring",
        "loss",
        "metric",
    ),
    *("bess", "score_moving", "inference", "answers", "ranks", "query_layout", "queries"),
    *("optim", "precision", "accumulation", "config", "checkpoint", "train", "models", "pipeline", "all_scores"),
    *("similarity", "calibrate", "tables", "questions", "streaming", "judge", "predictor"),
    *("experiment", "report", "commands", "cli", "__main__", "bench"),
)
MAY_IMPORT_THE_PACKAGE = ("cli", "__main__", "bench")  # `from bess_jax import KGDataset`, as users do


def module_of(file: str) -> str:
    """Dotted name below the package: "scoring.base", "datasets"."""
    return re.sub(r"(/__init__)?\.py$", "", file).replace("/", ".")


def rank(module: str) -> int:
    """Place of a module in ORDER."""
    parent = module.split(".")[0]
    for name in (module, f"{parent}.*", parent):
        if name in ORDER:
            return ORDER.index(name)
    raise AssertionError(f"bess_jax.{module} is not in ORDER")


def imports_of(tree: ast.Module) -> list[str]:
    """What a file imports from the package, "" being the package itself."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    below = [name.removeprefix("bess_jax").removeprefix(".") for name in found if re.match(r"bess_jax(\.|$)", name)]
    modules = {module_of(file) for file in FILES if file != "__init__.py"}

    def module_in(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    return [module_in(name) for name in below]


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_point_upwards(file: str) -> None:
    module = module_of(file)
    for imported in imports_of(TREES[file]):
        if imported == "":
            assert module.split(".")[0] in MAY_IMPORT_THE_PACKAGE, "imports the package itself"
            continue
        beside = ORDER[rank(module)] in ("scoring.*", "bench") and rank(imported) == rank(module)
        assert rank(imported) < rank(module) or (beside and imported != module), f"imports {imported}"


def test_imports_are_seen() -> None:
    """The test above can fail."""
    source = (
        "from bess_jax import _checks, TransE\nfrom bess_jax.scoring.base import X\nimport bess_jax.bess\nimport os\n"
    )
    assert imports_of(ast.parse(source)) == ["_checks", "", "scoring.base", "bess"]
    assert rank("scoring.base") < rank("scoring.bilinear") < rank("scoring") < rank("bess")
    with pytest.raises(AssertionError, match="unheard_of"):
        rank("unheard_of")


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
    assert len(FILES[file].read_text(encoding="utf-8").splitlines()) <= 450


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
heavy |= {"tyro", "tomli_w", "orbax", "scipy", "torch", "tensorflow", "hypothesis", "pytest"}
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
    """The package alone imports nothing, data and samplers neither Flax nor Optax."""
    code = """
import sys
import bess_jax
print(sorted({"jax", "flax", "optax", "chex", "numpy"} & set(sys.modules)), len(sys.modules) < 300)
bess_jax.load_dataset, bess_jax.KGDataset, bess_jax.Sharding, bess_jax.PartitionedTripleSet
bess_jax.RigidShardedBatchSampler, bess_jax.RandomShardedNegativeSampler, bess_jax.merge_ids, bess_jax.prefetch
print(sorted({"flax", "optax"} & set(sys.modules)), "jax" in sys.modules)
bess_jax.ComplEx
print("flax" in sys.modules)
"""
    assert run_python(code) == ["[] True", "[] True", "True"]


def test_names_of_the_package() -> None:
    """What type checkers read and what is imported on first use are the same names, and all of them exist."""
    block = next(node for node in TREES["__init__.py"].body if isinstance(node, ast.If))
    read = [(node.module, node.names[0].name, node.names[0].asname) for node in block.body]
    assert read == [(f"bess_jax.{module}", name, name) for module, names in bess_jax._NAMES.items() for name in names]
    for name in bess_jax.__all__:
        assert getattr(bess_jax, name) is getattr(bess_jax, name)
    assert set(bess_jax.__all__) <= set(dir(bess_jax))
    assert bess_jax.scoring.ComplEx is bess_jax.ComplEx
    with pytest.raises(AttributeError, match="module 'bess_jax' has no attribute 'Complex'"):
        bess_jax.Complex  # noqa: B018
