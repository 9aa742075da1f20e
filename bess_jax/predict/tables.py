"""Tables of embeddings that come from elsewhere, and the model that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax.ask.ranker import Ranker
from bess_jax.data.dataset import KGDataset
from bess_jax.data.sharding import Sharding
from bess_jax.predict.embeddings import EmbeddingTable
from bess_jax.predict.export import export
from bess_jax.predict.predictor import Predictor
from bess_jax.run.models import find_model
from bess_jax.run.start import with_inverses
from bess_jax.scoring.base import BaseScoreFunction, Part
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement
from bess_jax.step.tables import shard_table


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Tables:
    """The tables of a trained model, on the host, with what its score function is.

    `from_pykeen`, `from_libkge` and `from_besskge` make them; `predictor` asks them, `save` keeps them for
    `train --start-from`.

    Attributes:
        model: name of the score function, as `train --model` takes it.
        options: its arguments: embedding_size, scoring_norm, ...
        entity: (n_entity, E) float32 rows, laid out as the score function has them.
        relation: (n_relation, R) float32 rows; inverse relations, if there are any, after the others.
        inverse_relations: whether there are.
        entities: name of each entity row, or None.
        relations: name of each relation row, inverse ones left out, or None.
        network: collections "params" and "batch_stats" of the score function beside its tables, where it has a network.

    Raises:
        ValueError: if a table has another shape than the score function takes or holds numbers that are not finite, or
            names are missing, or too many, or not unique.
    """

    model: str
    options: Mapping[str, Any]
    entity: NDArray[np.float32]
    relation: NDArray[np.float32]
    inverse_relations: bool = False
    entities: Sequence[str] | None = None
    relations: Sequence[str] | None = None
    network: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        score_fn = self.score_fn(Sharding.create(len(self.entity), 1, seed=0))
        _checks.shape("entity", self.entity, (None, score_fn.entity_width), "(n_entity, E)")
        _checks.shape("relation", self.relation, (score_fn.n_relation, score_fn.relation_width), "(n_relation, R)")
        for name, array in (("entity", self.entity), ("relation", self.relation)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must hold finite numbers")
        for name, names, n in (
            ("entities", self.entities, len(self.entity)),
            ("relations", self.relations, self.n_relation_type),
        ):
            if names is not None and (len(names) != n or len(set(names)) != n):
                raise ValueError(f"{name} must be {n} different names, got {len(names)}, {len(set(names))} different")

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        inverse = " and as many inverse ones" if self.inverse_relations else ""
        return (
            f"Tables({self.model}{options}: {len(self.entity):,} entities, {self.n_relation_type:,} relations{inverse})"
        )

    @property
    def n_relation_type(self) -> int:
        """Relations, inverse ones not counted."""
        return len(self.relation) // (2 if self.inverse_relations else 1)

    def score_fn(self, sharding: Sharding) -> BaseScoreFunction:
        """The score function of the tables, over a sharding of their entities."""
        return find_model(self.model)(
            negative_sample_sharing=False,
            sharding=sharding,
            n_relation_type=self.n_relation_type,
            inverse_relations=self.inverse_relations,
            **self.options,
        )

    def of(self, dataset: KGDataset) -> Tables:
        """The rows of the entities and relations of a graph, in the order of its ids.

        They are told by their names; where the tables or the graph have none, row i is that of id i.

        Raises:
            ValueError: if a name of the graph has no row, or, without names, there are more or fewer rows than ids.
        """
        entity = _places("entities", self.entities, dataset.entity_dict, len(self.entity), dataset.n_entity)
        relation = _places(
            "relations", self.relations, dataset.relation_dict, self.n_relation_type, dataset.n_relation_type
        )
        both = [relation, relation + self.n_relation_type] if self.inverse_relations else [relation]
        return dataclasses.replace(
            self,
            entity=self.entity[entity],
            relation=self.relation[np.concatenate(both)],
            entities=dataset.entity_dict,
            relations=dataset.relation_dict,
        )

    def predictor(self, dataset: KGDataset, n_shard: int = 1, seed: int = 0) -> Predictor:
        """A `Predictor` of a graph, whose scores are those of the model that the tables come from.

        Args:
            dataset: the graph.
            n_shard: S, shards to cut the entity table into.
            seed: seed of the sharding.

        Raises:
            ValueError: as `of`.
        """
        tables = self.of(dataset)
        sharding = Sharding.create(dataset.n_entity, n_shard, seed)
        placement = Placement.create(n_shard)
        network = {"relation_embedding": tables.relation, **self.network.get("params", {})}
        params = Params(
            placement.put(shard_table(tables.entity, sharding)),
            placement.replicate(network),
            placement.replicate(self.network["batch_stats"]) if "batch_stats" in self.network else (),
        )
        ranker = Ranker(score_fn=tables.score_fn(sharding), placement=placement)
        return Predictor(dataset=dataset, ranker=ranker, params=params)

    def save(self, path: str | Path) -> None:
        """Writes "entity" and "relation", with names where they are known, for `train --start-from`, as `.npz`.

        The model and its options are to be given to `train` again; a network is not written.

        Raises:
            ValueError: as `export`.
            OSError: if the file cannot be written; what was there before is then untouched.
        """
        sharding = Sharding.create(len(self.entity), 1, seed=0)
        score_fn = self.score_fn(sharding)
        names = self.relations
        if names is not None and self.inverse_relations:
            names = with_inverses(names)
        entity = _table("entity", score_fn.entity_parts, self.entity, self.entities)
        export([entity, _table("relation", score_fn.relation_parts, self.relation, names)], path, "npz")


def _table(what: Any, parts: Sequence[Part], array: NDArray[np.float32], names: Sequence[str] | None) -> EmbeddingTable:
    return EmbeddingTable(
        what=what,
        parts={part.name: part.width for part in parts},
        names=names,
        labels=[str(i) for i in range(len(array))] if names is None else names,
        types=None,
        read=array.__getitem__,
    )


def _places(what: str, ours: Sequence[str] | None, wanted: Sequence[str] | None, n: int, n_id: int) -> NDArray[np.intp]:
    """Row of each id of a graph."""
    if ours is None or wanted is None:
        if n != n_id:
            raise ValueError(f"the graph has {n_id:,} {what}, but the tables have {n:,}, and no names to tell which")
        return np.arange(n)
    place = {name: i for i, name in enumerate(ours)}
    missing = [name for name in wanted if name not in place]
    if missing:
        shown = ", ".join(map(repr, missing[:3]))
        raise ValueError(f"the tables have no row for {len(missing):,} of the {n_id:,} {what} of the graph: {shown}")
    return np.array([place[name] for name in wanted], np.intp)
