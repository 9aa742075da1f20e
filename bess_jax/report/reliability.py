"""Whether probabilities are right: of triples to which 0.8 is given, eight of ten should be true."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import MissingExtraError
from bess_jax.predict.predictor import Predictor

N_BIN = 10


class Reliability(NamedTuple):
    """Probabilities of the triples of a split and of false ones, in bins of equally many from low to high."""

    predicted: NDArray[np.float64]  # (b,) mean probability of a bin
    observed: NDArray[np.float64]  # (b,) share of it that is true
    n: int  # triples
    n_false: int  # of them false ones
    negatives: str  # "given" by the graph, or "corrupted"
    error: float  # mean distance between the two, weighted by the triples of the bins

    @classmethod
    def of(cls, probability: NDArray[np.float64], true: NDArray[np.bool_], negatives: str = "corrupted") -> Reliability:
        """Bins of probabilities (n,) of triples that are true or not (n,).

        The error is the expected calibration error of Guo et al. 2017, "On calibration of modern neural networks".
        """
        bins = np.array_split(np.argsort(probability, kind="stable"), min(N_BIN, len(probability)))
        predicted = np.array([probability[rows].mean() for rows in bins])
        observed = np.array([true[rows].mean() for rows in bins])
        weight = np.array([len(rows) for rows in bins]) / len(probability)
        error = float(np.sum(weight * np.abs(predicted - observed)))
        return cls(predicted, observed, len(true), int(np.count_nonzero(~true)), negatives, error)


def reliability(predictor: Predictor, split: str) -> Reliability | str:
    """How right Platt's probabilities, fitted to the validation split, are on another split; or why it is not known."""
    dataset = predictor.dataset
    if "valid" not in dataset.triples:
        return "Probabilities are fitted to the validation split, and this graph has none."
    try:
        curve = predictor.classifier.calibration("platt")
        labelled = predictor.classifier.labelled(split)
    except (ValueError, MissingExtraError) as error:
        return f"There are no probabilities: {error}."
    given = split in (dataset.negatives or {})
    return Reliability.of(curve(labelled.score), labelled.true, "given" if given else "corrupted")
