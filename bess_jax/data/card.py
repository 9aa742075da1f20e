"""A graph in numbers: its size, degrees and kinds of relations, and what is doubtful about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import zip
from bess_jax._typing import Int32Array
from bess_jax.data.dataset import KGDataset
from bess_jax.data.findings import Finding, find_doubtful
from bess_jax.data.relations import relation_categories

_FREQUENT = 0.01


@dataclasses.dataclass(frozen=True)
class Degrees:
    """In how many triples of train the entities stand, at one place or at both.

    Attributes:
        max: the most.
        entity: an entity that stands in so many, by label.
        median: at most as many has half of all entities.
        percentile_90: at most as many have 90% of them.
        percentile_99: at most as many have 99% of them.
        top_share: part of all places that the most frequent 1% of entities take (rounded, at least one entity).
        histogram: number of entities that stand in 0, 1, 2 to 3, 4 to 7, 8 to 15, ... triples.
    """

    max: int
    entity: str
    median: float
    percentile_90: float
    percentile_99: float
    top_share: float
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Card:
    """What there is to know about a graph before it is trained on.

    Attributes:
        n_entity: number of entities.
        n_relation_type: number of relation types.
        n_triple: split -> number of triples.
        n_negative: split -> number of triples that are known to be false.
        n_entity_label: entities with a label of their own, beside their name.
        n_relation_label: relations with one.
        types: entity type -> number of entities; empty where the graph has no types.
        degrees: "out" (as head), "in" (as tail) and "all" (either) -> degrees in train, or in all triples where there
            is no train.
        categories: "1-1", "1-N", "N-1", "N-N" and "unseen" -> number of relations, counted in the same triples.
        findings: what is doubtful.
    """

    n_entity: int
    n_relation_type: int
    n_triple: Mapping[str, int]
    n_negative: Mapping[str, int]
    n_entity_label: int
    n_relation_label: int
    types: Mapping[str, int]
    degrees: Mapping[str, Degrees]
    categories: Mapping[str, int]
    findings: tuple[Finding, ...]

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it: dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)


def describe(dataset: KGDataset) -> Card:
    """Counts, degrees, categories of relations, and what is doubtful.

    Categories: `bess_jax.data.relations.relation_categories` (Bordes et al. 2013). Findings: docs/data.md tells what
    each means and what to do about it.
    """
    known = dataset.triples.get("train")
    triples = dataset.all_triples() if known is None else known
    of_relations = relation_categories(triples, dataset.n_relation_type)
    counts = {name: int(np.count_nonzero(of_relations == name)) for name in ("1-1", "1-N", "N-1", "N-N", "unseen")}
    return Card(
        n_entity=dataset.n_entity,
        n_relation_type=dataset.n_relation_type,
        n_triple={split: len(of_split) for split, of_split in dataset.triples.items()},
        n_negative={split: len(of_split) for split, of_split in (dataset.negatives or {}).items()},
        n_entity_label=_n_labelled(dataset.entity_dict, dataset.entity_labels),
        n_relation_label=_n_labelled(dataset.relation_dict, dataset.relation_labels),
        types=_types(dataset),
        degrees=_degrees(dataset, triples),
        categories={name: n for name, n in counts.items() if n},
        findings=find_doubtful(dataset),
    )


def _n_labelled(names: Any, labels: Mapping[str, str]) -> int:
    return sum(name in labels for name in names or ()) if labels else 0


def _types(dataset: KGDataset) -> dict[str, int]:
    if dataset.type_offsets is None:
        return {}
    starts = sorted(dataset.type_offsets.items(), key=lambda of_type: of_type[1])
    ends = [*(start for _, start in starts[1:]), dataset.n_entity]
    return {name: end - start for (name, start), end in zip(starts, ends, strict=True)}


def _degrees(dataset: KGDataset, triples: Int32Array) -> dict[str, Degrees]:
    out, into = (np.bincount(triples[:, column], minlength=dataset.n_entity) for column in (0, 2))
    return {name: _degrees_of(dataset, degree) for name, degree in (("out", out), ("in", into), ("all", out + into))}


def _degrees_of(dataset: KGDataset, degree: NDArray[np.intp]) -> Degrees:
    in_order = np.sort(degree)
    n_frequent = max(1, round(_FREQUENT * len(degree)))
    median, percentile_90, percentile_99 = np.quantile(in_order, (0.5, 0.9, 0.99)).tolist()
    exponent = np.frexp(degree)[1]  # 0: 0, 1: 1, 2 to 3: 2, 4 to 7: 3
    best = int(degree.argmax())
    return Degrees(
        max=int(degree[best]),
        entity=dataset.entity_label(best),
        median=median,
        percentile_90=percentile_90,
        percentile_99=percentile_99,
        top_share=float(in_order[-n_frequent:].sum() / in_order.sum()),
        histogram=tuple(np.bincount(exponent).tolist()),
    )
