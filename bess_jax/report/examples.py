"""Predictions that tell something, with their best answers and what the graph says of those."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bess_jax.ask.known import COLUMNS
from bess_jax.ask.ranks import Ranks
from bess_jax.predict.examples import Example, telling_examples
from bess_jax.predict.names import Query
from bess_jax.predict.predictor import Predictor

N_ANSWER = 5


class Answer(NamedTuple):
    """One of the answers of a prediction."""

    place: str  # among all entities, known ones too; "…" of the held-out answer below the others
    label: str
    score: float
    mark: str  # "known" from another split, "held out" in the one that was ranked, or "new"
    is_asked: bool  # whether it is the answer that the triple holds


class Prediction(NamedTuple):
    """The best answers to a query whose answer is known."""

    example: Example
    query: str
    answers: list[Answer]


def predictions(predictor: Predictor, ranks: Ranks, split: str) -> list[Prediction]:
    """Those of `telling_examples`."""
    return [_prediction(predictor, example, split) for example in telling_examples(ranks)]


def _prediction(predictor: Predictor, example: Example, split: str) -> Prediction:
    dataset, column = predictor.dataset, COLUMNS[example.side]
    triple, truth = np.array([example.triple], np.int32), example.triple[column]
    query = Query(triple.copy(), np.array([column]))
    found = predictor.answer(query, min(N_ANSWER, dataset.n_entity)).by_query()[0]
    answers = [
        Answer(str(row["place"]), row["label"], row["score"], _mark(row["splits"], split), row["id"] == truth)
        for row in found["answers"]
    ]
    if not any(answer.is_asked for answer in answers):
        score = float(predictor.classifier.scores(triple)[0])
        answers.append(Answer("…", dataset.entity_label(truth), score, _mark(split, split), True))
    names = ("?" if found[name] is None else found[name] for name in COLUMNS)
    return Prediction(example, f"({', '.join(names)})", answers)


def _mark(splits: str, split: str) -> str:
    if not splits:
        return "new"
    return "held out" if splits == split else "known"
