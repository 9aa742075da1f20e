"""The blocks of the documents: what stands between fences, and the commands in it."""

from __future__ import annotations

import dataclasses
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import bess_jax

ROOT = Path(bess_jax.__file__).parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
}
"""Name of a document -> its file."""

_FENCE = re.compile(r"^( *)(```+|~~~+)(.*)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    document: str
    section: str
    line: int  # of the opening fence, from 1
    language: str  # "" for output
    text: str
    is_next: bool  # whether only blank lines are between it and the block before

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str, text: str) -> list[Block]:
    """The blocks of a document, in order.

    Raises:
        ValueError: if a fence is left open.
    """
    found: list[Block] = []
    section, begin, inside, is_next = "", 0, [], False
    fence = language = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[2] == fence and not mark[3].strip():
                text_ = textwrap.dedent("\n".join([*inside, ""]))
                found.append(Block(document, section, begin, language, text_, is_next))
                fence, is_next = "", True
            else:
                inside.append(line)
        elif mark:
            fence, language, begin, inside = mark[2], mark[3].strip(), number, []
        elif re.match(r"##? ", line):
            section, is_next = line.lstrip("# "), False
        elif line.strip():
            is_next = False
    if fence:
        raise ValueError(f"{document}:{begin}: a block without an end")
    return found


def all_blocks() -> list[Block]:
    """Those of all documents."""
    return [block for name, path in DOCUMENTS.items() for block in blocks(name, path.read_text(encoding="utf-8"))]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block: without comments, lines that end with a backslash joined."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def spans(text: str) -> list[str]:
    """The code in backticks within the lines of a document, its blocks left out."""
    prose = re.sub(r"^( *)(```+|~~~+).*?^\1\2$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def shape(output: str) -> list[list[str]]:
    """What a printed table looks like: of a line with numbers the kind of each word, of others the words."""

    def kind(word: str) -> str:
        return "number" if re.fullmatch(r"-?[\d,]*\.?\d+(e[+-]?\d+)?%?", word) else "word"

    lines: list[list[str]] = []
    for line in output.strip().splitlines():
        kinds = [kind(word) for word in line.split()]
        lines.append(kinds if "number" in kinds else line.split())
    return lines


def extras_of(words: list[str], project: dict[str, Any]) -> list[str]:
    """The extras of this package that the words after `pip install` name.

    Raises:
        ValueError: if something else is to be installed, or an extra that there is not.
    """
    found: list[str] = []
    for word in words:
        named = re.fullmatch(r"(?:\.|bess_jax)(?:\[([\w,-]+)\])?", word)
        if named is None:
            raise ValueError(f"pip install {word}: neither this folder nor bess_jax")
        found += named[1].split(",") if named[1] else []
    if unknown := set(found) - set(project["optional-dependencies"]):
        raise ValueError(f"pip install: pyproject.toml has no extra {sorted(unknown)}")
    return found
