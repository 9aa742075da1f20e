"""The distribution scheme in which queries travel to the negatives, and scores travel back."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bess_jax._compat import dataclass, zip
from bess_jax._typing import EntitySide
from bess_jax.data.negative_sampler import TripleBasedShardedNegativeSampler, TypeBasedShardedNegativeSampler
from bess_jax.step.bess import BessKGE, Params
from bess_jax.step.collectives import exchange, gather_shards
from bess_jax.step.rows import Embedded
from bess_jax.step.sides import Lists


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreMovingBessKGE(BessKGE):
    """Every shard scores the queries of all shards against the negatives it holds, and sends the scores back.

    What moves is a row and a relation id for each query (gathered on all shards) and a score for each pair (one
    exchange), where `EmbeddingMovingBessKGE` moves a row for each negative. From one shard to another, B (E + 1 + N)
    numbers against L N E: fewer where each positive has negatives of its own. Positives are scored as there.

    Columns of the negative scores, outermost first, q being the shard that holds the negative and x its number there:
    (q, x) where negatives are given as one list or are not shared; else (q, destination, entry, x): all negatives that
    q holds for any shard; for "ht" the entries of the same side.

    Raises:
        ValueError: on `local_sampling` or `augment_negative`, which need negatives to be scored where the triple is;
            with shared negatives, on per-triple lists and on types that a shard lacks (a mask speaks of a row's own
            candidates only).

    Cattaneo et al. 2022 (BESS, arXiv 2211.12281), section 3. BESS-KGE: `ScoreMovingBessKGE`. Differs from BESS-KGE:
    `local_sampling` is refused (the reference takes it).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        sampler = self.negative_sampler
        if sampler.local_sampling:
            raise ValueError(
                "negative_sampler must have local_sampling=False: queries are scored on all shards, got True; "
                "use EmbeddingMovingBessKGE for local negatives"
            )
        if self.augment_negative:
            raise ValueError(
                "augment_negative must be False: the positives of a shard are not where its queries are scored, got "
                "True; use EmbeddingMovingBessKGE to augment"
            )
        if not self.score_fn.negative_sample_sharing:
            return
        if isinstance(sampler, TripleBasedShardedNegativeSampler) and not sampler.flat_negative_format:
            raise ValueError(
                "score_fn must have negative_sample_sharing=False where every triple has candidates of its own, got "
                "True; or give one list for all triples"
            )
        if isinstance(sampler, TypeBasedShardedNegativeSampler) and sampler.needs_mask:
            raise ValueError(
                "score_fn must have negative_sample_sharing=False where a shard lacks a type and negatives are masked, "
                "got True; or use fewer shards"
            )

    @property
    def lists(self) -> Lists:
        """Which negatives a positive meets; shared ones are those of all shards, unless given as one list."""
        sampler = self.negative_sampler
        if not sampler.flat_negative_format:
            return Lists.ALL if self.score_fn.negative_sample_sharing else Lists.OWN
        given = isinstance(sampler, TripleBasedShardedNegativeSampler)
        return Lists.ONE if given or not self.score_fn.negative_sample_sharing else Lists.ALL

    @property
    def _negatives_stay(self) -> bool:
        return True

    def _score(self, params: Params, rows: Embedded, dropout_key: jax.Array | None) -> tuple[jax.Array, jax.Array, Any]:
        names, split = self.sides.names, self.sides.split
        positive = self._score_positives(params, rows)
        ends = zip(names, split((rows.head, rows.tail)), strict=True)
        known = self.sides.join([tail if side == "head" else head for side, (head, tail) in ends])
        queries = jax.vmap(split)((gather_shards(known, self.axis_name), gather_shards(rows.relation, self.axis_name)))
        scores = []
        for number, (side, (known, relation)) in enumerate(zip(names, queries, strict=True)):
            candidate = self._candidates(rows.negative, number)
            scores.append(self._score_side(params, side, known, relation, candidate))
        arrived = exchange(jax.vmap(self.sides.join)(scores), self.axis_name)  # (S, B, n)
        return positive, jnp.swapaxes(arrived, 0, 1).reshape(len(positive), -1), None

    def _candidates(self, negative: jax.Array, number: int) -> jax.Array:
        """Rows (S or 1, 1 or b, n, E) for the positives of one side, from (L, S * N, E); S: by shard of the query."""
        lists, n_shard, width = (
            self._lists_of_side(negative, number),
            self.score_fn.sharding.n_shard,
            negative.shape[-1],
        )
        by_shard = jnp.swapaxes(lists.reshape(len(lists), n_shard, -1, width), 0, 1)
        return by_shard.reshape(1, 1, -1, width) if self.lists is Lists.ALL else by_shard

    def _score_side(
        self, params: Params, side: EntitySide, known: jax.Array, relation: jax.Array, candidate: jax.Array
    ) -> jax.Array:
        """Scores (S, b, n) of queries (S, b, E), and (S, b) or rows (S, b, R), of all shards against `_candidates`."""
        score = partial(self._score_candidates, params, side)
        flat = relation.reshape(-1, *relation.shape[2:])
        if self.lists is Lists.ONE:
            # Read outside of vmap, by one vector: on an IPU the gradient of rows that are read in batches is a loop.
            rows = self._apply(params, "relation_rows", flat)
            return jax.vmap(score)(known, rows.reshape(*known.shape[:2], -1), candidate)
        together = known.reshape(-1, known.shape[-1]), flat
        return score(*together, candidate.reshape(-1, *candidate.shape[2:])).reshape(*known.shape[:2], -1)

    def _candidate_mask(self, negative_mask: jax.Array, micro_batch: int) -> jax.Array:
        if self.lists is Lists.ALL:
            raise ValueError(
                "negative_mask must be None where a triple meets the negatives of all shards: a mask speaks of its own "
                "only; use TripleBasedShardedNegativeSampler for masked lists"
            )
        return super()._candidate_mask(negative_mask, micro_batch)
