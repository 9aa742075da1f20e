"""Initial embeddings that are not drawn: of another run, whose graph may have been smaller, or of given tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bess_jax.data.archive import DAMAGE
from bess_jax.data.files import DataError, open_file
from bess_jax.data.sharding import Sharding
from bess_jax.run.checkpoint import BEST, Checkpoint
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder
from bess_jax.run.state import Reader, all_same, rows_of
from bess_jax.step.bess import ScoreState
from bess_jax.step.tables import row_entities
from bess_jax.update.train import TrainState

_ENTITY, _RELATION = "params.entity", "params.score_fn.relation_embedding"


class Table(NamedTuple):
    """Rows that are given for some of the ids of a graph."""

    place: NDArray[np.intp]  # (n,) number of the row of each id, -1 where there is none
    width: int
    read: Callable[[NDArray[np.intp]], NDArray[Any]]  # rows (m, width) by their numbers (m,)

    @property
    def n_given(self) -> int:
        """Ids that have a row."""
        return int(np.sum(self.place >= 0))


class Given(NamedTuple):
    """What a run starts from; None where all is drawn."""

    entity: Table | None
    relation: Table | None  # inverse relations after the others, where the model has them
    checkpoint: Checkpoint | None = None  # what it is of; where a network and its statistics are taken from

    def __str__(self) -> str:
        parts = (("entities", self.entity), ("relations", self.relation))
        return ", ".join(f"{x.n_given:,} of {len(x.place):,} {name}" for name, x in parts if x is not None)


def find_given(source: Path, experiment: Experiment) -> Given:
    """The embeddings that a run can take from a place.

    Args:
        source: a run folder, of whose best checkpoint those entities and relations are taken that have the same names,
            or, in graphs without names, the same ids; or an `.npz` file with "entity" (n_entity, E), "relation"
            (n_relation, R), or both: by name, if it has "entity_name" or "relation_name" too, else by id.
        experiment: the run.

    Raises:
        DataError: if there is no such thing, it is damaged, it is of another model, or it has nothing in common.
    """
    given = _of_run(source, experiment) if source.is_dir() else _of_file(source, experiment)
    score_fn = experiment.model.score_fn
    for name, table, width in (
        ("entity", given.entity, score_fn.entity_width),
        ("relation", given.relation, score_fn.relation_width),
    ):
        if table is not None and table.width != width:
            raise DataError(f"{name} has rows of {table.width} numbers, but those of the model have {width}", source)
    if not any(table is not None and table.n_given for table in (given.entity, given.relation)):
        raise DataError("has no entity and no relation of this graph", source)
    return given


def start_from(given: Given, experiment: Experiment) -> TrainState:
    """The initial state of a run, with the rows that are given in place of drawn ones; the optimizer starts anew."""
    state = experiment.init()
    params = state.params
    sharding = experiment.sharding
    if given.entity is not None:
        ids = row_entities(sharding)
        params = params._replace(entity=_overlay(experiment, params.entity, given.entity, ids.__getitem__))
    if given.relation is not None:
        every = np.arange(len(given.relation.place))
        drawn = params.score_fn["relation_embedding"]
        table = _overlay(experiment, drawn, given.relation, lambda shard: every)
        params = params._replace(score_fn={**params.score_fn, "relation_embedding": table})
    if experiment.config.unit_entities:
        params = params._replace(entity=experiment.placement.map(experiment.rule.project)(params.entity))
    state = state._replace(params=params)
    return state if given.checkpoint is None else _with_network(experiment, state, given.checkpoint)


def _with_network(experiment: Experiment, state: TrainState, checkpoint: Checkpoint) -> TrainState:
    """The state with the network of a checkpoint, if the model has one."""
    if not isinstance(state.score_state, ScoreState):
        return state
    reader, shapes = Reader.of_run(checkpoint, experiment.sharding, experiment.placement), experiment.shapes
    network = {name: shape for name, shape in shapes.params.score_fn.items() if name != "relation_embedding"}
    network = reader.restore(network, all_same(network), "params.score_fn")
    statistics = shapes.score_state.statistics
    statistics = reader.restore(statistics, all_same(statistics), "score_state.statistics")
    return state._replace(
        params=state.params._replace(score_fn={**state.params.score_fn, **network}),
        score_state=state.score_state._replace(statistics=statistics),
    )


def _overlay(experiment: Experiment, drawn: jax.Array, table: Table, ids: Callable[[int], NDArray[Any]]) -> jax.Array:
    """Drawn rows (n, width) of every shard, replaced where the ids (n,) of the shard have one in the table."""
    placement = experiment.placement

    def is_given(shard: int, rows: slice) -> NDArray[np.bool_]:
        return np.asarray(table.place[ids(shard)[rows]] >= 0)

    def given(shard: int, rows: slice) -> NDArray[Any]:
        place = table.place[ids(shard)[rows]]
        out = np.zeros((len(place), table.width), drawn.dtype)
        out[place >= 0] = table.read(place[place >= 0])
        return out

    n = len(ids(0))
    mask = placement.make((n,), np.bool_, is_given)
    new = placement.make((n, table.width), drawn.dtype, given)
    out: jax.Array = placement.map(lambda a, b, where: jnp.where(where[:, None], b, a))(drawn, new, mask)
    return out


def _of_run(source: Path, experiment: Experiment) -> Given:
    folder, new = RunFolder.open(source), experiment.dataset
    config, old = folder.config(), folder.graph()
    if config.model != experiment.config.model:
        raise DataError(f"a run of {config.model}, but this one is of {experiment.config.model}", source)
    checkpoint = folder.checkpoint(BEST, config, old.digest())
    sharding = Sharding.create(old.n_entity, checkpoint.about.settings["n_shard"], config.seed)
    relations = _same(old.relation_dict, new.relation_dict, old.n_relation_type, new.n_relation_type)
    if experiment.model.score_fn.inverse_relations:
        inverse = np.where(relations >= 0, relations + old.n_relation_type, -1)
        relations = np.concatenate([relations, inverse if config.inverse_relations else np.full_like(inverse, -1)])
    width = {name: checkpoint.entries[name].shape[1] for name in (_ENTITY, _RELATION)}
    return Given(
        Table(
            _same(old.entity_dict, new.entity_dict, old.n_entity, new.n_entity),
            width[_ENTITY],
            lambda place: rows_of(checkpoint, _ENTITY, sharding, place.astype(np.int32)),
        ),
        Table(relations, width[_RELATION], lambda place: checkpoint.array(_RELATION)[place]),
        checkpoint,
    )


def _of_file(source: Path, experiment: Experiment) -> Given:
    graph, score_fn = experiment.dataset, experiment.model.score_fn
    relations = graph.relation_dict
    if relations is not None and score_fn.inverse_relations:
        relations = with_inverses(relations)
    here = {"entity": (graph.entity_dict, graph.n_entity), "relation": (relations, score_fn.n_relation)}
    arrays, tables = _read_arrays(source), {}
    names = {what: arrays.pop(f"{what}_name", None) for what in here}
    for name in [f"{what}_{column}" for what in here for column in ("label", "type")]:
        arrays.pop(name, None)
    for name, array in arrays.items():
        known, n = here.get(name, (None, -1))
        by_name = None if known is None else names[name]
        if name not in here or array.ndim != 2 or (by_name is None and len(array) != n):
            expected = ", ".join(f"{key} ({size}, width)" for key, (_, size) in here.items())
            raise DataError(f"expected arrays {expected}, got {name} {array.shape}", source)
        if not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
            raise DataError(f"{name} must hold finite floating-point numbers", source)
        place = np.arange(len(array))
        if by_name is not None:
            place = _same(_names_in(source, name, by_name, len(array)), known, len(array), n)
        tables[name] = Table(place, array.shape[1], array.__getitem__)
    return Given(tables.get("entity"), tables.get("relation"))


def _names_in(source: Path, what: str, array: NDArray[Any], n: int) -> list[str]:
    """The names in a file, one for each row."""
    if array.dtype.kind != "U" or array.shape != (n,):
        raise DataError(f"{what}_name must hold {n} strings, got {array.dtype} {array.shape}", source)
    names: list[str] = array.tolist()
    if len(set(names)) < n:
        raise DataError(f"{what}_name holds the same name twice: rows cannot be told apart; leave it out", source)
    return names


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with open_file(file) as stream, np.load(stream, allow_pickle=False) as archive:
            return dict(archive)
    except DataError:
        raise
    except DAMAGE:
        raise DataError("not a .npz file, or damaged", file) from None


def with_inverses(names: Sequence[str]) -> list[str]:
    """Names of relations and of their inverses after them, NAME_inverse."""
    return [*names, *(f"{name}_inverse" for name in names)]


def _same(old: Sequence[str] | None, new: Sequence[str] | None, n_old: int, n_new: int) -> NDArray[np.intp]:
    """For each id of a graph, that of the same thing in another one, or -1: by names, or by ids where one has none."""
    if old is None or new is None:
        ids = np.arange(n_new)
        return np.where(ids < n_old, ids, -1)
    id_of = {name: i for i, name in enumerate(old)}
    return np.array([id_of.get(name, -1) for name in new], dtype=np.intp)
