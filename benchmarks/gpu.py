"""All that a machine with GPUs is asked for, in one call of less than an hour.

    python benchmarks/gpu.py [--out gpu] [--stages correct training ...] [--graph PATH/TO/fb15k-237] [--small]

Writes gpu.md and gpu.json after each stage, so that what was done is kept; a stage is a process of its own with a limit
of time (`STAGES`). It runs on what JAX finds; with --small, sizes that a CPU does in a minute, to see that it works.

* correct: scores and gradients of every model by every way to compute sums over pairs, against float64 on the host.
* training: losses and rows after three steps, against the same steps on the host; on all GPUs, if there are several.
* kernel, step, rank: `bess_jax.bench` with each of those ways.
* scatter: adding rows to places some of which repeat, against places that do not (jax#38806).
* large: TransE with the 1-norm at the shape of ogbl-wikikg2, by `large_graph.py`; the aim is 20 million positives/s.
* peers: `peers.py`, with --graph, of bess_jax and PyTorch where that is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BODIES = ("auto", "broadcast", "triton", "loops")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> class, options
    "TransE-1": ("TransE", {"scoring_norm": 1}),
    "TransE-2": ("TransE", {"scoring_norm": 2}),
    "BoxE-whole": ("BoxE", {"dist_func_per_dim": False}),
    **{
        name: (name, {}) for name in ("RotatE", "PairRE", "TripleRE", "InterHT", "TranS", "BoxE", "DistMult", "ComplEx")
    },
}
STAGES = {  # name -> seconds that it may take
    "correct": 480,
    "training": 300,
    **{f"{suite}-{body}": 150 for suite in ("kernel", "step", "rank") for body in BODIES[:3]},
    "scatter": 120,
    "large-1024": 240,
    "large-16384": 240,
    "peers": 600,
}
TOLERANCE = 1e-4  # largest error by the largest number


def correct(is_small: bool) -> Iterator[dict[str, Any]]:
    """Largest errors of scores and gradients, each by the largest number."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from bess_jax.kernels import use_kernels

    b, n = (9, 17) if is_small else (129, 517)
    for model in MODELS:
        combiner, query, key = rows(model, b, n, 6 if is_small else 100)
        weight = np.random.default_rng(1).normal(size=(b, n)).astype(np.float32)

        def both(fn: Any, query: Any, key: Any, weight: Any) -> Any:
            score, pull = jax.vjp(fn, query, key)
            return score, *pull(weight)

        def plain(query: Any, key: Any, combiner: Any = combiner) -> Any:
            if not hasattr(combiner, "terms"):
                return query @ key.T
            query, key = combiner.prepare(query, key)
            over = jax.tree.map(lambda x: x[:, None], query), jax.tree.map(lambda x: x[None], key)
            return combiner.score(tuple(jnp.sum(x, axis=-1) for x in combiner.terms(*over)))

        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            args = jax.tree.map(np.float64, (query, key, weight))
            exact = jax.device_get(jax.jit(partial(both, plain))(*args))
        for body in BODIES if hasattr(combiner, "terms") else BODIES[:1]:
            with use_kernels(body):
                found = jax.device_get(jax.jit(partial(both, combiner.pairwise))(query, key, weight))
            errors = [error_of(*pair) for pair in zip(found, exact, strict=True)]
            names = ("scores", "by queries", "by keys")
            row = dict(zip(names, errors, strict=True))
            yield {"model": model, "kernels": body, **row, "right": bool(max(errors) < TOLERANCE)}


def error_of(found: Any, exact: Any) -> float:
    """Largest error in an array of a tree, by the largest number in it."""
    import jax

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(abs(x - y).max() / max(abs(y).max(), 1e-30)) for x, y in pairs)


def rows(model: str, b: int, n: int, width: int) -> Any:
    """The combiner of a model, and float32 queries (b, ...) and keys (n, ...) from random rows."""
    import jax
    import numpy as np

    import bess_jax as bj
    from bess_jax import scoring

    name, options = MODELS[model]
    score_fn = getattr(scoring, name)(
        negative_sample_sharing=True,
        sharding=bj.Sharding.create(16, 1, 0),
        n_relation_type=4,
        embedding_size=width,
        **options,
    )
    rng = np.random.default_rng(0)
    sizes = (b, score_fn.entity_width), (b, score_fn.relation_width), (n, score_fn.entity_width)
    head, relation, tail = (rng.normal(size=size).astype(np.float32) for size in sizes)
    variables = {"params": score_fn.init_params(jax.random.key(0))}
    query = score_fn.apply(variables, head, relation, method="query_tail")
    return score_fn.combiner, *jax.device_get((query, score_fn.apply(variables, tail, method="key_tail")))


