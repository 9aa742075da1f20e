"""Training speed of bess_jax and of other systems on one machine, in turns.

    python benchmarks/peers.py PATH/TO/fb15k-237 [--peer-python PATH] [--models ...] [--systems ...] [--json]

The folder holds train, valid and test as TSV, as for `bess_jax train`. `pip install '.[cli,peers]'` has all systems in
one environment; another one for the packages of the extra "peers" alone works too, its interpreter given as
--peer-python. (torch for CPUs only: `pip install torch --index-url https://download.pytorch.org/whl/cpu` before.)
Systems that are not installed are left out.

Every system trains on the same triples, with rows of 128 numbers (64 complex ones for ComplEx and RotatE), steps of
1024 triples, Adagrad, and every triple scored against 512 corrupted ones, in float32, on the same cores (--cores, which
each process is confined to). What differs:

* bess_jax: `Experiment.calls` as in the command `train`, drawing batches, merging ids and sending them to the devices
  included; as many shards, each on a virtual CPU device, as the name says. With inverse relations, 1024 triples are
  2048 directed ones with 256 tails each. Triples that fill up the last steps of an epoch do not count.
  `--optimizer row_adagrad` gives it the optimizer that PBG has.
* PyTorch: `torch_step.py`, a step with the same formulas, losses and sharing, without torch.compile.
* PyKEEN: its sLCWA training loop and BasicNegativeSampler, which corrupts the heads of one half of a step and the tails
  of the other; each triple has negatives of its own. Gradients are dense. Regularizers and constraints are off where
  the model is defined without them. RotatE is the 2-norm of the complex difference there, not the sum of moduli.
* PBG (PyTorch-BigGraph): a worker process on each core (Hogwild), row-wise Adagrad, softmax loss for all models, no
  global embedding, no negatives from the batch, which it then cuts in chunks of as many positives as there are
  negatives of a side; a chunk shares them (`MultiRelationEmbedder.forward`). Speed is what it logs itself for epochs
  after the first; that leaves out the checkpoint after each epoch ("speed_with_checkpoints" in the JSON has it).

Each measurement is a process of its own. A round measures every pair of model and system once, every second round
backwards. A ratio is the median over the rounds of the speed of bess_jax (the first one in --systems) over the other's.
Start-up is the time from the start of the process to full speed: imports, reading the graph, compiling, starting
workers, and warming up less what the triples of the warm-up take at full speed. "10 epochs" is computed: start-up and
10 passes over the triples at the median speed.

Measure on an idle machine: PyTorch's threads wait for each other in every operation, and on two cores beside ten other
busy processes two of them were 30 times slower than one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peer_systems import (
    BATCH,
    N_NEGATIVE,
    PRODUCT,
    WIDTH,
    Meter,
    measure_bess_jax,
    measure_pbg,
    measure_pykeen,
    measure_torch,
    read_graph,
)

MODELS = ("TransE-L1", "TransE-L2", "RotatE", "DistMult", "ComplEx")
SYSTEMS = {  # name -> the package it needs, the models it has
    "bess_jax-2": ("bess_jax", MODELS),
    "bess_jax-1": ("bess_jax", MODELS),
    "PyTorch": ("torch", MODELS),
    "PyKEEN": ("pykeen", MODELS),
    "PBG": ("torchbiggraph", ("TransE-L2", "DistMult", "ComplEx")),
}
DEFAULT_SYSTEMS = ("bess_jax-2", "PyTorch", "PyKEEN", "PBG")
PACKAGES = ("bess_jax", "jax", "jaxlib", "torch", "pykeen", "torchbiggraph", "numpy")
WARM_UP_S = 1.0  # from the end of the first piece of work; PBG: none, its first epoch is the warm-up
LIMIT_S = 300.0  # for one process


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Record of one system and model, measured in this process."""
    system, model, started = args.measure
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    os.sched_setaffinity(0, cores)
    meter = Meter(float(started), args.seconds, 0.0 if system == "PBG" else WARM_UP_S)
    if system.startswith("bess_jax"):
        more = measure_bess_jax(args.folder, model, int(system[-1]), meter, args.optimizer)
    else:
        run = {"PyTorch": measure_torch, "PyKEEN": measure_pykeen, "PBG": measure_pbg}[system]
        more = run(args.folder, model, len(cores), meter)
    return meter.record() | more


