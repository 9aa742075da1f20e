"""What a run is built of: settings that the graph refuses, the steps of a call, optimizers and options by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import bess_jax as bj
from bess_jax.run.build import make_model, make_sampler, make_score_fn
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.optimizer import OPTIMIZERS, SCHEDULES, learning_rate_at

OWN = {"share_negatives": False, "augment_negative": False}


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(
        **{"dataset": "here", "n_shard": 2, "batch_size": 16, "embedding_size": 4, "n_negative": 4, **settings}
    )


def graph(n_types: int = 0, sides: str = "", n_list: int = 40) -> bj.KGDataset:
    """40 triples of 12 entities, with types, or lists for heads and tails."""
    rng = np.random.default_rng(0)
    triples = {split: rng.integers([12, 3, 12], size=(40, 3)).astype(np.int32) for split in ("train", "valid", "test")}
    lists = {side: {"train": rng.integers(12, size=(n_list, 3)).astype(np.int32)} for side in sides}
    return bj.KGDataset(
        n_entity=12,
        n_relation_type=3,
        triples=triples,
        type_offsets={f"type {i}": 12 * i // n_types for i in range(n_types)} if n_types else None,
        neg_heads=lists.get("h"),
        neg_tails=lists.get("t"),
    )


def build(settings: dict[str, Any], dataset: bj.KGDataset) -> Any:
    made = config(**settings)
    return make_model(made, dataset, make_sampler(made, dataset))


@pytest.mark.parametrize(
    ("settings", "dataset", "message"),
    [
        (
            {"negatives": "typed"},
            graph(),
            "'typed' needs entity types, but here has none; put a file of types",
        ),
        (
            {"negatives": "typed", "scheme": "score_moving", "augment_negative": False},
            graph(n_types=12),
            "scheme='score_moving' needs share_negatives=False where a shard has no entity of some type",
        ),
        ({"negatives": "given"}, graph(), "needs lists of heads and tails for each triple of train, but here has none"),
        (
            {"negatives": "given"},
            graph(sides="t"),
            "needs lists of heads .*; for tails alone, set inverse_relations=False",
        ),
        (
            {"negatives": "given", "inverse_relations": False, "corruption": "h"},
            graph(sides="t"),
            r"needs lists of heads .* or set negatives='random'",
        ),
        (
            {"negatives": "given", "scheme": "score_moving", "augment_negative": False},
            graph(sides="ht"),
            "scheme='score_moving' needs share_negatives=False where each triple has a list of its own",
        ),
    ],
)
def test_what_the_graph_refuses(settings: dict[str, Any], dataset: bj.KGDataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(settings, dataset)


@pytest.mark.parametrize(
    ("settings", "dataset"),
    [
        ({"negatives": "typed", "scheme": "score_moving", **OWN}, graph(n_types=12)),
        ({"negatives": "typed", "scheme": "score_moving", "augment_negative": False}, graph(n_types=2)),
        ({"negatives": "given", "inverse_relations": False}, graph(sides="t")),
        (
            {"negatives": "given", "scheme": "score_moving", "augment_negative": False, "inverse_relations": False},
            graph(sides="ht", n_list=1),
        ),
        ({"negatives": "given", "scheme": "score_moving", **OWN}, graph(sides="ht")),
    ],
)
def test_what_it_takes(settings: dict[str, Any], dataset: bj.KGDataset) -> None:
    build(settings, dataset)


def test_types_make_no_other_sharding() -> None:
    """Trained tables are read by a sharding that knows no types."""
    sampler = make_sampler(config(seed=5), graph(n_types=3))
    sharding = sampler.partitioned_triple_set.sharding
    np.testing.assert_array_equal(sharding.entity_to_shard, bj.Sharding.create(12, 2, 5).entity_to_shard)
    assert sharding.entity_type_counts is not None


@pytest.mark.parametrize(
    ("accumulate", "steps", "expected"), [(1, 16, (5, 1)), (1, 2, (2, 3)), (2, 2, (2, 3)), (4, 16, (8, 1))]
)
def test_calls_hold_whole_updates(accumulate: int, steps: int, expected: tuple[int, int]) -> None:
    """T is a multiple of `accumulate`, at most `steps_per_call`, and wastes as little as that allows."""
    triples = np.array([[0, 0, 1]] * 20, np.int32)
    dataset = dataclasses.replace(graph(), triples={"train": triples})
    made = config(accumulate=accumulate, steps_per_call=steps, inverse_relations=False)
    sampler = make_sampler(made, dataset)
    assert (sampler.batches_per_step, sampler.calls_per_epoch) == expected
    assert sampler.positive_per_partition == made.positive_per_partition == 4
    twice = make_sampler(dataclasses.replace(made, duplicate_batch=True), dataset)
    assert twice.positive_per_partition == 2
    assert twice.batch(0, 0)["head"].shape[-1] == 4


def test_batches_of_an_update_stand_together(nations: Path) -> None:
    made = TrainConfig(
        **{"dataset": str(nations), "n_shard": 2, "batch_size": 64, "n_negative": 4, "embedding_size": 4},
        **{"n_device": 1, "mapping": "vmap", "accumulate": 2, "steps_per_call": 5},
    )
    experiment = Experiment.create(made)
    batch, plain = experiment.host_batch(0, 0), experiment.sampler.batch(0, 0)
    n_step = plain["head"].shape[0]
    assert n_step == 4
    assert batch["relation"].shape[:3] == (2, n_step // 2, 2)
    np.testing.assert_array_equal(batch["relation"][0, 1, 0], plain["relation"][2, 0])
    assert batch["entity_rows"].shape[:2] == (2, n_step // 2)


OWN_MODEL = """
from __future__ import annotations
from typing import TYPE_CHECKING
import bess_jax as bj
if TYPE_CHECKING:
    from elsewhere import Thing
