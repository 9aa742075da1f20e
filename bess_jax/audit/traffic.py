"""The bytes that BESS says a shard sends in a step, from a model and the sizes of its batch."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import TypeAlias
from bess_jax.step.bess import BessKGE
from bess_jax.step.score_moving import ScoreMovingBessKGE
from bess_jax.step.sides import Lists

How: TypeAlias = 'Literal["all_to_all", "ring", "emulated"]'

_ID = 4


class Traffic(NamedTuple):
    """Bytes that a shard sends in a step, to all others together.

    Attributes:
        rows: embeddings that are exchanged, and their gradients.
        scores: scores that are exchanged, and their gradients.
        queries: rows and relation ids that are gathered on all shards, and gradients of the rows.
    """

    rows: int
    scores: int
    queries: int

    @property
    def exchanged(self) -> int:
        """What the exchange of BESS sends: rows and scores."""
        return self.rows + self.scores

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def exchange_bytes(
    model: BessKGE,
    n_positive: int,
    n_negative: int | None = None,
    *,
    dtype: Any = "float32",
    how: How = "all_to_all",
    training: bool = True,
) -> Traffic:
    """The bytes that a shard sends in one step.

    What each of S shards sends to each of the S - 1 others: P tail rows, and L N rows of negatives (moving embeddings)
    or, for every one of its B = S P positives, a score of each negative there (moving scores), whose queries are
    gathered before: B rows and relation ids. Gradients travel back the same way. Reductions of losses and of replicated
    parameters are not counted. The gradient of what is gathered is an exchange.

    Args:
        model: a model.
        n_positive: P, triples of a pair of shards.
        n_negative: N; default: that of the model's sampler.
        dtype: type of the rows and scores.
        how: "all_to_all" and "ring" send every byte where it goes; "emulated" is what JAX 0.3.16 does where it has no
            `all_to_all`: each of them, and each gathering, by an all-reduce of S times the operand.
        training: whether gradients are taken.

    Raises:
        ValueError: if the sampler has no `n_negative` and none is given, or a size is less than 1.

    Cattaneo et al. 2022 (BESS, arXiv 2211.12281), section 3.
    """
    sampler, n_shard = model.negative_sampler, model.score_fn.sharding.n_shard
    n_negative = getattr(sampler, "n_negative", None) if n_negative is None else n_negative
    if n_negative is None:
        raise ValueError(f"n_negative must be given for a {type(sampler).__name__}, whose batches tell it, got None")
    _checks.one_of("how", how, ("all_to_all", "ring", "emulated"))
    _checks.at_least("n_positive", n_positive, 1)
    _checks.at_least("n_negative", n_negative, 1)
    number, width, batch = jnp.dtype(dtype).itemsize, model.score_fn.entity_width, n_shard * n_positive
    n_list, passes = sampler.n_list(batch), 2 if training else 1
    moves_scores = isinstance(model, ScoreMovingBessKGE)
    rows = n_positive + (0 if moves_scores or sampler.local_sampling else n_list * n_negative)
    scores = batch * _columns(model, batch, n_negative) if moves_scores else 0
    others = n_shard - 1
    exchanged, gathered = (2 * n_shard * others, 2 * others) if how == "emulated" else (others, others)
    query = width * number
    return Traffic(
        rows=exchanged * passes * rows * width * number,
        scores=exchanged * passes * scores * number,
        queries=batch * (gathered * (query + _ID) + exchanged * (passes - 1) * query) if moves_scores else 0,
    )


def _columns(model: BessKGE, batch: int, n_negative: int) -> int:
    """Scores of one query on one shard, see `ScoreMovingBessKGE`."""
    if model.lists is not Lists.ALL:
        return n_negative
    n_side = len(model.sides.names)
    n_list = 1 if model.negative_sampler.flat_negative_format else batch // n_side
    return n_list * model.score_fn.sharding.n_shard * n_negative
