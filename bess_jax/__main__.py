"""`python -m bess_jax`: see `bess_jax.cli.main`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys

from bess_jax.cli.output import drop_unwritten, open_standard_streams


def main() -> int:
    """Runs the command line of this process."""
    open_standard_streams()
    if not sys.flags.safe_path:
        with contextlib.suppress(FileNotFoundError):  # the working directory has gone
            sys.path.insert(0, os.getcwd())  # --model finds modules here, by the command `bess_jax` as by `python -m`
    gc.disable()  # what imports make stays: to look for garbage in it would take a tenth of a short command's time
    try:
        from bess_jax.cli.main import main as run
    except ModuleNotFoundError as error:
        print(f"the commands need the package {error.name}: pip install 'bess_jax[cli]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    gc.freeze()
    gc.enable()
    try:
        return run()
    finally:
        drop_unwritten()


if __name__ == "__main__":
    sys.exit(main())