def training(is_small: bool) -> Iterator[dict[str, Any]]:
    """Losses and rows after three steps here and on the host."""
    import jax
    import numpy as np

    import bess_jax as bj
    from bess_jax.bench.step import BenchConfig, make_parts

    n_found = len(jax.devices())
    for model, n_shard in ((model, n) for model in MODELS for n in {1, n_found if n_found in (2, 4, 8) else 1}):
        name, options = MODELS[model]
        if options.keys() - {"scoring_norm"}:
            continue  # what `bench` has no option for
        config = BenchConfig(
            model=name,
            n_entity=200 if is_small else 20_000,
            n_triple=2_000 if is_small else 200_000,
            embedding_size=6 if is_small else 100,
            n_shard=n_shard,
            batch_size=16 * n_shard**2 if is_small else 256 * n_shard**2,
            n_negative=16 * n_shard if is_small else 512 * n_shard,
            steps_per_call=3,
            **options,
        )
        sampler, bess, rule = make_parts(config)
        batch = bj.shard_major(bj.merge_ids(sampler.batch(0, 0), bess.score_fn.sharding.max_entity_per_shard))
        here = bj.Placement(n_shard, tuple(jax.devices()[:n_shard]))
        host = bj.Placement(n_shard, tuple(jax.devices("cpu")[:1]), "vmap")
        params = jax.device_get(bess.init(jax.random.PRNGKey(0)))
        results = []
        for placement in (here, host):
            with jax.default_device(placement.devices[0]):
                state = bj.TrainState(placement.put(params), placement.map(rule.init)(placement.put(params)))
                step = placement.map(bj.make_train_step(bess, rule, placement.axis_name))
                losses, state = step(state, placement.put(batch))
                results.append(jax.device_get((placement.get(losses), placement.get(state.params.entity))))
        (losses, table), (host_losses, host_table) = results
        errors = {
            "loss, relative": float(np.max(abs(losses - host_losses) / abs(host_losses))),
            "rows": float(abs(table - host_table).max()),
        }
        right = errors["loss, relative"] < TOLERANCE and errors["rows"] < 1e-3
        yield {"model": model, "shards": n_shard, **errors, "right": bool(right)}


