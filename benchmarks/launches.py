"""Launches and temporaries of every model on an H100 or a TPU v5e, which need not be there.

    python benchmarks/launches.py [--target cuda] [--kernels auto broadcast triton] [--models TransE BoxE] [--json]

512 positives, 4,096 shared negatives, width 100, one shard, compiled ahead of time as `bess_jax audit` does it; it
takes the packages that docs/audit.md names for each target. Nothing runs: launches and memory are told, and no time.

* scores: the scores of the positives and of all pairs, the loss, and the gradients by all rows.
* step: a whole step of training with a row-sparse update by Adagrad, in a call of 16 steps: launches of the call / 16.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

import bess_jax as bj
from bess_jax.audit.ahead import TARGETS, count_launches, describe_devices
from bess_jax.audit.hlo import hlo_text, read_program
from bess_jax.kernels import use_kernels
from bess_jax.kernels.bodies import Kernels
from bess_jax.run.audited import audit_run
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.rehearsal import Rehearsal

B, N, D = 512, 4096, 100
STEPS = 16  # of a call, the default of `train`
MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {  # name -> class, norm, options
    "TransE-1": ("TransE", 1, {}),
    "TransE-2": ("TransE", 2, {}),
    "RotatE": ("RotatE", 1, {}),
    "PairRE": ("PairRE", 1, {}),
    "TripleRE": ("TripleRE", 1, {}),
    "InterHT": ("InterHT", 1, {}),
    "TranS": ("TranS", 1, {}),
    "BoxE": ("BoxE", 1, {}),
    "BoxE-whole": ("BoxE", 1, {"dist_func_per_dim": False}),
    "BoxE-plain": ("BoxE", 1, {"apply_tanh": False}),
    "BoxE-plain-whole": ("BoxE", 1, {"apply_tanh": False, "dist_func_per_dim": False}),
    "DistMult": ("DistMult", 1, {}),
    "ComplEx": ("ComplEx", 1, {}),
    "ConvE": ("ConvE", 1, {}),
}


class Count(NamedTuple):
    """What a compiled program launches and needs."""

    kernels: float
    loop_iterations: float
    temporaries: int
    """Bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, default="cuda")
    parser.add_argument("--kernels", nargs="+", choices=get_args(Kernels), default=["auto"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--parts", nargs="+", choices=("scores", "step"), default=["scores", "step"])
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row instead of a table")
    args = parser.parse_args()
    devices = describe_devices(args.target, 1)
    if not args.json:
        print(f"{B} x {N:,} x {D}, {TARGETS[args.target]}, JAX {jax.__version__}\n")
        print("| model | kernels | part | launches | rounds of loops | temporaries, MiB | compiled in, s |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in args.models:
        for kernels in args.kernels:
            for part in args.parts:
                start = time.perf_counter()
                count = measure(model, kernels, part, args.target, devices)
                seconds = time.perf_counter() - start
                row = {"model": model, "kernels": kernels, "part": part, **count._asdict(), "seconds": seconds}
                mebibytes = count.temporaries / 2**20
                print(
                    json.dumps(row)
                    if args.json
                    else f"| {model} | {kernels} | {part} | {count.kernels:,.1f} | {count.loop_iterations:,.0f} "
                    f"| {mebibytes:,.1f} | {seconds:.0f} |",
                    flush=True,
                )


def measure(model: str, kernels: Kernels, part: str, target: Any, devices: tuple[jax.Device, ...]) -> Count:
    """Compiles a part of a step of a model for a described device."""
    with use_kernels(kernels):
        experiment = make_experiment(model, devices)
        if part == "step":
            found = audit_run(experiment, "step", target)
            launched = found.launches
            rounds = launched.loop_iterations - STEPS  # without those of the steps themselves
            return Count(launched.kernels / STEPS, rounds / STEPS, found.contents.memory["temp"])
        compiled = scores(experiment, target, devices[0])
    launches = count_launches(read_program(hlo_text(compiled)))
    return Count(launches.kernels, launches.loop_iterations, compiled.memory_analysis().temp_size_in_bytes)


def make_experiment(model: str, devices: tuple[jax.Device, ...]) -> Experiment:
    """A run on a random graph, one shard, of which nothing is made."""
    name, norm, options = MODELS[model]
    n_entity, n_relation = 20_000, 8
    rng = np.random.default_rng(0)
    triples = rng.integers((n_entity, n_relation, n_entity), size=(20_000, 3), dtype=np.int32)
    graph = bj.KGDataset(
        n_entity=n_entity, n_relation_type=n_relation, triples={"train": triples, "valid": triples[:100]}
    )
    config = TrainConfig(
        model=name,
        model_options=options,
        scoring_norm=norm,
        embedding_size=D,
        n_shard=1,
        batch_size=B,
        n_negative=N,
        augment_negative=False,
        steps_per_call=STEPS,
        regularization=0.0,
        optimizer="adagrad",
    )
    return Experiment.create(config, graph, placement=Rehearsal(1, devices, "shard_map"))


def scores(experiment: Experiment, target: str, device: jax.Device) -> Any:
    """The scores of a shard, their loss and its gradients, compiled."""
    score_fn, loss_fn = experiment.model.score_fn, experiment.model.loss_fn
    variables = {"params": score_fn.init_params(jax.random.key(0)), "batch_stats": score_fn.init_state()}

    def loss(head: jax.Array, relation: jax.Array, tail: jax.Array, candidate: jax.Array) -> jax.Array:
        rows = head, relation, tail, candidate[None]
        return loss_fn(*score_fn.apply(variables, *rows, method="score_triple_and_tails"))

    sharding = jax.sharding.SingleDeviceSharding(device)
    widths = (B, score_fn.entity_width), (B, score_fn.relation_width), (B, score_fn.entity_width)
    shapes = [
        jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding) for shape in (*widths, (N, score_fn.entity_width))
    ]
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    return step.trace(*shapes).lower(lowering_platforms=(target,)).compile()


if __name__ == "__main__":
    main()
