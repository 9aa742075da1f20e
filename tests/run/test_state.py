"""States on other shards than those they were saved by, and initial states that are not drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shared.commands import train
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.cli.main import main
from bess_jax.data.files import DataError
from bess_jax.run.about import About, Point
from bess_jax.run.checkpoint import LAST, Checkpoint, Checkpoints
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder
from bess_jax.run.loop import restored
from bess_jax.run.start import find_given, start_from
from bess_jax.run.state import Reader, kinds_of_state, named, parts_of
from bess_jax.step import spmd
from bess_jax.step.spmd import Placement

SMALL: dict[str, Any] = {"n_shard": 4, "batch_size": 64, "n_negative": 24, "embedding_size": 8, "steps_per_call": 4}
KINDS = [
    {"update": "row_sparse", "optimizer": "adam"},
    {"update": "dense", "optimizer": "adam"},
    {"optimizer": "row_adagrad"},
    pytest.param({"model": "ConvE", "embedding_size": 64, "init_scale": 0.0}, marks=pytest.mark.long),
]


@pytest.fixture(autouse=True)
def optax_promotes_types() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):
        yield


def experiment_of(nations: Path, **settings: Any) -> Experiment:
    return Experiment.create(TrainConfig(dataset=str(nations), **(SMALL | {"learning_rate": 0.01} | settings)))


def saved(folder: Path, experiment: Experiment, n_call: int = 3) -> Checkpoint:
    """A checkpoint of a few calls; its rows tell entities apart."""
    state = experiment.init()
    for at in experiment.calls(state):
        if at.n_call == n_call:
            state = at.state
            break
    calls = experiment.sampler.calls_per_epoch
    about = About(Point.of(n_call, calls), experiment.config.to_dict(), experiment.dataset.digest())
    parts = parts_of(experiment.placement.get_local(state), kinds_of_state(experiment.rule, experiment.shapes))
    losses = {"losses": parts_of({"losses": np.ones((1, n_call))}, {"losses": "same"})["losses"]}
    Checkpoints(folder).write(about, parts | losses, range(experiment.config.n_shard))
    return Checkpoints(folder).pick(LAST)


def by_entity(experiment: Experiment, state: Any) -> dict[str, np.ndarray]:
    """Arrays without shards: rows by `entity_global`; all but keys."""
    host, kinds = experiment.placement.get(state), named(kinds_of_state(experiment.rule, experiment.shapes))
    return {
        name: bj.unshard(array, experiment.sharding) if kinds[name] == "rows" else array[0]
        for name, array in named(host).items()
        if kinds[name] != "key"
    }


@pytest.mark.parametrize("settings", KINDS, ids=["row_sparse", "dense", "row_adagrad", "ConvE"])
def test_a_state_on_any_shards(settings: dict[str, Any], tmp_path: Path, nations: Path) -> None:
    """Every row of every table is where its entity is, and training goes on."""
    old = experiment_of(nations, **settings)
    checkpoint = saved(tmp_path, old)
    expected = by_entity(old, restored(old, checkpoint).state)
    test, score_fn = old.dataset.triples["test"], old.model.score_fn
    scores = old.ranker.score(Reader.of_run(checkpoint, old.sharding, old.placement).params(score_fn), test)
    for n_shard, n_device, mapping in ((1, 1, "pmap"), (2, 2, "shard_map"), (3, 1, "vmap"), (8, 4, "pmap")):
        batch = {"batch_size": 72, "n_negative": 24} if n_shard == 3 else {}
        new = experiment_of(nations, **(settings | batch), n_shard=n_shard, n_device=n_device, mapping=mapping)
        start = restored(new, checkpoint)
        assert start.n_call == checkpoint.about.point.n_call(new.sampler.calls_per_epoch)
        found = by_entity(new, start.state)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name} on {n_shard} shards")
        reader = Reader.of_run(checkpoint, new.sharding, new.placement)
        score = new.ranker.score(reader.params(new.model.score_fn), test)
        np.testing.assert_allclose(score, scores, **ACCUMULATED)
        at = next(new.calls(start.state, start.n_call))
        assert np.isfinite(at.read_loss())


def test_the_same_state_on_the_same_shards(tmp_path: Path, nations: Path) -> None:
    """Bit by bit, keys of dropout included; other shards have keys of their own."""
    old = experiment_of(nations, model="ConvE", embedding_size=64, init_scale=0.0)
    checkpoint = saved(tmp_path, old)
    state = old.placement.get(restored(old, checkpoint).state)
    for name, array in named(state).items():
        kind = checkpoint.entries[name]
        for shard in range(4):
            np.testing.assert_array_equal(array[shard], checkpoint.array(name, shard if kind.per_shard else 0))
    new = experiment_of(nations, model="ConvE", embedding_size=64, init_scale=0.0, n_shard=8)
    keys = new.placement.get(restored(new, checkpoint).state.score_state.dropout_key)
    assert len(np.unique(keys, axis=0)) == 8


def test_dropout_goes_on(tmp_path: Path, nations: Path) -> None:
    """A run that goes on draws what an uninterrupted one draws, bit by bit; every shard and step draws anew."""
    experiment = experiment_of(nations, entity_dropout=0.3, relation_dropout=0.2, accumulate=2)
    before = saved(tmp_path / "half", experiment, n_call=2)
    half = restored(experiment, before)
    whole = saved(tmp_path / "whole", experiment, n_call=4)
    for at in experiment.calls(half.state, half.n_call):
        if at.n_call == 4:
            break
    for name, array in named(experiment.placement.get(at.state)).items():
        for shard in range(4):
            place = shard if whole.entries[name].per_shard else 0
            np.testing.assert_array_equal(array[shard], whole.array(name, place), err_msg=name)
    keys = [one.array("score_state.dropout_key", shard) for one in (before, whole) for shard in range(4)]
    assert len(np.unique(keys, axis=0)) == 8


def test_entities_of_norm_1(nations: Path, tmp_path: Path) -> None:
    """From the first step on, whatever they start from, and to the digits of the table."""
    settings = {"table_dtype": "bfloat16", "stochastic_rounding": True, "accumulate": 2}
    experiment = experiment_of(nations, unit_entities=True, **settings)
    state = experiment.init()
    np.savez(tmp_path / "tables.npz", entity=3 * np.eye(14, 16, dtype=np.float32))
    given = start_from(find_given(tmp_path / "tables.npz", experiment), experiment)
    states = [experiment.placement.get(one.params.entity) for one in (state, given)]
    states.append(experiment.placement.get(next(experiment.calls(state)).state.params.entity))
    for entity in states:
        np.testing.assert_allclose(np.linalg.norm(entity.astype(np.float64), axis=-1), 1, atol=2**-8)
    assert (states[0] != states[-1]).any()


def test_of_another_model(tmp_path: Path, nations: Path) -> None:
    checkpoint = saved(tmp_path, experiment_of(nations))
    for settings, message in (
        ({"embedding_size": 4}, r"params\.entity is float32\[4, 16\] in it, but float32\[4, 8\] by the settings"),
        ({"optimizer": "sgd"}, None),  # has less of a state
        ({"optimizer": "adam"}, r"opt_state\.entity\.0\.count is absent in it, but int32\[\] by the settings"),
    ):
        other = experiment_of(nations, **settings)
        if message is None:
            restored(other, checkpoint)
            continue
        with pytest.raises(DataError, match=f"of another model: {message}"):
            restored(other, checkpoint)


def test_fewer_epochs_than_done(tmp_path: Path, nations: Path) -> None:
    experiment = experiment_of(nations, n_epoch=5)
    checkpoint = saved(tmp_path, experiment, n_call=experiment.sampler.calls_per_epoch + 1)
    with pytest.raises(ValueError, match="n_epoch must be at least 2, got 1: the checkpoint epoch-1-call-1-of-"):
        restored(experiment_of(nations, n_epoch=1), checkpoint)


@pytest.mark.parametrize("n_shard", [1, 3])
def test_a_run_is_asked_on_other_shards(n_shard: int, run: Path) -> None:
    here, there = bj.Predictor.load(run), bj.Predictor.load(run, n_shard=n_shard)
    assert there.ranker.placement.n_shard == n_shard
    ranks, others = here.ranks("test"), there.ranks("test")
    for side in ("head", "tail"):
        np.testing.assert_array_equal(ranks.sides[side].better, others.sides[side].better)
        np.testing.assert_allclose(ranks.sides[side].score, others.sides[side].score, **ACCUMULATED)


# --- starts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def larger(tmp_path: Path, nations: Path) -> Path:
    """Nations with two entities and a relation more, and other ids."""
    graph = bj.load_dataset(nations)
    rows = [
        [graph.entity_label(h), graph.relation_label(r), graph.entity_label(t)] for h, r, t in graph.triples["train"]
    ]
    folder = tmp_path / "larger"
    folder.mkdir()
    new = [["atlantis", "treaties", "usa"], ["lemuria", "sinks", "atlantis"]]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("".join("\t".join(row) + "\n" for row in new + rows[::-1]))
    return folder


def test_new_entities_and_relations(run: Path, larger: Path) -> None:
    """Those that the other run had start where it ended, by their names; the others are drawn."""
    settings: dict[str, Any] = {"n_shard": 3, "batch_size": 72, "n_negative": 24, "embedding_size": 16}
    experiment = Experiment.create(TrainConfig(dataset=str(larger), **settings))
    given = find_given(run, experiment)
    assert str(given) == "14 of 16 entities, 110 of 112 relations"
    state, drawn = start_from(given, experiment), experiment.init()
    old = bj.Predictor.load(run)
    tables = [
        (
            bj.unshard(experiment.placement.get(params.entity), sharding),
            experiment.placement.get(params.score_fn["relation_embedding"])[0],
        )
        for params, sharding in ((state.params, experiment.sharding), (drawn.params, experiment.sharding))
    ]
    old_params = old.ranker.placement.get(old.params)
    old_entity = bj.unshard(old_params.entity, old.ranker.score_fn.sharding)
    (entity, relation), (entity_drawn, relation_drawn) = tables
    for i, name in enumerate(experiment.dataset.entity_dict or ()):
        is_new = name in ("atlantis", "lemuria")
        np.testing.assert_array_equal(
            entity[i], entity_drawn[i] if is_new else old_entity[old.dataset.find_entity(name)]
        )
    for i, name in enumerate(experiment.dataset.relation_dict or ()):
        for inverse in (0, 1):
            here = i + inverse * 56
            expected = (
                relation_drawn[here]
                if name == "sinks"
                else old_params.score_fn["relation_embedding"][0, old.dataset.find_relation(name) + inverse * 55]
            )
            np.testing.assert_array_equal(relation[here], expected)


def test_a_network_comes_along(tmp_path: Path, nations: Path) -> None:
    config = TrainConfig(dataset=str(nations), **(SMALL | {"model": "ConvE", "embedding_size": 64, "init_scale": 0.0}))
    experiment = Experiment.create(config)
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.begin(config, experiment.dataset)
    checkpoint = saved(folder.path / "checkpoints", experiment)
    state = experiment.placement.get(start_from(find_given(folder.path, experiment), experiment))
    for name, array in named(state).items():
        if name.startswith(("params", "score_state.statistics")):
            entry = checkpoint.entries[name]
            np.testing.assert_array_equal(array[1], checkpoint.array(name, 1 if entry.per_shard else 0))


def test_given_tables(tmp_path: Path, nations: Path) -> None:
    experiment = experiment_of(nations, n_shard=3, batch_size=72)
    entity = np.random.default_rng(0).normal(size=(14, 16)).astype(np.float32)
    np.savez(tmp_path / "tables.npz", entity=entity)
    state = start_from(find_given(tmp_path / "tables.npz", experiment), experiment)
    np.testing.assert_array_equal(
        bj.unshard(experiment.placement.get(state.params.entity), experiment.sharding), entity
    )
    drawn = experiment.init().params.score_fn
    for ours, theirs in zip(
        jax.tree_util.tree_leaves(state.params.score_fn), jax.tree_util.tree_leaves(drawn), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"entity": np.zeros((13, 16))},
            r"expected arrays entity \(14, width\), relation \(110, width\), got entity \(13",
        ),
        ({"entity": np.zeros((14, 8))}, "entity has rows of 8 numbers, but those of the model have 16"),
        ({"entity": np.full((14, 16), np.nan)}, "entity must hold finite floating-point numbers"),
        ({"entity": np.zeros((14, 16), np.int32)}, "entity must hold finite floating-point numbers"),
        ({"entities": np.zeros((14, 16))}, "got entities"),
        ({}, "has no entity and no relation of this graph"),
    ],
)
def test_bad_tables(tables: dict[str, np.ndarray], message: str, tmp_path: Path, nations: Path) -> None:
    np.savez(tmp_path / "tables.npz", **tables)
    with pytest.raises(DataError, match=rf"tables\.npz: .*{message}"):
        find_given(tmp_path / "tables.npz", experiment_of(nations))


def test_bad_sources(run: Path, tmp_path: Path, nations: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "folder").mkdir()
    experiment = experiment_of(nations)
    for source, message in (
        (tmp_path / "nothing", "cannot be read: No such file"),
        (tmp_path / "text", r"not a \.npz file, or damaged"),
        (tmp_path / "folder", "not a run folder"),
        (run, "entity has rows of 32 numbers, but those of the model have 16"),
    ):
        with pytest.raises(DataError, match=message):
            find_given(source, experiment)
    with pytest.raises(DataError, match="a run of ComplEx, but this one is of DistMult"):
        find_given(run, experiment_of(nations, model="DistMult"))


@pytest.mark.long
def test_the_command_starts_from_a_run(
    run: Path, larger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(larger, tmp_path / "new", "--start-from", str(run), "--n-epoch", "1") == 0
    assert "14 of 16 entities, 110 of 112 relations" in capsys.readouterr().out.replace("\n", " ")
    assert main(["evaluate", str(tmp_path / "new"), "--n-shard", "4", "--split", "valid"]) == 0


def test_the_host_holds_few_rows(tmp_path: Path, nations: Path) -> None:
    """A table is read some rows at a time, and never whole, also onto a single shard."""
    old = experiment_of(nations)
    checkpoint = saved(tmp_path, old)
    largest = 0
    make = Placement.make

    def watched(self: Placement, shape: Any, dtype: Any, read: Any) -> jax.Array:
        def counted(shard: int, rows: Any) -> np.ndarray:
            nonlocal largest
            array = np.asarray(read(shard, rows))
            largest = max(largest, array.nbytes)
            return array

        return make(self, shape, dtype, counted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Placement, "make", watched)
        patch.setattr(spmd, "_PIECE", 256)
        for n_shard in (1, 2, 4):
            restored(experiment_of(nations, n_shard=n_shard, n_device=1), checkpoint)
    assert 0 < largest <= 256
