"""The course of a run: what its lines of metrics tell, as far as they tell it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bess_jax.run.log import Record


class Curve(NamedTuple):
    """A number over the epochs of a run."""

    epoch: list[int]
    value: list[float]


@dataclasses.dataclass(frozen=True)
class History:
    """The course of a run.

    Attributes:
        epochs: records of training, one for each epoch.
        splits: records of rankings, by split.
    """

    epochs: Sequence[Record]
    splits: Mapping[str, Sequence[Record]]

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """The course that the records of a run tell, as `RunLog` reads them."""
        epochs: list[Record] = []
        splits: dict[str, list[Record]] = {}
        for record in sorted(records, key=lambda record: record["epoch"]):
            split = record.get("split")
            (epochs if split is None else splits.setdefault(str(split), [])).append(record)
        return cls(epochs, splits)

    def of_epochs(self, name: str) -> Curve:
        """A number of each epoch that has it."""
        return _curve(self.epochs, lambda record: record.get(name))

    def of_split(self, split: str, side: str, metric: str) -> Curve:
        """A metric of each ranking of a split that has it."""
        return _curve(self.splits.get(split, ()), lambda record: _within(record, side, metric))

    @property
    def n_epoch(self) -> int:
        """Epochs that were done."""
        return max((record["epoch"] for record in self.epochs), default=0)

    def seconds(self) -> dict[str, float]:
        """What took time -> seconds: training, waiting for batches, ranking, saving, compiling.

        What older runs have not recorded is left out.
        """
        trained, waited = 0.0, 0.0
        for record in self.epochs:
            seconds = _number(record.get("seconds")) or 0.0
            waiting = min(max(_number(record.get("waiting")) or 0.0, 0.0), 1.0) * seconds
            trained, waited = trained + seconds - waiting, waited + waiting
        found = {
            "training": trained,
            "waiting for batches": waited,
            "ranking": sum(sum(_curve(of, lambda record: record.get("seconds")).value) for of in self.splits.values()),
            "saving": sum(self.of_epochs("saving").value),
            "compiling": sum(self.of_epochs("compiling").value),
        }
        return {name: seconds for name, seconds in found.items() if seconds > 0}


def _curve(records: Sequence[Record], value: Callable[[Record], Any]) -> Curve:
    found = [(record["epoch"], _number(value(record))) for record in records]
    kept = [(epoch, number) for epoch, number in found if number is not None]
    return Curve([epoch for epoch, _ in kept], [number for _, number in kept])


def _within(record: Record, *names: str) -> Any:
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
