"""What saving costs, in time and memory: 2,500,000 entities of 128 components with Adam, 3.84 GB.

    python benchmarks/save.py FOLDER [--n-window 8] [--seconds 20] [--n-entity 2500000]

Windows with one checkpoint each and windows without one take turns in one run; their calls are compared. Then other
processes restore the last checkpoint, on as many shards and on other numbers of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np

import bess_jax as bj
from bess_jax.run.about import About, Point
from bess_jax.run.checkpoint import LAST, Checkpoints
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.loop import restored
from bess_jax.run.saver import Saver
from bess_jax.run.state import kinds_of_state
from bess_jax.step.spmd import nbytes, request_devices


def make_experiment(n_entity: int, n_shard: int) -> Experiment:
    rng = np.random.default_rng(0)
    train = rng.integers([n_entity, 100, n_entity], size=(4_000_000, 3), dtype=np.int32)
    dataset = bj.KGDataset(n_entity=n_entity, n_relation_type=100, triples={"train": train})
    config = TrainConfig(
        model="DistMult",
        optimizer="adam",
        learning_rate=1e-3,
        inverse_relations=False,
        n_shard=n_shard,
        n_epoch=10_000,
        eval_every=0,
    )
    request_devices(n_shard)
    return Experiment.create(config, dataset)


def measure_saving(folder: Path, n_entity: int, n_window: int, seconds: float) -> None:
    experiment = make_experiment(n_entity, 4)
    state = experiment.init()
    size = nbytes(experiment.shapes) * 4
    about = About(Point(1, 0, 1), experiment.config.to_dict(), experiment.dataset.digest())
    kinds = kinds_of_state(experiment.rule, experiment.shapes)
    rates: dict[bool, list[float]] = {False: [], True: []}
    blocked, written = [], []
    shutil.rmtree(folder, ignore_errors=True)
    with Saver(Checkpoints(folder), experiment.placement, kinds, keep=1) as saver:
        calls = experiment.calls(state)
        state = [at.state for _, at in zip(range(5), calls, strict=False)][-1]
        saver.save(about, state, [0.0])  # the first one also finds memory for the copy
        saver.wait()
        for number in range(2 * n_window):
            is_saving = number % 2 == 0
            jax.block_until_ready(state)
            start = time.perf_counter()
            if is_saving:
                saver.save(about, state, [0.0])
                blocked.append(time.perf_counter() - start)
            n_call, ended = 0, None
            while time.perf_counter() - start < seconds:
                at = next(calls)
                at.read_loss()
                state, n_call = at.state, n_call + 1
                if is_saving and ended is None and saver.is_idle:
                    ended = time.perf_counter() - start
            rates[is_saving].append(n_call / (time.perf_counter() - start))
            saver.wait()
            if is_saving:
                written.append(ended or seconds)
    with_, without = (median(rates[key]) for key in (True, False))
    cost_s = (1 - with_ / without) * seconds
    print(f"state {size / 1e9:.2f} GB; calls a second: {without:.2f} without saving, {with_:.2f} with, of {rates}")
    print(f"a checkpoint costs {cost_s:.2f} s of training, {cost_s / 60:.1%} of a minute")
    print(f"training waits {median(blocked):.2f} s for the copy; the checkpoint is there after {median(written):.1f} s")


def resident(kind: str) -> int:
    """Bytes of this process: RssAnon (its own memory) or VmRSS (mapped files too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def measure_restoring(folder: Path, n_entity: int, n_shard: int) -> None:
    experiment = make_experiment(n_entity, n_shard)
    size = nbytes(experiment.shapes) * n_shard
    checkpoint = Checkpoints(folder).pick(LAST)
    before, peak, is_over = resident("RssAnon"), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.01):
            peak = max(peak, resident("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    jax.block_until_ready(restored(experiment, checkpoint).state)
    seconds = time.perf_counter() - start
    is_over.set()
    thread.join()
    print(
        json.dumps(
            {
                "n_shard": n_shard,
                "seconds": round(seconds, 1),
                "peak memory / state": round((peak - before) / size, 3),
                "with mapped files": round((resident("VmHWM") - before) / size, 3),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where checkpoints are written")
    parser.add_argument("--n-window", type=int, default=8, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=20, help="length of a window")
    parser.add_argument("--n-entity", type=int, default=2_500_000)
    parser.add_argument("--restore", type=int, help="only restore, on this number of shards")
    args = parser.parse_args()
    if args.restore is not None:
        measure_restoring(args.folder, args.n_entity, args.restore)
        return
    measure_saving(args.folder, args.n_entity, args.n_window, args.seconds)
    for n_shard in (4, 2, 8):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--restore", str(n_shard)], check=True)


if __name__ == "__main__":
    main()