def bench(suite: str, body: str, is_small: bool) -> Iterator[dict[str, Any]]:
    """A suite of `bess_jax.bench` with one way to compute sums over pairs."""
    calls = ["--n-call", "2", "--n-warmup", "1"] if is_small else []
    options = {
        "kernel": ["--n-query", "32", "--n-key", "32", "--embedding-size", "8"],
        "step": ["--n-entity", "500", "--n-triple", "2000", "--embedding-size", "8", "--batch-size", "32"],
        "rank": ["--n-entity", "500", "--n-triple", "2000", "--embedding-size", "8", "--n-query", "16"],
    }[suite]
    many = ["--n-key", "4096"] if suite == "kernel" else ["--n-entity", "2500000"] if suite == "step" else []
    models = {"step": ["TransE", "RotatE", "ComplEx"]}.get(suite, [""])
    for model in models:
        command = [sys.executable, "-m", "bess_jax.bench", suite, "--json", *calls, *(options if is_small else many)]
        command += ["--n-shard", "1"] if suite != "kernel" else []
        command += ["--model", model, "--n-negative", "16" if is_small else "4096"] if model else []
        done = subprocess.run(
            command, env=os.environ | {"BESS_JAX_KERNELS": body}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            yield {"what": model or suite, "kernels": body, "error": last_line(done.stderr)}
            continue
        record = json.loads(done.stdout.splitlines()[-1])
        for name, found in record["measures"].items():
            rate = {name: found[name] for name in ("ms", "ms_min", "rate", "unit", "percent") if name in found}
            yield {"what": f"{model} {name}".strip(), "kernels": body, **rate}


def scatter(is_small: bool) -> Iterator[dict[str, Any]]:
    """Rows added to a table: all to different places, and many to the same."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    n_row, n, width = (1_000, 64, 8) if is_small else (2_500_000, 16_384, 100)
    rng = np.random.default_rng(0)
    places = {
        "different": rng.choice(n_row, n, replace=False),
        "drawn from 1,000": rng.integers(min(1_000, n_row), size=n),
        "one": np.zeros(n, np.int64),
    }
    add = jax.jit(lambda table, at, rows: table.at[at].add(rows), donate_argnums=(0,))
    table, values = jnp.zeros((n_row, width)), jnp.asarray(rng.normal(size=(n, width)), jnp.float32)
    times: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(12):  # in turns
        for name, at in places.items():
            index = jnp.asarray(at, jnp.int32)
            jax.block_until_ready((table, index))
            start = time.perf_counter()
            table = jax.block_until_ready(add(table, index, values))
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        yield {"places": name, "rows": n, "ms": 1e3 * sorted(seconds[2:])[5], "ms_min": 1e3 * min(seconds[2:])}


def large(batch_size: int, is_small: bool) -> Iterator[dict[str, Any]]:
    """Positives a second on one shard of a large random graph; drawing and sending batches are part of it."""
    settings: dict[str, Any] = {"n_shard": 1, "batch_size": batch_size}
    if is_small:
        settings |= {"batch_size": 64, "embedding_size": 8, "steps_per_call": 2}
    size = ["--n-entity", "2000", "--n-triple", "20000"] if is_small else []
    command = [sys.executable, str(HERE / "large_graph.py"), *size, "--set", json.dumps(settings), "--n-call", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield {"batch size": settings["batch_size"], "error": last_line(done.stderr)}
        return
    found = re.search(r"after the first: ([0-9,]+) positives/s", done.stdout)
    rate = int(found[1].replace(",", "")) if found else None
    yield {"batch size": settings["batch_size"], "positives/s": rate, "aim": 20_000_000}


def peers(graph: Path | None, is_small: bool) -> Iterator[dict[str, Any]]:
    """Lines of `peers.py`."""
    if graph is None or is_small:
        yield {"system": "none", "error": "no --graph was given" if graph is None else "left out with --small"}
        return
    systems = ("bess_jax-1", "PyTorch")
    command = [sys.executable, str(HERE / "peers.py"), str(graph), "--json", "--repeats", "1", "--systems", *systems]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield {"system": "all", "error": last_line(done.stderr)}
        return
    for row in json.loads(done.stdout.splitlines()[-1])["rows"]:
        yield {"system": row["system"], "model": row["model"], "triples/s": row.get("speed")}


def run_stage(name: str, args: argparse.Namespace) -> None:
    """Prints what a stage finds, a line of JSON each."""
    stage, _, what = name.partition("-")
    if stage in ("kernel", "step", "rank"):
        found = bench(stage, what, args.small)
    elif stage == "large":
        found = large(int(what), args.small)
    elif stage == "peers":
        found = peers(args.graph, args.small)
    else:
        functions: dict[str, Callable[[bool], Iterator[dict[str, Any]]]] = {
            "correct": correct,
            "training": training,
            "scatter": scatter,
        }
        found = functions[stage](args.small)
    for row in found:
        print(json.dumps(row), flush=True)


def machine() -> dict[str, Any]:
    """Devices, driver, versions and commit; in a process of its own, which leaves the GPUs free."""
    code = (
        "import json, jax, jaxlib; d = jax.devices();"
        "print(json.dumps({'platform': d[0].platform, 'devices': [x.device_kind for x in d],"
        "'jax': jax.__version__, 'jaxlib': jaxlib.__version__}))"
    )
    found: dict[str, Any] = json.loads(said([sys.executable, "-c", code]) or "{}")
    driver = said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    return found | {"gpus": driver, "commit": said(["git", "-C", str(HERE), "rev-parse", "HEAD"])}


def said(command: list[str]) -> str:
    """The output of a command; "" if there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def last_line(text: str) -> str:
    """What an error says."""
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def in_process(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a stage, those before it ended by an error or its limit of time included."""
    command = [sys.executable, __file__, "--stage", name, *(["--small"] if args.small else [])]
    command += ["--graph", str(args.graph)] if args.graph else []
    error = None
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STAGES[name])
        out = done.stdout
        error = last_line(done.stderr) if done.returncode else None
    except subprocess.TimeoutExpired as late:
        out = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        error = f"no end after {STAGES[name]} s"
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    return [*found, {"error": error}] if error else found


def markdown(result: dict[str, Any]) -> str:
    """The machine, and one table of all rows."""
    lines = [f"{name}: {value}\n" for name, value in result["machine"].items()]
    lines += ["| stage | what | found |", "| --- | --- | --- |"]
    for stage, rows in result["stages"].items():
        for row in rows:
            named = [str(value) for value in row.values() if isinstance(value, str)]
            numbers = {name: value for name, value in row.items() if not isinstance(value, str)}
            told = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
            lines.append(f"| {stage} | {', '.join(named)} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="results, without .md and .json")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES])
    parser.add_argument("--graph", type=Path, help="graph for peers: train, valid, test as TSV")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU, to see that it works")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        run_stage(args.stage, args)
        return
    result: dict[str, Any] = {"machine": machine(), "stages": {}}
    for name in args.stages:
        start = time.perf_counter()
        result["stages"][name] = in_process(name, args)
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
        print(f"{name}: {len(result['stages'][name])} lines in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(markdown(result))


if __name__ == "__main__":
    main()
