"""The command line of the benchmarks."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import tyro
from rich.console import Console

from bess_jax import _checks
from bess_jax.bench import collective, compare, kernel, plot, ranking, sampler, scaling, show, step
from bess_jax.step.spmd import request_devices

FAILED, BAD_INPUT, REGRESSED = 1, 2, 3
"""Exit codes: a loss was not finite, an option is wrong, something is slower than the baseline."""

C = TypeVar("C")

SUITES: dict[type[Any], tuple[str, Callable[[Any], dict[str, Any]]]] = {
    step.BenchConfig: ("step", step.measure),
    kernel.KernelConfig: ("kernel", kernel.run),
    sampler.SamplerConfig: ("sampler", sampler.run),
    collective.CollectiveConfig: ("collective", collective.run),
    ranking.RankConfig: ("rank", ranking.run),
    ranking.TopKConfig: ("topk", ranking.run),
    scaling.ScalingConfig: ("scaling", scaling.run),
}
"""Configuration -> name of the suite, and what runs it."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What to do with the result."""

    json: bool = False
    """Print one line of JSON and nothing else."""
    out: Path | None = None
    """JSON file to write."""
    plot: Path | None = None
    """Figure to write, .png or .svg (needs bess_jax[plot])."""
    baseline: Path | None = None
    """Result of an earlier run to compare with, from --out or --json; exit code 3 if something is slower."""
    tolerance: float = 0.25
    """What counts as slower: more than 1 + tolerance times the median of the baseline."""

    def check(self) -> None:
        """Raises ValueError, naming the option, if a value is out of range or a file could not be written."""
        _checks.at_least("tolerance", self.tolerance, 0)
        for name, path in (("out", self.out), ("plot", self.plot)):
            if path is not None and not path.parent.is_dir():
                raise ValueError(f"{name} must be a file in an existing folder, got {path}; make {path.parent} first")
        if self.plot is not None:
            plot.check(self.plot)


@dataclasses.dataclass(frozen=True)
class Command(Generic[C]):
    """A suite with its options."""

    settings: tyro.conf.OmitArgPrefixes[C]
    output: tyro.conf.OmitArgPrefixes[Output]


_suite = partial(tyro.conf.subcommand, prefix_name=False)
AnyCommand: TypeAlias = (
    Annotated[
        Command[step.BenchConfig], _suite("step", description="Time and memory of a training step (the default).")
    ]
    | Annotated[Command[kernel.KernelConfig], _suite("kernel", description="Scores of all pairs, and their gradient.")]
    | Annotated[Command[sampler.SamplerConfig], _suite("sampler", description="Batches made on the host, one thread.")]
    | Annotated[Command[collective.CollectiveConfig], _suite("collective", description="Exchange between shards.")]
    | Annotated[Command[ranking.RankConfig], _suite("rank", description="Exact filtered ranks over all entities.")]
    | Annotated[Command[ranking.TopKConfig], _suite("topk", description="Best answers among all entities.")]
    | Annotated[Command[scaling.ScalingConfig], _suite("scaling", description="Step over entities, shards and batch.")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of the process) and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
        args.insert(0, "step")
    command: Command[Any] = tyro.cli(
        AnyCommand,
        args=args,
        prog="python -m bess_jax.bench",
        description="How fast bess_jax runs, against what the machine can do. Without the name of a suite: step. "
        "Options: python -m bess_jax.bench SUITE --help",
    )
    name, run = SUITES[type(command.settings)]
    try:
        command.output.check()
        command.settings.check()
        baseline = None if command.output.baseline is None else compare.read(command.output.baseline, name)
        request_devices(command.settings.n_virtual)
        record = run(command.settings)
    except (ValueError, FloatingPointError) as error:
        print(f"bess_jax.bench: {error}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, ValueError) else FAILED
    return _report(record, baseline, command.output)


def _report(record: dict[str, Any], baseline: dict[str, Any] | None, output: Output) -> int:
    """Prints and writes a result; returns the exit code."""
    code = 0
    if output.out is not None:
        output.out.write_text(json.dumps(record) + "\n", encoding="utf-8")
    if output.plot is not None:
        plot.write(record, output.plot)
    if output.json:
        print(json.dumps(record))
    else:
        show.result(Console(), record)
    if baseline is not None:
        found = compare.changes(record, baseline, output.tolerance)
        console = Console(stderr=output.json)  # nothing but the line of JSON goes to stdout
        show.comparison(console, found, compare.differences(record, baseline), output.tolerance)
        code = REGRESSED if any(change.regressed for change in found) else 0
    return code
