"""Values of the reference implementation, array by array; tests/golden/README.md explains every key."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared.golden import FOLDER, golden, golden_cases, models_in_turn
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax import scoring
from bess_jax.update.train import TrainState, make_train_step

pytestmark = pytest.mark.parity

SCORE = {"rtol": 1e-5, "atol": 1e-5}  # as the golden README suggests
GRADIENT = {"rtol": 1e-4, "atol": 1e-4}
MODELS = {name: kind for name, kind in vars(scoring).items() if (FOLDER / f"scoring_{name}.npz").exists()}
NOT_ARGUMENTS = {
    "name",
    "score_fn",
    "batch_size",
    "n_negative",
    "n_relation_type",
    "modes",
    "training_mode",
    "state_keys",
}
LOSSES = {
    "LogSigmoidLoss": bj.LogSigmoidLoss,
    "MarginRankingLoss": bj.MarginRankingLoss,
    "SampledSoftmaxCrossEntropyLoss": bj.SampledSoftmaxCrossEntropyLoss,
}


def close(actual: Any, expected: Any, tolerance: dict[str, float]) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, **tolerance)


def make_sharding(config: dict[str, Any]) -> bj.Sharding:
    offsets = config.get("type_offsets")
    return bj.Sharding.create(
        config["n_entity"], config["n_shard"], config["seed"], None if offsets is None else np.array(offsets)
    )


def make_loss(config: dict[str, Any]) -> Any:
    return LOSSES[config["name"]](**{k: v for k, v in config.items() if k != "name"})


def make_score_fn(config: dict[str, Any], sharding: bj.Sharding, shared: bool, n_relation_type: int) -> Any:
    kind = MODELS[config["name"]]
    arguments = {k: v for k, v in config.items() if k not in NOT_ARGUMENTS}
    if hasattr(kind, "as_reference"):
        arguments["as_reference"] = True
    return kind(
        negative_sample_sharing=shared,
        sharding=sharding,
        n_relation_type=n_relation_type,
        inverse_relations=False,
        **arguments,
    )


# --- sharding and partition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden_cases("sharding", kind="create"))
def test_sharding(case: str) -> None:
    file, cases = golden("sharding")
    sharding = make_sharding(cases[case])
    assert sharding.max_entity_per_shard == cases[case]["max_entity_per_shard"]
    arrays = [key for key in file.files if key.startswith(f"{case}/")]
    assert len(arrays) >= 4
    for key in arrays:
        close(getattr(sharding, key.split("/")[1]), file[key], EXACT)


@pytest.mark.parametrize("case", golden_cases("partition"))
def test_partition(case: str) -> None:
    file, cases = golden("partition")
    cfg = cases[case]
    data = cfg["dataset"]
    sharding = make_sharding(cfg["sharding"])
    offsets = cfg["sharding"]["type_offsets"]
    by_number = None if offsets is None else {f"type{i}": offset for i, offset in enumerate(offsets)}
    names = cfg.get("type_offsets_by_name") or by_number
    negatives = {
        name: {"train": file[f"{data}/{name}"]} for name in ("neg_heads", "neg_tails") if f"{data}/{name}" in file.files
    }
    dataset = bj.KGDataset(
        n_entity=cfg["n_entity"],
        n_relation_type=cfg["n_relation_type"],
        triples={"train": file[f"{data}/triples"]},
        type_offsets=names,
        **negatives,
    )
    if cfg["kind"] == "from_dataset":
        ours = bj.PartitionedTripleSet.create_from_dataset(
            dataset, "train", sharding, cfg["partition_mode"], cfg["add_inverse_triples"]
        )
    else:
        ours = bj.PartitionedTripleSet.create_from_queries(
            dataset,
            sharding,
            file[f"{case}/in_queries"],
            cfg["query_mode"],
            ground_truth=file[f"{case}/in_ground_truth"] if cfg["has_ground_truth"] else None,
            negative=file[f"{case}/in_negative"] if cfg["has_negative"] else None,
            negative_type=cfg["negative_type"],
            as_reference=True,
        )
    assert ours.partition_mode == cfg["partition_mode"]
    assert (ours.dummy or "none") == (cfg["dummy"] or "none")
    # The reference's order within a partition depends on its machine: go back to the order of the input.
    back, theirs_back = np.argsort(ours.triple_sort_idx), np.argsort(file[f"{case}/triple_sort_idx"])
    compared = {key.split("/")[1] for key in file.files if key.startswith(f"{case}/")}
    for name in compared - {"in_queries", "in_ground_truth", "in_negative", "triple_sort_idx"}:
        actual, expected = getattr(ours, name), file[f"{case}/{name}"]
        if len(expected) == len(back) and name in ("triples", "types", "neg_heads", "neg_tails"):
            actual, expected = actual[back], expected[theirs_back]
        close(actual, expected, EXACT)
    partition = np.repeat(np.arange(ours.triple_counts.size), ours.triple_counts.ravel())
    theirs = np.repeat(np.arange(ours.triple_counts.size), file[f"{case}/triple_counts"].ravel())
    close(partition[back], theirs[theirs_back], EXACT)


# --- scores, losses, metrics ------------------------------------------------------------------------------------------


def flax_name(key: str, arrays: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    """Collection and path of a PyTorch buffer or weight of ConvE, "conv_layers.3.running_mean"."""
    group, number, name = key.split(".")
    if arrays[f"state_{group}.{number}.weight"].ndim > 1:
        layer = {"conv_layers": "convolution", "fc_layers": "linear"}[group]
        return "params", (layer, {"weight": "kernel", "bias": "bias"}[name])
    layer = {"conv_layers.0": "input_norm", "conv_layers.3": "output_norm", "fc_layers.2": "hidden_norm"}[
        f"{group}.{number}"
    ]
    if name.startswith("running"):
        return "batch_stats", (layer, name.removeprefix("running_"))
    return "params", (layer, {"weight": "scale", "bias": "bias"}[name])


def as_flax(array: Any) -> Any:
    """PyTorch's (out, in, height, width) or (out, in) in the order of Flax."""
    return jnp.transpose(array, {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def network_of(cfg: dict[str, Any], z: dict[str, Any]) -> dict[str, Any]:
    """Collections of the weights and statistics of a case."""
    collections: dict[str, Any] = {}
    for key in cfg.get("state_keys", ()):
        collection, (layer, name) = flax_name(key, z)
        collections.setdefault(collection, {}).setdefault(layer, {})[name] = as_flax(z[f"state_{key}"])
    return collections


SCORING = [(model, case) for model in MODELS for case in golden(f"scoring_{model}")[1]]
LONG = {case for model, case in SCORING if model == "BoxE"} - {"BoxE_p1_tanh_perdim", "BoxE_p2_lin_whole"}
"""Ten seconds of compilation each; the two others have all options between them. `pytest -m parity` runs all."""


@pytest.mark.parametrize(
    ("model", "case"),
    [pytest.param(m, case, id=case, marks=[pytest.mark.slow] if case in LONG else []) for m, case in SCORING],
)
def test_scoring(model: str, case: str) -> None:
    file, cases = golden(f"scoring_{model}")
    cfg = cases[case]
    z = {key.split("/")[1]: jnp.asarray(file[key]) for key in file.files if key.startswith(f"{case}/")}
    seen = {"relation_table", "relation_id", "head_emb", "tail_emb", "neg_B1", "neg_Bb"}
    seen |= {key for key in z if key.startswith("w_")}
    seen |= {f"state_{key}" for key in cfg.get("state_keys", ())}
    network = network_of(cfg, z)
    weights = network.get("params", {})
    checks = [("triple", "score_triple", "w_triple", 0, None)]
    for mode in cfg["modes"]:
        kind = mode.split("_")[1]
        weight = "w_B1" if kind == "B1" else f"w_{mode}"
        checks += [(mode, "score_heads", weight, 0, f"neg_{kind}"), (mode, "score_tails", weight, 1, f"neg_{kind}")]
    checks = [check for check in checks if MODELS[model].scores_heads or check[1] != "score_heads"]

    def run(check: tuple[Any, ...], table: Any, head: Any, tail: Any, weights: Any) -> Any:
        mode, method, weight, argument, candidates = check
        score_fn = make_score_fn(cfg, bj.Sharding.create(10, 1, 0), mode.startswith("shared"), cfg["n_relation_type"])
        if cfg.get("training_mode"):
            score_fn = score_fn.in_training("unused")

        def weighted(table: Any, head: Any, tail: Any, weights: Any) -> Any:
            variables = network | {"params": {"relation_embedding": table, **weights}}
            scores, after = score_fn.apply(
                variables, head, z["relation_id"], tail, method=method, mutable=["batch_stats"]
            )
            return jnp.sum(scores * z[weight]), (scores, after)

        rows = [head, tail]
        if candidates is not None:
            rows[argument] = z[candidates]
        return jax.value_and_grad(weighted, (0, 1, 2, 3), has_aux=True)(table, *rows, weights)

    def run_all(*args: Any) -> Any:
        return [run(check, *args) for check in checks]

    args = (z["relation_table"], z["head_emb"], z["tail_emb"], weights)
    for (mode, method, *_), ((_, (scores, after)), grads) in zip(checks, jax.jit(run_all)(*args), strict=True):
        prefix = "" if mode == "triple" else f"{mode}_"
        side = {"score_triple": "triple", "score_heads": "heads", "score_tails": "tails"}[method]
        names = ["rel", "head", "tail"]
        if mode != "triple":
            names[1 if method == "score_heads" else 2] = "neg"
        close(scores, z[f"{prefix}{method}"], SCORE)
        seen.add(f"{prefix}{method}")
        for name, grad in zip(names, grads, strict=False):
            close(grad, z[f"{prefix}grad_{side}_{name}"], GRADIENT)
            seen.add(f"{prefix}grad_{side}_{name}")
        if mode == "triple":
            for key in cfg.get("state_keys", ()):
                collection, (layer, name) = flax_name(key, z)
                if collection == "params":
                    close(grads[3][layer][name], as_flax(z[f"grad_triple_state_{key}"]), GRADIENT)
                    seen.add(f"grad_triple_state_{key}")
                elif cfg["training_mode"]:
                    close(after[collection][layer][name], z[f"state_after_{key}"], SCORE)
                    seen.add(f"state_after_{key}")
    assert seen == set(z)  # nothing in the file was left out


@pytest.mark.parametrize("case", golden_cases("losses"))
def test_loss(case: str) -> None:
    file, cases = golden("losses")
    cfg = cases[case]
    loss_fn = make_loss(cfg["loss"])
    scores = cfg["scores"]
    positive, negative = file[f"{scores}/positive_score"], file[f"{scores}/negative_score"]
    weight = file[f"{scores}/triple_weight"] if cfg["triple_weight"] == "vector" else cfg["triple_weight"]
    loss, (d_positive, d_negative) = jax.value_and_grad(loss_fn, (0, 1))(positive, negative, weight)
    close(loss, file[f"{case}/loss"], SCORE)
    close(d_positive, file[f"{case}/grad_positive"], GRADIENT)
    close(d_negative, file[f"{case}/grad_negative"], GRADIENT)
    if f"{case}/negative_weights" in file.files:
        close(loss_fn.negative_weights(jnp.asarray(negative)), file[f"{case}/negative_weights"], SCORE)


@pytest.mark.parametrize("case", golden_cases("evaluation"))
def test_evaluation(case: str) -> None:
    file, cases = golden("evaluation")
    cfg = cases[case]
    arguments = {k: cfg[k] for k in ("mode", "worst_rank_infty")}
    evaluation = bj.Evaluation(metric_list=cfg.get("metric_list", ["mrr"]), **arguments)
    if cfg["kind"] == "from_indices":
        source = cfg["indices"]
        ranks = evaluation.ranks_from_indices(file[f"{source}/ground_truth"], file[f"{source}/candidate_indices"])
    else:
        source = cfg.get("scores", case)
        positive, candidate = file[f"{source}/positive_score"], file[f"{source}/candidate_score"]
        ranks = evaluation.ranks_from_scores(jnp.asarray(positive), jnp.asarray(candidate))
    close(ranks, file[f"{case}/ranks"], EXACT)
    stacked = [key for key in file.files if key.startswith(f"{case}/stacked")]
    if stacked:
        assert list(evaluation.metric_order) == cfg["metric_order"]
    for key in stacked:
        _, reduction, masked = key.split("/")[1].split("_")
        mask = jnp.asarray(file[f"{source}/triple_mask"]) if masked == "mask" else None
        reduced = bj.Evaluation(metric_list=cfg["metric_list"], reduction=reduction, **arguments)
        close(reduced.stacked_metrics_from_ranks(ranks, mask), file[key], {"rtol": 1e-6, "atol": 0})


# --- one distributed step, and training -------------------------------------------------------------------------------


def make_model(cfg: dict[str, Any], sharding: bj.Sharding) -> bj.EmbeddingMovingBessKGE:
    negative = cfg["negative_sampler"]
    sampler: Any = SimpleSampler(
        sharding=sharding,
        corruption_scheme=cfg["corruption_scheme"],
        local_sampling=cfg.get("local_sampling", negative.get("local_sampling", False)),
        flat_negative_format=cfg.get("flat_negative_format", negative.get("flat_negative_format", False)),
    )
    return bj.EmbeddingMovingBessKGE(
        negative_sampler=sampler,
        score_fn=make_score_fn(cfg["score_fn"], sharding, cfg["negative_sample_sharing"], cfg["n_relation_type"]),
        loss_fn=make_loss(cfg["loss"]),
        evaluation=bj.Evaluation(**cfg["evaluation"], return_ranks=True) if "evaluation" in cfg else None,
        return_scores=True,
        augment_negative=cfg["augment_negative"],
    )


class SimpleSampler(bj.ShardedNegativeSampler):
    """Stands for whatever sampler made the recorded negatives."""

    def sample(self, *_: Any) -> Any:
        raise AssertionError("negatives are recorded")


def replicated(n_shard: int, table: Any) -> dict[str, Any]:
    return {"relation_embedding": jnp.broadcast_to(table, (n_shard, *table.shape))}


MOVING = [case for case, cfg in golden("bess_EmbeddingMoving")[1].items() if cfg["score_fn"]["name"] in MODELS]


@pytest.mark.parametrize("case", models_in_turn(MOVING))
def test_embedding_moving(case: str) -> None:
    file, cases = golden("bess_EmbeddingMoving")
    cfg = cases[case]
    z = SimpleNamespace(**{key.split("/")[1]: file[key] for key in file.files if key.startswith(f"{case}/")})
    sharding = make_sharding(cfg["sharding"])
    params = bj.Params(
        jnp.asarray(file[f"{cfg['tables']}/entity"]), replicated(cfg["n_shard"], file[f"{cfg['tables']}/relation"])
    )
    names = ("head", "relation", "tail", "negative", "triple_mask", "triple_weight", "negative_mask")
    batch = {n: jnp.asarray(getattr(z, f"in_{n}"))[:, None] for n in names if hasattr(z, f"in_{n}")}

    model = make_model(cfg, sharding)

    def total(p: Any) -> Any:
        out = jax.vmap(lambda q, b: model.forward(q, **b), axis_name="shard")(p, batch)
        return jnp.sum(out["loss"]), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    close(out["positive_score"], z.positive_score, SCORE)
    masked = z.negative_score < -40_000
    close(out["negative_score"][masked], z.negative_score[masked], {"rtol": 1e-6, "atol": 0})
    close(out["negative_score"][~masked], z.negative_score[~masked], SCORE)
    sure = np.ones_like(z.rank_robust) if cfg["exact_scores"] else z.rank_robust
    close(out["ranks"][sure], z.ranks[sure], EXACT)
    if sure.all():
        close(out["metrics"], z.metrics, {"rtol": 1e-6, "atol": 0})
    close(out["loss"], z.loss, SCORE)
    close(grads.entity, z.grad_entity, GRADIENT)
    close(jnp.sum(grads.score_fn["relation_embedding"], axis=0), z.grad_relation, GRADIENT)


@pytest.mark.parametrize("case", golden_cases("training"))
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_training(case: str) -> None:
    file, cases = golden("training")
    cfg = cases[case]
    n_shard = cfg["n_shard"]
    sharding = make_sharding(cfg["sharding"])
    model = make_model(cfg, sharding)
    optimizer = cfg["optimizer"]
    tx = optax.sgd(optimizer["lr"]) if optimizer["name"] == "sgd" else optax.adam(optimizer["lr"], *optimizer["betas"])
    params = bj.Params(
        jnp.asarray(file[f"{cfg['tables']}/entity"]), replicated(n_shard, file[f"{cfg['tables']}/relation"])
    )
    data = {key.split("/")[1]: file[key] for key in file.files if key.startswith(f"{cfg['data']}/")}
    batches = bj.shard_major(data)
    rules = [bj.dense(tx)] + ([bj.row_sparse(tx)] if optimizer["name"] == "sgd" else [])
    for rule in rules:
        step = jax.jit(jax.vmap(make_train_step(model, rule), axis_name="shard"))
        state = TrainState(params, jax.vmap(rule.init)(params))
        fed = bj.shard_major(bj.merge_ids(data, sharding.max_entity_per_shard)) if rule.sparse else batches
        losses = []
        for until in (1, 5, cfg["n_step"]):
            chunk = {k: v[:, len(losses) : until] for k, v in fed.items()}
            loss, state = step(state, chunk)
            losses.extend(np.asarray(loss).T)
            suffix = "final" if until == cfg["n_step"] else f"after_{until}"
            close(state.params.entity, file[f"{case}/entity_{suffix}"], GRADIENT)
            relation = state.params.score_fn["relation_embedding"]
            close(relation, np.broadcast_to(file[f"{case}/relation_{suffix}"], relation.shape), GRADIENT)
        close(np.array(losses), file[f"{case}/loss_per_replica"], GRADIENT)
