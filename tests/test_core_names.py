"""The core keeps to what Python 3.8 and JAX 0.3.16 have, on which the IPU's JAX is built.

`make lint` finds newer syntax and newer names of the standard library (vermin, setup.cfg). Here is what it cannot see.
The names that the older libraries have stand in tests/ipu/names.txt, printed by tests/ipu/names.py.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Generic

import pytest

import bess_jax


def read_settings(section: str, option: str) -> list[str]:
    """Lines of an option in setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read_string((Path(__file__).parent.parent / "setup.cfg").read_text(encoding="utf-8"))
    return settings[section][option].split()


PACKAGE = Path(bess_jax.__file__).parent
ELSEWHERE = read_settings("vermin", "exclusion_regex")
"""Files that need not keep to it; why stands in setup.cfg."""

TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if not any(re.search(pattern, path.as_posix()) for pattern in ELSEWHERE)
}

NEWER_NAMES = {
    ("kernels/bodies.py", "jax.lax.platform_dependent"): "a choice that 0.3.16 does not leave",
    ("kernels/broadcast.py", "jax.lax.optimization_barrier"): "a body that is not chosen there",
    ("step/compiling.py", "jax.errors.JaxRuntimeError"): "options, which 0.3.16 has none of",
    ("step/compiling.py", "jax.sharding"): "likewise",
    ("step/spmd.py", "jax.sharding"): "what modern arrays say about where they are",
    ("step/spmd.py", "jax.shard_map"): "by hand; under 0.3.16 the axis is that of pmap",
    ("step/spmd.py", "jax.make_array_from_process_local_data"): "several hosts",
    ("step/spmd.py", "jax.make_array_from_single_device_arrays"): "several hosts",
    ("step/spmd.py", "jax._src"): "several hosts",
}
"""(file, name) that the older libraries lack, and why it is not reached with them."""

NEWER_METHODS = {"bit_count", "is_relative_to", "readlink", "removeprefix", "removesuffix", "with_stem"}
"""Of the standard library's types, after Python 3.8; vermin knows the types of few values."""


