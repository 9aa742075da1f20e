"""`python -m bess_jax`: see `bess_jax.cli.main`."""

from __future__ import annotations

import gc
import os
import sys

from bess_jax.cli.output import drop_unwritten, open_standard_streams


def main() -> int:
    """Runs the command line of this process."""
    open_standard_streams()
    if not hasattr(sys.flags, "safe_path"):  # before Python 3.11
        print("error: the commands need Python >= 3.11; under 3.8, the IPU's, the core alone runs", file=sys.stderr)
        return 2
    try:
        here = os.getcwd()
    except FileNotFoundError:  # without one, not all versions of jaxlib can be imported
        print("error: the working directory has gone: change to another one", file=sys.stderr)
        return 2
    if not sys.flags.safe_path:
        sys.path.insert(0, here)  # --model finds modules here, by the command `bess_jax` as by `python -m`
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
