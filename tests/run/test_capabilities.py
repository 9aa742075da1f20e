"""Every capability of the library has a setting: a table, and an epoch on Nations with each of them.

`docs/settings.md` has the table. What the package can do is found in the package: a class, function or field that is
new fails here until it has a setting and a run, or a reason to have none.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from shared.settings import capability_table

import bess_jax as bj
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.models import BUILT_IN
from bess_jax.run.optimizer import OPTIMIZERS, SCHEDULES, learning_rate_at, make_rule
from bess_jax.run.settings import GROUP_OF
from bess_jax.scoring import initializers

SMALL: dict[str, Any] = {
    **{"n_shard": 2, "n_device": 1, "mapping": "vmap", "batch_size": 256, "embedding_size": 4},
    **{"n_epoch": 1, "steps_per_call": 2},
}

OWN = {"augment_negative": False, "share_negatives": False}

RUNS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "TransE": {
        **{"model": "TransE", "scoring_norm": 2, "order": "fixed", "frequency_weights": True, "weight_smoothing": 2.0},
        **{"duplicate_batch": True, "corruption": "ht", "local_negatives": True, "inverse_relations": False, **OWN},
        **{"loss": "margin", "margin": 2.0, "adversarial_scale": 0.0, "regularization": 0.2},
        **{"entity_dropout": 0.3, "unit_entities": True},
    },
    "RotatE": {
        **{
            "model": "RotatE",
            "scoring_norm": 2,
            "model_options": {"as_reference": True},
            "order": "random",
            "loss": "logsigmoid",
        },
        **{"entity_initializer": "uniform", "relation_initializer": "model", "adversarial_scale": 0.5, "margin": 2.0},
        **{"optimizer": "row_adagrad", "update": "dense", "regularization_power": 2},
    },
    "PairRE": {
        **{"model": "PairRE", "scoring_norm": 2, "model_options": {"normalize_entities": False}, "negatives": "typed"},
        **{
            "scheme": "score_moving",
            "relation_weight": 0.1,
            "relation_dropout": 0.3,
            **OWN,
            "entity_initializer": "unit",
            "local_negatives": False,
        },
    },
    "TripleRE": {
        **{"model": "TripleRE", "model_options": {"u": 0.5}, "negatives": "given"},
        **{"loss": "cross_entropy", "relation_initializer": "xavier", "init_scale": 1.0},
    },
    "DistMult": {
        **{"model": "DistMult", "negatives": "all", "augment_negative": False, "loss": "cross_entropy"},
        **{"label_smoothing": 0.1, "optimizer": "adam", "optimizer_options": {"b1": 0.8}, "learning_rate": 0.01},
        **{"schedule": "cosine_decay_schedule", "warmup": 0.5, "table_dtype": "float16", "loss_scale": 64.0},
        **{"stochastic_rounding": True, "answers_per_query": 2, "regularizer": "dura"},
        **{"relation_regularization": 0.3},
    },
    "ComplEx": {
        **{"negatives": "all", "augment_negative": False, "loss": "bce", "offset": 1.0, "answers": "all"},
        **{"scheme": "score_moving", "accumulate": 2},
    },
    "InterHT": {
        **{"model": "InterHT", "model_options": {"offset": 0.5}, "negatives": "typed", "local_negatives": True},
        **{"table_dtype": "bfloat16"},
    },
    "TranS": {"model": "TranS"},
    "BoxE": {
        **{"model": "BoxE", "scoring_norm": 2},
        "model_options": {"apply_tanh": False, "dist_func_per_dim": False, "eps": 1e-3, "as_reference": True},
    },
    "ConvE": {
        **{"model": "ConvE", "embedding_size": 16},
        "model_options": {
            **{"embedding_height": 4, "embedding_width": 2, "input_channels": 2, "output_channels": 3},
            **{"kernel_height": 2, "kernel_width": 2, "input_dropout": 0.1, "feature_map_dropout": 0.1},
            **{"hidden_dropout": 0.1, "synchronize_batch_norm": True},
        },
    },
    "ConvE, bare": {"model": "ConvE", "embedding_size": 9, "model_options": {"batch_normalization": False}},
}
"""Name of a run -> its settings, beside `SMALL`."""


class Use(NamedTuple):
    """How a capability is had.

    Attributes:
        setting: the setting, or several joined by blanks, with a value where it matters.
        run: name of the run that has it.
    """

    setting: str
    run: str


def _options(model: str, run: str, *names: str) -> dict[str, Use]:
    return {f"{model}.{name}": Use(f"model_options.{name}", run) for name in names}


CAPABILITIES: dict[str, Use] = {
    **{name: Use(f"model={name}", name) for name in BUILT_IN},
    "BaseScoreFunction.embedding_size": Use("embedding_size", "ConvE"),
    "BaseScoreFunction.entity_initializer": Use("entity_initializer init_scale", "RotatE"),
    "BaseScoreFunction.relation_initializer": Use("relation_initializer init_scale", "TripleRE"),
    "BaseScoreFunction.inverse_relations": Use("inverse_relations", "defaults"),
    "BaseScoreFunction.negative_sample_sharing": Use("share_negatives", "defaults"),
    **{f"{name}.scoring_norm": Use("scoring_norm", name) for name in ("TransE", "RotatE", "BoxE")},
    "AffineScoreFunction.scoring_norm": Use("scoring_norm", "PairRE"),
    **_options("AffineScoreFunction", "PairRE", "normalize_entities"),
    **_options("RotatE", "RotatE", "as_reference"),
    **_options("TripleRE", "TripleRE", "u"),
    **_options("InterHT", "InterHT", "offset"),
    **_options("BoxE", "BoxE", *RUNS["BoxE"]["model_options"]),
    **_options("ConvE", "ConvE", *RUNS["ConvE"]["model_options"]),
    **_options("ConvE", "ConvE, bare", "batch_normalization"),
    "init_KGE_normal": Use("entity_initializer=normal", "defaults"),
    "init_KGE_uniform": Use("entity_initializer=uniform", "RotatE"),
    "init_xavier_norm": Use("relation_initializer=xavier", "TripleRE"),
    "init_uniform_norm": Use("entity_initializer=unit", "PairRE"),
    "init_uniform_rotation": Use("relation_initializer=model", "RotatE"),
    "RigidShardedBatchSampler": Use("order=shuffled", "defaults"),
    "RigidShardedBatchSampler.shuffle": Use("order=fixed", "TransE"),
    "RandomShardedBatchSampler": Use("order=random", "RotatE"),
    "ShardedBatchSampler.shard_bs": Use("batch_size", "defaults"),
    "ShardedBatchSampler.batches_per_step": Use("steps_per_call", "defaults"),
    "ShardedBatchSampler.seed": Use("seed", "defaults"),
    "ShardedBatchSampler.hrt_freq_weighting": Use("frequency_weights", "TransE"),
    "ShardedBatchSampler.weight_smoothing": Use("weight_smoothing", "TransE"),
    "ShardedBatchSampler.duplicate_batch": Use("duplicate_batch", "TransE"),
    "ShardedBatchSampler.answers_per_query": Use("answers_per_query", "DistMult"),
    "ShardedBatchSampler.return_answer_share": Use("answers=all", "ComplEx"),
    "RandomShardedNegativeSampler": Use("negatives=random", "defaults"),
    "TypeBasedShardedNegativeSampler": Use("negatives=typed", "PairRE"),
    "TripleBasedShardedNegativeSampler": Use("negatives=given", "TripleRE"),
    "AllEntitiesNegativeSampler": Use("negatives=all", "DistMult"),
    "ShardedNegativeSampler.corruption_scheme": Use("corruption", "TransE"),
    "ShardedNegativeSampler.local_sampling": Use("local_negatives", "TransE"),
    "ShardedNegativeSampler.flat_negative_format": Use("share_negatives", "defaults"),
    **{
        f"{name}ShardedNegativeSampler.{field}": Use(setting, run)
        for name, run in (("Random", "defaults"), ("TypeBased", "InterHT"))
        for field, setting in (("n_negative", "n_negative"), ("seed", "seed"))
    },
    "SampledSoftmaxCrossEntropyLoss": Use("loss=softmax", "defaults"),
    "MarginRankingLoss": Use("loss=margin", "TransE"),
    "LogSigmoidLoss": Use("loss=logsigmoid", "RotatE"),
    "SoftmaxCrossEntropyLoss": Use("loss=cross_entropy", "DistMult"),
    "BCEWithLogitsLoss": Use("loss=bce", "ComplEx"),
    "BaseLossFunction.loss_scale": Use("loss_scale", "DistMult"),
    "MarginBasedLossFunction.margin": Use("margin", "TransE"),
    "MarginBasedLossFunction.negative_adversarial_sampling": Use("adversarial_scale=0", "TransE"),
    "MarginBasedLossFunction.negative_adversarial_scale": Use("adversarial_scale", "RotatE"),
    "LabelLossFunction.positive_among_negatives": Use("negatives=all", "DistMult"),
    "LabelLossFunction.label_smoothing": Use("label_smoothing", "DistMult"),
    "BCEWithLogitsLoss.offset": Use("offset", "ComplEx"),
    "Regularization.weight": Use("regularization", "TransE"),
    "Regularization.relation_weight": Use("relation_regularization", "DistMult"),
    "DuraRegularization": Use("regularizer=dura", "DistMult"),
    "LpRegularization": Use("regularizer=lp", "TransE"),
    "LpRegularization.p": Use("regularization_power", "RotatE"),
    "RowDropout": Use("entity_dropout", "TransE"),
    "RowDropout.entity": Use("entity_dropout", "TransE"),
    "RowDropout.relation": Use("relation_dropout", "PairRE"),
    "EmbeddingMovingBessKGE": Use("scheme=embedding_moving", "defaults"),
    "ScoreMovingBessKGE": Use("scheme=score_moving", "PairRE"),
    "BessKGE.augment_negative": Use("augment_negative", "defaults"),
    "BessKGE.relation_weight": Use("relation_weight", "PairRE"),
    "row_adagrad": Use("optimizer=row_adagrad", "RotatE"),
    "row_sparse": Use("update=row_sparse", "defaults"),
    "dense": Use("update=dense", "RotatE"),
    "accumulate": Use("accumulate", "ComplEx"),
    "group_steps": Use("accumulate", "ComplEx"),
    "cast_params": Use("table_dtype=bfloat16", "InterHT"),
    "low_precision": Use("table_dtype=float16 loss_scale", "DistMult"),
    "stochastic_round": Use("stochastic_rounding", "DistMult"),
    "adjustable": Use("schedule=plateau", "plateau"),
}
"""Class, function, or field of the class that defines it -> how it is had."""

NO_SETTING: dict[str, str] = {
    "BaseScoreFunction": "base of all models",
    "BaseScoreFunction.sharding": "follows from n_shard and seed",
    "BaseScoreFunction.n_relation_type": "follows from the graph",
    "ConvE.inverse_relations": "always True",
    "ConvE.training_axis": "set by the training step",
    "ShardedBatchSampler.partitioned_triple_set": "follows from the graph",
    "ShardedBatchSampler.negative_sampler": "follows from negatives",
    "ShardedBatchSampler.return_triple_idx": "for training loops of one's own",
    "ShardedBatchSampler.as_reference": "for comparison with the reference alone",
    "ShardedNegativeSampler": "base of all samplers",
    "ShardedNegativeSampler.sharding": "follows from n_shard and seed",
    "ShardedNegativeSampler.mask_on_gather": "for questions",
    "TypeBasedShardedNegativeSampler.flat_negative_format": "always False",
    "TypeBasedShardedNegativeSampler.triple_types": "follows from the graph",
    "TripleBasedShardedNegativeSampler.negative_heads": "follows from the graph",
    "TripleBasedShardedNegativeSampler.negative_tails": "follows from the graph",
    "TripleBasedShardedNegativeSampler.seed": "not used",
    "TripleBasedShardedNegativeSampler.local_sampling": "always False",
    "TripleBasedShardedNegativeSampler.mask_on_gather": "for questions",
    "TripleBasedShardedNegativeSampler.return_sort_idx": "for questions",
    "AllEntitiesNegativeSampler.negative_heads": "all entities",
    "AllEntitiesNegativeSampler.negative_tails": "all entities",
    "SampledSoftmaxCrossEntropyLoss.n_entity": "follows from the graph",
    "BessKGE": "base of both schemes",
    "BessKGE.negative_sampler": "follows from negatives",
    "BessKGE.score_fn": "follows from model",
    "BessKGE.loss_fn": "follows from loss",
    "BessKGE.regularizer": "follows from regularization",
    "BessKGE.dropout": "follows from entity_dropout and relation_dropout",
    "BessKGE.evaluation": "runs rank exactly, outside of the step",
    "BessKGE.return_scores": "for training loops of one's own",
    "BessKGE.axis_name": "a name",
    "UpdateRule": "a type",
}
"""Capability -> why no run has it."""

_MODULES = (
    *("bess_jax.data.negative_sampler", "bess_jax.data.batch_sampler", "bess_jax.step.loss", "bess_jax.step.bess"),
    "bess_jax.step.rows",
    *("bess_jax.step.embedding_moving", "bess_jax.step.score_moving", "bess_jax.update.optim"),
    *("bess_jax.update.precision", "bess_jax.update.accumulation", "bess_jax.update.scale"),
)
_NOT_FIELDS = ("parent", "name")


def capabilities() -> set[str]:
    """What the package can do in training: its public names, initializers, and the fields of all that has fields."""
    found = {name: getattr(bj, name) for name in bj.__all__}
    public = {
        name: thing
        for name, thing in found.items()
        if getattr(thing, "__module__", "") in _MODULES or thing in vars(bj.scoring).values()
    }
    public |= {name: thing for name, thing in vars(initializers).items() if name.startswith("init_")}
    names = set(public) - {"Params"}
    for thing in public.values():
        for kind in getattr(thing, "__mro__", ()):
            if dataclasses.is_dataclass(kind) and kind.__module__.startswith("bess_jax."):
                own = {*vars(kind).get("__annotations__", {})}
                fields = {field.name for field in dataclasses.fields(kind)} & own - {*_NOT_FIELDS}
                names |= {f"{kind.__name__}.{name}" for name in fields}
    return names


def test_every_capability_has_a_setting() -> None:
    known = {*CAPABILITIES, *NO_SETTING}
    assert capabilities() - known == set(), "give it a setting and a run in CAPABILITIES, or a reason in NO_SETTING"
    assert not CAPABILITIES.keys() & NO_SETTING.keys()
    assert known - capabilities() <= {"adjustable"}, "no longer there"
    for use in CAPABILITIES.values():
        for setting in use.setting.split():
            name, _, value = setting.partition("=")
            assert name.partition(".")[0] in GROUP_OF
            if value and use.run in RUNS:
                given = (dataclasses.asdict(TrainConfig()) | RUNS[use.run])[name]
                assert str(given).removesuffix(".0") == value


def test_the_table_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    lines = capability_table({name: use.setting for name, use in CAPABILITIES.items()})
    assert text.endswith("\n\n" + "\n".join(lines) + "\n"), "put these lines at the end of docs/settings.md"


@pytest.fixture(autouse=True)
def mixed_types() -> Iterator[None]:
    """Optax mixes types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def graph(nations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nations with types, and three candidates for each triple of train."""
    folder = tmp_path_factory.mktemp("graph") / "nations"
    shutil.copytree(nations, folder)
    dataset = bj.load_dataset(str(nations))
    names = dataset.entity_dict or ()
    types = ["west", "east", "rest"]
    (folder / "types.tsv").write_text("".join(f"{name}\t{types[i % 3]}\n" for i, name in enumerate(names)))
    rng = np.random.default_rng(0)
    for side in ("head", "tail"):
        drawn = rng.integers(len(names), size=(len(dataset.triples["train"]), 3))
        lines = ("\t".join(names[i] for i in row) for row in drawn)
        (folder / f"train_{side}_candidates.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def dataset(graph: Path) -> bj.KGDataset:
    return bj.load_dataset(str(graph))


def experiment_of(run: str, dataset: bj.KGDataset) -> Experiment:
    settings = {**SMALL, **RUNS[run]}
    if settings.get("negatives", "random") in ("random", "typed"):
        settings["n_negative"] = 4
    config = TrainConfig(**settings)
    config.check_new()
    return Experiment.create(config, dataset)


def parts_of(experiment: Experiment) -> list[Any]:
    model, sampler = experiment.model, experiment.sampler
    return [model, sampler, sampler.negative_sampler, model.score_fn, model.loss_fn, model.regularizer, model.dropout]


def is_used(capability: str, experiment: Experiment, default: Experiment) -> bool:
    """Whether an experiment has a class, or a field that is not at its default."""
    name, _, field = capability.partition(".")
    kinds = {kind.__name__: part for part in parts_of(experiment) for kind in type(part).__mro__}
    if name not in kinds or not field:
        return name in kinds
    value = getattr(kinds[name], field)
    (declared,) = (one for one in dataclasses.fields(kinds[name]) if one.name == field)
    if declared.default is not dataclasses.MISSING:
        return bool(value != declared.default)
    others = {kind.__name__: part for part in parts_of(default) for kind in type(part).__mro__}
    return experiment is default or name not in others or bool(value != getattr(others[name], field))


def test_what_is_at_its_default_is_not_used(default: Experiment) -> None:
    for capability in ("BessKGE.relation_weight", "ShardedBatchSampler.hrt_freq_weighting", "MarginRankingLoss"):
        assert not is_used(capability, default, default)
    assert is_used("BessKGE.augment_negative", default, default)


FUNCTIONS = {
    "init_KGE_normal": lambda e: e.model.score_fn.entity_initializer.func is initializers.init_KGE_normal,
    "init_KGE_uniform": lambda e: e.model.score_fn.entity_initializer.func is initializers.init_KGE_uniform,
    "init_xavier_norm": lambda e: e.model.score_fn.relation_initializer.func is initializers.init_xavier_norm,
    "init_uniform_norm": lambda e: e.model.score_fn.entity_initializer is initializers.init_uniform_norm,
    "init_uniform_rotation": lambda e: (
        e.model.score_fn.relation_initializer is None
        and e.model.score_fn.relation_parts[0].initializer is initializers.init_uniform_rotation
    ),
    "row_adagrad": lambda e: "sum_of_squares" in str(e.shapes.opt_state),
    "row_sparse": lambda e: e.rule.sparse,
    "dense": lambda e: not e.rule.sparse,
    "accumulate": lambda e: e.rule.step.__qualname__.startswith("accumulate"),
    "group_steps": lambda e: e.host_batch(0, 0)["head"].shape[2] == 2,
    "cast_params": lambda e: e.shapes.params.entity.dtype == "bfloat16",
    "low_precision": lambda e: "LowPrecisionState" in str(e.shapes.opt_state),
    "stochastic_round": lambda e: e.config.stochastic_rounding,
}
"""Capability that is a function -> whether an experiment has it."""


@pytest.fixture(scope="module")
def default(dataset: bj.KGDataset) -> Experiment:
    return experiment_of("defaults", dataset)


@pytest.mark.long
@pytest.mark.parametrize("run", RUNS)
def test_an_epoch(run: str, dataset: bj.KGDataset, default: Experiment) -> None:
    """The settings build what they are said to, and it trains."""
    experiment = default if run == "defaults" else experiment_of(run, dataset)
    for capability, use in CAPABILITIES.items():
        if use.run == run:
            is_there = FUNCTIONS.get(capability, partial(is_used, capability, default=default))
            assert is_there(experiment), capability
    state = experiment.init()
    before = np.asarray(state.params.entity, np.float32)
    losses = []
    for at in experiment.calls(state):
        losses.append(at.read_loss())
        state = at.state
    assert len(losses) == experiment.sampler.calls_per_epoch
    after = np.asarray(state.params.entity, np.float32)
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_updates(name: str) -> None:
    config = TrainConfig(
        optimizer=name,
        update="dense",
        learning_rate=0.1,
        schedule="linear_schedule",
        schedule_options={"end_value": 0.01},
    )
    params = bj.Params(np.ones((3, 2), np.float32), {"relation_embedding": np.ones((2, 2), np.float32)})

    def loss(params: Any, batch: Any) -> Any:
        return sum((leaf**2).sum() for leaf in jax.tree_util.tree_leaves(params[:2]))

    def step(params: Any) -> Any:
        return rule.step(loss, params, rule.init(params), {}, "shard")[1]

    rule = make_rule(config, 10, 5)
    new = jax.vmap(step, axis_name="shard")(jax.tree_util.tree_map(lambda x: x[None], params))
    assert (np.asarray(new.entity) < 1).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_begins_after_warm_up(name: str) -> None:
    options = {"exponential_decay": {"decay_rate": 0.5}, "linear_schedule": {"end_value": 0.0}}
    options |= {"polynomial_schedule": {"end_value": 0.0, "power": 2.0}}
    config = TrainConfig(schedule=name, schedule_options=options.get(name, {}), learning_rate=0.5, warmup=2.0)
    rate = learning_rate_at(config, 100, 10)
    np.testing.assert_allclose([rate(0), rate(10)], [0, 0.25])
    rates = [rate(step) for step in range(20, 100)]
    np.testing.assert_allclose(max(rates), 0.5, rtol=0.01)
    assert min(rates) >= 0
    if name in ("constant", "plateau"):
        assert set(rates) == {0.5}
    else:
        assert rate(99) < 0.3
