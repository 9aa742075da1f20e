"""What a graph gives beside its triples: candidates of each query, false triples, types; against float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from shared.formulas import FORMULAS
from shared.trained import N_ENTITY, Trained

import bess_jax as bj
from bess_jax.predict.classifier import Classifier


def with_graph(predictor: bj.Predictor, **parts: Any) -> bj.Predictor:
    return dataclasses.replace(predictor, dataset=dataclasses.replace(predictor.dataset, **parts))


@pytest.mark.parametrize("n_shard", [1, 2, 4])
@pytest.mark.parametrize("ties", ["average", "optimistic", "pessimistic"])
def test_ranks_among_listed_candidates(n_shard: int, ties: Any) -> None:
    """Each answer against its own candidates, unfiltered; small integers, so that ties are many and exact."""
    rng = np.random.default_rng(n_shard)
    entity, relation = rng.integers(-2, 3, (N_ENTITY, 4)), rng.integers(-2, 3, (3, 4))
    triples = rng.integers([N_ENTITY, 3, N_ENTITY], size=(50, 3)).astype(np.int32)
    lists = {
        "head": rng.integers(N_ENTITY, size=(50, 9)).astype(np.int32),
        "tail": rng.integers(N_ENTITY, size=(1, 20)).astype(np.int32),  # one list for all
    }
    dataset = bj.KGDataset(
        n_entity=N_ENTITY,
        n_relation_type=3,
        triples={"train": triples, "valid": triples[:5], "test": triples},
        neg_heads={"test": lists["head"]},
        neg_tails={"test": lists["tail"]},
    )
    sharding, placement = bj.Sharding.create(N_ENTITY, n_shard, seed=1), bj.Placement.create(n_shard)
    score_fn = bj.DistMult(negative_sample_sharing=False, sharding=sharding, n_relation_type=3, embedding_size=4)
    of_relations = np.broadcast_to(relation.astype(np.float32), (n_shard, 3, 4))
    params = bj.Params(bj.shard_table(entity.astype(np.float32), sharding), {"relation_embedding": of_relations})
    predictor = bj.Predictor(
        dataset=dataset,
        ranker=bj.Ranker(score_fn=score_fn, placement=placement, chunk=16),
        params=placement.put(params),
    )
    ranks = predictor.ranks("test", listed=True)
    e, r = entity.astype(np.float64), relation.astype(np.float64)
    for side, column in (("head", 0), ("tail", 2)):
        competing = np.broadcast_to(lists[side], (50, lists[side].shape[1]))
        replaced = np.repeat(triples[:, None], competing.shape[1], axis=1)
        replaced[..., column] = competing
        score = FORMULAS["DistMult"](score_fn, e[replaced[..., 0]], r[replaced[..., 1]], e[replaced[..., 2]])
        own = FORMULAS["DistMult"](score_fn, e[triples[:, 0]], r[triples[:, 1]], e[triples[:, 2]])[:, None]
        better, equal = (score > own).sum(axis=1), (score == own).sum(axis=1)
        assert equal.any()
        expected = 1 + better + {"average": equal / 2, "optimistic": 0 * equal, "pessimistic": equal}[ties]
        np.testing.assert_array_equal(ranks.rank(side, ties), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listed": True, "by_type": True}, "one of candidates, by_type and listed, got several"),
        ({"listed": True, "filter": ["train"]}, "leave filter out"),
        ({"listed": True, "triples": [("e1", "r1", "e2")]}, "give its name as triples"),
        ({"listed": True, "triples": "valid"}, "no candidates for the heads of split 'valid'.*neg_heads.*: none"),
        ({"listed": True}, "no candidates for the heads of split 'test'.*neg_heads.*have some: tail"),
        ({"listed": True, "sides": ["relation"]}, "no candidates for the relations of split 'test'; sides .*: tail"),
    ],
)
def test_lists_that_are_not_there(world: Trained, options: dict[str, Any], message: str) -> None:
    predictor = with_graph(world.predictor, neg_tails={"test": np.zeros((1, 4), np.int32)})
    with pytest.raises(ValueError, match=message):
        predictor.ranks(**options)
    assert predictor.ranks("test", ("tail",), listed=True).metrics()["tail"]["mrr"] > 0.2


def test_classification_of_given_negatives(world: Trained) -> None:
    """CoDEx's protocol: thresholds of each relation from the given triples of valid, accuracy on those of test."""
    rng = np.random.default_rng(8)
    size = {"valid": 90, "test": 40}
    given = {split: rng.integers([N_ENTITY, 3, N_ENTITY], size=(n, 3)).astype(np.int32) for split, n in size.items()}
    predictor = with_graph(world.predictor, negatives=given)
    classifier = Classifier(dataset=predictor.dataset, ranker=predictor.ranker, params=predictor.params)
    found = classifier.accuracy("test")
    assert found["negatives"] == "given"
    assert (found["n_false"], found["n"]) == (40, 40 + len(predictor.dataset.triples["test"]))

    def scored(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        both = np.concatenate([predictor.dataset.triples[split], given[split]])
        return world.score[tuple(both.T)], np.arange(len(both)) < len(both) - size[split], both[:, 1]

    score, true, relation = scored("valid")
    right = 0
    for number in range(4):
        of_valid = relation == number
        cuts = np.concatenate([score[of_valid], [np.inf]])
        best = max(((score[of_valid] >= cut) == true[of_valid]).sum() for cut in cuts)
        threshold = classifier.thresholds.of(np.array([number]))[0] - 1e-5  # of float32 scores
        assert ((score[of_valid] >= threshold) == true[of_valid]).sum() == best
        of_test = [part[scored("test")[2] == number] for part in scored("test")]
        right += int(((of_test[0] >= threshold) == of_test[1]).sum())
    assert found["accuracy"] == pytest.approx(right / found["n"])
    corrupted = world.predictor.classifier.accuracy("test")
    assert corrupted["negatives"] == "corrupted"
    assert corrupted["n_false"] * 2 == corrupted["n"]
