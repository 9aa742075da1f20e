"""Filtered ranks of a test split: against brute force in float64, and against PyKEEN's evaluator.

    python benchmarks/exact_ranks.py PATH/TO/GRAPH [--peer-python PATH] [--shards 1 2 3 4 8] [--skip-brute-force]

The graph is a shipped one (wn18rr) or a folder with train, valid and test as TSV.

Brute force: embeddings of small integers, whose scores are the same in float32 and float64 and tie often; every number
of shards, model, side and rule for ties must give the ranks of the float64 scores, with none left out. Candidates are
all entities, filtered and not, and half of the entities.

PyKEEN (extra `peers`; `pykeen_ranks.py` in a process of its own): ComplEx with 128 components and random normal
embeddings, the same in both systems; the time of `RankBasedEvaluator.evaluate` at batch 256 and of `Ranker.ranks`, both
sides, without compilation, in turns; ranks must agree wherever no score is nearer to that of the answer than the
rounding. The ceiling is the product of all queries and all entities at the rate that NumPy, and XLA, multiply matrices
with, measured in the same turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bess_jax as bj
from bess_jax.ask.known import COLUMNS

MODELS = (bj.DistMult, bj.ComplEx, bj.TransE)
SIZE, ROUNDING = 128, 1e-3


def model_of(kind: Any, dataset: bj.KGDataset, n_shard: int, size: int) -> bj.BaseScoreFunction:
    return kind(
        negative_sample_sharing=True,
        sharding=bj.Sharding.create(dataset.n_entity, n_shard, seed=0),
        n_relation_type=dataset.n_relation_type,
        embedding_size=size,
    )


def put(placement: bj.Placement, score_fn: bj.BaseScoreFunction, entity: np.ndarray, relation: np.ndarray) -> bj.Params:
    relations = np.broadcast_to(relation, (placement.n_shard, *relation.shape)).astype(np.float32)
    table = bj.shard_table(entity.astype(np.float32), score_fn.sharding)
    params: bj.Params = placement.put(bj.Params(table, {"relation_embedding": relations}))
    return params


def all_scores(
    score_fn: bj.BaseScoreFunction, entity: np.ndarray, relation: np.ndarray, side: str, rows: np.ndarray
) -> np.ndarray:
    """Scores (n, n_entity) in float64 of every entity on one side of triples (n, 3)."""
    h, r, t = entity[rows[:, 0]], relation[rows[:, 1]], entity[rows[:, 2]]
    if isinstance(score_fn, bj.TransE):
        query = h + r if side == "tail" else t - r
        return np.stack([-np.abs(q - entity).sum(axis=1) for q in query])
    if isinstance(score_fn, bj.ComplEx):
        half = entity.shape[1] // 2
        h, r, t, every = (x[:, :half] + 1j * x[:, half:] for x in (h, r, t, entity))
        query = h * r if side == "tail" else t * r.conj()
        return query.real @ every.real.T + query.imag @ every.imag.T
    return (h * r if side == "tail" else t * r) @ entity.T


def brute_force(
    score_fn: bj.BaseScoreFunction,
    tables: tuple[np.ndarray, np.ndarray],
    side: Any,
    triples: np.ndarray,
    known: bj.KnownAnswers | None,
    group: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Better candidates and ties, (n,) each."""
    better, ties = [], []
    for start in range(0, len(triples), 256):
        rows = triples[start : start + 256]
        own = rows[:, [COLUMNS[side]]]
        scores = all_scores(score_fn, *tables, side, rows)
        score = np.take_along_axis(scores, own, axis=1)
        if known is not None:
            scores[known.of(side, rows)] = -np.inf
        if group is not None:
            scores[:, group == 0] = -np.inf
        np.put_along_axis(scores, own, -np.inf, axis=1)
        better.append((scores > score).sum(axis=1))
        ties.append((scores == score).sum(axis=1))
    return np.concatenate(better), np.concatenate(ties)


def check_brute_force(dataset: bj.KGDataset, shards: list[int]) -> None:
    rng = np.random.default_rng(0)
    triples, known = dataset.triples["test"], bj.KnownAnswers(dataset.all_triples(), dataset.n_relation_type)
    group = rng.integers(2, size=dataset.n_entity).astype(np.int32)
    among = {side: bj.Candidates(group, np.ones(len(triples), np.int32)) for side in ("head", "tail")}
    cases: dict[str, dict[str, Any]] = {
        "filtered": {"known": known},
        "raw": {},
        "half": {"known": known, "among": among},
    }
    for kind in MODELS:
        one = model_of(kind, dataset, 1, 6)
        tables = tuple(
            rng.integers(-3, 4, size=size).astype(np.float64)
            for size in ((dataset.n_entity, one.entity_width), (one.n_relation, one.relation_width))
        )
        expected = {
            (case, side): brute_force(
                one, tables, side, triples, options.get("known"), group if case == "half" else None
            )
            for case, options in cases.items()
            for side in ("head", "tail")
        }
        for n_shard in shards:
            score_fn = model_of(kind, dataset, n_shard, 6)
            ranker = bj.Ranker(score_fn=score_fn, placement=bj.Placement.create(n_shard))
            params = put(ranker.placement, score_fn, *tables)
            for case, options in cases.items():
                ranks = ranker.ranks(params, triples, **options)
                for side in ("head", "tail"):
                    better, ties = expected[case, side]
                    rules = {
                        "optimistic": 1 + better,
                        "pessimistic": 1 + better + ties,
                        "average": 1 + better + ties / 2,
                    }
                    wrong = {rule: int(np.sum(ranks.rank(side, rule) != rank)) for rule, rank in rules.items()}
                    if any(wrong.values()):
                        raise SystemExit(f"{kind.__name__}, {n_shard} shards, {case} {side}s: wrong ranks {wrong}")
            share = np.mean([ranks.sides[side].ties > 0 for side in ("head", "tail")])
            print(
                f"{kind.__name__}, {n_shard} shards: {6 * len(triples):,} ranks equal, {share:.0%} with ties",
                flush=True,
            )


