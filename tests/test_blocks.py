"""Every block of every document runs, or is read by what it is for.

The blocks of a section (`##`) run in order, in one namespace and one folder; sections know nothing of each other. What
a section names, such as `RUN` or `queries.tsv`, is put there first: `STAND_INS`.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import jax
import pytest
from shared.blocks import DOCUMENTS, Block, all_blocks, blocks, commands, shape, spans
from shared.processes import free_port, started, wait
from shared.shell import PROGRAMS, Shell, make_run, neighbourhood

import bess_jax as bj
from bess_jax.run.config import read_settings
from bess_jax.tune.space import Space

SECTIONS: dict[str, list[Block]] = {}
for _block in all_blocks():
    SECTIONS.setdefault(f"{_block.document}: {_block.section}", []).append(_block)

ELSEWHERE = {
    "README.md: Your own training loop": "is examples/functional_loop.py, which tests/test_examples.py runs",
    "docs/hosts.md: What is needed": "needs two processes: test_processes_from_python",
    "docs/export.md: From PyKEEN": "needs PyKEEN: tests/predict/test_real_pykeen.py",
}
"""Sections whose Python another test runs, and why."""


# --- what the blocks name -------------------------------------------------------------------------------


def _settings(path: Path, _: Path) -> None:
    path.write_text('model = "DistMult"\nseed = 1\n')


def _space(path: Path, _: Path) -> None:
    path.write_text('dataset = "umls"\n[space]\nlearning_rate = { low = 0.1, high = 1.0 }\n[study]\nn_trial = 2\n')


def _queries(path: Path, _: Path) -> None:
    path.write_text("dog.n.01\t_hypernym\t?\n?\t_hypernym\tdog.n.01\n")


def _table(path: Path, small: Path) -> None:
    text = "".join((small / "graph" / f"{split}.tsv").read_text() for split in ("train", "valid", "test"))
    with path.open("w", newline="") as table:
        writer = csv.writer(table, quoting=csv.QUOTE_ALL)
        writer.writerow(["subject", "predicate", "object"])
        writer.writerows(line.split("\t") for line in text.splitlines())


def _graph(path: Path, small: Path) -> None:
    shutil.copytree(small / "graph", path)


def _run(path: Path, small: Path) -> None:
    shutil.copytree(small / "run", path)


STAND_INS: dict[str, Callable[[Path, Path], None]] = {
    "RUN": _run,
    "my_graph": _graph,
    "larger": _graph,
    "settings.toml": _settings,
    "space.toml": _space,
    "queries.tsv": _queries,
    "facts.csv": _table,
}
"""Name of a file or folder in the blocks -> what makes it from the small graph and run."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `graph`, a part of WN18RR, and `run`, trained on it."""
    folder = tmp_path_factory.mktemp("small")
    neighbourhood(folder / "graph")
    make_run(folder / "graph", folder / "run")
    return folder


@pytest.fixture
def shell(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell in an empty folder, from which Python imports too."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    with chdir(tmp_path):
        yield Shell(small / "graph")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def stand_ins(text: str) -> list[str]:
    """The stand-ins that a text names."""
    return [name for name in STAND_INS if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-]*\w)", text)]


# --- what is done with a block, by its language ---------------------------------------------------------


def run_python(block: Block, space: dict[str, object]) -> None:
    exec(compile("\n" * block.line + block.text, block.document, "exec"), space)


def run_shell(block: Block, shell: Shell) -> None:
    for words in commands(block.text):
        try:
            with jax.numpy_dtype_promotion("standard"):  # as a user has it; schedules of optax need it
                shell.run(words)
        except (ValueError, OSError, SystemExit) as error:
            raise ValueError(f"{block.place}: {' '.join(words)}: {error}") from error


def read_toml_settings(text: str) -> None:
    """Settings, or a search, which commands find in space.toml."""
    is_search = "[space]" in text
    path = Path("space.toml" if is_search else "of_the_block.toml")
    path.write_text(text, encoding="utf-8")
    if is_search:
        Space.read(path)
    else:
        bj.TrainConfig(**read_settings(path))


def read_citation(text: str) -> None:
    found = re.search(r"@software\{bess_jax,.*version *= \{(.*?)\}", text, flags=re.DOTALL)
    assert found is not None
    assert found[1] == bj.__version__


READERS: dict[str, Callable[[str], object]] = {
    "toml": read_toml_settings,
    "json": json.loads,
    "bibtex": read_citation,
}
"""Language of a block that nothing runs -> what reads it."""


