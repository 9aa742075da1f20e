"""The command line: what it is told is read here and given to a command, whose errors become exit codes."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from jax.errors import JaxRuntimeError
from rich.console import Console

from bess_jax._optional import MissingExtraError
from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.cli.ask import Evaluate, Predict, Score, Similar
from bess_jax.cli.compilation import use_compilation_cache
from bess_jax.cli.export import Export
from bess_jax.cli.output import Output, unfailing_output, visible
from bess_jax.cli.signals import INTERRUPTED, StoppedError
from bess_jax.cli.train import Train
from bess_jax.run.checkpoint import NonFiniteStateError
from bess_jax.run.experiment import NonFiniteLossError

FAILED, BAD_INPUT = 1, 2
"""Exit codes: something failed; a setting, name or file is wrong. `INTERRUPTED` is that of Ctrl-C."""

_BAD_INPUT = (ValueError, MissingExtraError, OverflowError, RecursionError, EOFError, zlib.error)
_FAILED = (NonFiniteLossError, NonFiniteStateError, NonFiniteScoreError, OSError, MemoryError)

_DESCRIPTION = """Knowledge-graph embeddings in JAX, sharded with BESS.

Compiled programs are kept in ~/.cache/bess_jax (elsewhere: JAX_COMPILATION_CACHE_DIR; not at all:
JAX_ENABLE_COMPILATION_CACHE=0)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of the process) and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    with unfailing_output() as output:
        try:
            return _run(args, output)
        except BrokenPipeError:
            return FAILED  # whoever read the output has gone
        except _BAD_INPUT as error:
            return _complain(error, BAD_INPUT)
        except _FAILED as error:
            return _complain(error, FAILED)
        except JaxRuntimeError as error:
            if not re.search("RESOURCE_EXHAUSTED|Out of memory", str(error)):
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
    use_compilation_cache()
    with command.processes.joined() as team:
        if team.n_process > 1:
            output.keep_to_python()
        if not team.is_first:
            output.stream = None  # one is enough
        console = Console(stderr=getattr(command, "json", False), quiet=not team.is_first)  # only the JSON on stdout
        code = command(console, team) if isinstance(command, Train) else command(console)
        output.flush()
    if output.error is not None and not isinstance(command, Train):
        raise OSError(output.error.errno, output.error.strerror, "standard output")
    return code


def _complain(error: BaseException, code: int) -> int:
    """Prints an error on one line and returns the exit code."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    elif isinstance(error, MemoryError | JaxRuntimeError):
        text = f"out of memory: {error}".splitlines()[0].removesuffix(": ")
    else:
        text = str(error) or type(error).__name__
    print(f"error: {visible(text)}", file=sys.stderr)
    return code


def read_command(args: Sequence[str]) -> Train | Evaluate | Predict | Similar | Score | Export:
    """The command with its options.

    Raises:
        SystemExit: with code 2 on options that are not understood, with code 0 after --help.
        ValueError: if a file that `train` takes settings from is not as it must be.
    """
    train = Train.with_defaults_of_files(args[1:]) if args[:1] == ["train"] else Train()
    commands: Any = (
        Annotated[tyro.conf.FlagConversionOff[Train], tyro.conf.subcommand("train", default=train)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Similar, tyro.conf.subcommand("similar")]
        | Annotated[Score, tyro.conf.subcommand("score")]
        | Annotated[Export, tyro.conf.subcommand("export")]
    )
    command: Train | Evaluate | Predict | Similar | Score | Export = tyro.cli(
        commands,
        prog="python -m bess_jax",
        description=_DESCRIPTION,
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return command