def versions() -> dict[str, str]:
    """Versions of the packages that this interpreter has."""
    found = {part.metadata["Name"].lower(): part.version for part in importlib.metadata.distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


def in_process(python: str, args: argparse.Namespace, *options: str) -> dict[str, Any]:
    """What this file prints as JSON in a process of its own, or {"error": why it does not}."""
    same = {"--seconds": args.seconds, "--cores": args.cores, "--optimizer": args.optimizer}
    command = [python, __file__, str(args.folder), *(str(part) for pair in same.items() for part in pair), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {LIMIT_S:.0f} s"}
    except OSError as error:
        return {"error": str(error)}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Measures all pairs of model and system in turns."""
    pythons = {system: sys.executable if _own(system) else args.peer_python for system in args.systems}
    found = {python: in_process(python, args, "--versions") for python in set(pythons.values())}
    problems: dict[str, str] = {}
    for system, python in pythons.items():
        package = SYSTEMS[system][0]
        if package not in found[python]:
            problems[system] = (
                found[python].get("error") or f"not installed: pip install {package} (see the top of this file)"
            )
    jobs = [(m, s) for m in args.models for s in args.systems if m in SYSTEMS[s][1] and s not in problems]
    records: dict[tuple[str, str], list[dict[str, Any]]] = {job: [] for job in jobs}
    load, begin = os.getloadavg()[0], time.perf_counter()
    if load > 0.5:
        _note(f"other processes keep {load:.1f} cores busy (load average): speeds may be far too low")
    for number in range(args.repeats):
        for model, system in reversed(jobs) if number % 2 else jobs:
            record = in_process(pythons[system], args, "--measure", system, model, str(time.time()))
            records[model, system].append(record)
            speed = record.get("error") or f"{record['speed']:,.0f} triples/s"
            _note(f"{time.perf_counter() - begin:4.0f} s  round {number + 1}  {model} {system}: {speed}")
    own = next(filter(_own, args.systems), "")
    return {
        "graph": args.folder.name,
        "machine": _machine(),
        "cores": min(args.cores, len(os.sched_getaffinity(0))),
        "load": load,
        "versions": {name: x for part in found.values() for name, x in part.items() if name in PACKAGES},
        "settings": {"width": WIDTH, "batch": BATCH, "negatives_of_a_side": N_NEGATIVE, "seconds": args.seconds},
        "problems": problems,
        "rows": [_row(_setting(args, *job), records[job], records.get((job[0], own), [])) for job in jobs],
    }


def _row(setting: dict[str, str], records: list[dict[str, Any]], own: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {**setting, "runs": records}
    good = [record for record in records if "speed" in record]
    if good:
        speeds = [record["speed"] for record in good]
        row |= {"speed": statistics.median(speeds), "speed_min": min(speeds), "speed_max": max(speeds)}
        row["start_up_s"] = statistics.median(record["start_up_s"] for record in good)
    pairs = [(x["speed"], y["speed"]) for x, y in zip(own, records, strict=False) if "speed" in x and "speed" in y]
    if pairs:
        row["ratio"] = statistics.median(x / y for x, y in pairs)
    return row


def _setting(args: argparse.Namespace, model: str, system: str) -> dict[str, str]:
    """How the negatives are shared, and what is minimized by what."""
    loss = "softmax" if model in PRODUCT or system == "PBG" else "adversarial log-sigmoid"
    row_wise = system == "PBG" or (_own(system) and args.optimizer == "row_adagrad")
    rule = "row-wise Adagrad" if row_wise else "Adagrad, dense" if system == "PyKEEN" else "Adagrad"
    share = {"PyKEEN": "1", "PyTorch": f"{BATCH}", "PBG": f"{N_NEGATIVE}"}
    return {
        "model": model,
        "system": system,
        "negatives": f"{2 * N_NEGATIVE} of one side" if system == "PyKEEN" else f"{N_NEGATIVE} + {N_NEGATIVE}",
        "share": share.get(system) or f"{2 * BATCH // int(system[-1])} directed",
        "loss": f"{loss}, {rule}",
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    columns = ["model", "system", "triples/s", "min", "max", "bess_jax / it", "start-up s", "10 epochs s"]
    columns += ["negatives of a triple", "triples that share them", "loss, optimizer"]
    lines = [" | ".join(columns), " | ".join(["---"] * 2 + ["---:"] * 6 + ["---"] * 3)]
    for row in result["rows"]:
        cells = [row["model"], row["system"]]
        if "speed" in row:
            cells += [f"{row[name]:,.0f}" for name in ("speed", "speed_min", "speed_max")]
            cells.append(f"{row['ratio']:.2f}" if "ratio" in row else "")
            cells += [f"{row['start_up_s']:.1f}", f"{row['start_up_s'] + 10 * result['n_triple'] / row['speed']:.0f}"]
        else:
            cells += [row["runs"][-1]["error"], "", "", "", "", ""]
        lines.append(" | ".join([*cells, row["negatives"], row["share"], row["loss"]]))
    lines = [f"| {line} |" for line in lines]
    lines += [f"\n{system}: {problem}" for system, problem in result["problems"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    place = f"{result['graph']}, {result['machine']}, cores: {result['cores']}, load before: {result['load']:.1f}"
    lines.append(f"\n{place}; {versions}")
    return "\n".join(lines)


def _own(system: str) -> bool:
    return SYSTEMS[system][0] == "bess_jax"


def _machine() -> str:
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.is_file() else None
    return found[1] if found else platform.machine()


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=lambda path: Path(path).resolve(), help="graph: train, valid, test as TSV")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=DEFAULT_SYSTEMS)
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement after its warm-up")
    parser.add_argument("--cores", type=int, default=2, help="cores that every process is confined to")
    parser.add_argument("--optimizer", choices=("adagrad", "row_adagrad"), default="adagrad", help="of bess_jax")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the other systems")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--versions", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure or args.versions:
        print("\n" + json.dumps(measure(args) if args.measure else versions()))
        return
    result = compare(args) | {"n_triple": len(read_graph(args.folder)[0])}
    print(json.dumps(result) if args.json else table(result))


if __name__ == "__main__":
    main()