@pytest.mark.long
@pytest.mark.parametrize("section", SECTIONS)
def test_blocks_of_a_section(section: str, shell: Shell, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = SECTIONS[section]
    for name in stand_ins("".join(block.text for block in found)):
        STAND_INS[name](Path(name), small)
    space: dict[str, object] = {"__name__": "blocks"}
    printed = source = ""
    for block in found:
        if block.language == "python" and section not in ELSEWHERE:
            capsys.readouterr()
            run_python(block, space)
            printed = capsys.readouterr().out
            source += block.text
        elif block.language == "sh":
            for module in re.findall(r"--model (\w+):", block.text):
                Path(f"{module}.py").write_text(source, encoding="utf-8")
            run_shell(block, shell)
            printed = ""
        elif block.language == "" and block.is_next and printed:
            assert shape(printed) == shape(block.text), block.place
        elif block.language in READERS:
            READERS[block.language](block.text)


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_done_with_a_block_is_known(section: str) -> None:
    """Each has a language, and each command a program, that this file knows."""
    for block in SECTIONS[section]:
        assert block.language in {"", "python", "sh", *READERS}, block.place
        if block.language == "sh":
            for words in commands(block.text):
                programs = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
                assert programs[0] in PROGRAMS, block.place


def test_exceptions_are_in_use() -> None:
    named = {name for found in SECTIONS.values() for block in found for name in stand_ins(block.text)}
    assert named == set(STAND_INS)
    for section in ELSEWHERE:
        assert any(block.language == "python" for block in SECTIONS[section]), section


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_within_sentences(document: str, tmp_path: Path) -> None:
    """Those in backticks exist, and have these options."""
    dry = Shell(tmp_path, is_dry=True)
    for span in spans(DOCUMENTS[document].read_text(encoding="utf-8")):
        if re.match(r"(make|pip install|python -m bess_jax(\.bench)?|python (examples|benchmarks)/\S+) ", span):
            for words in commands(span):
                dry.run(words)


# --- blocks with tests of their own ---------------------------------------------------------------------


@pytest.mark.long
def test_processes_from_python(tmp_path: Path) -> None:
    """The block of docs/hosts.md, in two processes on this machine."""
    (code,) = [block.text for block in SECTIONS["docs/hosts.md: What is needed"]]
    shown = 'coordinator="node1:4321", n_process=2, process=0'
    assert shown in code
    here = f'coordinator="127.0.0.1:{free_port()}", n_process=2, process=int(sys.argv[-1])'
    code = "import sys\n" + code.replace(shown, here).replace("...", "print(team.process, team.n_process)")
    with started(2, ["-c", code], tmp_path / "log") as processes:
        assert wait(processes) == [0, 0]
    assert [(tmp_path / "log" / f"{i}.out").read_text() for i in range(2)] == ["0 2\n", "1 2\n"]


# --- the parts of this test -----------------------------------------------------------------------------


def test_blocks_are_found() -> None:
    text = (
        "# A\n## B\n```sh\n# no heading\nmake\n```\n\n```\nout\n```\ntext\n* list\n  ```python\n  x = 1\n  ```\n## C\n"
    )
    found = [(block.section, block.line, block.language, block.text, block.is_next) for block in blocks("a.md", text)]
    assert found == [
        ("B", 3, "sh", "# no heading\nmake\n", False),
        ("B", 8, "", "out\n", True),
        ("B", 13, "python", "x = 1\n", False),
    ]
    with pytest.raises(ValueError, match=r"a\.md:1: a block without an end"):
        blocks("a.md", "```sh\nmake\n")


def test_commands_are_found() -> None:
    assert commands("# a\nmake x   # b\n\npython -m a \\\n  --b 'c d'\n") == [
        ["make", "x"],
        ["python", "-m", "a", "--b", "c d"],
    ]
    assert spans("`a b`\n```sh\n`c`\n```\n`d\n e`") == ["a b", "d e"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rm -r RUN", "rm: no such command"),
        ("make tests", "the Makefile has no such target"),
        ("pip install '.[all]'", r"no extra \['all'\]"),
        ("pip install torch", "neither this folder nor bess_jax"),
        ("source venv/bin/activate", "make has its environment elsewhere"),
        ("python benchmarks/table_size.py --optimiser adam", "has no option --optimiser"),
        ("python -m bess_jax train --dataset fb", "neither the name of a graph nor a stand-in"),
        ("python -m bess_jax evaluate RUN --top 3", "exit code 2"),
        ("python -m bess_jax evaluate RUN", "exit code 2"),
        ("python -m bess_jax.bench --n-entities 3", "exit code 2"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (words,) = commands(line)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Shell(tmp_path).run(words)


def test_a_launched_command_is_read(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run(["srun", "-n", "4", "python", "-m", "bess_jax", "train", "--n-shard", "16"])
    with pytest.raises(ValueError, match="unknown option --shards"):
        shell.run(["srun", "python", "-m", "bess_jax", "train", "--shards", "16"])


def test_a_command_within_a_sentence_is_read(tmp_path: Path) -> None:
    shell = Shell(tmp_path, is_dry=True)
    for line in ("python -m bess_jax export", "python -m bess_jax train --n-epoch 3", "make test"):
        shell.run(line.split())
    with pytest.raises(ValueError, match="there is no command exports"):
        shell.run(["python", "-m", "bess_jax", "exports"])
    with pytest.raises(ValueError, match="missing value for argument 'out'"):
        shell.run(["python", "-m", "bess_jax", "export", "RUN", "--into", "OUT"])


def test_shape_of_a_table() -> None:
    table = "   head  score\n0  dog  1.5\n-1e-3 0.2"
    assert shape(table) == [["head", "score"], ["number", "word", "number"], ["number", "number"]]
    assert shape(table) == shape("head score\n7 cat 22.25\n0.5 9")
    assert shape(table) != shape("head rank\n7 cat 22.25\n0.5 9")
