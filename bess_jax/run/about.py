"""What a checkpoint is of: a point of a run, its settings and graph, and the validations up to there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Self

from bess_jax.run.metric import Metric, Validation

FIRST_METRIC = "mrr"
"""Of checkpoints that are older than the setting `metric`."""


class Point(NamedTuple):
    """A point of a run. Points are ordered by `progress`, whatever an epoch has of calls."""

    epoch: int  # whole epochs done
    call: int  # calls of the next one done
    calls_per_epoch: int

    @classmethod
    def of(cls, n_call: int, calls_per_epoch: int) -> Self:
        """The point after `n_call` calls of a run."""
        return cls(*divmod(n_call, calls_per_epoch), calls_per_epoch)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The point that `str` names so, or None."""
        found = re.fullmatch(r"epoch-(\d+)(?:-call-(\d+)-of-(\d+))?", text, re.ASCII)
        return None if found is None else cls(int(found[1]), int(found[2] or 0), int(found[3] or 1))

    def __str__(self) -> str:
        return f"epoch-{self.epoch}" + (f"-call-{self.call}-of-{self.calls_per_epoch}" if self.call else "")

    @property
    def progress(self) -> Fraction:
        """Epochs done."""
        return self.epoch + Fraction(self.call, self.calls_per_epoch)

    def n_call(self, calls_per_epoch: int) -> int:
        """Calls done, where an epoch has `calls_per_epoch`: exact at the end of an epoch, else rounded down."""
        return int(self.progress * calls_per_epoch)


class About(NamedTuple):
    """What a checkpoint is of."""

    point: Point  # where the run stood
    settings: Mapping[str, Any]  # of the run
    graph: Mapping[str, str]  # `KGDataset.digest`
    metric: float | None = None  # value of the setting of that name for this state, or None if it was not ranked
    history: Sequence[Validation] = ()  # all validations up to here, in order

    def value(self, metric: Metric) -> float | None:
        """Value of a metric for this state, or None."""
        if str(metric) == self.settings.get("metric", FIRST_METRIC):
            return self.metric
        last = self.history[-1] if self.history else None
        is_of_this = last is not None and (last.epoch, 0) == (self.point.epoch, self.point.call)
        return metric.value(last.metrics) if last is not None and is_of_this else None

    @classmethod
    def parse(
        cls,
        point: Sequence[int],
        settings: Mapping[str, Any],
        graph: Mapping[str, str],
        metric: float | None,
        history: Sequence[Sequence[Any]] = (),
    ) -> Self:
        """Reads it from JSON; that of older checkpoints has no history."""
        return cls(Point(*point), settings, graph, metric, tuple(Validation(*item) for item in history))
