"""Writes besskge_api.csv, the public names of BESS-KGE and their arguments: `python besskge_api.py CHECKOUT`.

A member that a class has from another class of the package is listed there, unless its arguments are others.
"""

from __future__ import annotations

import ast
import csv
import sys
from pathlib import Path

CALLED = ("__len__", "__getitem__", "__call__")


def is_public(name: str) -> bool:
    return name in CALLED or not name.startswith("_")


def arguments(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")]


def members(kind: ast.ClassDef) -> dict[str, list[str] | None]:
    """Name -> arguments of a method, or None for an attribute."""
    found: dict[str, list[str] | None] = {}
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = None
        elif isinstance(node, ast.FunctionDef):
            is_property = any(getattr(d, "id", "") == "property" for d in node.decorator_list)
            found[node.name] = None if is_property else arguments(node)
    for node in ast.walk(kind):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in (part for given in targets for part in getattr(given, "elts", [given])):
            if isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self":
                found.setdefault(target.attr, None)
    return found


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(module, name, arguments), where attributes and constants have no arguments: "-"."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[a-z]*.py"))}
    classes = {node.name: node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}

    def inherited(kind: ast.ClassDef) -> dict[str, list[str] | None]:
        found: dict[str, list[str] | None] = {}
        for base in kind.bases:
            node = classes.get(getattr(base, "id", ""))
            if node is not None:
                found |= {**inherited(node), **members(node)}
        return found

    out = []
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and is_public(node.name):
                out.append((module, node.name, " ".join(arguments(node))))
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                out += [(module, target.id, "-") for target in targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.ClassDef):
                own, others = members(node), inherited(node)
                is_data = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
                fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)] if is_data else []  # type: ignore[union-attr]
                made = own.get("__init__") or others.get("__init__") or fields
                out.append((module, node.name, " ".join(made or [])))
                for name, value in own.items():
                    if not is_public(name) or (name in others and others[name] == value):
                        continue
                    if value is None and name in (made or []) and not is_data:
                        continue  # an argument that is kept as it came
                    out.append((module, f"{node.name}.{name}", "-" if value is None else " ".join(value)))
    return out


if __name__ == "__main__":
    with (Path(__file__).parent / "besskge_api.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("module", "name", "arguments"))
        writer.writerows(rows(Path(sys.argv[1]) / "besskge"))
