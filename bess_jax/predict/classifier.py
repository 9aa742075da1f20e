"""Tells true triples from false ones, by calibrations fitted to the validation split when they are first needed."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._typing import Int32Array
from bess_jax.ask.known import KnownAnswers
from bess_jax.ask.ranker import Ranker, check_finite
from bess_jax.data.dataset import KGDataset
from bess_jax.predict.calibration import (
    KINDS,
    Calibration,
    Fitted,
    Isotonic,
    Labelled,
    Platt,
    Thresholds,
    corrupt,
    read_fitted,
    write_fitted,
)
from bess_jax.predict.table import Table, label_columns
from bess_jax.step.bess import Params


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Classifier:
    """Scores triples and says what the scores mean.

    Calibrations are fitted to the triples of the validation split and to false ones: those that the graph gives for the
    split (`KGDataset.negatives`), else as many as there are true ones, made by `corrupt`. So a probability is that of a
    triple drawn like these, true as often before its score was seen as they are.

    Attributes:
        dataset: the graph.
        ranker: the engine, with the score function.
        params: parameters on the devices.
        folder: where calibrations are kept, as plain numbers in `calibration.json`; None: nowhere.
        checkpoint: what the parameters are of; calibrations of others are made again.
        seed: seed of the false triples.
    """

    dataset: KGDataset
    ranker: Ranker
    params: Params
    folder: Path | None = None
    checkpoint: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        _checks.at_least("seed", self.seed, 0)

    def __repr__(self) -> str:
        folder = None if self.folder is None else str(self.folder)
        return f"Classifier({self.ranker!r}, folder={folder!r}, checkpoint={self.checkpoint!r}, seed={self.seed})"

    def scores(self, triples: Int32Array) -> NDArray[np.float32]:
        """Scores (n,) of ids (n, 3).

        Raises:
            ValueError: if an id is out of range.
            NonFiniteScoreError: if a score is NaN or infinite.
        """
        score = self.ranker.score(self.params, triples)
        check_finite(triples, score)
        return score

    def probabilities(self, triples: Int32Array, kind: Calibration) -> NDArray[np.float64]:
        """Calibrated probabilities (n,) of ids (n, 3); `kind` as in `calibration`."""
        return self.calibration(kind)(self.scores(triples))

    def calibration(self, kind: Calibration) -> Platt | Isotonic:
        """The map from scores to probabilities.

        Args:
            kind: "platt" (a logistic curve) or "isotonic" (any rising one; needs more triples).

        Raises:
            ValueError: on another kind.
            MissingExtraError: without scikit-learn, if it has to be fitted.
        """
        _checks.one_of("probability", kind, ("platt", "isotonic"))
        return cast(Platt | Isotonic, self._fitted(kind))

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds of the relations with the highest accuracy on the validation split and its false triples."""
        return cast(Thresholds, self._fitted("thresholds"))

    def classify(self, triples: Int32Array) -> Table:
        """Whether triples are taken for true.

        Args:
            triples: (n, 3) int32 in global ids.

        Returns:
            Columns head, relation and tail as labels, score, threshold and true, a row for each triple.

        Raises:
            ValueError: if an id is out of range.
            NonFiniteScoreError: if a score is NaN or infinite.
        """
        score, threshold = self.scores(triples), self.thresholds.of(triples[:, 1])
        labels = label_columns(self.dataset, triples)
        return Table({**labels, "score": score, "threshold": threshold, "true": score >= threshold})

    def accuracy(self, split: str = "test") -> dict[str, Any]:
        """Triple classification: share of the triples of a split, and of false ones, that are told apart.

        False triples are those that the graph gives for the split, as CoDEx does, else corrupted ones, one for each
        true one; those of every split are drawn for themselves, by the same rule.

        Returns:
            split, seed, n (true and false triples), n_false, negatives ("given" or "corrupted"), accuracy, and
            `by_relation`: a list with id, relation, n, accuracy and threshold of each relation that has triples.

        Raises:
            ValueError: if there is no such split, or no false triple can be made of it.

        Socher et al. 2013, "Reasoning with neural tensor networks for knowledge base completion", section 4; Safavi and
        Koutra 2020, "CoDEx: A comprehensive knowledge graph completion benchmark", section 6.
        """
        labelled = self.labelled(split)
        right = self.thresholds(labelled.score, labelled.relation) == labelled.true
        relation, group, n = np.unique(labelled.relation, return_inverse=True, return_counts=True)
        by_relation = Table(
            {
                "id": relation,
                "relation": [self.dataset.relation_label(i) for i in relation.tolist()],
                "n": n,
                "accuracy": np.bincount(group, weights=right) / n,
                "threshold": self.thresholds.of(relation),
            }
        )
        return {
            "split": split,
            "seed": self.seed,
            "n": len(right),
            "n_false": int(np.count_nonzero(~labelled.true)),
            "negatives": "corrupted" if self._given(split) is None else "given",
            "accuracy": float(right.mean()),
            "by_relation": by_relation.records(),
        }

    def labelled(self, split: str) -> Labelled:
        """Scores of the triples of a split and of its false ones: given, or made of those of which one can be made.

        Raises:
            ValueError: if there is no such split, or no false triple can be made.
        """
        splits = list(self.dataset.triples)
        _checks.one_of("split", split, splits)
        true, false = self.dataset.triples[split], self._given(split)
        if false is None:
            rng = np.random.default_rng([self.seed, splits.index(split)])
            false, possible = corrupt(true, self.dataset.n_entity, self._known, rng)
            true = true[possible]
        if not len(false):
            raise ValueError(f"no false triple can be made of split {split!r}: every entity makes a known one")
        both = np.concatenate([true, false])
        return Labelled(self.scores(both).astype(np.float64), np.arange(len(both)) < len(true), both[:, 1])

    def _given(self, split: str) -> Int32Array | None:
        """The false triples that the graph gives for a split."""
        return (self.dataset.negatives or {}).get(split)

    def _fitted(self, kind: Literal["platt", "isotonic", "thresholds"]) -> Fitted:
        if kind not in self._all_fitted:
            self._all_fitted[kind] = KINDS[kind].fit(self.labelled("valid"))
            if self._file is not None and self.ranker.placement.is_first:
                with contextlib.suppress(OSError):  # where they cannot be kept, they are made again
                    write_fitted(self._file, self._made_of, self._all_fitted)
        return self._all_fitted[kind]

    @cached_property
    def _all_fitted(self) -> dict[str, Fitted]:
        return {} if self._file is None else read_fitted(self._file, self._made_of)

    @property
    def _file(self) -> Path | None:
        return None if self.folder is None else self.folder / "calibration.json"

    @property
    def _made_of(self) -> dict[str, str | int]:
        return {"checkpoint": self.checkpoint, "seed": self.seed}

    @cached_property
    def _known(self) -> KnownAnswers:
        return KnownAnswers(self.dataset.all_triples(), self.dataset.n_relation_type)
