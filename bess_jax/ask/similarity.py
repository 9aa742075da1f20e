"""Nearest entities and relations, found by the engine that also answers queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._numerics import normalize
from bess_jax.ask.known import Answers, KnownAnswers
from bess_jax.ask.ranker import Ranker
from bess_jax.data.sharding import Sharding
from bess_jax.scoring import BaseScoreFunction, ConvE, RotatE
from bess_jax.scoring.base import Combiner, DotProduct, Part
from bess_jax.scoring.distance import Distance
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement

Measure = Literal["cosine", "dot", "l2", "l1"]
"""Cosine and dot product: larger is nearer. Euclidean and Manhattan distance: smaller is nearer."""


class Similarity(BaseScoreFunction):
    """How near a candidate row, as tail, is to the row of the head; the relation means nothing.

    A row is what the table holds. Rows of complex models are [real half, imaginary half], so that the dot product is
    Re <x, conj(y)>, and cosine and Euclidean distance are those of the complex vectors; the Manhattan distance adds up
    the absolute values of real and imaginary parts. The cosine of a row of zeros with anything is 0. Of Euclidean
    distances see `scoring.distance.Distance`: squares below 1e-6 of the squared lengths count as 0.

    Attributes:
        embedding_size: columns of a row that count, the first ones.
        measure: see `Measure`. Distances become scores by their negative.

    Raises:
        ValueError: on construction, if the measure is not one of these.
    """

    measure: Measure = "cosine"

    @property
    def relation_parts(self) -> tuple[Part, ...]:
        """Nothing is one column wide, for the table of relations to exist."""
        return (Part("nothing", 1),)

    @property
    def combiner(self) -> Combiner:
        """Dot product or distance."""
        _checks.one_of("measure", self.measure, get_args(Measure))
        return DotProduct() if self.measure in ("cosine", "dot") else Distance(1 if self.measure == "l1" else 2)

    def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
        """The row itself."""
        return self.key_tail(head)

    def key_tail(self, entity: jax.Array) -> jax.Array:
        """The columns that count, for the cosine of length 1."""
        row = entity[..., : self.embedding_size]
        return normalize(row) if self.measure == "cosine" else row


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """Finds the rows of a table that are most like some of its rows, exactly.

    Attributes:
        what: what the rows are of.
        ranker: of a `Similarity`.
        params: the table as its entities, on the devices.
    """

    what: Literal["entity", "relation"]
    ranker: Ranker
    params: Params

    @classmethod
    def of_entities(cls, ranker: Ranker, params: Params, measure: Measure = "cosine") -> Neighbours:
        """Neighbours of the entities of a model, where its shards are.

        ConvE's bias of an entity does not count.

        Args:
            ranker: of the model.
            params: its parameters on the devices.
            measure: see `Measure`.

        Raises:
            ValueError: if the measure is not one of these.
        """
        model, placement = ranker.score_fn, ranker.placement
        width = model.embedding_size if isinstance(model, ConvE) else model.entity_width
        score_fn = _similarity(measure, model.sharding, width)
        table = placement.put({"relation_embedding": np.zeros((model.sharding.n_shard, 1, 1), np.float32)})
        return cls("entity", dataclasses.replace(ranker, score_fn=score_fn), Params(params.entity, table))

    @classmethod
    def of_relations(cls, ranker: Ranker, params: Params, measure: Measure = "cosine") -> Neighbours:
        """Neighbours of the relations of a model, on its first device; inverse relations are left out.

        The row of a relation of RotatE is the rotation exp(i angle), [cosines, sines]: angles that differ by a whole
        turn are the same.

        Args:
            ranker: of the model.
            params: its parameters on the devices.
            measure: see `Measure`.

        Raises:
            ValueError: if the measure is not one of these.
        """
        model = ranker.score_fn
        rows = ranker.placement.get(params.score_fn["relation_embedding"])[0, : model.n_relation_type]
        if isinstance(model, RotatE):
            rows = np.concatenate([np.cos(rows), np.sin(rows)], axis=1)
        placement = Placement(1, ranker.placement.devices[:1])
        score_fn = _similarity(measure, Sharding.create(len(rows), 1, seed=0), rows.shape[1])
        table = Params(rows[None], {"relation_embedding": np.zeros((1, 1, 1), np.float32)})
        return cls(
            "relation", dataclasses.replace(ranker, score_fn=score_fn, placement=placement), placement.put(table)
        )

    def nearest(self, ids: Sequence[int] | NDArray[Any], k: int) -> Answers:
        """The `k` nearest others of rows `ids` (Q,), `entity_global` or relation ids.

        Returns:
            Ids (Q, k) and values of the measure (Q, k), nearest first: cosines and dot products fall, distances rise.
            Equal values come in the order of the ids.

        Raises:
            ValueError: if an id is out of range, or `k` is not between 1 and the number of other rows.
        """
        n = self.ranker.score_fn.sharding.n_entity
        _checks.ids("ids", np.asarray(ids), n, self.what)
        if not 1 <= k < n:
            others = "entities" if self.what == "entity" else "relations"
            raise ValueError(f"k must be between 1 and the number of other {others}, {n - 1}, got {k}")
        row = np.asarray(ids, np.int32)
        itself = np.stack([row, np.zeros_like(row), row], axis=1)
        found = self.ranker.top_k(self.params, "tail", itself, k, skip=KnownAnswers(itself, 1))
        is_distance = isinstance(self.ranker.score_fn.combiner, Distance)
        return found._replace(score=-found.score) if is_distance else found


def _similarity(measure: Measure, sharding: Sharding, width: int) -> Similarity:
    return Similarity(
        negative_sample_sharing=True, sharding=sharding, n_relation_type=1, embedding_size=width, measure=measure
    )
