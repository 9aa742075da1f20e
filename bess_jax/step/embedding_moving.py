"""The distribution scheme in which rows of negatives travel to the positives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bess_jax._compat import dataclass, zip
from bess_jax._numerics import MASKED_SCORE
from bess_jax._typing import EntitySide
from bess_jax.step.bess import BessKGE, Params
from bess_jax.step.rows import Embedded
from bess_jax.step.sides import Lists


@dataclass(frozen=True, eq=False, kw_only=True)
class EmbeddingMovingBessKGE(BessKGE):
    """The shard of the head scores a triple: rows of tails and negatives are sent to it.

    Columns of the negative scores, outermost first, q being the shard that holds the negative and x its number there:
    (q, x); where negatives are shared and not flat (row, q, x) over all rows corrupted on the same side. Augmentation
    puts the entities of those rows in front: of all columns (flat) or of the row's own block.

    Cattaneo et al. 2022 (BESS, arXiv 2211.12281), section 3. BESS-KGE: `EmbeddingMovingBessKGE`.
    """

    @property
    def trains_networks(self) -> bool:
        """True if only tails are corrupted: one query then serves the positive and its candidates."""
        return self.negative_sampler.corruption_scheme == "t"

    def _score(self, params: Params, rows: Embedded, dropout_key: jax.Array | None) -> tuple[jax.Array, jax.Array, Any]:
        by_side = self.sides.split((rows.head, rows.relation, rows.tail))
        candidates = [
            self._candidates(rows.negative, number, side, head, tail)
            for number, (side, (head, _, tail)) in enumerate(zip(self.sides.names, by_side, strict=True))
        ]
        in_training = dropout_key is not None and self.score_fn.has_network
        if self.sides.names == ("tail",) and (in_training or not self._exact_ties):
            (positive, score), statistics = self._score_from_one_query(
                params, rows, candidates[0], dropout_key if in_training else None
            )
            return positive, self._hide_own(score), statistics
        positive, scores = self._score_positives(params, rows), []
        for side, (head, relation, tail), candidate in zip(self.sides.names, by_side, candidates, strict=True):
            known = tail if side == "head" else head
            scores.append(self._hide_own(self._score_candidates(params, side, known, relation, candidate)))
        return positive, self.sides.join(scores), None

    def _score_from_one_query(
        self, params: Params, rows: Embedded, candidate: jax.Array, dropout_key: jax.Array | None
    ) -> tuple[Any, Any]:
        """Scores of positives and candidate tails, as a pair; the statistics of a network in training, else None."""
        args = (rows.head, rows.relation, rows.tail, candidate)
        if dropout_key is None:
            return self.score_fn.apply(params.variables, *args, method="score_triple_and_tails"), None
        scores, new = self.score_fn.in_training(self.axis_name).apply(
            params.variables,
            *args,
            method="score_triple_and_tails",
            rngs={"dropout": dropout_key},
            mutable=["batch_stats"],
        )
        return scores, dict(new.get("batch_stats", {}))

    def _candidates(
        self, negative: jax.Array, number: int, side: EntitySide, head: jax.Array, tail: jax.Array
    ) -> jax.Array:
        """Candidates (1 or b, n, E) for the positives of one side, with their own entities in front if augmented."""
        candidate = self._lists_of_side(negative, number)
        if not self.augment_negative:
            return candidate
        own = head if side == "head" else tail
        return jnp.concatenate([own[None] if self.lists is Lists.ONE else own[:, None], candidate], axis=1)

    def _hide_own(self, score: jax.Array) -> jax.Array:
        """Scores (b, n) of `_candidates`, with a penalty on each row's own entity."""
        if not self.augment_negative:
            return score
        n_row, n = score.shape
        column = jnp.arange(n_row, dtype=jnp.int32) * (1 if self.lists is Lists.ONE else n // n_row)
        is_own = jnp.arange(n, dtype=jnp.int32)[None] == column[:, None]
        return score + jnp.where(is_own, jnp.asarray(MASKED_SCORE, score.dtype), jnp.zeros((), score.dtype))