def names_of_the_older() -> dict[str, set[str]]:
    """Module -> what it has."""
    found: dict[str, set[str]] = {}
    module = ""
    for line in (Path(__file__).parent / "ipu" / "names.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            found[module].update(line.split())
        else:
            module = line.rstrip(":")
            found[module] = set()
    return found


OLDER = names_of_the_older()
LIBRARIES = {name.split(".")[0] for name in OLDER}


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, which are not evaluated, and what only type checkers read."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.AST):
                yield child
                yield from run_time_nodes(child)


def imported(tree: ast.Module) -> dict[str, str]:
    """Name in a file -> dotted name of what it imports, wherever the import stands, but for those of the package."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                found[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: dotted for name, dotted in found.items() if not dotted.startswith("bess_jax")}


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`jnp.linalg.norm` -> "jax.numpy.linalg.norm"; "" for what is no imported name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""


@functools.cache
def value_of(name: str) -> Any:
    """What a dotted name stands for, None if it is not there."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for part in parts[n:]:
            value = getattr(value, part, None)
        return value
    return None


def newer_names(tree: ast.Module) -> set[str]:
    """Names of the libraries that the older versions lack, each up to the first that is missing."""
    names = imported(tree)
    used = {dotted(node, names) for node in run_time_nodes(tree) if isinstance(node, ast.Name | ast.Attribute)}
    for node in run_time_nodes(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {missing for name in used if name.split(".")[0] in LIBRARIES and (missing := first_missing(name))}


def first_missing(name: str) -> str:
    """The part of a dotted name that ends at the first module or name that the older libraries lack, "" if none."""
    parts = name.split(".")
    for n in range(1, len(parts)):
        module, part = ".".join(parts[:n]), parts[n]
        if part.startswith("__") or not isinstance(value_of(module), ModuleType):
            return ""  # of every module, or of a class or an array
        if part not in OLDER.get(module, ()) and f"{module}.{part}" not in OLDER:
            return f"{module}.{part}"
    return ""


def newer_operators(tree: ast.Module) -> set[str]:
    """What 3.8 cannot evaluate: `dict[str, int]`, `Callable[[int], int]`, `int | None`, and `|` of dictionaries."""
    names = imported(tree)

    def of(node: ast.AST) -> Any:
        if isinstance(node, ast.Subscript):
            return of(node.value)
        if isinstance(node, ast.Name) and node.id not in names:
            return getattr(builtins, node.id, None)
        return value_of(dotted(node, names)) if dotted(node, names) else None

    def is_type(node: ast.AST) -> bool:
        return isinstance(of(node), type) or getattr(of(node), "__module__", "") == "typing"

    found = set()
    for node in run_time_nodes(tree):
        if isinstance(node, ast.Subscript):
            kind = of(node.value)
            if isinstance(kind, type) and not issubclass(kind, Generic):  # type: ignore[arg-type]
                found.add(ast.unparse(node))
        operands = ast.iter_child_nodes(node) if isinstance(getattr(node, "op", None), ast.BitOr) else ()
        if any(is_type(operand) or is_dict(operand, names) for operand in operands):
            found.add(ast.unparse(node))
    return found


def is_dict(node: ast.AST, names: dict[str, str]) -> bool:
    """A dictionary, or a call of what might give one: not of a library, nor of `set`."""
    if isinstance(node, ast.Call):
        return not dotted(node.func, names) and getattr(node.func, "id", "") not in ("set", "frozenset")
    return isinstance(node, ast.Dict | ast.DictComp)


def newer_methods(tree: ast.Module) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & NEWER_METHODS


def complaints(file: str, tree: ast.Module) -> list[str]:
    """What a file must not use."""
    newer = sorted(name for name in newer_names(tree) if (file, name) not in NEWER_NAMES)
    return [*newer, *sorted(newer_operators(tree)), *sorted(newer_methods(tree))]


def test_lists_are_about_something() -> None:
    """Every exception is needed, and the older names are there."""
    folders = {file.partition("/")[0] for file in TREES if "/" in file}
    assert folders >= {"data", "scoring", "step", "update", "ask"}
    assert not folders & {"run", "predict", "report", "tune", "cli", "bench"}
    assert len(OLDER["jax.numpy"]) > 300
    assert set(NEWER_NAMES) <= {(file, name) for file in TREES for name in newer_names(TREES[file])}


@pytest.mark.parametrize("file", TREES)
def test_core_keeps_to_the_older(file: str) -> None:
    assert complaints(file, TREES[file]) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("import jax.monitoring", "jax.monitoring"),
        ("from jax.sharding import Mesh", "jax.sharding"),
        ("def f(x):\n    return jax.tree.map(abs, x)", "jax.tree"),
        ("def f(x):\n    return jnp.linalg.vector_norm(x)", "jax.numpy.linalg.vector_norm"),
        ("from jax import lax\nx = lax.axis_size('shard')", "jax.lax.axis_size"),
        ("x = isinstance(3, jax.Array)", "jax.Array"),
        ("key = jax.random.key(0)", "jax.random.key"),
        ("import flax.nnx", "flax.nnx"),
        ("import optax\nx = optax.scale_by_learning_rate(1)", "optax.scale_by_learning_rate"),
        ("import numpy as np\nx = np.concat([])", "numpy.concat"),
        ("import jax.scipy.stats\nx = jax.scipy.stats.norm", "jax.scipy.stats"),
        ("Table = dict[str, int]", "dict[str, int]"),
        ("class A(dict[str, int]): ...", "dict[str, int]"),
        ("from collections.abc import Callable\nF = Callable[[int], int]", "Callable[[int], int]"),
        ("x = cast(dict | None, 3)", "dict | None"),
        ("x = isinstance(3, int | str)", "int | str"),
        ("x = jnp.ndarray | None", "jnp.ndarray | None"),
        ("def f(x):\n    return g(x) | {1: 2}", "g(x) | {1: 2}"),
        ("def f(x, y):\n    x |= dict.fromkeys(y)", "x |= dict.fromkeys(y)"),
        ("@f(list[int])\ndef g(): ...", "list[int]"),
        ("def f(x: str) -> str:\n    return x.removeprefix('a')", "removeprefix"),
    ],
)
def test_the_rule_can_fail(line: str, complaint: str) -> None:
    """Each of these lines, added to a file, turns the test above red."""
    source = (PACKAGE / "step/loss.py").read_text(encoding="utf-8") + "\n" + line
    assert complaints("step/loss.py", ast.parse(source)) == [complaint]


@pytest.mark.parametrize(
    "line",
    [
        "x: dict[str, int] | None = None",
        "def f(x: jax.Array | None) -> list[int]: ...",
        "Table: TypeAlias = 'dict[str, int]'",
        "if TYPE_CHECKING:\n    Table = dict[str, int]",
        "x = 3 | 4",
        "def f(x):\n    return set(x) | {1}",
        "def f(x):\n    return jax.numpy.isnan(x) | (x < 0)",
        "from typing import Dict\nTable = Dict[str, int]",
    ],
)
def test_what_is_allowed(line: str) -> None:
    assert complaints("x.py", ast.parse("import jax\n" + line)) == []
