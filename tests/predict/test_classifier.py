"""Scores, probabilities and classes of triples, against counting."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from shared.trained import SIDES, Trained

from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.predict.classifier import Classifier
from bess_jax.predict.names import triple_ids
from bess_jax.predict.table import is_among


def test_scores_and_probabilities_are_those_of_triples(world: Trained) -> None:
    """A triple has one probability, whichever side is asked for: that of its own score."""
    predictor = world.predictor
    ids = predictor.dataset.triples["test"]
    found = predictor.score("test", probability="platt").columns
    expected = world.score[tuple(ids.T)]
    np.testing.assert_allclose(found["score"], expected, rtol=1e-4, atol=1e-5)
    assert set(found["splits"]) <= {"test", "train,test"}
    platt = predictor.classifier.calibration("platt")
    np.testing.assert_allclose(found["probability"], platt(expected), atol=1e-5)
    for question in ({"head": 4, "relation": 2}, {"relation": 2, "tail": 4}, {"head": 4, "tail": 8}):
        answers = predictor.top_k(**question, k=3, probability="platt", new_only=True).columns
        labels = zip(*([label.replace("Smith", "e2") for label in answers[side]] for side in SIDES), strict=True)
        triples = triple_ids(predictor.dataset, labels)  # "Smith" is the label of two entities: looked up by id
        asked = next(column for column, name in enumerate(SIDES) if name not in question)
        triples[:, asked] = answers["id"]
        np.testing.assert_allclose(answers["probability"], platt(world.score[tuple(triples.T)]), atol=1e-5)


def test_classification_equals_counting(world: Trained) -> None:
    predictor = world.predictor
    classifier = Classifier(dataset=predictor.dataset, ranker=predictor.ranker, params=predictor.params, seed=5)
    labelled = classifier.labelled("test")
    n = len(labelled.true) // 2
    assert labelled.true.tolist() == [True] * n + [False] * n
    found = classifier.accuracy("test")
    right = (labelled.score >= classifier.thresholds.of(labelled.relation)) == labelled.true
    assert found["accuracy"] == pytest.approx(right.mean())
    assert sum(row["n"] for row in found["by_relation"]) == found["n"] == 2 * n
    for row in found["by_relation"]:
        assert row["accuracy"] == pytest.approx(right[labelled.relation == row["id"]].mean())
    assert classifier.accuracy("valid")["accuracy"] >= 0.5  # thresholds are the best ones there
    classes = predictor.classify("valid").columns
    assert (classes["true"] == (classes["score"] >= classes["threshold"])).all()


def test_false_triples_of_a_split_are_false_and_its_own(world: Trained) -> None:
    classifier, truth = world.predictor.classifier, world.predictor.dataset.all_triples()
    made = {}

    class Seen:
        def score(self, params: Any, triples: np.ndarray) -> np.ndarray:
            made[len(made)] = triples
            return np.zeros(len(triples), np.float32)

    spy = dataclasses.replace(classifier, ranker=Seen())
    for split in ("valid", "test", "test"):
        spy.labelled(split)
    for number, split in ((0, "valid"), (1, "test")):
        n = len(made[number]) // 2
        assert is_among(made[number][:n], world.predictor.dataset.triples[split]).all()
        assert not is_among(made[number][n:], truth).any()
    np.testing.assert_array_equal(made[1], made[2])


def test_a_diverged_model_is_refused(world: Trained) -> None:
    broken = dataclasses.replace(
        world.predictor, params=world.predictor.params._replace(entity=world.predictor.params.entity * np.nan)
    )
    for ask in (lambda: broken.score("test"), lambda: broken.ranks()):
        with pytest.raises(NonFiniteScoreError, match="not finite"):
            ask()
