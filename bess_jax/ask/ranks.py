"""Ranks of the true answers of queries, and the metrics made of them. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._compat import TypeAlias, zip
from bess_jax._optional import require
from bess_jax._typing import Int32Array, Side
from bess_jax.ask import markup
from bess_jax.data.dataset import KGDataset
from bess_jax.data.relations import relation_categories

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")
TieRule = Literal["average", "optimistic", "pessimistic"]
Metrics: TypeAlias = "dict[str, dict[str, float]]"
"""Side ("head", "tail", "both", "relation") -> name of the metric -> value."""
_Arrays: TypeAlias = "dict[str, dict[str, NDArray[np.float64]]]"
"""Side -> name of the metric -> values (...) of several groups or samples of triples, or of one."""

HITS = (1, 3, 10)
SIDES: tuple[Side, ...] = get_args(Side)
_SHOWN = ("head", "tail", "both", "relation")
TIE_SHARE: dict[TieRule, float] = {"average": 0.5, "optimistic": 0.0, "pessimistic": 1.0}
"""Share of the ties that is placed before the answer."""

BLOCK = 2**21
"""Resampled triples that `Ranks.bootstrap` holds at a time."""


class SideRanks(NamedTuple):
    """Where the true answers of `n` queries for one side are among their candidates."""

    better: NDArray[np.int64]  # (n,) candidates with a higher score than the answer's
    ties: NDArray[np.int64]  # (n,) other candidates with the same score
    n_candidate: NDArray[np.int64]  # (n,) candidates that were ranked, the answer included
    score: NDArray[np.float32]  # (n,) score of the answer

    def rank(self, ties: TieRule = "average") -> NDArray[np.float64]:
        """Ranks (n,) float64, 1 is best.

        Args:
            ties: where the answer stands among its equals: before them (`optimistic`), behind them (`pessimistic`) or
                at the mean of the two (`average`).

        Raises:
            ValueError: if the rule is not one of these.

        Berrendorf et al. 2020, "On the ambiguity of rank-based evaluation", where `average` is "realistic".
        """
        _checks.one_of("ties", ties, TIE_SHARE)
        return 1.0 + self.better + TIE_SHARE[ties] * self.ties


@dataclasses.dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of the sides of some triples.

    All metrics follow from means over queries, see `metrics`.

    Attributes:
        triples: (n, 3) int32, `entity_global` head, relation, `entity_global` tail.
        sides: ranks of the requested sides, in any order; results have them in the order of `SIDES`.

    Raises:
        ValueError: if there is no triple or no side, a shape is wrong, or a query has fewer candidates than answers
            that are better or tie.
    """

    triples: Int32Array
    sides: Mapping[Side, SideRanks]

    def __post_init__(self) -> None:
        _checks.shape("triples", self.triples, (None, 3), "(n, 3)")
        n = len(self.triples)
        if n == 0:
            raise ValueError("triples must hold at least one triple, got none; there is no mean of nothing")
        if not self.sides:
            raise ValueError(f"sides must hold the ranks of at least one of {', '.join(SIDES)}, got none")
        for side, ranks in self.sides.items():
            _checks.one_of("a key of sides", side, SIDES)
            for name, array in ranks._asdict().items():
                _checks.shape(f"sides[{side!r}].{name}", array, (n,), "(n,)")
            wrong = (ranks.better < 0) | (ranks.ties < 0) | (1 + ranks.better + ranks.ties > ranks.n_candidate)
            if wrong.any():
                i = int(np.argmax(wrong))
                counts = {name: int(array[i]) for name, array in ranks._asdict().items() if name != "score"}
                raise ValueError(
                    f"sides[{side!r}] must have 0 <= 1 + better + ties <= n_candidate, got {counts} at {i}"
                )

    def __repr__(self) -> str:
        found = ", ".join(f"{side} {np.mean(1 / ranks.rank()):.4f}" for side, ranks in self._in_order.items())
        return f"Ranks({len(self.triples):,} triples; MRR: {found})"

    def _repr_html_(self) -> str:
        """The metrics, as notebooks show them."""
        of_side = self.metrics()
        rows = [[side, *(f"{value:,.4f}" for value in values.values())] for side, values in of_side.items()]
        head = ["", *next(iter(of_side.values()))]
        return markup.table(f"Ranks of {len(self.triples):,} triples", head, rows)

    @property
    def _in_order(self) -> dict[Side, SideRanks]:
        return {side: self.sides[side] for side in SIDES if side in self.sides}

    @property
    def head(self) -> NDArray[np.float64]:
        """(n,) ranks of the heads in (?, r, t), ties at the mean of the places they share."""
        return self.rank("head")

    @property
    def relation(self) -> NDArray[np.float64]:
        """(n,) ranks of the relations in (h, ?, t), as `head`."""
        return self.rank("relation")

    @property
    def tail(self) -> NDArray[np.float64]:
        """(n,) ranks of the tails in (h, r, ?), as `head`."""
        return self.rank("tail")

    def rank(self, side: Side, ties: TieRule = "average") -> NDArray[np.float64]:
        """Ranks (n,) float64 of one side; `ties` as in `SideRanks.rank`.

        Raises:
            ValueError: if that side was not ranked, or the rule for ties is unknown.
        """
        if side not in self.sides:
            ranked = ", ".join(self._in_order)
            raise ValueError(f"side must be one that was ranked, {ranked}, got {side!r}; rank it too")
        return self.sides[side].rank(ties)

    def metrics(self, hits: Sequence[int] = HITS, ties: TieRule = "average") -> Metrics:
        """Metrics of each side, every query with the same weight ("micro").

        Sides are head, tail, both (head and tail queries together) and relation, as far as they were ranked. Metrics:

        - `mrr`, the mean of 1 / rank; `hits@k`, the share of ranks <= k; `mean_rank`.
        - `adjusted_mean_rank`, mean(rank) / mean((n_candidate + 1) / 2): 1 for random scores, lower is better.
        - `adjusted_mean_rank_index`, 1 - (mean(rank) - 1) / (mean((n_candidate + 1) / 2) - 1): 0 for random scores, 1
          for perfect ones. NaN where no query has a second candidate.

        Args:
            hits: the k of `hits@k`.
            ties: as in `SideRanks.rank`.

        Raises:
            ValueError: if a k is not an integer >= 1, or the rule for ties is unknown.

        Adjusted ones: Berrendorf et al. 2020, "On the ambiguity of rank-based evaluation".
        """
        return _each(self._formulas(self._terms(hits, ties).mean(axis=0), hits), float)

    def by_relation(self, hits: Sequence[int] = HITS, ties: TieRule = "average") -> dict[int, Metrics]:
        """Relation id -> `metrics` of its triples, and their number as `n`; relations without triples are left out."""
        return self._by(self.triples[:, 1], hits, ties)

    def by_category(
        self, train: Int32Array, hits: Sequence[int] = HITS, ties: TieRule = "average"
    ) -> dict[str, Metrics]:
        """Category of relations -> `metrics` of their triples, and their number as `n`.

        Args:
            train: (n_train, 3) int32, what `relation_categories` counts in.
            hits: as in `metrics`.
            ties: as in `SideRanks.rank`.

        Returns:
            Of "1-1", "1-N", "N-1", "N-N" and "unseen" (not in `train`), in this order, those that have triples.
        """
        _checks.shape("train", train, (None, 3), "(n_train, 3)")
        n_relation = 1 + max(int(triples[:, 1].max(initial=0)) for triples in (self.triples, train))
        return self._by(relation_categories(train, n_relation)[self.triples[:, 1]], hits, ties)

    def macro(self, hits: Sequence[int] = HITS, ties: TieRule = "average") -> Metrics:
        """Mean over the relations of their `metrics`, every relation with the same weight.

        An index that is NaN for one relation is NaN here.
        """
        _, _, metrics = self._grouped(self.triples[:, 1], hits, ties)
        return _each(metrics, lambda of_relations: float(of_relations.mean()))

    def bootstrap(
        self,
        seed: int,
        n_sample: int = 1000,
        level: float = 0.95,
        hits: Sequence[int] = HITS,
        ties: TieRule = "average",
    ) -> dict[str, dict[str, tuple[float, float]]]:
        """Intervals (low, high) of `metrics`: percentiles over resamples of the triples.

        A resample draws n triples with replacement; the queries of a triple stay together. Shows how much the metrics
        depend on which triples were asked, not on the training. Holds max(n, `BLOCK`) drawn triples at a time.

        Args:
            seed: the same seed gives the same intervals.
            n_sample: number of resamples.
            level: share of the resamples inside the interval.
            hits: as in `metrics`.
            ties: as in `SideRanks.rank`.

        Raises:
            ValueError: if `seed` < 0, `n_sample` < 1 or `level` is not between 0 and 1, and as `metrics`.

        Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile interval).
        """
        _checks.at_least("seed", seed, 0)
        _checks.at_least("n_sample", n_sample, 1)
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, both excluded, got {level}")
        terms, rng = self._terms(hits, ties), np.random.default_rng(seed)
        n = len(terms)
        block = max(1, BLOCK // n)
        means = np.empty((n_sample, *terms.shape[1:]))
        for start in range(0, n_sample, block):
            size = min(block, n_sample - start)
            drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
            means[start : start + size] = np.tensordot(counts.astype(np.float64), terms, axes=1) / n
        percent = [50 * (1 - level), 50 * (1 + level)]

        def interval(of_samples: NDArray[np.float64]) -> tuple[float, float]:
            low, high = np.percentile(of_samples, percent)
            return float(low), float(high)

        return _each(self._formulas(means, hits), interval)

    def frame(self, dataset: KGDataset | None = None, ties: TieRule = "average") -> pandas.DataFrame:
        """A pandas table with one row for each query, side after side.

        Columns: the ids head, relation and tail; with a `dataset` also head_label, relation_label and tail_label; side,
        rank, better, ties, n_candidate and score.

        Args:
            dataset: gives the labels.
            ties: as in `SideRanks.rank`.

        Raises:
            MissingExtraError: without pandas.
            ValueError: if `dataset` has fewer entities or relations than the triples name.
        """
        pd = require("pandas", "frames", "Ranks.frame")
        columns: dict[str, Any] = dict(zip(SIDES, self.triples.T, strict=True))
        if dataset is not None:
            _checks.ids("triples", self.triples, dataset.n_entity, "entity", columns=(0, 2))
            _checks.ids("triples", self.triples, dataset.n_relation_type, "relation", columns=(1,))
            for side in SIDES:
                label = dataset.relation_label if side == "relation" else dataset.entity_label
                columns[f"{side}_label"] = [label(i) for i in columns[side].tolist()]
        parts = [
            pd.DataFrame({**columns, "side": side, "rank": ranks.rank(ties), **ranks._asdict()})
            for side, ranks in self._in_order.items()
        ]
        frame: pandas.DataFrame = pd.concat(parts, ignore_index=True)
        return frame

    def _terms(self, hits: Sequence[int], ties: TieRule) -> NDArray[np.float64]:
        """What the metrics need the means of, (n, sides, 3 + hits): rank, expected rank, 1 / rank, rank <= k."""
        for i, k in enumerate(hits):
            if not isinstance(k, (int, np.integer)) or k < 1:
                raise ValueError(f"hits[{i}] must be an integer >= 1, got {k!r}")
        of_sides = []
        for ranks in self._in_order.values():
            rank = ranks.rank(ties)
            of_sides.append(np.stack([rank, (ranks.n_candidate + 1) / 2, 1 / rank, *(rank <= k for k in hits)], axis=1))
        return np.stack(of_sides, axis=1)

    def _formulas(self, means: NDArray[np.float64], hits: Sequence[int]) -> _Arrays:
        """Metrics (...) from means (..., sides, 3 + hits) of `_terms`."""
        of_side: dict[str, NDArray[np.float64]] = dict(zip(self._in_order, np.moveaxis(means, -2, 0), strict=True))
        if "head" in of_side and "tail" in of_side:
            of_side["both"] = (of_side["head"] + of_side["tail"]) / 2  # every triple has one query of each
        table = {}
        for side in (side for side in _SHOWN if side in of_side):
            rank, expected, inverse, *hit = np.moveaxis(of_side[side], -1, 0)
            nothing = np.full(expected.shape, np.nan)
            table[side] = {
                "mrr": inverse,
                **{f"hits@{k}": share for k, share in zip(hits, hit, strict=True)},
                "mean_rank": rank,
                "adjusted_mean_rank": rank / expected,
                "adjusted_mean_rank_index": 1 - np.divide(rank - 1, expected - 1, out=nothing, where=expected > 1),
            }
        return table

    def _grouped(self, key: NDArray[Any], hits: Sequence[int], ties: TieRule) -> tuple[list[Any], list[int], _Arrays]:
        """The different keys of triples, in order, how many triples have each, and the metrics (keys,) of those."""
        keys, group, count = np.unique(key, return_inverse=True, return_counts=True)
        by_group = self._terms(hits, ties)[np.argsort(group, kind="stable")]
        sums = np.add.reduceat(by_group, np.cumsum(count) - count, axis=0)
        return keys.tolist(), count.tolist(), self._formulas(sums / count[:, None, None], hits)

    def _by(self, key: NDArray[Any], hits: Sequence[int], ties: TieRule) -> dict[Any, Metrics]:
        keys, counts, metrics = self._grouped(key, hits, ties)
        return {
            name: {
                side: {"n": n, **{metric: float(values[i]) for metric, values in of_side.items()}}
                for side, of_side in metrics.items()
            }
            for i, (name, n) in enumerate(zip(keys, counts, strict=True))
        }


def _each(table: _Arrays, fn: Callable[[NDArray[np.float64]], T]) -> dict[str, dict[str, T]]:
    """The table with `fn` of its values."""
    return {side: {name: fn(values) for name, values in of_side.items()} for side, of_side in table.items()}
