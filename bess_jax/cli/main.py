"""The command line: what it is told is read here and given to a command, whose errors become exit codes."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import tyro
from rich.console import Console

from bess_jax._optional import MissingExtraError
from bess_jax.cli.data import Data
from bess_jax.cli.output import Output, unfailing_output, visible, warnings_as_lines
from bess_jax.cli.progress import Verbosity, line, peak_memory
from bess_jax.run.signals import INTERRUPTED, StoppedError

if TYPE_CHECKING:  # `data` does not wait for JAX
    from bess_jax.cli.ask import Evaluate, Predict, Score, Similar
    from bess_jax.cli.export import Export
    from bess_jax.cli.train import Train

    Command: TypeAlias = Data | Train | Evaluate | Predict | Similar | Score | Export

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
    if isinstance(command, Data):
        code = command(Console(stderr=command.json))
        output.flush()
    else:
        code, is_kept = _run_together(command, output)
    if output.error is not None and not is_kept:
        raise OSError(output.error.errno, output.error.strerror, "standard output")
    return code


def _run_together(command: Train | Evaluate | Predict | Similar | Score | Export, output: Output) -> tuple[int, bool]:
    """The exit code of a command that computes, in one process or in one of several; whether its result is in files."""
    from bess_jax.cli.compilation import Compiling, use_compilation_cache
    from bess_jax.cli.train import Train

    cache = use_compilation_cache()
    with command.processes.joined() as team:
        if team.n_process > 1:
            output.keep_to_python()
        if not team.is_first:
            output.stream = None  # one is enough
        console = Console(stderr=getattr(command, "json", False), quiet=not team.is_first)  # only the JSON on stdout
        compiling = Compiling() if getattr(command, "verbosity", Verbosity()).verbose else None
        code = command(console, team) if isinstance(command, Train) else command(console)
        if compiling is not None:
            line(console, f"compiling: {compiling} ({cache or 'switched off'})")
            line(console, f"memory of the process: {peak_memory() / 2**20:,.0f} MiB at most")
        output.flush()
    return code, isinstance(command, Train)


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
        SystemExit: with code 2 on options that are not understood, with code 0 after --help.
        ValueError: if a file that `train` takes settings from is not as it must be.
    """
    config = (tyro.conf.FlagCreatePairsOff,)
    if args[:1] == ["data"]:
        return tyro.cli(Data, prog="python -m bess_jax data", args=args[1:], config=config)
    from bess_jax.cli.ask import Evaluate, Predict, Score, Similar
    from bess_jax.cli.export import Export
    from bess_jax.cli.train import Train

    train = Train.with_defaults_of_files(args[1:]) if args[:1] == ["train"] else Train()
    commands: Any = (
        Annotated[Data, tyro.conf.subcommand("data")]
        | Annotated[Train, tyro.conf.subcommand("train", default=train)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Similar, tyro.conf.subcommand("similar")]
        | Annotated[Score, tyro.conf.subcommand("score")]
        | Annotated[Export, tyro.conf.subcommand("export")]
    )
    command: Command = tyro.cli(commands, prog="python -m bess_jax", description=_DESCRIPTION, args=args, config=config)
    return command
