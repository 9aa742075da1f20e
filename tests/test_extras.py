"""Extras: what is asked for by their name is what they install, and each is used and checked.

Whether each works alone, in an environment of its own, is seen by `make extras-test`.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from extras import check
from shared.blocks import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

MODULES = {"mlflow-skinny": "mlflow", "scikit-learn": "sklearn"}
"""Package -> its module, where that has another name."""


def modules_of(extra: str) -> set[str]:
    """What an extra makes importable, those that it names included."""
    found: set[str] = set()
    for line in EXTRAS[extra]:
        if line.startswith("bess_jax["):
            found |= set().union(*map(modules_of, line[len("bess_jax[") : -1].split(",")))
        else:
            name = re.split(r"[^\w-]", line)[0]
            found.add(MODULES.get(name, name.replace("-", "_")))
    return found


MODULES_OF = {extra: modules_of(extra) for extra in EXTRAS}
"""Extra -> what it makes importable."""

FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "bess_jax").rglob("*.py"))}
WITH_CLI = ("bess_jax/cli/", "bess_jax/bench/")
"""Folders that are imported by the commands alone, and so have what the extra `cli` installs."""


def requests(tree: ast.AST) -> list[tuple[str, str | None, str | None]]:
    """Of each call of `require` the line, the module and the extra: None where they stand in variables."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(r"\brequire$", ast.unparse(node.func)):
            given = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args[:2]]
            found.append((f"line {node.lineno}", *given))
    return found


def not_of_the_extra(tree: ast.AST) -> list[str]:
    """What is wrong with the calls of `require` in a file: the extra, or a module that it does not install."""
    wrong = []
    for line, module, extra in requests(tree):
        if extra is None:
            continue
        if extra not in EXTRAS:
            wrong.append(f"{line}: no extra {extra!r}")
        elif module is not None and module.split(".")[0] not in MODULES_OF[extra]:
            wrong.append(f"{line}: {module} is not in the extra {extra!r}")
    return wrong


def imported_at_once(tree: ast.AST) -> set[str]:
    """Modules that a file imports by a statement, those for types left out."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
        found |= imported_at_once(node)
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_library_is_asked_for_by_its_extra(file: str) -> None:
    tree = ast.parse(FILES[file].read_text(encoding="utf-8"))
    if file != "bess_jax/_optional.py":
        assert not_of_the_extra(tree) == []
    optional = set().union(*MODULES_OF.values())
    has = MODULES_OF["cli"] if file.startswith(WITH_CLI) else set()
    assert imported_at_once(tree) & (optional - has) <= IMPORTED_WITHOUT_ASKING.get(file, set())


IMPORTED_WITHOUT_ASKING = {
    "bess_jax/bench/plot.py": {"matplotlib"},  # `check` has asked before
    "bess_jax/run/folder.py": {"tomli_w"},  # after filelock, which comes with the same extra
}


def test_exceptions_are_in_use() -> None:
    for file, modules in IMPORTED_WITHOUT_ASKING.items():
        assert modules <= imported_at_once(ast.parse(FILES[file].read_text(encoding="utf-8"))), file


@pytest.mark.parametrize("extra", check.extras())
def test_an_extra_is_used_and_checked(extra: str) -> None:
    assert Path(check.__file__).with_name(f"with_{extra}.py").is_file()
    files = [*FILES.values(), *(ROOT / "benchmarks").glob("*.py")]
    assert any(re.search(rf'"{extra}"|\[(\w+,)*{extra}(,\w+)*\]', path.read_text(encoding="utf-8")) for path in files)


def test_a_wrong_extra_is_noticed() -> None:
    tree = ast.parse('require("pandas", "frame", "a")\n_optional.require("xxhash", "frames", "b")\nrequire(m, e, "c")')
    assert not_of_the_extra(tree) == ["line 1: no extra 'frame'", "line 2: xxhash is not in the extra 'frames'"]
    assert imported_at_once(ast.parse("if TYPE_CHECKING:\n    import a\ndef f():\n    import b.c")) == {"b"}


def test_the_core_is_small() -> None:
    of = {
        mark: [line for line in PROJECT["dependencies"] if mark in line]
        for mark in ("; python_version >= '3.11'", "; python_version < '3.9'")
    }
    new, old = ({re.split(r"[^\w-]", line)[0] for line in lines} for lines in of.values())
    assert new == {"jax", "jaxlib", "flax", "optax", "chex", "numpy"}
    assert old == new | {"orbax", "tomli"}
    assert sum(map(len, of.values())) == len(PROJECT["dependencies"])


def packages() -> set[tuple[str, str]]:
    """Package and extra of all that pyproject.toml asks for, "core" being no extra."""
    groups = EXTRAS | {"core": PROJECT["dependencies"]}
    lines = [(line, extra) for extra, given in groups.items() for line in given if not line.startswith("bess_jax[")]
    return {(re.split(r"[^\w.-]", line)[0], extra) for line, extra in lines}


def test_every_dependency_is_in_the_table() -> None:
    """And nothing else, each with what it is for and why."""
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").split("\n## ")[1]
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    told = [(name, row[1].strip()) for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    assert len(told) == len(set(told))
    assert set(told) == packages()
