"""Runs the programs of `programs.py` under any JAX: against recorded values, and their operations against the IPU's.

python tests/ipu/run.py --record [FILE]   # writes the values of this JAX, which is the newest
python tests/ipu/run.py --check           # compares with them
python tests/ipu/run.py --audit           # what an IPU's compiler would say of its operations
python tests/ipu/run.py --all             # both in one pass; ends with 1 if anything is amiss
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
FILE = HERE / "recorded.npz"

if __name__ == "__main__":  # before JAX makes its devices
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["PJRT_NPROC"] = "16"
    flags = os.environ.get("XLA_FLAGS", "")
    if "host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4".strip()
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import jax  # noqa: E402
from ipu import recorded  # noqa: E402
from ipu.programs import FORBIDDEN, N_SHARD, PROGRAMS, Program  # noqa: E402

import bess_jax as bj  # noqa: E402


class Watched:
    """A placement that keeps what it lowers: each program for each shape of its arguments, in order."""

    def __init__(self, placement: bj.Placement) -> None:
        self.placement, self.lowered = placement, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.placement, name)

    def map(self, fn: Any, donate_argnums: Any = ()) -> Any:
        """`Placement.map`, compiled by hand."""
        mapped, compiled = self.placement.map(fn, donate_argnums), {}

        def call(*args: Any) -> Any:
            leaves, tree = jax.tree_util.tree_flatten(args)
            key = tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
            if key not in compiled:
                lowered = mapped.lower(*args)
                self.lowered.append(lowered)
                compiled[key] = lowered.compile()
            return compiled[key](*args)

        return call


def run(program: Program, placement: Any) -> dict[str, Any]:
    """The values of a program, by its exchange."""
    with bj.use_exchange(program.exchange):
        return program.run(placement)


def group_of(name: str) -> str:
    """What a line of the table is about: scheme and update of all models, or a kind of question."""
    first, second, *rest = name.split("/")
    if first == "train" and len(rest) == 3:
        return "train, {} moves, {} {}".format(*rest)
    whole = {"train": "train, further options", "step": "step without update", "readme": "the loop of README, on UMLS"}
    return whole.get(first, f"ask, {second}")


class Outcome(NamedTuple):
    """What came of a program."""

    name: str
    values: dict[str, Any]
    verdicts: list[list[Any]]  # of each compiled program
    error: str
    seconds: float


def work(name: str, audit: bool) -> Outcome:
    """Runs one program, in a process of its own or not."""
    prepare()
    began, placement = time.time(), Watched(bj.Placement.create(N_SHARD))
    values: dict[str, Any] = {}
    verdicts, error = [], ""
    try:
        values = run({**PROGRAMS, **FORBIDDEN}[name], placement)
        verdicts = [verdicts_of(lowered) for lowered in placement.lowered] if audit else []
    except Exception as problem:  # the other programs are told of, too
        error = f"{name}: {type(problem).__name__}: {str(problem)[:500]}"
    return Outcome(name, values, verdicts, error, time.time() - began)


def prepare() -> None:
    """Sets older JAX's draws of dropout, and that programs are compiled in little time: they compute little."""
    if hasattr(jax.config, "jax_threefry_partitionable"):
        jax.config.update("jax_threefry_partitionable", False)
    jax.config.update("jax_disable_most_optimizations", True)


def verdicts_of(lowered: Any) -> list[Any]:
    """What an IPU's compiler makes of each kind of operation of a program."""
    from bess_jax.audit.hlo import read_program
    from bess_jax.audit.ipu import verdicts

    return list(verdicts(read_program(lowered.compiler_ir("hlo").as_hlo_text()), N_SHARD))


def outcomes(names: list[str], audit: bool, n_job: int) -> Iterator[Outcome]:
    """Those of all programs, in order; by several processes, as tracing holds one core."""
    if n_job == 1:
        yield from (work(name, audit) for name in names)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_job, mp_context=context) as pool:
        yield from pool.map(work, names, [audit] * len(names))


