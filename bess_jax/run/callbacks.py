"""What is called while a run is under way."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bess_jax.run.log import Record

if TYPE_CHECKING:
    from bess_jax.run.loop import Run


class Callback:
    """Is called at four places of a run; a subclass defines those it needs. Each process calls its own.

    `run.stop("why")` ends the run after the call of the compiled steps that is under way, from any of them. Several
    callbacks are called in their order, but for `end`: in the opposite one.
    """

    def start(self, run: Run) -> None:
        """Before the first call of the compiled steps; also where a run goes on."""

    def call(self, run: Run) -> None:
        """After every call of the compiled steps, which may still be running; at an epoch's end, after its records."""

    def record(self, run: Run, record: Record) -> None:
        """After a line of metrics: loss, rate and speed of an epoch, or the metrics of a split."""

    def end(self, run: Run) -> None:
        """After the last state is saved, also of a run that was stopped, or after an error, which is `run.error`."""


GAP = "  "
"""Between the parts of a line."""


class EpochLines(Callback):
    """Prints where a run goes on, a line for each epoch at once, and why it was stopped.

    Args:
        print: takes a line, whose parts stand `GAP` apart. Default: standard output.
    """

    def __init__(self, print: Callable[[str], object] | None = None) -> None:
        self._print = print or _print_now
        self._since, self._first_call = 0.0, 0
        self._record: Record | None = None

    def start(self, run: Run) -> None:
        """Prints where the run goes on, if it does."""
        self._since, self._first_call = time.monotonic(), run.n_call
        if run.note and run.team.is_first:
            self._print(run.note)

    def record(self, run: Run, record: Record) -> None:
        """Notes how an epoch went."""
        if "split" not in record:
            self._since += record.get("compiling", 0.0)  # which is not needed again
            self._record = record

    def call(self, run: Run) -> None:
        """Prints the line, once the epoch is ranked."""
        if self._record is not None and run.team.is_first:
            self._print(GAP.join(self._parts(run, self._record)))
        self._record = None

    def end(self, run: Run) -> None:
        """Prints why it was stopped, if it was."""
        if run.stopped is not None and run.error is None and run.team.is_first:
            self._print(run.stopped)

    def _parts(self, run: Run, record: Record) -> Iterator[str]:
        config, metric, epoch = run.experiment.config, run.metric, record["epoch"]
        yield f"epoch {epoch:>{len(str(config.n_epoch))}}/{config.n_epoch}"
        yield f"loss {record['loss']:.4f}"
        if config.schedule != "constant" or config.warmup:
            yield f"learning rate {record['learning_rate']:.3g}"
        if record["seconds"]:  # 0 where the only call of the epoch compiled
            yield f"{record['positives_per_second']:,.0f} positives/s"
        if run.history and run.history[-1].epoch == epoch:
            values = [metric.value(validation.metrics) for validation in run.history]
            best = max(values) if metric.higher_is_better else min(values)
            yield f"valid {metric} {values[-1]:.4f}"
            yield "best so far" if values[-1] == best else f"best {best:.4f}"
        yield f"{record['seconds']:.1f} s"
        calls_left = run.experiment.n_call - run.n_call
        if calls_left:
            per_call = (time.monotonic() - self._since) / max(1, run.n_call - self._first_call)
            yield f"{datetime.timedelta(seconds=round(calls_left * per_call))} left"


def _print_now(text: str) -> None:
    print(text, flush=True)
