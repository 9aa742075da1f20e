"""`python -m bess_jax.bench`: see `bess_jax.bench.cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of the process) and returns the exit code."""
    try:
        from bess_jax.bench.cli import main as run
    except ModuleNotFoundError as error:
        print(f"the benchmarks need the package {error.name}: pip install 'bess_jax[cli]'", file=sys.stderr)
        return 2
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
