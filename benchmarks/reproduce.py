"""Trains recipes as users do, keeps what they gave, and writes docs/results.md.

    python benchmarks/reproduce.py 'wn18rr-*' small:umls --seeds 0 1 2 --out FOLDER [--data FOLDER]

Names may have * and ?; without any, all recipes of graphs are run. A general recipe takes its graph after a colon. Each
run is the command `train` in a process of its own. The same line goes on where the last one was ended: runs that are
done are left alone, and one that was cut off is resumed. Minutes are those of whole processes, from start to end.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import jax
import jaxlib
import results_page

import bess_jax as bj
from bess_jax.bench.timing import machine
from bess_jax.data.text import read_toml
from bess_jax.report.history import History
from bess_jax.run.checkpoint import BEST
from bess_jax.run.config import TrainConfig, read_settings
from bess_jax.run.folder import RunFolder
from bess_jax.run.metric import Metric
from bess_jax.run.recipes import RESULTS, recipe_file, recipe_names, results

ROOT = Path(__file__).parents[1]
_WAIT_S = 5.0
"""Seconds between notes of how long a run has taken, which are all there is of one that is killed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A recipe on a graph with a seed, and where it is kept."""

    name: str  # recipe, or recipe:graph
    seed: int
    out: Path
    data: Path | None

    @property
    def recipe(self) -> str:
        """The recipe."""
        return self.name.partition(":")[0]

    @property
    def graph(self) -> str:
        """Name of the graph."""
        return self.name.partition(":")[2] or str(read_toml(recipe_file(self.recipe))["data"]["dataset"])

    @property
    def dataset(self) -> str:
        """Where the graph is: in the folder of graphs, if that has it, else its name."""
        return (
            str(self.data / self.graph) if self.data is not None and (self.data / self.graph).exists() else self.graph
        )

    @property
    def folder(self) -> RunFolder:
        """The run."""
        return RunFolder(self.out / self.name.replace(":", "-on-") / str(self.seed))

    @property
    def note(self) -> Path:
        """What this script knows of the run, in JSON."""
        return self.folder.path.with_suffix(".json")

    def command(self) -> list[str]:
        """What runs it, or goes on with it."""
        train = [sys.executable, "-m", "bess_jax", "train"]
        if self.folder.has_begun:
            return [*train, "--resume", str(self.folder.path)]
        return [*train, *self.words(self.dataset), "--run", str(self.folder.path)]

    def words(self, dataset: str) -> list[str]:
        """Arguments of `train` that make such a run, of the graph at `dataset`."""
        is_own = ":" not in self.name and dataset == self.graph
        return ["--recipe", self.recipe, *([] if is_own else ["--dataset", dataset]), "--seed", str(self.seed)]

    def check(self) -> None:
        """Raises SystemExit if what is there has other settings than the recipe has now."""
        if self.folder.has_begun:
            found = self.folder.config()
            wanted = TrainConfig.from_recipe(self.recipe, seed=self.seed, dataset=found.dataset)
            names = [name for name, value in vars(wanted).items() if getattr(found, name) != value]
            if names:
                raise SystemExit(f"{self.folder.path} has another {', '.join(names)} than the recipe: move it away")

    def is_done(self) -> bool:
        """Whether it has ranked the test split."""
        return self.folder.has_begun and "test" in _history(self.folder).splits


def find(patterns: Sequence[str]) -> list[str]:
    """The recipes that are meant, those of graphs by default.

    Raises:
        SystemExit: if there is none.
    """
    names = recipe_names()
    own = [name for name in names if "dataset" in read_toml(recipe_file(name)).get("data", {})]
    found: list[str] = []
    for pattern in patterns or ["*"]:
        recipe, colon, graph = pattern.partition(":")
        fitting = fnmatch.filter(names if colon else own, recipe)
        if not fitting:
            raise SystemExit(
                f"{pattern}: no recipe is called so; there are {', '.join(names)}; general ones: NAME:GRAPH"
            )
        found += [f"{name}{colon}{graph}" for name in fitting]
    return list(dict.fromkeys(found))


def train(job: Job) -> bool:
    """Runs a job, or what is left of it; whether it is done."""
    job.folder.path.parent.mkdir(parents=True, exist_ok=True)
    note: dict[str, Any] = json.loads(job.note.read_text()) if job.note.exists() else {"seconds": [], "load": []}
    note |= {"commit": _commit(), "machine": _machine(), "versions": _versions()}
    note["load"].append(os.getloadavg()[0])
    command, before, start = job.command(), list(note["seconds"]), time.monotonic()

    def tell() -> None:
        note["seconds"] = [*before, time.monotonic() - start]
        job.note.write_text(json.dumps(note))

    print(f"{job.name}, seed {job.seed}: load {note['load'][-1]:.2f}; {shlex.join(command[1:])}", flush=True)
    with job.folder.path.with_suffix(".log").open("a") as log:
        process = _start(command, log)
        try:
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(_WAIT_S)
                tell()
        finally:
            if process.poll() is None:
                process.terminate()  # which saves its state
                process.wait()
            tell()
    done = code == 0 and job.is_done()
    print(f"  {'done' if done else f'ended with code {code}: see {log.name}'}, {sum(note['seconds']) / 60:.1f} minutes")
    return done


def _start(command: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True)


def measured(jobs: Sequence[Job]) -> dict[str, Any]:
    """What the runs of a recipe gave, in lists with an item for each seed; as `RESULTS` has it."""
    runs = [_measured(job) for job in jobs]
    lists = ("mrr", "hits@1", "hits@3", "hits@10", "valid_mrr", "minutes", "minutes_to_98", "epochs", "starts", "load")
    each: dict[str, Any] = {name: [run[name] for run in runs] for name in lists}
    same = {name: " / ".join(dict.fromkeys(run[name] for run in runs)) for name in ("machine", "commit", "versions")}
    return {
        "graph": jobs[0].graph,
        "model": jobs[0].folder.config().model,
        "command": shlex.join(["python", "-m", "bess_jax", "train", *jobs[0].words(jobs[0].graph)]),
        "seeds": [job.seed for job in jobs],
        **each,
        "parameters": runs[0]["parameters"],
        "positives": max(run["positives"] for run in runs),
        "settings": digest(jobs[0].recipe),
        **same,
    }


def digest(recipe: str) -> str:
    """Tells whether a recipe is still the one that was measured: a digest of its settings."""
    text = json.dumps(read_settings(recipe_file(recipe)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _measured(job: Job) -> dict[str, Any]:
    """What one run gave."""
    config, history, note = job.folder.config(), _history(job.folder), json.loads(job.note.read_text())
    (test,) = history.splits["test"]
    graph, checkpoint = job.folder.graph(), job.folder.checkpoints.pick(BEST, Metric.parse(config.metric))
    shapes = {name: entry.shape for name, entry in checkpoint.entries.items() if name.startswith("params.")}
    width = shapes.pop("params.entity")[1]
    triples = len(graph.triples["train"]) * (2 if config.inverse_relations else 1)
    return {
        **{name: round(test["both"][name], 5) for name in ("mrr", "hits@1", "hits@3", "hits@10")},
        "valid_mrr": round(max(history.of_split("valid", "both", "mrr").value), 5),
        "minutes": round(sum(note["seconds"]) / 60, 2),
        "minutes_to_98": round(_seconds_to(0.98, history) / 60, 2),
        "epochs": history.n_epoch,
        "starts": len(note["load"]),
        "load": round(note["load"][0], 2),
        "parameters": graph.n_entity * width + sum(math.prod(shape) for shape in shapes.values()),
        "positives": history.n_epoch * triples,
        **{name: note[name] for name in ("machine", "commit", "versions")},
    }


def _seconds_to(part: float, history: History) -> float:
    """Seconds of compiling, training, ranking and saving until the validation MRR was a part of its best."""
    values = history.of_split("valid", "both", "mrr")
    epoch = next(epoch for epoch, value in zip(*values, strict=True) if value >= part * max(values.value))
    timed = [*history.epochs, *history.splits["valid"]]
    parts = ("seconds", "compiling", "saving")
    return sum(record.get(name, 0.0) for record in timed if record["epoch"] <= epoch for name in parts)


def _history(folder: RunFolder) -> History:
    return History.of(folder.log(sys.maxsize, writes=False).records)


def _commit() -> str:
    """The commit of this folder, with a + if the package is another one than in that."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "bess_jax", f":!bess_jax/recipes/{RESULTS.name}")
    return f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{'+' if changed else ''}"


