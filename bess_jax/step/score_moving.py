"""The distribution scheme in which queries travel to the negatives, and scores travel back."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bess_jax.data.negative_sampler import TripleBasedShardedNegativeSampler, TypeBasedShardedNegativeSampler
from bess_jax.step.bess import BessKGE, Embedded, Params
from bess_jax.step.spmd import exchange, gather_shards


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScoreMovingBessKGE(BessKGE):
    """Every shard scores the queries of all shards against the negatives it holds, and sends the scores back.

    What moves is a row and a relation id for each query (gathered on all shards) and a score for each pair (one
    exchange), where `EmbeddingMovingBessKGE` moves a row for each negative: the better choice where negatives are many
    and rows are wide. Positives are scored as there.

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

    def score_batch(
        self, params: Params, head: jax.Array, relation: jax.Array, tail: jax.Array, negative: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `BessKGE.score_batch`.

        Columns of the negative scores, outermost first, q being the shard that holds the negative and x its number
        there: (q, x) where negatives are given as one list or are not shared; else (q, destination, entry, x): all
        negatives that q holds for any shard; for "ht" the entries of the same side.
        """
        self._check_layout(head, relation, tail, negative, None, None, None)
        return self._score(params, self._embed(params, head, relation, tail, negative))

    @property
    def _negatives_stay(self) -> bool:
        return True

    @property
    def _one_list(self) -> bool:
        """True if each triple meets the flat set of its own shard, not those for all shards."""
        sampler = self.negative_sampler
        given = isinstance(sampler, TripleBasedShardedNegativeSampler)
        return sampler.flat_negative_format and (given or not self.score_fn.negative_sample_sharing)

    def _score(self, params: Params, rows: Embedded) -> tuple[jax.Array, jax.Array]:
        positive = self._score_positives(params, rows)
        sides = self._sides(len(positive))
        order = np.concatenate([triples for _, triples in sides])
        source = jnp.concatenate([(rows.tail if side == "h" else rows.head)[triples] for side, triples in sides])
        known = gather_shards(source, self.axis_name)  # (S, B, E), the rows of each side together
        relation = gather_shards(rows.relation[order], self.axis_name)
        scores, start = [], 0
        for number, (side, triples) in enumerate(sides):
            asked = np.s_[:, start : start + len(triples)]
            candidate = self._candidates(rows.negative, number, triples)
            scores.append(self._score_side(params, side, known[asked], relation[asked], candidate))
            start += len(triples)
        arrived = exchange(jnp.concatenate(scores, axis=1)[:, np.argsort(order)], self.axis_name)  # (S, B, n)
        return positive, jnp.swapaxes(arrived, 0, 1).reshape(len(positive), -1)

    def _candidates(self, negative: jax.Array, number: int, triples: np.ndarray) -> jax.Array:
        """Rows (S or 1, sets, n, E) for the triples of one side, from (sets, S * N, E); S: by shard of the query."""
        n_shard, width = self.score_fn.sharding.n_shard, negative.shape[-1]
        flat = self.negative_sampler.flat_negative_format
        mine = negative[number][None] if flat else negative[triples]
        by_shard = jnp.swapaxes(mine.reshape(len(mine), n_shard, -1, width), 0, 1)
        if self._one_list or not (flat or self.score_fn.negative_sample_sharing):
            return by_shard
        return by_shard.reshape(1, 1, -1, width)

    def _score_side(
        self, params: Params, side: str, known: jax.Array, relation: jax.Array, candidate: jax.Array
    ) -> jax.Array:
        """Scores (S, b, n) of queries (S, b, E) and (S, b) of all shards against rows from `_candidates`."""
        score = partial(self._score_candidates, params, side)
        if self._one_list:
            return jax.vmap(score)(known, relation, candidate)
        size = relation.shape
        together = known.reshape(-1, known.shape[-1]), relation.reshape(-1)
        return score(*together, candidate.reshape(-1, *candidate.shape[2:])).reshape(*size, -1)

    def _penalty(self, negative_mask: jax.Array, micro_batch: int) -> jax.Array:
        if self.score_fn.negative_sample_sharing and not self._one_list:
            raise ValueError(
                "negative_mask must be None where a triple meets the negatives of all shards: a mask speaks of its own "
                "only; use TripleBasedShardedNegativeSampler for masked lists"
            )
        return super()._penalty(negative_mask, micro_batch)
