"""What may be called while a run is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bess_jax.run.log import Record

if TYPE_CHECKING:
    from bess_jax.run.loop import Run


class Callback:
    """Is called at four places of a run; a subclass defines those it needs. Each process calls its own."""

    def start(self, run: Run) -> None:
        """Before the first call of the compiled steps; also where a run goes on."""

    def call(self, run: Run) -> None:
        """After every call of the compiled steps, which may still be running."""

    def record(self, run: Run, record: Record) -> None:
        """After a line of metrics: loss, rate and speed of an epoch, or the metrics of a split."""

    def end(self, run: Run) -> None:
        """After the last state is saved, also of a run that was stopped."""
