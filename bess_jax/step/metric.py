"""Ranks and metrics of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax import _checks
from bess_jax._compat import zip

_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of the rank of a positive among candidates, computed on the device.

    Attributes:
        metric_list: names, "mrr" and "hits@k" with any k; metrics are stacked with the hits first, in the order given,
            then mrr.
        mode: rank among ties: "optimistic", "pessimistic" or "average" of the two.
        worst_rank_infty: give an infinite rank where every candidate beats the positive.
        reduction: "none" (one value per triple) or "sum".
        return_ranks: let `BessKGE.forward` also return the ranks.
        exact_ties: let `BessKGE.forward` score positives as it scores the candidates they meet, in products of whole
            `scoring.base.LANES`, so that entities with equal rows tie in every bit; else rounding may part them.

    Raises:
        ValueError: on a name, mode or reduction that is not one of these.

    BESS-KGE: `Evaluation`. As in BESS-KGE: in "average" mode a rank is also infinite where all candidates at least tie
    with the positive, under `worst_rank_infty`; metrics are stacked in the order of the class, not as asked.
    """

    metric_list: Sequence[str]
    mode: Literal["optimistic", "pessimistic", "average"] = "average"
    worst_rank_infty: bool = False
    reduction: Literal["none", "sum"] = "none"
    return_ranks: bool = False
    exact_ties: bool = True

    def __post_init__(self) -> None:
        for name in self.metric_list:
            if name != "mrr" and not (name.startswith("hits@") and name[5:].isdecimal() and int(name[5:]) > 0):
                raise ValueError(f"metric_list may hold 'mrr' and 'hits@k' with k >= 1, got {name!r}")
        _checks.one_of("mode", self.mode, ("optimistic", "pessimistic", "average"))
        _checks.one_of("reduction", self.reduction, ("none", "sum"))

    @property
    def metric_order(self) -> tuple[str, ...]:
        """Names of the stacked metrics, in their order."""
        names = tuple(name for name in self.metric_list if name != "mrr")
        return (*names, "mrr") if "mrr" in self.metric_list else names

    def ranks_from_scores(self, pos_score: jax.Array, candidate_score: jax.Array) -> jax.Array:
        """Ranks (B,) float32 of positives (B,) among candidates (B, n).

        A NaN positive counts as minus infinity, infinite ones as the largest float32; a NaN candidate beats nothing.
        """
        finite = jnp.clip(pos_score, -_LARGEST, _LARGEST)
        positive = jnp.where(jnp.isnan(pos_score), -jnp.inf, finite)[:, None]
        n = candidate_score.shape[-1]
        better = jnp.sum(candidate_score > positive, axis=-1)
        no_worse = jnp.sum(candidate_score >= positive, axis=-1)
        optimistic, pessimistic = (
            jnp.where(count == n, jnp.inf, 1.0 + count) if self.worst_rank_infty else 1.0 + count
            for count in (better.astype(jnp.float32), no_worse.astype(jnp.float32))
        )
        if self.mode == "average":
            return (optimistic + pessimistic) / 2
        return optimistic if self.mode == "optimistic" else pessimistic

    def ranks_from_indices(self, ground_truth: jax.Array, candidate_indices: jax.Array) -> jax.Array:
        """Ranks (B,) float32 of ids (B,) in ordered predictions (B, n): n + 1, or infinity, where they are absent."""
        hit = candidate_indices == ground_truth[:, None]
        absent = jnp.inf if self.worst_rank_infty else candidate_indices.shape[-1] + 1.0
        return jnp.where(jnp.any(hit, axis=-1), jnp.argmax(hit, axis=-1).astype(jnp.float32) + 1, absent)

    def dict_metrics_from_ranks(
        self, batch_rank: jax.Array, triple_mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Metrics of ranks (B,) by name, in `metric_order`: (B,) float32 each, or () under "sum".

        Triples that `triple_mask` (B,) leaves out count 0. BESS-KGE: `Evaluation.dict_metrics_from_ranks`.
        """
        stacked = self.stacked_metrics_from_ranks(batch_rank, triple_mask)[0]
        return dict(zip(self.metric_order, stacked, strict=True))

    def stacked_metrics_from_ranks(self, batch_rank: jax.Array, triple_mask: jax.Array | None = None) -> jax.Array:
        """Metrics of ranks (B,): (1, n_metric, B) float32, or (1, n_metric) under "sum"; masked triples count 0."""
        rows = [
            1 / batch_rank if name == "mrr" else (batch_rank <= int(name[len("hits@") :])).astype(jnp.float32)
            for name in self.metric_order
        ]
        metrics = jnp.stack(rows)[None]
        if triple_mask is not None:
            metrics = jnp.where(triple_mask.reshape(1, 1, -1), metrics, 0)
        return jnp.sum(metrics, axis=-1) if self.reduction == "sum" else metrics
