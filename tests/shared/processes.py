"""Several processes of a run on this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started(
    n_process: int, command: Sequence[str], log: Path, patience_s: float = 25
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`python COMMAND` for each process, with options that tell it which one it is; output goes to files in `log`."""
    log.mkdir()
    given = [
        "--coordinator",
        f"127.0.0.1:{free_port()}",
        "--n-process",
        str(n_process),
        "--lost-after",
        str(patience_s),
    ]
    processes = []
    try:
        for process in range(n_process):
            with (log / f"{process}.out").open("wb") as out, (log / f"{process}.err").open("wb") as err:
                args = [sys.executable, *command, *given, "--process", str(process)]
                processes.append(subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=err))
        yield processes
    finally:
        for left in processes:
            left.kill()
            left.wait()


def wait(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float = 60) -> list[int]:
    """Exit codes; kills those that are there after the time, whose codes are then -9."""
    end = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    return [process.wait() for process in processes]


def run_all(n_process: int, command: Sequence[str], log: Path) -> list[int]:
    """Exit codes of processes as of `started`."""
    with started(n_process, command, log) as processes:
        return wait(processes)


def errors(log: Path, process: int) -> list[str]:
    """What a process printed to standard error, without what JAX reports."""
    text = (log / f"{process}.err").read_text(errors="replace")
    return [line for line in text.splitlines() if line.startswith("error:")]
