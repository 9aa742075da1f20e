"""The contract of score functions: a query, a key and a combiner; everything else is written here, once."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bess_jax._typing import Initializer
from bess_jax.scoring.combine import Combiner
from bess_jax.sharding import Sharding

small_normal: Initializer = nn.initializers.normal(1e-3)


class BaseScoreFunction(nn.Module):
    """Scores triples from entity rows and its own relation rows.

    A subclass gives the widths, the combiner, `query_tail`, `query_head` and, where they differ from the row itself,
    `key_tail` and `key_head`. A query never sees the candidates and a key never sees the relation.

    Attributes:
        negative_sample_sharing: True if every triple meets the candidates of all triples of the micro-batch, False if
            it meets its own.
        sharding: sharding of the entities.
        n_relation_type: relation types of the data set, inverse ones not counted.
        embedding_size: D, components of an entity (complex ones where the model is complex).
        entity_initializer: `(key, shape, dtype) -> array` of entity rows.
        relation_initializer: the same of relation rows.
        inverse_relations: have a second row for each relation, for inverse triples.

    BESS-KGE: `BaseScoreFunction`. Differs from BESS-KGE: the entity table is not part of the module, so that it can be
    sharded; parameters are passed in (`apply`) and made by `init`.
    """

    negative_sample_sharing: bool
    sharding: Sharding
    n_relation_type: int
    embedding_size: int
    entity_initializer: Initializer = small_normal
    relation_initializer: Initializer = small_normal
    inverse_relations: bool = False

    def setup(self) -> None:
        """Declares the relation table, (n_relation, R) float32."""
        self.relation_embedding = self.param(
            "relation_embedding", self.relation_initializer, (self.n_relation, self.relation_width), jnp.float32
        )

    @property
    def n_relation(self) -> int:
        """Rows of the relation table."""
        return self.n_relation_type * (2 if self.inverse_relations else 1)

    @property
    def entity_width(self) -> int:
        """E, width of an entity row."""
        return self.embedding_size

    @property
    def relation_width(self) -> int:
        """R, width of a relation row."""
        return self.embedding_size

    @property
    def combiner(self) -> Combiner:
        """How queries and keys become scores."""
        raise NotImplementedError(f"{type(self).__name__} must define combiner")

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """Query (b, D) for the tails of rows (b, E) and relation rows (b, R)."""
        raise NotImplementedError(f"{type(self).__name__} must define query_tail")

    def query_head(self, relation: jax.Array, tail: jax.Array) -> jax.Array:
        """Query (b, D) for the heads of relation rows (b, R) and rows (b, E)."""
        raise NotImplementedError(f"{type(self).__name__} must define query_head")

    def key_tail(self, entity: jax.Array) -> jax.Array:
        """Keys (..., D) of candidate tails (..., E)."""
        return entity

    def key_head(self, entity: jax.Array) -> jax.Array:
        """Keys (..., D) of candidate heads (..., E)."""
        return entity

    def square_modulus(self, row: jax.Array) -> jax.Array:
        """Squared moduli (..., n_component) of the components of entity or relation rows: what N3 penalizes."""
        return jnp.square(row)

    def relation_rows(self, relation_id: jax.Array) -> jax.Array:
        """Rows (b, R) of relation ids (b,) int32, which must be in bounds."""
        return self.relation_embedding.at[relation_id].get(mode="promise_in_bounds")

    def score_triple(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores (b,) of triples: rows (b, E), ids (b,) int32, rows (b, E)."""
        query = self.query_tail(head_emb, self.relation_rows(relation_id))
        return self.combiner.rowwise(query, self.key_tail(tail_emb)[:, None])[:, 0]

    def score_heads(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores of candidate heads (B, n, E) for (?, r, t), relation ids (b,) int32 and tail rows (b, E).

        B is 1 or b. Returns (b, B * n) if negatives are shared, else (b, n).
        """
        return self._score(self.query_head(self.relation_rows(relation_id), tail_emb), self.key_head(head_emb))

    def score_tails(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores of candidate tails (B, n, E) for (h, r, ?), the mirror image of `score_heads`."""
        return self._score(self.query_tail(head_emb, self.relation_rows(relation_id)), self.key_tail(tail_emb))

    def penalized(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Squared moduli (b, n) of all components of the rows that a triple uses."""
        rows = (head_emb, self.relation_rows(relation_id), tail_emb)
        return jnp.concatenate([self.square_modulus(row) for row in rows], axis=-1)

    def _score(self, query: jax.Array, key: jax.Array) -> jax.Array:
        if self.negative_sample_sharing or key.shape[0] == 1:
            return self.combiner.pairwise(query, key.reshape(-1, key.shape[-1]))
        return self.combiner.rowwise(query, key)

    def init_params(self, key: jax.Array) -> dict[str, Any]:
        """The "params" collection: the relation table and, in some models, the weights of a network."""
        row = jnp.zeros((1, self.entity_width), jnp.float32)
        variables = self.init(key, row, jnp.zeros((1,), jnp.int32), row, method="score_triple")
        return dict(variables["params"])
