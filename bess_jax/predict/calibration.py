"""What scores mean: probabilities of triples, and thresholds that tell true triples from false ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import require
from bess_jax._typing import Int32Array, Side
from bess_jax.ask.known import COLUMNS, KnownAnswers
from bess_jax.data.files import DataError, read_checked, write_checked

Calibration = Literal["platt", "isotonic"]


class Labelled(NamedTuple):
    """Scored triples of which it is known whether they are true."""

    score: NDArray[np.float64]  # (n,)
    true: NDArray[np.bool_]  # (n,)
    relation: Int32Array  # (n,)


def corrupt(
    triples: Int32Array, n_entity: int, known: KnownAnswers, rng: np.random.Generator
) -> tuple[Int32Array, NDArray[np.bool_]]:
    """Replaces the head or the tail of each triple, with equal chances, by an entity that makes no known triple of it.

    The entity is uniform over all that do not. A triple for whose side there is none is left out.

    Args:
        triples: (n, 3) int32 in global ids.
        n_entity: number of entities.
        known: the true triples, `triples` among them.
        rng: the source of the draws.

    Returns:
        The false triples (m, 3), and which of `triples` they are made of, (n,) bool.
    """
    negatives, possible = triples.copy(), np.zeros(len(triples), bool)
    replaces_head = rng.random(len(triples)) < 0.5
    sides: tuple[tuple[Side, NDArray[np.bool_]], ...] = (("head", replaces_head), ("tail", ~replaces_head))
    for side, mask in sides:
        rows = np.flatnonzero(mask)
        query, answer = known.of(side, triples[rows])
        answer = answer[np.lexsort((answer, query))]  # they come query by query already
        n_known = np.bincount(query, minlength=len(rows))
        n_free = n_entity - n_known
        place = rng.integers(np.maximum(n_free, 1))  # among the entities that are free, in the order of their ids
        free_before = answer - (np.arange(len(query)) - (np.cumsum(n_known) - n_known)[query])
        n_passed = np.bincount(query[free_before <= place[query]], minlength=len(rows))
        negatives[rows, COLUMNS[side]] = place + n_passed
        possible[rows] = n_free > 0
    return negatives[possible], possible


@dataclasses.dataclass(frozen=True)
class Platt:
    """Probability 1 / (1 + exp(-(slope * score + intercept))).

    Platt 1999, "Probabilistic outputs for support vector machines".
    """

    slope: float
    intercept: float

    @classmethod
    def fit(cls, labelled: Labelled) -> Self:
        """Fits the two numbers by maximum likelihood, with Platt's targets (N + 1) / (N + 2) and 1 / (M + 2).

        Of N true and M false triples; without them, no finite numbers fit scores that tell all triples apart.

        Raises:
            MissingExtraError: without scikit-learn.
        """
        linear = require("sklearn.linear_model", "frames", "Platt calibration")
        mean, deviation = float(labelled.score.mean()), float(labelled.score.std()) or 1.0
        n_true = int(labelled.true.sum())
        n_false = len(labelled.true) - n_true
        target = np.where(labelled.true, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
        column = ((labelled.score - mean) / deviation)[:, None]
        both = np.repeat([True, False], len(column))  # every triple as true and as false, by its target
        model = linear.LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        model.fit(np.concatenate([column, column]), both, np.concatenate([target, 1 - target]))
        slope = float(model.coef_[0, 0]) / deviation
        return cls(slope, float(model.intercept_[0]) - slope * mean)

    def __call__(self, score: NDArray[Any]) -> NDArray[np.float64]:
        """Probabilities of scores, of any shape."""
        logit = self.slope * np.asarray(score, np.float64) + self.intercept
        return np.asarray(np.exp(-np.logaddexp(0, -logit)))


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """Probability that rises with the score, linear between given points and constant outside.

    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability estimates".
    """

    score: Sequence[float]
    probability: Sequence[float]

    @classmethod
    def fit(cls, labelled: Labelled) -> Self:
        """Fits the points by least squares.

        Raises:
            MissingExtraError: without scikit-learn.
        """
        isotonic = require("sklearn.isotonic", "frames", "isotonic calibration")
        model = isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        model.fit(labelled.score, labelled.true.astype(np.float64))
        return cls(model.X_thresholds_.tolist(), model.y_thresholds_.tolist())

    def __call__(self, score: NDArray[Any]) -> NDArray[np.float64]:
        """Probabilities of scores, of any shape."""
        return np.asarray(np.interp(np.asarray(score, np.float64), self.score, self.probability))


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Triples whose score is at least the threshold of their relation are taken for true.

    Socher et al. 2013, "Reasoning with neural tensor networks for knowledge base completion", section 4.

    Attributes:
        common: threshold of the relations that have none of their own.
        relation: relations that have one.
        threshold: theirs.
    """

    common: float
    relation: Sequence[int]
    threshold: Sequence[float]

    @classmethod
    def fit(cls, labelled: Labelled) -> Self:
        """The thresholds with the highest accuracy: one for each relation that has triples, and one for all."""
        order = np.argsort(labelled.relation, kind="stable")
        relations, first = np.unique(labelled.relation[order], return_index=True)
        groups = zip(*(np.split(x[order], first[1:]) for x in (labelled.score, labelled.true)), strict=True)
        return cls(
            best_threshold(labelled.score, labelled.true),
            relations.tolist(),
            [best_threshold(score, true) for score, true in groups],
        )

    def of(self, relation: NDArray[Any]) -> NDArray[np.float64]:
        """Thresholds of relations (n,)."""
        known = np.asarray(self.relation, np.int64)
        place = np.minimum(np.searchsorted(known, relation), len(known) - 1)
        return np.where(known[place] == relation, np.asarray(self.threshold)[place], self.common)

    def __call__(self, score: NDArray[Any], relation: NDArray[Any]) -> NDArray[np.bool_]:
        """Which triples are taken for true, of scores and relations (n,)."""
        return np.asarray(np.asarray(score, np.float64) >= self.of(relation))