class Mine(bj.DistMult):
    depth: int = 1
    scale: float | None = None
class Odd(bj.DistMult):
    depth: int = 1
    thing: Thing = None
class Tails(bj.DistMult):
    scores_heads = False
"""


def test_options_of_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "options_of_mine.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    dataset, sharding = graph(), bj.Sharding.create(12, 2, 0)

    def made(kind: str, **settings: Any) -> Any:
        return make_score_fn(config(model=f"options_of_mine:{kind}", **settings), dataset, sharding)

    mine = made("Mine", model_options={"depth": 3, "scale": 2})
    assert (mine.depth, mine.scale) == (3, 2.0)
    assert type(mine.scale) is float
    assert made("Odd", model_options={"depth": 3}).depth == 3
    for kind, settings, message in (
        ("Mine", {"model_options": {"dept": 3}}, "Mine has no option 'dept'; did you mean 'depth'?"),
        ("Mine", {"model_options": {"depth": 3.5}}, "depth of Mine must be a whole number, got 3.5"),
        ("Tails", {"corruption": "h"}, "model='options_of_mine:Tails' needs corruption='t', got 'h'"),
    ):
        with pytest.raises(ValueError, match="model") as error:
            made(kind, **settings)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adm"}, "optimizer must be one of adagrad, row_adagrad, .*, got 'adm'; did you mean 'adam'"),
        ({"optimizer": "lamb"}, "got 'lamb'; that one does not update each row as if it were alone"),
        ({"optimizer": "adam", "optimizer_options": {"beta1": 1.0}}, "adam has no option 'beta1'; it has b1, b2, eps"),
        ({"optimizer": "adam", "optimizer_options": {"b1": True}}, "b1 of adam must be a number, got True"),
        ({"optimizer": "adam", "optimizer_options": {"nesterov": 1}}, "nesterov of adam must be true or false"),
        ({"optimizer": "sign_sgd", "optimizer_options": {"momentum": 1.0}}, "has no option 'momentum'; it has none"),
        ({"optimizer_options": {"learning_rate": 1.0}}, "adagrad has no option 'learning_rate'"),
        ({"schedule": "cosine"}, "got 'cosine'; did you mean 'cosine_decay_schedule'"),
        (
            {"schedule": "sgdr_schedule"},
            "that one takes lists, or has a warm-up of its own, for which there is",
        ),
        ({"schedule": "linear_schedule"}, "schedule_options: linear_schedule needs end_value"),
        ({"schedule_options": {"alpha": 0.1}}, "constant has no option 'alpha'; it has none"),
        (
            {"schedule": "cosine_decay_schedule", "schedule_options": {"decay_steps": 1.5}},
            "decay_steps of cosine_decay_schedule must be a whole number, got 1.5",
        ),
        ({"schedule": "plateau", "schedule_options": {"factor": 2.0}}, "factor of plateau must be between 0 and 1"),
        ({"schedule": "plateau", "schedule_options": {"patience": 0}}, "patience of plateau must be at least 1"),
        ({"schedule": "plateau", "schedule_options": {"min_scale": 1}}, "min_scale of plateau must be at least 0"),
    ],
)
def test_optimizers_and_schedules_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_steps_of_a_schedule() -> None:
    """Those of the run after warm-up, unless they are given; in updates."""
    halved = {"schedule": "exponential_decay", "schedule_options": {"decay_rate": 0.5}, "learning_rate": 1.0}
    rate = learning_rate_at(TrainConfig(**halved), 40, 10)
    np.testing.assert_allclose([rate(0), rate(20), rate(40)], [1, 0.5**0.5, 0.5], rtol=1e-6)
    rate = learning_rate_at(TrainConfig(**halved, warmup=1.0), 40, 10)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(40)], [0, 0.5, 1, 0.5], rtol=1e-6)
    halved["schedule_options"] = {"decay_rate": 0.5, "transition_steps": 10}
    rate = learning_rate_at(TrainConfig(**halved), 40, 10)
    np.testing.assert_allclose([rate(10), rate(20)], [0.5, 0.25], rtol=1e-6)
    assert learning_rate_at(TrainConfig(learning_rate=0.3), 40, 10)(7) == 0.3


def test_names_are_those_that_optax_has() -> None:

    assert all(
        hasattr(optax, name) for name in (*OPTIMIZERS, *SCHEDULES) if name not in ("row_adagrad", "constant", "plateau")
    )
