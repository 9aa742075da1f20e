"""One epoch on a graph of ogbl-wikikg2's size: 2,500,000 entities, 535 relations, 16,000,000 triples.

    python benchmarks/large_graph.py [FOLDER/kg.npz] [--set '{"embedding_size": 100}'] [--n-call 10]

Without a file, triples are drawn uniformly, which is the harder case for the caches. The settings are those of
BESS-KGE's notebook on ogbl-wikikg2 where they apply: TransE with the 1-norm, 100 components, 512 positives a shard, 32
negatives a shard pair and those of the other positives of the shard.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bess_jax as bj
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.step.spmd import nbytes, request_devices

N_ENTITY, N_RELATION, N_TRIPLE = 2_500_000, 535, 16_000_000
SETTINGS: dict[str, Any] = {
    "model": "TransE",
    "embedding_size": 100,
    "init_scale": 0.0,
    "inverse_relations": False,
    "corruption": "ht",
    "n_shard": 2,
    "batch_size": 1024,
    "n_negative": 64,
    "augment_negative": True,
    "loss": "logsigmoid",
    "margin": 12.0,
    "optimizer": "adagrad",
    "learning_rate": 0.1,
    "regularization": 0.0,
    "n_epoch": 1,
    "steps_per_call": 64,
}


def read(path: Path | None, n_entity: int = N_ENTITY, n_triple: int = N_TRIPLE) -> bj.KGDataset:
    """The graph in a file of `train`, (n, 3) int32 with heads, relations and tails, or a random one."""
    if path is None:
        rng = np.random.default_rng(0)
        train = rng.integers([n_entity, N_RELATION, n_entity], size=(n_triple, 3), dtype=np.int32)
        return bj.KGDataset(n_entity=n_entity, n_relation_type=N_RELATION, triples={"train": train})
    with np.load(path, allow_pickle=False) as file:
        train, n_entity, n_relation = file["train"], len(file["entity_type"]), len(file["relation_kind"])
    return bj.KGDataset(n_entity=n_entity, n_relation_type=n_relation, triples={"train": train})


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="kg.npz with the array `train` (default: random triples)")
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="other settings of `train`")
    parser.add_argument("--n-call", type=int, help="calls to make (default: the whole epoch)")
    parser.add_argument("--n-entity", type=int, default=N_ENTITY, help="entities of the random graph")
    parser.add_argument("--n-triple", type=int, default=N_TRIPLE, help="triples of the random graph")
    args = parser.parse_args()
    config = TrainConfig(**(SETTINGS | args.set))
    request_devices(config.n_shard)
    start = time.perf_counter()
    dataset = read(args.file, args.n_entity, args.n_triple)
    experiment = Experiment.create(config, dataset)
    read_s, read_bytes = time.perf_counter() - start, peak_bytes()
    state = jax.block_until_ready(experiment.init())
    table = nbytes((state.params, state.opt_state))
    print(f"{dataset.n_entity:,} entities, {len(dataset.triples['train']):,} triples; {config}")
    print(f"reading and partitioning: {read_s:.0f} s, peak {read_bytes / 1e9:.2f} GB")
    print(f"parameters and optimizer state: {table / 1e9:.2f} GB, peak {peak_bytes() / 1e9:.2f} GB")
    start, first, n_call, losses = time.perf_counter(), 0.0, 0, []
    for at in experiment.calls(state):
        n_call += 1
        losses.append(at.read_loss())
        first = first or time.perf_counter() - start
        if n_call == args.n_call:
            break
    seconds = time.perf_counter() - start
    rate = (n_call - 1) * experiment.positives_per_call / (seconds - first) if n_call > 1 else float("nan")
    print(f"first call, with compilation: {first:.1f} s")
    print(f"{n_call} of {experiment.sampler.calls_per_epoch} calls: {seconds:.0f} s")
    print(f"loss of the first call {losses[0]:.4f}, of the last {losses[-1]:.4f}")
    print(f"after the first: {rate:,.0f} positives/s")
    print(f"peak memory: {peak_bytes() / 1e9:.2f} GB, {peak_bytes() / table:.2f} times parameters and state")


if __name__ == "__main__":
    main()