class Audited:
    """Verdicts of one group."""

    def __init__(self) -> None:
        self.n_program, self.status, self.reasons = 0, Counter(), Counter()  # type: ignore[var-annotated]
        self.collectives: Any = Counter()
        self.bad: list[str] = []

    def add(self, outcome: Outcome) -> None:
        self.n_program += len(outcome.verdicts)
        for verdict in itertools.chain.from_iterable(outcome.verdicts):
            self.status[verdict.status] += verdict.count
            if verdict.status == "restricted":
                self.reasons[verdict.opcode, verdict.why] += verdict.count
            if verdict.opcode.startswith(("all-", "collective-", "reduce-scatter")):
                self.collectives[verdict.opcode] += verdict.count
            if verdict.status in ("slow", "unsupported"):
                line = f"{outcome.name}: {verdict.opcode} is {verdict.status}, {verdict.count} times: {verdict.why}"
                self.bad.append(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = "write values; with --only those, and leave the others as they are"
    parser.add_argument("--record", nargs="?", const=FILE, type=Path, metavar="FILE", help=what)
    parser.add_argument("--check", nargs="?", const=FILE, type=Path, metavar="FILE", help="compare values")
    parser.add_argument("--audit", action="store_true", help="look at operations")
    parser.add_argument("--all", action="store_true", help="check and audit")
    parser.add_argument("--only", default="", metavar="PATTERN", help="programs whose name matches")
    parser.add_argument("--jobs", default=2, type=int, help="processes")
    parser.add_argument("--verbose", action="store_true", help="a line for each program")
    args = parser.parse_args()
    if args.all:
        args.check, args.audit = FILE, True
    if not (args.record or args.check or args.audit):
        parser.error("give --record, --check, --audit or --all")
    start = time.time()
    names = [name for name in PROGRAMS if re.search(args.only, name)]
    expected = recorded.load(args.check) if args.check else {}
    failures: list[str] = []
    if args.check and not args.only and expected.keys() != PROGRAMS.keys():
        failures.append(f"recorded are other programs: {sorted(expected.keys() ^ PROGRAMS.keys())}; use --record")
    values: recorded.Values = {}
    audits: dict[str, Audited] = {}
    differences: dict[str, Any] = {}
    print(
        f"{len(names)} programs, {N_SHARD} devices, JAX {jax.__version__}, Python {sys.version.split()[0]}", flush=True
    )
    for outcome in outcomes(names, args.audit, args.jobs):
        name, group = outcome.name, group_of(outcome.name)
        if outcome.error:
            failures.append(outcome.error)
            continue
        values[name] = outcome.values
        if args.check:
            differences.setdefault(group, []).append((name, *recorded.compare(outcome.values, expected.get(name, {}))))
        if args.audit:
            audits.setdefault(group, Audited()).add(outcome)
        if args.verbose:
            print(f"{name} {outcome.seconds:.1f} s {differences[group][-1][1:] if args.check else ''}", flush=True)
    if args.record:
        former = recorded.load(args.record) if args.only and args.record.exists() else {}
        known = {**former, **values}
        recorded.save(args.record, {name: known[name] for name in PROGRAMS if name in known})
        print(f"wrote {args.record}, {args.record.stat().st_size:,} bytes")
    if args.check:
        failures += report_differences(differences)
    if args.audit:
        failures += report_operations(audits) + check_forbidden()
    print(*failures, sep="\n")
    n_lowered = sum(audit.n_program for audit in audits.values())
    compiled = f" ({n_lowered} compiled)" if args.audit else ""
    print(f"{len(values)} programs{compiled}, {len(failures)} failures, {(time.time() - start) / 60:.1f} minutes")
    return bool(failures)


def check_forbidden() -> list[str]:
    """Which programs that an IPU cannot run, or runs slowly, the audit lets pass; all should be refused."""
    passed = []
    for name in FORBIDDEN:
        audited = Audited()
        audited.add(work(name, audit=True))
        print(f"refused, as it should be: {audited.bad[0]}" if audited.bad else f"NOT refused: {name}")
        passed += [] if audited.bad else [f"{name}: the audit refuses nothing in it"]
    return passed


def report_differences(differences: dict[str, Any]) -> list[str]:
    """Prints the largest of each group; what is above the tolerances."""
    print(f"\n{'largest relative differences from recorded values':58} {'losses':>8} {'values':>8}  ids, counts")
    bad, worst, n_all = [], dict.fromkeys(recorded.TOLERANCES, 0.0), 0
    for group, found in differences.items():
        largest = {kind: max(differs[kind] for _, differs, _ in found) for kind in worst}
        n_other = sum(n for _, _, n in found)
        print(f"{group + f' ({len(found)})':58} {largest['loss']:8.0e} {largest['value']:8.0e}  {n_other}")
        worst, n_all = {kind: max(worst[kind], largest[kind]) for kind in worst}, n_all + n_other
        for name, differs, n in found:
            if n or recorded.too_far(name, differs):
                bad.append(f"{name}: differs by {differs}, {n} ids and counts")
    print(f"{'all':58} {worst['loss']:8.0e} {worst['value']:8.0e}  {n_all}")
    return bad


def report_operations(audits: dict[str, Audited]) -> list[str]:
    """Prints the operations of each group; those that an IPU's compiler refuses or makes slow."""
    print(f"\n{'operations, as JAX emits them':58} {'native':>8} {'restr.':>8} {'slow':>5} {'none':>5}  collectives")
    total: Any = Counter()
    reasons: Any = Counter()
    for group, audit in audits.items():
        cells = [audit.status[status] for status in ("native", "restricted", "slow", "unsupported")]
        collectives = ", ".join(f"{n} {opcode}" for opcode, n in sorted(audit.collectives.items()))
        title = f"{group} ({audit.n_program})"
        print("{:58} {:8} {:8} {:5} {:5}  {}".format(title, *cells, collectives))
        total.update(audit.status)
        reasons.update(audit.reasons)
    print("\nrestricted operations, and why they are within the restriction:")
    for (opcode, why), n in sorted(reasons.items()):
        print(f"{n:7} {opcode}: {why}")
    print(*(f"{total[status]} {status}" for status in ("native", "restricted", "unsupported", "slow")), sep=", ")
    return [line for audit in audits.values() for line in audit.bad]


if __name__ == "__main__":
    sys.exit(main())
