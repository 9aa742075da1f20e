"""The state of a run as arrays with names: how it lies on shards, to checkpoints, and back to any number of shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError
from bess_jax.data.sharding import Sharding
from bess_jax.run.checkpoint import Checkpoint, Part
from bess_jax.scoring.base import BaseScoreFunction
from bess_jax.step.bess import Params, ScoreState
from bess_jax.step.spmd import Placement
from bess_jax.step.tables import row_entities
from bess_jax.update.optim import UpdateRule
from bess_jax.update.train import TrainState

Kind: TypeAlias = Literal["rows", "same", "key"]
"""Of an array: one entry for each entity of the shard, the same on all shards, or a key of the shard's own."""


def all_same(tree: Any) -> Any:
    """Kinds of arrays that are the same on all shards."""
    return jax.tree_util.tree_map(lambda x: "same", tree)


def kinds_of_params(params: Params) -> Params:
    """Kind of each array of parameters."""
    kinds: Params = all_same(params)._replace(entity="rows")
    return kinds


def kinds_of_state(rule: UpdateRule, shapes: TrainState) -> TrainState:
    """Kind of each array of a state, by the shapes of one shard: rows are what grows with the entities."""
    entity = shapes.params.entity
    longer = jax.ShapeDtypeStruct((entity.shape[0] + 1, *entity.shape[1:]), entity.dtype)
    grown = jax.eval_shape(rule.init, shapes.params._replace(entity=longer))
    opt_state = jax.tree_util.tree_map(lambda a, b: "same" if a.shape == b.shape else "rows", shapes.opt_state, grown)
    score_state: Any = ()
    if isinstance(shapes.score_state, ScoreState):
        score_state = ScoreState(all_same(shapes.score_state.statistics), "key")
    return TrainState(kinds_of_params(shapes.params), opt_state, score_state)


def named(tree: Any) -> dict[str, Any]:
    """Name -> leaf of a tree, as in "params.entity"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def parts_of(state: Any, kinds: Any) -> dict[str, Part]:
    """What is saved of arrays (own shards, ...) of a state."""
    kind_of = named(kinds)
    return {name: Part(array, kind_of[name] != "same") for name, array in named(state).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Brings the arrays of a checkpoint to the devices, some rows at a time, whatever shards it was written by.

    Attributes:
        checkpoint: where they are read from.
        old: sharding by which it was written.
        new: sharding of the arrays to make.
        placement: the devices.
    """

    checkpoint: Checkpoint
    old: Sharding
    new: Sharding
    placement: Placement

    @classmethod
    def of_run(cls, checkpoint: Checkpoint, new: Sharding, placement: Placement) -> Reader:
        """A reader of a checkpoint of a run with these entities."""
        settings = checkpoint.about.settings
        return cls(checkpoint, Sharding.create(new.n_entity, settings["n_shard"], settings["seed"]), new, placement)

    def params(self, score_fn: BaseScoreFunction) -> Params:
        """The parameters, as ranking and prediction take them.

        Raises:
            DataError: as `restore`.
        """
        shapes = _shapes_of(score_fn, self.checkpoint.about.settings.get("table_dtype", "float32"))
        params: Params = self.restore(shapes, kinds_of_params(shapes), "params")
        if not score_fn.has_network:
            return params
        statistics = jax.eval_shape(score_fn.init_state)
        restored = self.restore(statistics, all_same(statistics), "score_state.statistics")
        return params._replace(score_state=restored)

    def restore(self, shapes: Any, kinds: Any, within: str = "") -> Any:
        """A tree of device arrays.

        Args:
            shapes: tree of the shapes of one shard by `new`.
            kinds: tree of the kinds.
            within: name in the checkpoint that the tree stands under.

        Raises:
            DataError: if an array is missing, of another type or shape, or damaged.
        """
        kind_of = named(kinds)
        prefix = f"{within}." if within else ""
        self._check({prefix + name: (shape, kind_of[name]) for name, shape in named(shapes).items()})
        arrays = [
            self.placement.make(shape.shape, shape.dtype, self._read(prefix + name, kind_of[name]))
            for name, shape in named(shapes).items()
        ]
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), arrays)

    def _check(self, wanted: Mapping[str, tuple[jax.ShapeDtypeStruct, Kind]]) -> None:
        n_row = self.old.max_entity_per_shard
        for name, (shape, kind) in wanted.items():
            expected = (n_row, *shape.shape[1:]) if kind == "rows" else shape.shape
            entry = self.checkpoint.entries.get(name)
            if entry is None or (entry.dtype, entry.shape) != (np.dtype(shape.dtype).name, expected):
                found = "absent" if entry is None else f"{entry.dtype}{list(entry.shape)}"
                raise DataError(
                    f"the checkpoint is of another model: {name} is {found} in it, but "
                    f"{np.dtype(shape.dtype).name}{list(expected)} by the settings",
                    self.checkpoint.path,
                )

    def _read(self, name: str, kind: Kind) -> Callable[[int, Any], NDArray[Any]]:
        """Gives rows of the array of a shard of `new`."""
        array, is_same_sharding = self.checkpoint.array, self.old.n_shard == self.new.n_shard
        if kind == "same":
            return lambda shard, rows: array(name)[rows]
        if is_same_sharding and np.array_equal(self.old.shard_and_idx_to_entity, self.new.shard_and_idx_to_entity):
            return lambda shard, rows: array(name, shard)[rows]
        if kind == "key":
            return lambda shard, rows: _key_of(array(name, shard % self.old.n_shard), shard)[rows]
        entity = row_entities(self.new)
        return lambda shard, rows: rows_of(self.checkpoint, name, self.old, entity[shard][rows])


def _shapes_of(score_fn: BaseScoreFunction, dtype: Any) -> Params:
    """Shapes of the parameters of one shard."""
    entity = jax.ShapeDtypeStruct((score_fn.sharding.max_entity_per_shard, score_fn.entity_width), dtype)
    if score_fn.has_network:
        network = jax.eval_shape(score_fn.init_params, jax.random.PRNGKey(0))
        return Params(entity, jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), network))
    table = jax.ShapeDtypeStruct((score_fn.n_relation, score_fn.relation_width), dtype)
    return Params(entity, {"relation_embedding": table})


def rows_of(checkpoint: Checkpoint, name: str, sharding: Sharding, entity: Int32Array) -> NDArray[Any]:
    """Rows (n, ...) of entities (n,), by `entity_global`, from the shards of a checkpoint; holds no shard of it."""
    entry = checkpoint.entries[name]
    out = np.empty((len(entity), *entry.shape[1:]), np.dtype(entry.dtype))
    shard, place = sharding.entity_to_shard[entity], sharding.entity_to_idx[entity]
    for number in np.unique(shard).tolist():
        here = shard == number
        out[here] = checkpoint.array(name, number)[place[here]]
    return out


def _key_of(key: NDArray[np.uint32], shard: int) -> NDArray[np.uint32]:
    """A key for a shard, made of that of another."""
    return np.asarray(jax.random.fold_in(key, shard))
