"""The command line: what it is told is read here and given to a command, whose errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.console import Console

from bess_jax._optional import MissingExtraError
from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.cli.ask import Evaluate, Predict, Score, Similar
from bess_jax.cli.compilation import use_compilation_cache
from bess_jax.cli.signals import INTERRUPTED, StoppedError
from bess_jax.cli.train import Train
from bess_jax.run.checkpoint import NonFiniteStateError
from bess_jax.run.experiment import NonFiniteLossError

FAILED, BAD_INPUT = 1, 2
"""Exit codes: training diverged; a setting, name or file is wrong. `INTERRUPTED` is that of Ctrl-C."""

_DESCRIPTION = """Knowledge-graph embeddings in JAX, sharded with BESS.

Compiled programs are kept in ~/.cache/bess_jax (elsewhere: JAX_COMPILATION_CACHE_DIR; not at all:
JAX_ENABLE_COMPILATION_CACHE=0)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of the process) and returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        command = read_command(args)
        use_compilation_cache()
        return command(Console(stderr=getattr(command, "json", False)))  # nothing but the JSON goes to stdout
    except (ValueError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (NonFiniteLossError, NonFiniteStateError, NonFiniteScoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except StoppedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


def read_command(args: Sequence[str]) -> Train | Evaluate | Predict | Similar | Score:
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
    )
    command: Train | Evaluate | Predict | Similar | Score = tyro.cli(
        commands,
        prog="python -m bess_jax",
        description=_DESCRIPTION,
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return command
