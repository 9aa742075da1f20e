"""Nearest entities and relations, found by the engine that also answers queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._numerics import normalize
from bess_jax.ask.known import Answers, KnownAnswers, check_k
from bess_jax.ask.ranker import Ranker
from bess_jax.data.sharding import Sharding
from bess_jax.scoring import BaseScoreFunction
from bess_jax.scoring.base import Combiner, DotProduct, Part
from bess_jax.scoring.distance import Distance
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement

Measure = Literal["cosine", "dot", "l2", "l1"]
"""Cosine and dot product: larger is nearer. Euclidean and Manhattan distance: smaller is nearer."""


class Similarity(BaseScoreFunction):
    """How near a candidate row, as tail, is to the row of the head; the relation means nothing.

    Rows of complex models are [real half, imaginary half], so that the dot product is Re <x, conj(y)>, and cosine and
    Euclidean distance are those of the complex vectors; the Manhattan distance adds up the absolute values of real and
    imaginary parts. The cosine of a row of zeros with anything is 0. Of Euclidean distances see
    `scoring.distance.Distance`: squares below 1e-6 of the squared lengths count as 0.

    Attributes:
        embedding_size: width of a row of the table.
        compared: gives what counts of rows: `compared_entity` or `compared_relation` of the model that they are of;
            default: the rows themselves.
        measure: see `Measure`. Distances become scores by their negative.

    Raises:
        ValueError: on construction, if the measure is not one of these.
    """

    compared: Callable[[jax.Array], jax.Array] = jnp.asarray
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
        """What counts of the row itself."""
        return self.key_tail(head)

    def key_tail(self, entity: jax.Array) -> jax.Array:
        """What counts of the row, for the cosine of length 1."""
        row = self.compared(entity)
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
    params: Params = dataclasses.field(repr=False)

    @classmethod
    def of_entities(cls, ranker: Ranker, params: Params, measure: Measure = "cosine") -> Neighbours:
        """Neighbours of the entities of a model, by what `compared_entity` gives of them, where its shards are.

        Args:
            ranker: of the model.
            params: its parameters on the devices.
            measure: see `Measure`.

        Raises:
            ValueError: if the measure is not one of these.
        """
        model, placement = ranker.score_fn, ranker.placement
        score_fn = _similarity(model.sharding, model.entity_width, model.compared_entity, measure)
        table = Params(params.entity, placement.put(_no_relations(model.sharding.n_shard)))
        return cls("entity", dataclasses.replace(ranker, score_fn=score_fn), table)

    @classmethod
    def of_relations(cls, ranker: Ranker, params: Params, measure: Measure = "cosine") -> Neighbours:
        """Neighbours of the relations of a model, by what `compared_relation` gives of them, on one device.

        Inverse relations are left out.

        Args:
            ranker: of the model.
            params: its parameters on the devices.
            measure: see `Measure`.

        Raises:
            ValueError: if the measure is not one of these.
        """
        model, placement = ranker.score_fn, Placement(1, ranker.placement.local_devices[:1])
        sharding = Sharding.create(model.n_relation_type, 1, seed=0)
        score_fn = _similarity(sharding, model.relation_width, model.compared_relation, measure)
        rows = ranker.placement.get_local(params.score_fn["relation_embedding"])[:1, : model.n_relation_type]
        table = placement.put(Params(rows, _no_relations(1)))
        return cls("relation", dataclasses.replace(ranker, score_fn=score_fn, placement=placement), table)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.ranker.score_fn.sharding.n_entity

    def nearest(self, ids: Sequence[int] | NDArray[Any], k: int) -> Answers:
        """The `k` nearest others of rows `ids` (Q,), `entity_global` or relation ids.

        Returns:
            Ids (Q, K) and values of the measure (Q, K), nearest first: cosines and dot products fall, distances rise.
            Equal values come in the order of the ids.

        Raises:
            ValueError: if an id is out of range, or `k` is not between 1 and the number of other rows.
            NonFiniteScoreError: if a row is not finite.
        """
        _checks.ids("ids", np.asarray(ids), self.n, self.what)
        check_k(k, self.n - 1, "other entities" if self.what == "entity" else "other relations")
        row = np.asarray(ids, np.int32)
        itself = np.stack([row, np.zeros_like(row), row], axis=1)
        found = self.ranker.top_k(self.params, "tail", itself, k, known=KnownAnswers(itself, 1))
        is_distance = isinstance(self.ranker.score_fn.combiner, Distance)
        return found._replace(score=-found.score) if is_distance else found


def _similarity(
    sharding: Sharding, width: int, compared: Callable[[jax.Array], jax.Array], measure: Measure
) -> Similarity:
    return Similarity(
        negative_sample_sharing=True,
        sharding=sharding,
        n_relation_type=1,
        embedding_size=width,
        compared=compared,
        measure=measure,
    )


def _no_relations(n_shard: int) -> dict[str, NDArray[np.float32]]:
    return {"relation_embedding": np.zeros((n_shard, 1, 1), np.float32)}
