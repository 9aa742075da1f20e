"""The contract of score functions: parts, a query, a key and a combiner; everything else is written here, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bess_jax import _checks
from bess_jax._compat import Self, TypeAlias, new_key, zip
from bess_jax._numerics import take_rows
from bess_jax._typing import AxisName
from bess_jax.data.sharding import Sharding
from bess_jax.kernels.rows import Rows
from bess_jax.scoring.initializers import Initializer, in_blocks, init_KGE_uniform, rows_are_independent

Initializers: TypeAlias = "Initializer | Sequence[Initializer] | None"
"""One for whole rows, one for each part of a row, or None for the defaults of the parts."""


LANES = 128
"""A matrix product with other numbers of columns may add up in another order in its last ones, and entities with equal
rows would not tie (seen on a CPU at 5, 14, 100 and 1000 columns)."""


def whole_lanes(n: int) -> int:
    """The least multiple of `LANES` that is at least `n`."""
    return -(-n // LANES) * LANES


@runtime_checkable
class Combiner(Protocol):
    """Scores of queries against keys; larger is better."""

    def rowwise(self, query: Rows, key: Rows) -> jax.Array:
        """Query i (b, F) against its own keys (b, n, F): (b, n)."""

    def pairwise(self, query: Rows, key: Rows) -> jax.Array:
        """Every query (b, F) against every key (n, F): (b, n)."""


@dataclasses.dataclass(frozen=True)
class DotProduct:
    """<q, k>, in full float32 precision on every platform."""

    def rowwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        return jnp.sum(query[:, None] * key, axis=-1)

    def pairwise(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """See `Combiner`."""
        return jnp.matmul(query, key.T, precision=jax.lax.Precision.HIGHEST)


class Part(NamedTuple):
    """A part of a row; the parts stand one after the other."""

    name: str
    width: int
    initializer: Initializer = init_KGE_uniform  # the default one, with independent rows


class BaseScoreFunction(nn.Module):
    """Scores triples from entity rows and its own relation rows.

    A subclass gives the parts of its rows, the combiner, `query_tail`, `query_head` and, where they differ from the row
    itself, `key_tail` and `key_head`. A query never sees the candidates and a key never sees the relation.

    Attributes:
        negative_sample_sharing: True if every triple meets the candidates of all triples of the micro-batch, False if
            it meets its own.
        sharding: sharding of the entities.
        n_relation_type: relation types of the data set, inverse ones not counted.
        embedding_size: D, components of an entity (complex ones where the model is complex).
        entity_initializer: `(key, shape, dtype) -> array` of entity rows, or a list with one for each part.
        relation_initializer: the same of relation rows.
        inverse_relations: have a second row for each relation, for inverse triples.

    Raises:
        ValueError: on construction, if an argument is out of range or they do not fit each other.

    BESS-KGE: `BaseScoreFunction`. Differs from BESS-KGE: the entity table is not part of the module, so that it can be
    sharded; parameters are passed in (`apply`) and made by `init`.
    """

    negative_sample_sharing: bool
    sharding: Sharding
    n_relation_type: int
    embedding_size: int
    entity_initializer: Initializers = None
    relation_initializer: Initializers = None
    inverse_relations: bool = False

    scores_heads: ClassVar[bool] = True
    """False if only tails can be asked for."""
    has_network: ClassVar[bool] = False
    """True if it works in another way in training (dropout, statistics of the batch): see `in_training`."""
    is_diagonal: ClassVar[bool] = False
    """True if scores are sum h r t over components, real or complex ones."""

    def __post_init__(self) -> None:
        for name in ("entity_initializer", "relation_initializer"):
            if isinstance(given := getattr(self, name), list):
                setattr(self, name, tuple(given))  # a module with a list has no hash
        super().__post_init__()
        _checks.at_least("n_relation_type", self.n_relation_type, 1)
        _checks.at_least("embedding_size", self.embedding_size, 1)
        if not isinstance(self.combiner, Combiner):  # which checks its own arguments
            raise TypeError(f"combiner must have rowwise and pairwise, got a {type(self.combiner).__name__}")
        for row, given, parts in (
            ("entity", self.entity_initializer, self.entity_parts),
            ("relation", self.relation_initializer, self.relation_parts),
        ):
            if isinstance(given, Sequence) and len(given) != len(parts):
                names = ", ".join(part.name for part in parts)
                raise ValueError(
                    f"{row}_initializer must be one function or {len(parts)}, for {names}, got {len(given)}"
                )

    @nn.nowrap
    def apply(self, *args: Any, method: Any = None, **options: Any) -> Any:
        """`flax.linen.Module.apply`, whose `method` may be a name also in flax 0.6.3."""
        if isinstance(method, str):
            method = getattr(type(self), method)
        return super().apply(*args, method=method, **options)

    def setup(self) -> None:
        """Declares the relation table, (n_relation, R) float32."""
        self.relation_embedding = self.param("relation_embedding", self._init_relation)

    @property
    def n_relation(self) -> int:
        """Rows of the relation table."""
        return self.n_relation_type * (2 if self.inverse_relations else 1)

    @property
    def entity_parts(self) -> tuple[Part, ...]:
        """The parts of an entity row."""
        return (Part("entity", self.embedding_size),)

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """The parts of a relation row."""
        return (Part("relation", self.embedding_size),)

    @property
    def entity_width(self) -> int:
        """E, width of an entity row."""
        return sum(part.width for part in self.entity_parts)

    @property
    def relation_width(self) -> int:
        """R, width of a relation row."""
        return sum(part.width for part in self.relation_parts)

    @property
    def combiner(self) -> Combiner:
        """How queries and keys become scores."""
        raise NotImplementedError(f"{type(self).__name__} must define combiner")

    def query_tail(self, head: jax.Array, relation: jax.Array) -> Rows:
        """Query (b, ...) for the tails of rows (b, E) and relation rows (b, R)."""
        raise NotImplementedError(f"{type(self).__name__} must define query_tail")

    def query_head(self, relation: jax.Array, tail: jax.Array) -> Rows:
        """Query (b, ...) for the heads of relation rows (b, R) and rows (b, E)."""
        raise NotImplementedError(f"{type(self).__name__} must define query_head")

    def key_tail(self, entity: jax.Array) -> Rows:
        """Keys (..., F) of candidate tails (..., E)."""
        return entity

    def key_head(self, entity: jax.Array) -> Rows:
        """Keys (..., F) of candidate heads (..., E)."""
        return entity

    @property
    def sides_agree(self) -> bool:
        """True if `score_heads` and `score_tails` give a triple the score that `score_triple` gives it."""
        return True

    def square_modulus(self, entity: jax.Array) -> jax.Array:
        """Squared moduli (..., n_component) of the components of entity rows: what N3 penalizes."""
        return jnp.square(entity)

    def relation_square_modulus(self, relation: jax.Array) -> jax.Array:
        """Squared moduli (..., n_component) of the components of relation rows."""
        return self.square_modulus(relation)

    def compared_entity(self, entity: jax.Array) -> jax.Array:
        """What is compared (..., n) of entity rows (..., E), where similar entities are looked for."""
        return entity

    def compared_relation(self, relation: jax.Array) -> jax.Array:
        """What is compared (..., n) of relation rows (..., R), where similar relations are looked for."""
        return relation

    def split_entity(self, row: jax.Array) -> tuple[jax.Array, ...]:
        """The parts (..., width) of entity rows (..., E)."""
        return _split(row, self.entity_parts)

    def split_relation(self, row: jax.Array) -> tuple[jax.Array, ...]:
        """The parts (..., width) of relation rows (..., R)."""
        return _split(row, self.relation_parts)

    def relation_rows(self, relation_id: jax.Array) -> jax.Array:
        """Rows (b, R) of relation ids (b,) int32, which must be in bounds; rows (b, R) are returned as they are."""
        return relation_id if relation_id.ndim == 2 else take_rows(self.relation_embedding, relation_id)

    def score_triple(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores (b,) of triples: rows (b, E), ids (b,) int32, rows (b, E); (b, K) of tails (b, K, E)."""
        return self._score_own(self.query_tail(head_emb, self.relation_rows(relation_id)), self.key_tail(tail_emb))

    def query_relation(self, head: jax.Array, tail: jax.Array) -> jax.Array | None:
        """Query (b, R) for relations of rows (b, E) and (b, E), whose dot product with a relation row is the score.

        None where the score is not linear in the relation. It must be that of the class that has `query_tail`.
        """
        return None

    def score_relation(self, head_emb: jax.Array, relation: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores (b,) of pairs of rows (b, E) and (b, E) under one relation, a row (R,)."""
        relations = jnp.broadcast_to(relation, (len(head_emb), *relation.shape))
        return self._score_own(self.query_tail(head_emb, relations), self.key_tail(tail_emb))

    def score_heads(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores of lists of candidate heads (L, n, E) for (?, r, t), relation ids (b,) int32 and tail rows (b, E).

        L is 1 or b. Returns (b, L * n) if negatives are shared, else (b, n).
        """
        return self._score(self.query_head(self.relation_rows(relation_id), tail_emb), self.key_head(head_emb))

    def score_tails(self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array) -> jax.Array:
        """Scores of lists of candidate tails (L, n, E) for (h, r, ?), the mirror image of `score_heads`."""
        return self._score(self.query_tail(head_emb, self.relation_rows(relation_id)), self.key_tail(tail_emb))

    def score_triple_and_tails(
        self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array, candidate: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """`score_triple`, and `score_tails` of candidates (L, n, E), from one query.

        Of tails (b, K, E), K answers of each query, the first are (b, K).
        """
        query = self.query_tail(head_emb, self.relation_rows(relation_id))
        return self._score_own(query, self.key_tail(tail_emb)), self._score(query, self.key_tail(candidate))

    def penalized(
        self, head_emb: jax.Array, relation_id: jax.Array, tail_emb: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Squared moduli (b, n) of the components of head, relation and tail."""
        relation = self.relation_square_modulus(self.relation_rows(relation_id))
        return self.square_modulus(head_emb), relation, self.square_modulus(tail_emb)

    def _score_own(self, query: Rows, key: Rows) -> jax.Array:
        if jax.tree_util.tree_leaves(key)[0].ndim == 3:
            return self.combiner.rowwise(query, key)
        score = self.combiner.rowwise(query, jax.tree_util.tree_map(lambda part: part[:, None], key))
        return jnp.squeeze(score, axis=1)

    def _score(self, query: Rows, key: Rows) -> jax.Array:
        if self.negative_sample_sharing or jax.tree_util.tree_leaves(key)[0].shape[0] == 1:
            flat = jax.tree_util.tree_map(lambda part: part.reshape(-1, part.shape[-1]), key)
            return self.combiner.pairwise(query, flat)
        return self.combiner.rowwise(query, key)

    def init_entity(self, key: jax.Array, n_row: int) -> jax.Array:
        """Initial entity rows (n_row, E) float32."""
        return init_rows(key, n_row, self.entity_parts, self.entity_initializer)

    def _init_relation(self, key: jax.Array) -> jax.Array:
        return init_rows(key, self.n_relation, self.relation_parts, self.relation_initializer)

    def init_params(self, key: jax.Array) -> dict[str, Any]:
        """The "params" collection: the relation table and, in some models, the weights of a network."""
        return dict(self._init_variables(key)["params"])

    def init_state(self) -> dict[str, Any]:
        """The "batch_stats" collection, running statistics of a network; mostly empty."""
        return dict(self._init_variables(new_key(0)).get("batch_stats", {}))

    def in_training(self, axis_name: AxisName) -> Self:
        """This function as it works in a training step, where `axis_name` names the shard axis.

        Its `apply` then needs `rngs={"dropout": key}`, and `mutable=["batch_stats"]` gives the statistics after it.
        """
        return self

    def _init_variables(self, key: jax.Array) -> Any:
        row = jnp.zeros((1, self.entity_width), jnp.float32)
        return self.init(key, row, jnp.zeros((1,), jnp.int32), row, method=type(self).score_triple)


def _split(row: jax.Array, parts: tuple[Part, ...]) -> tuple[jax.Array, ...]:
    ends = [int(end) for end in np.cumsum([part.width for part in parts])]
    return tuple(jnp.split(row, ends[:-1], axis=-1))


def init_rows(key: jax.Array, n_row: int, parts: tuple[Part, ...], given: Initializers = None) -> jax.Array:
    """Rows (n_row, width) float32 by the initializers of their parts, or by the given ones."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if callable(given):
            return given(key, shape, dtype)
        keys = [key] if len(parts) == 1 else jax.random.split(key, len(parts))
        drawn = zip(given or [part.initializer for part in parts], keys, parts, strict=True)
        return jnp.concatenate([make(key, (shape[0], part.width), dtype) for make, key, part in drawn], axis=-1)

    shape = n_row, sum(part.width for part in parts)
    alone = (given,) if callable(given) else given or ()
    return in_blocks(draw, key, shape) if all(map(rows_are_independent, alone)) else draw(key, shape, jnp.float32)