def best_threshold(score: NDArray[np.float64], true: NDArray[np.bool_]) -> float:
    """The t with the highest accuracy of `score >= t`, the lowest of several.

    It lies half way between two scores that occur, or at the lowest one, or just above the highest one.

    Args:
        score: (n,), n >= 1.
        true: (n,).
    """
    order = np.argsort(score)
    score, true = score[order], true[order]
    false_below = np.concatenate([[0], np.cumsum(~true)])
    true_above = np.concatenate([np.cumsum(true[::-1])[::-1], [0]])
    differs = np.concatenate([[True], score[1:] > score[:-1], [True]])  # no threshold stands between equal scores
    best = int(np.argmax(np.where(differs, false_below + true_above, -1)))
    if best == 0:
        return float(score[0])
    if best == len(score):
        return float(np.nextafter(score[-1], np.inf))
    return float((score[best - 1] + score[best]) / 2)


Fitted = Platt | Isotonic | Thresholds
KINDS: Mapping[str, type[Fitted]] = {"platt": Platt, "isotonic": Isotonic, "thresholds": Thresholds}


def read_fitted(file: Path, made_of: Mapping[str, Any]) -> dict[str, Fitted]:
    """Kind -> what `write_fitted` wrote, if that was made of the same; nothing if it is not there or is damaged."""
    try:
        content = read_checked(file)
    except DataError:
        return {}  # it is made again
    if content["made_of"] != made_of:
        return {}
    return {kind: KINDS[kind](**numbers) for kind, numbers in content["fitted"].items()}


def write_fitted(file: Path, made_of: Mapping[str, Any], fitted: Mapping[str, Fitted]) -> None:
    """Writes calibrations as JSON: plain numbers, and what they were `made_of` (checkpoint, seed).

    Raises:
        OSError: if they cannot be written; what was there before is then untouched.
    """
    numbers = {kind: dataclasses.asdict(calibration) for kind, calibration in fitted.items()}
    write_checked(file, {"made_of": dict(made_of), "fitted": numbers})