def _machine() -> str:
    found = machine([])
    return f"{found['cpu']}, {found['n_core']} cores"


def _versions() -> str:
    of = {"bess_jax": bj.__version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__}
    return ", ".join(f"{name} {version}" for name, version in {**of, "Python": platform.python_version()}.items())


def save(found: dict[str, dict[str, Any]], file: Path) -> None:
    """Writes results, a line for each number or list of numbers, in the order of the recipes."""
    order = {name: place for place, name in enumerate(recipe_names())}
    lines = ["# Written by benchmarks/reproduce.py; lists have an item for each seed."]
    for name in sorted(found, key=lambda name: (order.get(name.partition(":")[0], len(order)), name)):
        lines += ["", f"[{json.dumps(name) if ':' in name else name}]"]
        lines += [
            f"{json.dumps(key) if '@' in key else key} = {json.dumps(value)}" for key, value in found[name].items()
        ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="names of recipes, as wn18rr-complex, 'wn18rr-*' or small:umls")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="a run for each (default: 0)")
    parser.add_argument("--out", type=Path, help="folder of the runs, new or to go on with")
    parser.add_argument("--data", type=Path, help="folder with graphs by name, which are else brought")
    parser.add_argument(
        "--write", action="store_true", help="write the page from what was measured before; run nothing"
    )
    args = parser.parse_args(argv)
    if args.write:
        results_page.write(results())
        return 0
    if args.out is None:
        parser.error("give --out, the folder of the runs")
    failed = 0
    for name in find(args.recipes):
        jobs = [Job(name, seed, args.out.resolve(), args.data and args.data.resolve()) for seed in args.seeds]
        for job in jobs:
            job.check()
            if not job.is_done():
                train(job)
        done = [job for job in jobs if job.is_done()]
        failed += len(jobs) - len(done)
        if done:
            found = {**results(), name: measured(done)}
            save(found, RESULTS)
            results_page.write(found)
    return int(failed > 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that a run saves its state
    sys.exit(main())