def matmul_rates() -> dict[str, float]:
    """Operations per second of the product of a chunk of queries and a window."""
    a, b = (np.ones(shape, np.float32) for shape in ((512, 2 * SIZE), (2 * SIZE, 1024)))
    compiled = jax.jit(partial(jnp.matmul, precision="highest"))
    on_device = jax.device_put((a, b))
    rates = {}
    for name, product in (("NumPy", lambda: a @ b), ("XLA", lambda: compiled(*on_device).block_until_ready())):
        times = []
        for _ in range(100):
            start = time.perf_counter()
            product()
            times.append(time.perf_counter() - start)
        rates[name] = 2 * 512 * 1024 * 2 * SIZE / statistics.median(times)
    return rates


def compare_pykeen(dataset: bj.KGDataset, python: str, n_shard: int, repeats: int) -> dict[str, Any]:
    score_fn = model_of(bj.ComplEx, dataset, n_shard, SIZE)
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(n, 2 * SIZE)).astype(np.float32) for n in (dataset.n_entity, score_fn.n_relation)]
    ranker = bj.Ranker(score_fn=score_fn, placement=bj.Placement.create(n_shard))
    params, triples = put(ranker.placement, score_fn, *tables), dataset.triples["test"]
    known = bj.KnownAnswers(dataset.all_triples(), dataset.n_relation_type)
    ranks = ranker.ranks(params, triples, known)  # compiles
    pairs, shares = [], {"NumPy": [], "XLA": []}
    floor = 2 * 2 * len(triples) * dataset.n_entity * 2 * SIZE
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tables.npz"
        np.savez(file, entity=tables[0], relation=tables[1], **dataset.triples)
        for _ in range(repeats):
            rates = matmul_rates()
            start = time.perf_counter()
            ranks = ranker.ranks(params, triples, known)
            own = time.perf_counter() - start
            script = str(Path(__file__).with_name("pykeen_ranks.py"))
            subprocess.run([python, script, str(file)], check=True, stdout=subprocess.DEVNULL)
            peer = np.load(file.with_name("ranks.npz"))
            pairs.append((own, float(peer["seconds"])))
            for name, rate in rates.items():
                shares[name].append(floor / rate / own)
            text = ", ".join(f"{share[-1]:.0%} of {name}'s product" for name, share in shares.items())
            print(f"bess_jax {own:.2f} s, PyKEEN {pairs[-1][1]:.1f} s; {text}", flush=True)
    differ = near = 0
    for side in ("head", "tail"):
        where = np.flatnonzero(ranks.rank(side) != peer[side])
        differ += len(where)
        for start in range(0, len(where), 256):
            rows = triples[where[start : start + 256]]
            scores = all_scores(score_fn, *(x.astype(np.float64) for x in tables), side, rows)
            own_score = np.take_along_axis(scores, rows[:, [COLUMNS[side]]], axis=1)
            within = np.sum(np.abs(scores - own_score) < ROUNDING, axis=1) - 1
            off = np.abs(ranks.rank(side) - peer[side])[where[start : start + 256]]
            near += int(np.sum(off <= within))
    return {
        "ranks": 2 * len(triples),
        "differ": differ,
        "explained_by_rounding": near,
        "bess_jax_s": statistics.median(own for own, _ in pairs),
        "pykeen_s": statistics.median(peer for _, peer in pairs),
        "ratio": statistics.median(peer / own for own, peer in pairs),
        "of_ceiling": {name: statistics.median(share) for name, share in shares.items()},
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("graph")
    parser.add_argument("--shards", nargs="+", type=int, default=[1, 2, 3, 4, 8], help="for brute force")
    parser.add_argument("--skip-brute-force", action="store_true")
    parser.add_argument("--peer-python", help="interpreter that has PyKEEN; without it, PyKEEN is left out")
    parser.add_argument("--repeats", type=int, default=3, help="turns with PyKEEN")
    parser.add_argument("--n-shard", type=int, default=2, help="shards of the comparison with PyKEEN")
    args = parser.parse_args()
    bj.request_devices(args.n_shard if args.skip_brute_force else max(args.shards))
    dataset = bj.load_dataset(args.graph)
    if not args.skip_brute_force:
        check_brute_force(dataset, args.shards)
    if args.peer_python:
        print(json.dumps(compare_pykeen(dataset, args.peer_python, args.n_shard, args.repeats)))


if __name__ == "__main__":
    main()
