"""Everything that a model is asked, on the devices of all processes. Run by itself, it is one of these processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

import bess_jax as bj
from bess_jax.ask.similarity import Neighbours
from bess_jax.predict.embeddings import entity_table, relation_table
from bess_jax.run.hosts import Processes
from bess_jax.step.spmd import Placement

N_SHARD, N_ENTITY, N_RELATION, SIZE = 4, 50, 6, 8


def answers(placement: Placement) -> dict[str, NDArray[Any]]:
    """Ranks, best answers, scores and neighbours by a model of made up numbers, and what arrays look like on hosts."""
    rng = np.random.default_rng(0)
    sharding = bj.Sharding.create(N_ENTITY, N_SHARD, seed=0)
    score_fn = bj.ComplEx(
        negative_sample_sharing=True, sharding=sharding, n_relation_type=N_RELATION, embedding_size=SIZE
    )
    rows = rng.normal(size=(N_SHARD, sharding.max_entity_per_shard, 2 * SIZE)).astype(np.float32)
    relations = rng.normal(size=(N_RELATION, 2 * SIZE)).astype(np.float32)
    params = bj.Params(
        placement.make(rows.shape[1:], np.float32, lambda shard, part: rows[shard][part]),
        placement.replicate({"relation_embedding": relations}),
    )
    shape = (40, 3)
    triples = (rng.integers(1 << 30, size=shape) % [N_ENTITY, N_RELATION, N_ENTITY]).astype(np.int32)
    known = bj.KnownAnswers(triples, N_RELATION)
    ranker = bj.Ranker(score_fn=score_fn, placement=placement, chunk=16)
    ranks = ranker.ranks(params, triples, known, sides=("head", "relation", "tail"))
    lists = {"tail": rng.integers(N_ENTITY, size=(len(triples), 5)).astype(np.int32)}
    found: dict[str, Any] = {f"ranks of {side}": ranks.sides[side].better for side in ranks.sides}
    found["ranks among"] = ranker.ranks_among(params, triples, lists).sides["tail"].better
    for side in ("head", "relation", "tail"):
        found[f"best {side}"], found[f"score of {side}"] = ranker.top_k(params, side, triples, 4, known=known)
    found["score"] = ranker.score(params, triples)
    for name, make in (("entity", Neighbours.of_entities), ("relation", Neighbours.of_relations)):
        found[f"like {name}"], found[f"cosine of {name}"] = make(ranker, params, "cosine").nearest([0, 3, 5], 3)
    dataset = bj.KGDataset(n_entity=N_ENTITY, n_relation_type=N_RELATION, triples={"train": triples})
    for name, table in (("entity", entity_table), ("relation", relation_table)):
        found[f"rows of {name}"] = table(dataset, ranker, params).array
    np.testing.assert_array_equal(found["rows of entity"], bj.unshard(rows, sharding))
    own = placement.local_shards
    np.testing.assert_array_equal(placement.get_local(params.entity), rows[own.start : own.stop])
    found["table"] = placement.get(params.entity)
    return {name: np.asarray(values) for name, values in found.items()}


def main(out: Path, n_device: int, processes: tyro.conf.OmitArgPrefixes[Processes]) -> None:
    """Writes the answers of this process to a file."""
    with processes.joined() as team:
        bj.request_devices(n_device)
        placement = Placement.create(N_SHARD, n_device)
        assert len(placement.local_shards) == N_SHARD // team.n_process
        assert team.agree(1 << team.process) == (1 << team.n_process) - 1
        assert team.share(f"from {team.process}") == "from 0"
        np.savez(out / f"{team.process}.npz", **answers(placement))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
