"""A random ComplEx model of a small graph, to ask by names, and the scores of all its triples in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import bess_jax as bj

N_ENTITY, N_RELATION, D = 37, 4, 4
SIDES = ("head", "relation", "tail")


def make_dataset() -> bj.KGDataset:
    rng = np.random.default_rng(0)
    triples = np.unique(rng.integers([N_ENTITY, N_RELATION, N_ENTITY], size=(340, 3)), axis=0).astype(np.int32)
    triples = rng.permutation(triples)
    fan = np.array([[1, 1, t] for t in range(N_ENTITY)], np.int32)  # every entity is a known answer to (1, 1, ?)
    return bj.KGDataset(
        n_entity=N_ENTITY,
        n_relation_type=N_RELATION,
        triples={"train": np.concatenate([triples[:200], fan]), "valid": triples[200:260], "test": triples[260:]},
        entity_dict=tuple(f"e{i}" for i in range(N_ENTITY)),
        relation_dict=tuple(f"r{i}" for i in range(N_RELATION)),
        entity_labels={"e0": "Anna", "e1": "Ben", "e2": "Smith", "e3": "Smith", "e9": "[odd] label"},
        type_offsets={"person": 0, "place": 20, "thing": 30},
    )


@dataclasses.dataclass
class Trained:
    """A random ComplEx model and the scores of all triples: forward, and of heads as the inverse relation has them."""

    predictor: bj.Predictor
    score: np.ndarray  # (n_entity, n_relation, n_entity) float64
    head_score: np.ndarray

    def of(self, side: str, triple: list[int]) -> np.ndarray:
        head, relation, tail = triple
        if side == "head":
            return self.head_score[:, relation, tail]
        return self.score[head, :, tail] if side == "relation" else self.score[head, relation]

    @classmethod
    def create(cls) -> Trained:
        rng = np.random.default_rng(1)
        dataset = make_dataset()
        sharding = bj.Sharding.create(N_ENTITY, 3, seed=4)
        score_fn = bj.ComplEx(
            negative_sample_sharing=False,
            sharding=sharding,
            n_relation_type=N_RELATION,
            embedding_size=D,
            inverse_relations=True,
        )
        entity = rng.normal(size=(N_ENTITY, 2 * D)).astype(np.float32)
        relation = rng.normal(size=(2 * N_RELATION, 2 * D)).astype(np.float32)
        placement = bj.Placement.create(3)
        params = bj.Params(
            bj.shard_table(entity, sharding), {"relation_embedding": np.broadcast_to(relation, (3, *relation.shape))}
        )
        ranker = bj.Ranker(score_fn=score_fn, placement=placement, chunk=8)
        e, r = (x[:, :D].astype(np.complex128) + 1j * x[:, D:] for x in (entity, relation))
        score = np.einsum("hd,rd,td->hrt", e, r[:N_RELATION], e.conj()).real
        head_score = np.einsum("td,rd,hd->hrt", e, r[N_RELATION:], e.conj()).real
        return cls(bj.Predictor(dataset=dataset, ranker=ranker, params=placement.put(params)), score, head_score)


def full_sort(
    world: Trained, side: str, triple: list[int], k: int, allowed: Any = None, new: bool = False
) -> list[int]:
    """The best answers by sorting all of them."""
    score, column = world.of(side, triple), SIDES.index(side)
    answers = []
    truth = {tuple(row) for row in world.predictor.dataset.all_triples().tolist()}
    for answer in range(len(score)):
        row = [*triple[:column], answer, *triple[column + 1 :]]
        if (allowed is None or answer in allowed) and not (new and tuple(row) in truth):
            answers.append(answer)
    return sorted(answers, key=lambda i: (-score[i], i))[:k]
