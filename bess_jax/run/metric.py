"""The validation metric that tells which state is the best, and since when none was better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from bess_jax.ask.ranks import HITS, Metrics
from bess_jax.data.text import shorten
from bess_jax.run.arguments import suggestion

_BOTH = "both"
_SIDES = ("head", "tail", _BOTH)
_NAMES = ("mrr", *(f"hits@{k}" for k in HITS), "mean_rank", "adjusted_mean_rank", "adjusted_mean_rank_index")
_LOWER_IS_BETTER = ("mean_rank", "adjusted_mean_rank")


class Validation(NamedTuple):
    """A ranking of the validation split."""

    epoch: int  # after which it was made
    metrics: Metrics


class Metric(NamedTuple):
    """A number that `Ranks.metrics` gives."""

    side: str  # "head", "tail" or "both"
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `TrainConfig.metric` may be, as "mrr", "hits@10" or "tail.mrr".

        Raises:
            ValueError: if it is something else.
        """
        side, dot, name = text.rpartition(".")
        side = side if dot else _BOTH
        if side in _SIDES and name in _NAMES:
            return cls(side, name)
        every = [str(cls(side, name)) for side in reversed(_SIDES) for name in _NAMES]
        hint = suggestion(text, every) or "; also of one side, as in tail.mrr"
        raise ValueError(f"metric must be one of {', '.join(_NAMES)}, got {shorten(text)}{hint}")

    def __str__(self) -> str:
        return self.name if self.side == _BOTH else f"{self.side}.{self.name}"

    @property
    def higher_is_better(self) -> bool:
        """False for mean ranks."""
        return self.name not in _LOWER_IS_BETTER

    def value(self, metrics: Metrics) -> float:
        """The number."""
        return metrics[self.side][self.name]

    def goodness(self, metrics: Metrics) -> float:
        """The number, with its sign changed if lower is better."""
        return self.value(metrics) if self.higher_is_better else -self.value(metrics)

    def is_better(self, new: float | None, old: float | None) -> bool:
        """Whether one value is better than another; any is better than none, and none than not-a-number."""
        if new is None or new != new:
            return False
        return old is None or (new > old if self.higher_is_better else new < old)

    def of(self, history: Iterable[Validation]) -> list[float]:
        """Its `goodness` in each validation."""
        return [self.goodness(validation.metrics) for validation in history]


def n_in_vain(values: Sequence[float], min_improvement: float = 0.0) -> int:
    """How many of the last values, of which higher ones are better, did not improve on those before by more than that.

    What a value has to be better than is the last one that was an improvement, so that many small steps make one.
    """
    best, n = -float("inf"), 0
    for value in values:
        n += 1
        if value > best + min_improvement:
            best, n = value, 0
    return n
