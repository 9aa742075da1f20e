"""What settings minimize over all entities: the loss of a first step, by a float64 formula over the graph's triples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import bess_jax as bj

TINY: dict[str, Any] = {
    **{"dataset": "nations", "n_shard": 2, "mapping": "vmap", "negatives": "all", "augment_negative": False},
    **{"embedding_size": 6, "batch_size": 64, "steps_per_call": 1, "regularization": 0.0, "model": "DistMult"},
    **{"init_scale": 0.7, "optimizer": "sgd"},
}


def positives(experiment: bj.Experiment) -> list[list[tuple[int, ...]]]:
    """The triples of the first step of each shard, in the order of its scores."""
    batch, entity = experiment.sampler.batch(0, 0), experiment.sharding.shard_and_idx_to_entity
    _, n_shard, _, size = batch["head"].shape
    places = [(other, place) for other in range(n_shard) for place in range(size)]

    def triple(shard: int, other: int, place: int) -> tuple[int, ...]:
        head, tail = batch["head"][0, shard, other, place], batch["tail"][0, other, shard, place]
        return int(entity[shard][head]), int(batch["relation"][0, shard, other, place]), int(entity[other][tail])

    return [[triple(shard, *at) for at in places] for shard in range(n_shard)]


def expected(experiment: bj.Experiment, entity: np.ndarray, relation: np.ndarray) -> float:
    """Sum of the losses of the first step."""
    config, graph = experiment.config, experiment.dataset
    triples = graph.triples["train"]
    if config.inverse_relations:
        inverse = np.stack([triples[:, 2], triples[:, 1] + graph.n_relation_type, triples[:, 0]], axis=1)
        triples = np.concatenate([triples, inverse])
    tails, heads = (
        Counter(map(tuple, triples[:, pair].tolist())) for pair in ([0, 1], [2, 1])
    )  # no triple is there twice
    smooth, total = config.label_smoothing, 0.0
    for rows in positives(experiment):
        weight = np.ones(len(rows))
        if config.frequency_weights:
            weight = np.array([(tails[h, r] + heads[t, r] + config.weight_smoothing) ** -0.5 for h, r, t in rows])
            weight *= len(rows) / weight.sum()
        size = config.positive_per_partition
        for number, (h, r, t) in enumerate(rows):
            of_tail = config.corruption == "t" or (config.corruption == "ht" and number % size >= size // 2)
            known, answer, counts = (h, t, tails) if of_tail else (t, h, heads)
            score = entity @ (entity[known] * relation[r])
            share = 1 / counts[known, r] if config.answers == "all" else 1.0
            if config.loss == "cross_entropy":
                label = (1 - smooth) * score[answer] + smooth * score.mean()
                loss = share * (np.log(np.exp(score).sum()) - label)
            else:
                of_query = np.log1p(np.exp(score)).sum() - smooth * score.mean()
                loss = share * of_query - (1 - smooth) * score[answer]
            total += weight[number] * (loss + penalty(config, entity[h], relation[r], entity[t]))
    return total


def penalty(config: bj.TrainConfig, h: np.ndarray, r: np.ndarray, t: np.ndarray) -> float:
    """Of the rows of a triple."""
    second = config.regularization if config.relation_regularization is None else config.relation_regularization
    if config.regularizer == "dura":
        return float(config.regularization * (h @ h + t @ t) + second * ((h * r) @ (h * r) + (t * r) @ (t * r)))
    entities, relations = (sum((np.abs(x) ** config.regularization_power).sum() for x in xs) for xs in ((h, t), (r,)))
    return float(config.regularization * entities + second * relations)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "cross_entropy", "regularizer": "dura", "regularization": 0.3, "n_shard": 1},
        {"loss": "bce", "regularizer": "dura", "regularization": 0.1, "relation_regularization": 0.3, "n_shard": 4},
        {"loss": "bce", "relation_regularization": 0.3, "regularization_power": 1, "frequency_weights": True},
        {"loss": "cross_entropy"},
        {"loss": "cross_entropy", "answers": "all", "label_smoothing": 0.1, "frequency_weights": True},
        {"loss": "bce", "answers": "all", "label_smoothing": 0.2, "frequency_weights": True, "weight_smoothing": 3.0},
        {"loss": "bce", "answers": "all", "corruption": "ht", "inverse_relations": False},
        {"loss": "cross_entropy", "label_smoothing": 0.3, "corruption": "h", "inverse_relations": False},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_loss_of_the_first_step(settings: dict[str, Any]) -> None:
    experiment = bj.Experiment.create(bj.TrainConfig(**{**TINY, **settings}))
    state = experiment.init()
    entity = np.asarray(bj.unshard(np.asarray(state.params.entity), experiment.sharding), np.float64)
    relation = np.asarray(state.params.score_fn["relation_embedding"], np.float64)[0]
    wanted = expected(experiment, entity, relation)
    calls = experiment.calls(state)
    found = next(calls).read_loss() * experiment.config.batch_size
    calls.close()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
