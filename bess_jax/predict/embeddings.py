"""The rows of a trained model, in global order and with names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import require
from bess_jax._typing import Int32Array
from bess_jax.ask.ranker import Ranker
from bess_jax.data.dataset import KGDataset
from bess_jax.data.sharding import Sharding
from bess_jax.run.start import with_inverses
from bess_jax.scoring.base import Part
from bess_jax.step.bess import Params
from bess_jax.step.spmd import Placement

if TYPE_CHECKING:
    import pandas

What: TypeAlias = Literal["entity", "relation"]

_PIECE = 2**22
"""Numbers that are read at a time."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EmbeddingTable:
    """Embeddings of all entities or relations, row i being that of id i.

    Relations of a model with inverse relations are followed by their inverses, NAME_inverse, in the same order.

    Attributes:
        what: "entity" or "relation".
        parts: name -> width of the parts of a row, which stand one after the other: real and imaginary of ComplEx.
        names: name of each row, or None where the graph has no names.
        labels: what people read of each row: its label, else its name, else its number.
        types: entity type of each row, or None.
        read: gives rows (m, E) float32 by a slice.
    """

    what: What
    parts: Mapping[str, int]
    names: Sequence[str] | None
    labels: Sequence[str]
    types: Sequence[str] | None
    read: Callable[[slice], NDArray[np.float32]]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {width}" for name, width in self.parts.items())
        return f"EmbeddingTable({self.what}: {len(self):,} rows of {parts})"

    @property
    def width(self) -> int:
        """E, numbers of a row."""
        return sum(self.parts.values())

    @cached_property
    def array(self) -> NDArray[np.float32]:
        """All rows, (n, E) float32, on the host."""
        return self.read(slice(None))

    def part(self, name: str) -> NDArray[np.float32]:
        """A part of all rows, (n, width): `table.part("real")`.

        Raises:
            ValueError: if no part has this name.
        """
        if name not in self.parts:
            raise ValueError(f"name must be one of {', '.join(map(repr, self.parts))}, got {name!r}")
        before = list(self.parts)[: list(self.parts).index(name)]
        start = sum(self.parts[part] for part in before)
        return self.array[:, start : start + self.parts[name]]

    @property
    def components(self) -> list[str]:
        """Name of each number of a row: real_0, real_1, ..., imaginary_0, ...; of a part of one number its own."""
        of_parts = self.parts.items()
        return [name if width == 1 else f"{name}_{i}" for name, width in of_parts for i in range(width)]

    def described(self, rows: slice = slice(None)) -> dict[str, Sequence[Any]]:
        """Columns id, name, label and, where there are types, type, of some rows."""
        ids = range(len(self))[rows]
        columns: dict[str, Sequence[Any]] = {
            "id": ids,
            "name": [str(i) for i in ids] if self.names is None else self.names[rows],
            "label": self.labels[rows],
        }
        return columns if self.types is None else columns | {"type": self.types[rows]}

    def frame(self) -> pandas.DataFrame:
        """A pandas table: id, name, label and, where there are types, type, then a column for each of `components`.

        Raises:
            MissingExtraError: without pandas.
        """
        pd = require("pandas", "frames", "a frame")
        described = pd.DataFrame(self.described())
        frame: pandas.DataFrame = pd.concat([described, pd.DataFrame(self.array, columns=self.components)], axis=1)
        return frame

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All rows, some at a time: which, and their numbers (m, E)."""
        size = max(1, _PIECE // self.width)
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self.read(rows)


def entity_table(dataset: KGDataset, ranker: Ranker, params: Params) -> EmbeddingTable:
    """The entities of a model, padding left out; with devices of several processes, all must call it.

    Nothing is copied until rows are read, but for devices of several processes: then each has the whole table.
    """
    sharding = ranker.score_fn.sharding
    shards = _shards(ranker.placement, params.entity)
    names, labels = dataset.entity_dict, dataset.entity_labels
    return EmbeddingTable(
        what="entity",
        parts=_widths(ranker.score_fn.entity_parts),
        names=names,
        labels=_labels(dataset.n_entity, names, labels),
        types=_types(dataset),
        read=lambda rows: _rows(shards, sharding, np.arange(sharding.n_entity, dtype=np.int32)[rows]),
    )


def relation_table(dataset: KGDataset, ranker: Ranker, params: Params) -> EmbeddingTable:
    """The relations of a model, inverse ones after the others."""
    score_fn = ranker.score_fn
    array = ranker.placement.get_local(params.score_fn["relation_embedding"])[0].astype(np.float32)
    names = dataset.relation_dict
    labels = _labels(dataset.n_relation_type, names, dataset.relation_labels)
    add = with_inverses if score_fn.inverse_relations else list
    return EmbeddingTable(
        what="relation",
        parts=_widths(score_fn.relation_parts),
        names=None if names is None else add(names),
        labels=add(labels),
        types=None,
        read=lambda rows: array[rows],
    )


def _shards(placement: Placement, table: jax.Array) -> list[NDArray[Any]]:
    """The rows (M, E) of each shard on the host; on a CPU, the memory of the devices itself."""
    if not placement.is_local:
        return list(placement.get(table))
    of_device = {block.device: np.asarray(block.data) for block in table.addressable_shards}
    blocks = [of_device[device] for device in placement.devices]
    return [shard for block in blocks for shard in block.reshape(-1, *table.shape[-2:])]


def _rows(shards: Sequence[NDArray[Any]], sharding: Sharding, entity: Int32Array) -> NDArray[np.float32]:
    out = np.empty((len(entity), shards[0].shape[1]), np.float32)
    shard, place = sharding.entity_to_shard[entity], sharding.entity_to_idx[entity]
    for number in np.unique(shard).tolist():
        here = shard == number
        out[here] = shards[number][place[here]]
    return out


def _widths(parts: Sequence[Part]) -> dict[str, int]:
    return {part.name: part.width for part in parts}


def _labels(n: int, names: Sequence[str] | None, labels: Mapping[str, str]) -> Sequence[str]:
    if names is None:
        return [str(i) for i in range(n)]
    return [labels.get(name, name) for name in names] if labels else names


def _types(dataset: KGDataset) -> list[str] | None:
    """Type of each entity."""
    if dataset.type_offsets is None:
        return None
    ends = [*dataset.type_offsets.values(), dataset.n_entity][1:]
    spans = zip(dataset.type_offsets.items(), ends, strict=True)
    return [name for (name, start), end in spans for _ in range(start, end)]
