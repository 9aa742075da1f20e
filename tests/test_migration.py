"""docs/migration.md names every public name of BESS-KGE, and is right about it."""

from __future__ import annotations

import csv
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bess_jax as bj

ROOT = Path(__file__).parents[1]


class Name(NamedTuple):
    module: str
    name: str
    here: str  # "same", "no", or what it is called
    why: str


def read_list() -> list[Name]:
    """The rows of the document, a name each; `.member` is of the class before it."""
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8").split("\n## Every name\n")[1]
    found = []
    for section in re.split(r"^### besskge\.", text, flags=re.MULTILINE)[1:]:
        module = section.split("\n")[0]
        for row in re.findall(r"^\|(.*)\|$", section, flags=re.MULTILINE)[2:]:
            names, here, why = (cell.strip() for cell in row.split("|"))
            kind = ""
            for name in re.findall(r"`([^`]+)`", names):
                kind = kind if name.startswith(".") else name.split(".")[0]
                full = kind + name if name.startswith(".") else name
                found.append(Name(module, full, here.strip("`"), why))
    return found


def read_reference() -> dict[tuple[str, str], list[str] | None]:
    """(module, name) of BESS-KGE -> arguments, or None for what is not called. See tests/golden/besskge_api.py."""
    with (ROOT / "tests" / "golden" / "besskge_api.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["module"], r["name"]): None if r["arguments"] == "-" else r["arguments"].split() for r in rows}


LIST, REFERENCE = read_list(), read_reference()
LEFT_OUT = [entry for entry in LIST if entry.name.endswith(")")]
NAMES = [entry for entry in LIST if entry not in LEFT_OUT]
HERE = {entry.name: entry.here for entry in NAMES}


def find(path: str) -> Any:
    """What `path` leads to: from `bess_jax`, or a module of it. A field of a class is its annotation.

    Raises:
        LookupError: if there is none.
    """
    first, *rest = path.removeprefix("bess_jax.").split(".")
    found: Any = bj
    for i, part in enumerate([first, *rest]):
        if hasattr(found, part):
            found = getattr(found, part)
        elif inspect.isclass(found) and any(part in vars(base).get("__annotations__", {}) for base in found.__mro__):
            found = None
        else:
            try:
                found = import_module(".".join(["bess_jax", first, *rest[:i]]))
            except ImportError:
                raise LookupError(path) from None
    return found


def place_of(name: str) -> str:
    """Where a name of the reference would be here: a member is looked for in what its class has become."""
    kind, _, member = name.partition(".")
    kind = HERE[kind] if HERE[kind] not in ("same", "no") else kind
    return f"{kind}.{member}" if member else kind


def arguments_of(found: Any) -> list[str]:
    return [name for name in inspect.signature(found).parameters if name != "self"]


def test_every_name_is_listed_once() -> None:
    listed = [(entry.module, entry.name) for entry in NAMES]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(REFERENCE)
    assert len(REFERENCE) > 200


def left_out(name: str) -> set[str]:
    """Arguments that the document says are not here."""
    return {entry.name[len(name) + 1 : -1] for entry in LEFT_OUT if entry.name.startswith(f"{name}(")}


@pytest.mark.parametrize("entry", [e for e in NAMES if e.here == "same"], ids=lambda e: e.name)
def test_what_is_the_same_is_here_with_its_arguments(entry: Name) -> None:
    found, arguments = find(place_of(entry.name)), REFERENCE[entry.module, entry.name]
    if arguments is None:
        return
    missing = left_out(entry.name)
    assert missing <= set(arguments)
    here, wanted = arguments_of(found), [name for name in arguments if name not in missing]
    if inspect.isclass(found):  # given by name
        assert set(wanted) <= set(here)
        return
    assert [name for name in here if name in wanted] == wanted
    assert set(here[: here.index(wanted[0])] if wanted else here) <= {"params"}  # nothing else comes before


@pytest.mark.parametrize("entry", [e for e in NAMES if e.here not in ("same", "no")], ids=lambda e: e.name)
def test_what_has_another_name_is_here(entry: Name) -> None:
    find(entry.here)
    if entry.here == entry.name:  # why it is not the same
        assert entry.why


@pytest.mark.parametrize("entry", [e for e in NAMES if e.here == "no"], ids=lambda e: e.name)
def test_what_is_not_here_is_not(entry: Name) -> None:
    assert entry.why
    with pytest.raises(LookupError):
        find(place_of(entry.name))


@pytest.mark.parametrize("entry", LEFT_OUT, ids=lambda e: e.name)
def test_arguments_that_are_left_out(entry: Name) -> None:
    kind, argument = entry.name.rstrip(")").split("(")
    assert entry.here == "no"
    assert argument not in arguments_of(find(kind))


def test_positional_arguments_of_evaluation() -> None:
    assert arguments_of(bj.Evaluation)[:5] == REFERENCE["metric", "Evaluation"]
    assert bj.Evaluation(["mrr", "hits@10"]).metric_order == ("hits@10", "mrr")
