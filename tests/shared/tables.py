"""A graph whose names the recorded models of other libraries know, and all scores of tables against theirs."""

from __future__ import annotations

import numpy as np
from shared.golden import SCORE, close

import bess_jax as bj

N_ENTITY, N_RELATION = 7, 3
ENTITIES, RELATIONS = [f"e{i}" for i in range(N_ENTITY)], [f"r{i}" for i in range(N_RELATION)]


def graph(entities: list[str] = ENTITIES, relations: list[str] = RELATIONS) -> bj.KGDataset:
    return bj.KGDataset(
        n_entity=len(entities),
        n_relation_type=len(relations),
        triples={"train": np.zeros((1, 3), np.int32)},
        entity_dict=entities,
        relation_dict=relations,
    )


def check_scores(tables: bj.Tables, expected: dict[str, np.ndarray], n_shard: int = 1) -> None:
    """All scores (h, r, t) of a predictor of the tables, whose graph has other ids for the same names."""
    entities, relations = ENTITIES[::-1], RELATIONS[1:] + RELATIONS[:1]
    predictor = tables.predictor(graph(entities, relations), n_shard)
    every = np.stack(np.meshgrid(*map(np.arange, (N_ENTITY, N_RELATION, N_ENTITY)), indexing="ij"), axis=-1)
    h, r = (
        np.array([names.index(name) for name in here]) for names, here in ((ENTITIES, entities), (RELATIONS, relations))
    )
    at = np.ix_(h, r, h)
    table = predictor.score(every.reshape(-1, 3).astype(np.int32))
    close(np.reshape(table.columns["score"], (N_ENTITY, N_RELATION, N_ENTITY)), expected["score"][at], SCORE)
    if "head_score" not in expected:
        return
    for relation in relations:
        answers = predictor.top_k(relation=relation, tail=entities, k=N_ENTITY).columns
        found = np.empty((N_ENTITY, N_ENTITY), np.float32)  # (t, h)
        found[answers["query"], answers["id"]] = answers["score"]
        close(found.T, expected["head_score"][at][:, relations.index(relation)], SCORE)
