"""The command line: what it is told is read here and given to a command, whose errors become exit codes."""

from __future__ import annotations

import functools
import importlib
import itertools
import re
import sys
import zlib
from collections.abc import Sequence
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import tyro

from bess_jax._optional import MissingExtraError
from bess_jax.cli.output import Output, unfailing_output, visible, warnings_as_lines
from bess_jax.cli.parse import check_command, parse, without_none
from bess_jax.cli.progress import Verbosity, line, make_console, peak_memory
from bess_jax.run.signals import INTERRUPTED, StoppedError

if TYPE_CHECKING:
    from bess_jax.cli.ask import Evaluate, Predict, Score, Similar
    from bess_jax.cli.audit import Audit
    from bess_jax.cli.config import Config
    from bess_jax.cli.data import Data
    from bess_jax.cli.export import Export
    from bess_jax.cli.recipes import Recipes
    from bess_jax.cli.report import Report
    from bess_jax.cli.train import Train
    from bess_jax.cli.tune import Tune

    Computing: TypeAlias = Train | Tune | Evaluate | Predict | Similar | Score | Export | Report
    Command: TypeAlias = Data | Config | Audit | Recipes | Computing

COMMANDS = {
    "data": "data:Data",
    "train": "train:Train",
    "tune": "tune:Tune",
    "evaluate": "ask:Evaluate",
    "predict": "ask:Predict",
    "similar": "ask:Similar",
    "score": "ask:Score",
    "export": "export:Export",
    "report": "report:Report",
    "config": "config:Config",
    "audit": "audit:Audit",
}
"""Name of each command -> its module and class."""

FAILED, BAD_INPUT = 1, 2
"""Exit codes: something failed; a setting, name or file is wrong. `INTERRUPTED` is that of Ctrl-C."""

_BAD_INPUT = (ValueError, MissingExtraError, OverflowError, RecursionError, EOFError, zlib.error)

_DESCRIPTION = """Knowledge-graph embeddings in JAX, sharded with BESS.

Compiled programs are kept in ~/.cache/bess_jax (elsewhere: JAX_COMPILATION_CACHE_DIR; not at all:
JAX_ENABLE_COMPILATION_CACHE=0)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of the process) and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    with unfailing_output() as output, warnings_as_lines():
        try:
            return _run(args, output)
        except BrokenPipeError:
            return FAILED  # whoever read the output has gone
        except _BAD_INPUT as error:
            return _complain(error, BAD_INPUT)
        except (OSError, MemoryError) as error:
            return _complain(error, FAILED)
        except (ArithmeticError, RuntimeError) as error:
            if not _is_expected(error):
                raise
            return _complain(error, FAILED)
        except StoppedError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return INTERRUPTED


def _run(args: Sequence[str], output: Output) -> int:
    """The exit code of a command.

    Raises:
        OSError: if what it found could not be printed. A training run has its result in its folder.
    """
    command = read_command(args)
    is_kept = False
    if hasattr(command, "processes"):
        code, is_kept = _run_together(cast("Computing", command), output)
    else:
        code = command(make_console(getattr(command, "json", False)))
        output.flush()
    if output.error is not None and not is_kept:
        raise OSError(output.error.errno, output.error.strerror, "standard output")
    return code


def _run_together(command: Computing, output: Output) -> tuple[int, bool]:
    """The exit code of a command that computes, in one process or in one of several; whether its result is in files."""
    from bess_jax.cli.compilation import Compiling, use_compilation_cache
    from bess_jax.cli.train import Train
    from bess_jax.cli.tune import Tune
    from bess_jax.kernels.bodies import said

    cache = use_compilation_cache()
    with command.processes.joined() as team:
        if team.n_process > 1:
            output.keep_to_python()
        if not team.is_first:
            output.stream = None  # one is enough
        console = make_console(getattr(command, "json", False), quiet=not team.is_first)  # only the JSON on stdout
        compiling = Compiling() if getattr(command, "verbosity", Verbosity()).verbose else None
        code = command(console, team) if isinstance(command, Train) else command(console)
        if compiling is not None:
            line(console, f"compiling: {compiling}")
            line(console, f"cache: {cache or 'none'}")
            for text in said():
                line(console, f"sums over pairs: {text}")
            line(console, f"memory of the process: {peak_memory() / 2**20:,.0f} MiB at most")
        output.flush()
    return code, isinstance(command, Train | Tune)


def _is_expected(error: Exception) -> bool:
    """Whether an error of a computation tells all about itself, so that no traceback is needed."""
    from jax.errors import JaxRuntimeError

    from bess_jax.ask.ranker import NonFiniteScoreError
    from bess_jax.run.checkpoint import NonFiniteStateError
    from bess_jax.run.experiment import NonFiniteLossError

    if isinstance(error, JaxRuntimeError):
        return re.search("RESOURCE_EXHAUSTED|Out of memory", str(error)) is not None
    return isinstance(error, NonFiniteLossError | NonFiniteStateError | NonFiniteScoreError)


def _complain(error: BaseException, code: int) -> int:
    """Prints an error on one line and returns the exit code."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    elif isinstance(error, MemoryError | RuntimeError) and code == FAILED:
        text = f"out of memory: {error}".splitlines()[0].removesuffix(": ")
    else:
        text = str(error) or type(error).__name__
    print(f"error: {visible(text)}", file=sys.stderr)
    return code


def read_command(args: Sequence[str]) -> Command:
    """The command with its options.

    Raises:
        SystemExit: with code 0 after --help.
        ValueError: on a command or options that are not understood, and if a file of settings is not as it must be.
    """
    name = args[0] if args else ""
    if name.startswith("-"):
        commands = [Annotated[_command(one), tyro.conf.subcommand(one)] for one in COMMANDS]
        shown: Command = parse(functools.reduce(or_, commands), args, "python -m bess_jax", description=_DESCRIPTION)
        return shown
    check_command(name, COMMANDS)
    kind, rest = _command("recipes" if name == "train" and _lists_recipes(args) else name), args[1:]
    prog = f"python -m bess_jax {name}"
    found: Command = kind.from_args(rest, prog) if hasattr(kind, "from_args") else parse(without_none(kind), rest, prog)
    return found


def _lists_recipes(args: Sequence[str]) -> bool:
    """Whether `train` is to list recipes, for which it needs none of what trains."""
    return "--recipe=list" in args or ("--recipe", "list") in itertools.pairwise(args)


def _command(name: str) -> Any:
    """The class of a command; none waits for what another one needs."""
    module, _, kind = {**COMMANDS, "recipes": "recipes:Recipes"}[name].partition(":")
    return getattr(importlib.import_module(f"bess_jax.cli.{module}"), kind)
