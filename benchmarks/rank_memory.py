"""Memory and time of filtered ranks on a table of ogbl-wikikg2's size. Linux only.

    python benchmarks/rank_memory.py [--n-triple 16000000] [--n-query 10000] [--n-shard 2]

A random table and random triples; half of the queries ask for heads, half for tails, other known answers left out.
Extra memory is what the resident memory of the process rises above what it was with the table on the devices and the
triples read, at its highest; the programs were compiled before.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import jax
import numpy as np

import bess_jax as bj


def resident(which: str) -> int:
    """Bytes of resident memory now ("VmRSS") or at the highest ("VmHWM")."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("/proc/self/status does not tell the resident memory")
    return 1024 * int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n-entity", type=int, default=2_500_000)
    parser.add_argument("--n-triple", type=int, default=16_000_000)
    parser.add_argument("--n-query", type=int, default=10_000)
    parser.add_argument("--embedding-size", type=int, default=100)
    parser.add_argument("--n-shard", type=int, default=2)
    parser.add_argument("--model", choices=("DistMult", "TransE"), default="DistMult")
    args = parser.parse_args()
    n_relation = 535
    bj.request_devices(args.n_shard)
    score_fn = getattr(bj, args.model)(
        negative_sample_sharing=True,
        sharding=bj.Sharding.create(args.n_entity, args.n_shard, seed=0),
        n_relation_type=n_relation,
        embedding_size=args.embedding_size,
    )
    size = (args.n_triple, 3)
    triples = np.random.default_rng(0).integers([args.n_entity, n_relation, args.n_entity], size=size, dtype=np.int32)
    known = bj.KnownAnswers(triples, n_relation)
    ranker = bj.Ranker(score_fn=score_fn, placement=bj.Placement.create(args.n_shard))
    keys = ranker.placement.replicate(jax.random.PRNGKey(0))
    shards = ranker.placement.put(np.arange(args.n_shard, dtype=np.int32))

    def init(key: jax.Array, shard: jax.Array) -> bj.Params:
        rows = score_fn.init_entity(jax.random.fold_in(key, shard), score_fn.sharding.max_entity_per_shard)
        return bj.Params(rows, score_fn.init_params(key))

    params = jax.block_until_ready(ranker.placement.map(init)(keys, shards))
    asked = triples[: args.n_query // 2]
    ranker.ranks(params, asked[: 2 * ranker.chunk], known)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    ranker.ranks(params, asked, known)
    seconds = time.perf_counter() - start
    flops = 2 * args.n_query * args.n_entity * args.embedding_size
    print(
        f"{args.n_query:,} queries, {args.n_entity:,} x {args.embedding_size}, {args.n_triple:,} known triples, "
        f"{args.model}, {args.n_shard} shards: {seconds:.1f} s ({flops / seconds / 1e9:.0f} G operations/s), "
        f"table and the rest before {before / 2**20:,.0f} MiB, extra {(resident('VmHWM') - before) / 2**20:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
