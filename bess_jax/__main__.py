"""`python -m bess_jax`: see `bess_jax.cli`."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Runs the command line of this process."""
    try:
        from bess_jax.cli import main as run
    except ModuleNotFoundError as error:
        print(f"the commands need the package {error.name}: pip install 'bess_jax[cli]'", file=sys.stderr)
        return 2
    gc.freeze()  # what imports made stays: no collection needs to look at it again
    return run()


if __name__ == "__main__":
    sys.exit(main())
