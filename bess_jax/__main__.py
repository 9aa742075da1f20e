"""`python -m bess_jax`: see `bess_jax.cli.main`."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Runs the command line of this process."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # --model finds modules here, by the command `bess_jax` as by `python -m`
    gc.disable()  # what imports make stays: to look for garbage in it would take a tenth of a short command's time
    try:
        from bess_jax.cli.main import main as run
    except ModuleNotFoundError as error:
        print(f"the commands need the package {error.name}: pip install 'bess_jax[cli]'", file=sys.stderr)
        return 2
    gc.freeze()
    gc.enable()
    return run()


if __name__ == "__main__":
    sys.exit(main())
