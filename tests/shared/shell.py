"""What the commands in the documents do, in a folder with small stand-ins for what they name."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import tyro
from shared.blocks import ROOT, extras_of
from shared.records import SMALL_CEILINGS

import bess_jax as bj
from bess_jax.bench import ceilings
from bess_jax.bench import cli as bench
from bess_jax.cli.main import COMMANDS, main, read_command
from bess_jax.cli.recipes import Recipes
from bess_jax.cli.train import Train
from bess_jax.data.graphs import SHIPPED
from bess_jax.data.graphs.public import PUBLIC

SHORT = [
    *("--n-epoch", "1", "--batch-size", "256", "--n-negative", "64"),
    *("--embedding-size", "8", "--regularization", "0.01"),
]
"""Appended to `train`; later options override those before."""

SHORT_STEP = [
    *("--n-entity", "90", "--n-relation", "3", "--n-triple", "400", "--embedding-size", "4", "--n-shard", "2"),
    *("--batch-size", "16", "--n-negative", "6", "--steps-per-call", "2", "--n-call", "2", "--n-warmup", "1"),
]
"""Appended to the benchmark of a step."""

LAUNCHERS = ("srun", "mpirun")
"""Start the command in the rest of the line, on several hosts."""

NAMED = ("dog.n.01", "canine.n.02", "cherry.n.02")
"""Entities of WN18RR that the documents ask about."""


def write_names(dataset: bj.KGDataset, keep: np.ndarray, folder: Path) -> None:
    """A folder with the triples of `dataset` between the entities to keep (n_entity,), by name, and with labels."""
    folder.mkdir()
    names, relations = dataset.entity_dict, dataset.relation_dict
    assert names is not None
    assert relations is not None
    for split, triples in dataset.triples.items():
        kept = triples[keep[triples[:, 0]] & keep[triples[:, 2]]]
        lines = [f"{names[h]}\t{relations[r]}\t{names[t]}\n" for h, r, t in kept.tolist()]
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    kept_names = {names[i] for i in np.flatnonzero(keep).tolist()}
    labels = [f"{name}\t{label}\n" for name, label in dataset.entity_labels.items() if name in kept_names]
    (folder / "labels.tsv").write_text("".join(labels), encoding="utf-8")


def neighbourhood(folder: Path, n_step: int = 2) -> None:
    """The part of WN18RR within some steps of the entities that the documents ask about and of one of each relation."""
    dataset = bj.load_dataset("wn18rr")
    triples = dataset.all_triples()
    firsts = triples[np.unique(triples[:, 1], return_index=True)[1], 0].tolist()
    keep = np.isin(np.arange(dataset.n_entity), firsts + [dataset.find_entity(name) for name in NAMED])
    for _ in range(n_step):
        touched = keep[triples[:, 0]] | keep[triples[:, 2]]
        keep[triples[touched][:, [0, 2]]] = True
    write_names(dataset, keep, folder)


def make_run(graph: Path, run: Path) -> None:
    """A run of two epochs."""
    assert main(["train", "--dataset", str(graph), "--n-shard", "2", *SHORT, "--n-epoch", "2", "--run", str(run)]) == 0


@dataclasses.dataclass
class Shell:
    """Runs commands in the working directory, which is a folder of its own.

    Attributes:
        graph: the small graph in place of those that commands train on by name.
        is_dry: whether to read commands, and not run them.
    """

    graph: Path
    is_dry: bool = False

    def run(self, words: list[str]) -> None:
        """Does what a command says, as far as the table below knows it.

        Raises:
            ValueError: if the command, or something that it names, is not known.
        """
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[-2:-1] == [">"]:  # what is printed goes into a file
            words = words[:-2]
        if words[0] not in PROGRAMS:
            raise ValueError(f"{words[0]}: no such command is known here; see tests/shared/shell.py")
        PROGRAMS[words[0]](self, words[1:])

    def python(self, words: list[str]) -> None:
        if words[:2] == ["-m", "bess_jax"]:
            self.bess_jax(words[2:])
        elif words[:2] == ["-m", "bess_jax.bench"]:
            self.bench(words[2:])
        elif re.match(r"(examples|benchmarks)/", words[0]):
            self.script(words)
        else:
            raise ValueError(f"python {words[0]}: neither this package nor one of its scripts")

    def bess_jax(self, words: list[str]) -> None:
        """A command of the package, training shortened; what needs several hosts or the network is read only."""
        options = words
        if self.is_dry and len(words) == 1:
            _be_command(words[0])
        elif "--help" not in words and words[:1] == ["train"]:
            options = self.shortened(words)
        elif "--help" not in words and words[:1] == ["audit"]:
            read_command(words)
            options = [*words, "--program", "score"]  # which compiles at once
        elif "--help" not in words and words[:1] == ["tune"] and not self.is_dry:
            shorten_search(Path(words[1]), self.graph)
        elif (self.is_dry or is_elsewhere(words)) and "--help" not in words:
            read_command(words)
        if not self.is_dry and "--coordinator" not in words and not is_elsewhere(words):
            _succeed(main, options)

    def shortened(self, words: list[str]) -> list[str]:
        """The words of a `train` that is quick; the settings in the words fit together, and a graph has a name."""
        command = read_command(words)
        if isinstance(command, Recipes):
            return words
        assert isinstance(command, Train)
        config = command.settings.checked()
        if command.resume is not None:
            return [*words, "--n-epoch", "3"]
        if config.negatives == "all":
            words = [*words, "--negatives", "random"]  # to fit `SHORT`
        if Path(config.dataset).exists():
            return [*words, *SHORT]
        if config.dataset.lower() not in {*SHIPPED, *PUBLIC} and not self.is_dry:
            raise ValueError(f"--dataset {config.dataset} is neither the name of a graph nor a stand-in")
        return [*words, *SHORT, "--dataset", str(self.graph)]

    def bench(self, words: list[str]) -> None:
        """A benchmark, at a size that takes no time."""
        suites = [name for name, _ in bench.SUITES.values()]
        if "--help" in words:
            _succeed(bench.main, words)
        elif self.is_dry:
            tyro.cli(bench.AnyCommand, args=words if words[0] in suites else ["step", *words])
        elif words and words[0] in suites and words[0] != "step":
            raise ValueError(f"bench {words[0]}: how to shorten it is not known here")
        else:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in SMALL_CEILINGS.items():
                    patch.setattr(ceilings, name, value)
                _succeed(bench.main, [*words, *SHORT_STEP])

    def script(self, words: list[str]) -> None:
        """A script of this repository, which other tests run: it is there, and knows the options."""
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        for option in (word[2:] for word in words if word.startswith("--")):
            if option not in source and option.replace("-", "_") not in source:
                raise ValueError(f"{words[0]} has no option --{option}")

    def make(self, words: list[str]) -> None:
        """A target that there is."""
        targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        if words[0] not in targets[0].split():
            raise ValueError(f"make {words[0]}: the Makefile has no such target")
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"make {words}: {done.stderr}")

    def pip(self, words: list[str]) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if words[:1] != ["install"]:
            raise ValueError(f"pip {words}: not known here")
        of_the_ipu = {line.split(";")[0] for line in project["dependencies"] if "python_version < '3.9'" in line}
        links = [word for word in words if word.startswith("https://")]
        left = {"--upgrade", "pip", "-f", *links}
        extras_of([word for word in words[1:] if word not in left and word.split("+ipu")[0] not in of_the_ipu], project)

    def python38(self, words: list[str]) -> None:
        """Makes an environment, to be activated."""
        if words[:2] != ["-m", "venv"]:
            raise ValueError(f"python3.8 {words}: not known here")
        Path(words[2], "bin").mkdir(parents=True)

    def source(self, words: list[str]) -> None:
        """The environment that `make` makes, or one that was made before."""
        if Path(words[0]).parent.is_dir():
            return
        found = re.search(r"^VENV := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        if found is None or words != [f"{found[1]}/bin/activate"]:
            raise ValueError(f"source {words}: make has its environment elsewhere")

    def tensorboard(self, words: list[str]) -> None:
        """Shows the event files in a folder, which is a package of its own: there are some."""
        if words[:1] != ["--logdir"] or not list(Path(words[1]).rglob("*tfevents*")):
            raise ValueError(f"tensorboard {words}: there is nothing to show")

    def launcher(self, words: list[str]) -> None:
        """The command that it starts is read."""
        start = words.index("python" if "python" in words else "bess_jax")
        dataclasses.replace(self, is_dry=True).run(words[start:])


PROGRAMS: dict[str, Callable[[Shell, list[str]], None]] = {
    "python": Shell.python,
    "python3.8": Shell.python38,
    "bess_jax": Shell.bess_jax,
    "make": Shell.make,
    "pip": Shell.pip,
    "source": Shell.source,
    "tensorboard": Shell.tensorboard,
    **dict.fromkeys(LAUNCHERS, Shell.launcher),
}


def shorten_search(space: Path, graph: Path) -> None:
    """Makes a search one of a single short trial on a small graph."""
    document = tomllib.loads(space.read_text(encoding="utf-8"))
    short = dict(zip(SHORT[::2], map(tomllib.loads, (f"x = {value}" for value in SHORT[1::2])), strict=True))
    fixed = {name[2:].replace("-", "_"): table["x"] for name, table in short.items()}
    fixed = {name: value for name, value in fixed.items() if name not in document["space"]}
    document |= {**fixed, "dataset": str(graph), "eval_every": 1, "study": document["study"] | {"n_trial": 1}}
    space.write_text(tomli_w.dumps(document), encoding="utf-8")


def _be_command(name: str) -> None:
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name}")


def is_elsewhere(words: list[str]) -> bool:
    """Whether `data` is to show a graph that is brought from elsewhere, or `audit` needs a compiler that tests lack."""
    named = {word.lower() for word in words[1:]}
    return (words[:1] == ["data"] and bool(named & set(PUBLIC))) or (
        words[:1] == ["audit"] and bool(named & {"cuda", "tpu"})
    )


def _succeed(program: Callable[[list[str]], int], words: list[str]) -> None:
    """Runs a command line, whose code has to be 0."""
    try:
        code: object = program(words)
    except SystemExit as stop:
        code = stop.code
    if code not in (0, None):
        raise ValueError(f"exit code {code}")
