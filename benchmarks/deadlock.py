"""Whether XLA ends loops over virtual CPU devices: runs README's loop many times, with other work on all cores.

python benchmarks/deadlock.py --n-run 20 --n-device 8 --busy 2
python benchmarks/deadlock.py --n-run 20 --n-device 8 --no-request --threads 8   # how XLA starts on a small machine
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import time
from pathlib import Path

LOOP = Path(__file__).parents[1] / "examples" / "functional_loop.py"


def program(n_device: int, request: bool, n_epoch: int) -> str:
    """README's loop with one shard on each device, without its ranking."""
    code = LOOP.read_text().replace("n_shard=4", f"n_shard={n_device}").replace("shard_bs=256", "shard_bs=128")
    wanted = f"bj.request_devices({n_device})" if request else ""
    code = code.replace("bj.request_devices(4)", wanted).replace("range(3)", f"range({n_epoch})")
    return code.split("\nranker =", 1)[0]


def outcome(code: str, environment: dict[str, str], limit: float) -> str:
    """How one run ended, in a word or two."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return "hung"
    if done.returncode == 0:
        return "ended well"
    if "Termination timeout" in done.stderr:
        return "ended by XLA"
    return next((line for line in done.stderr.splitlines() if "Error: " in line), f"exit code {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-run", type=int, default=20)
    parser.add_argument("--n-device", type=int, default=8)
    parser.add_argument("--n-epoch", type=int, default=1)
    parser.add_argument("--no-request", action="store_true", help="leave out bess_jax.request_devices")
    parser.add_argument("--threads", type=int, help="PJRT_NPROC of the runs; default: as in the environment")
    parser.add_argument("--busy", type=int, default=0, help="processes that keep cores busy meanwhile")
    parser.add_argument("--limit", type=float, default=150, help="seconds after which a run counts as hung")
    args = parser.parse_args()
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={args.n_device}"}
    if args.threads is not None:
        environment["PJRT_NPROC"] = str(args.threads)
    code = program(args.n_device, not args.no_request, args.n_epoch)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.busy)]
    counts: collections.Counter[str] = collections.Counter()
    try:
        start = time.perf_counter()
        for _ in range(args.n_run):
            counts[outcome(code, environment, args.limit)] += 1
    finally:
        for process in busy:
            process.kill()
    print(f"{args.n_run} runs, {args.n_device} devices, {time.perf_counter() - start:.0f} s:")
    for text, n in counts.most_common():
        print(f"{n:4d}  {text}")


if __name__ == "__main__":
    main()
