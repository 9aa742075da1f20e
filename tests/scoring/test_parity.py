"""Scores and gradients of every score function against the reference, array by array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from shared.golden import GRADIENT, MODELS, SCORE, close, golden, make_score_fn

import bess_jax as bj

pytestmark = pytest.mark.parity


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
        return "batch_stats", (layer, name[len("running_") :])
    return "params", (layer, {"weight": "scale", "bias": "bias"}[name])


def as_flax(array: Any) -> Any:
    """PyTorch's (out, in, height, width) or (out, in) in the order of Flax."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def network_of(cfg: dict[str, Any], z: dict[str, Any]) -> dict[str, Any]:
    """Collections of the weights and statistics of a case."""
    collections: dict[str, Any] = {}
    for key in cfg.get("state_keys", ()):
        collection, (layer, name) = flax_name(key, z)
        collections.setdefault(collection, {}).setdefault(layer, {})[name] = as_flax(z[f"state_{key}"])
    return collections


def checks_of(cfg: dict[str, Any]) -> list[tuple[str, str, str, int, str]]:
    """Mode, method, weights of the scores, which argument are the candidates, and candidates, of all a case records."""
    checks = [("triple", "score_triple", "w_triple", 0, "")]
    for mode in cfg["modes"]:
        kind = mode.split("_")[1]
        weight = "w_B1" if kind == "B1" else f"w_{mode}"
        checks += [(mode, "score_heads", weight, 0, f"neg_{kind}"), (mode, "score_tails", weight, 1, f"neg_{kind}")]
    return [check for check in checks if MODELS[cfg["name"]].scores_heads or check[1] != "score_heads"]


@pytest.mark.parametrize(
    ("model", "case"),
    [pytest.param(model, case, id=case) for model in MODELS for case in golden(f"scoring_{model}").cases],
)
def test_scoring(model: str, case: str) -> None:
    file = golden(f"scoring_{model}")
    cfg = file.cases[case]
    z = {name: file[f"{case}/{name}"] for name in file.below(case)}
    seen = {"relation_table", "relation_id", "head_emb", "tail_emb", "neg_B1", "neg_Bb"}
    seen |= {key for key in z if key.startswith("w_")}
    seen |= {f"state_{key}" for key in cfg.get("state_keys", ())}
    network = network_of(cfg, z)
    checks = checks_of(cfg)

    def run(check: tuple[Any, ...], table: Any, head: Any, tail: Any, weights: Any) -> Any:
        mode, method, weight, argument, candidates = check
        score_fn = make_score_fn(cfg, bj.Sharding.create(10, 1, 0), mode.startswith("shared"), cfg["n_relation_type"])
        if cfg.get("training_mode"):
            score_fn = score_fn.in_training("unused")

        def weighted(table: Any, head: Any, tail: Any, weights: Any) -> Any:
            variables = {**network, "params": {"relation_embedding": table, **weights}}
            scores, after = score_fn.apply(
                variables, head, z["relation_id"], tail, method=method, mutable=["batch_stats"]
            )
            return jnp.sum(scores * z[weight]), (scores, after)

        rows = [head, tail]
        if candidates:
            rows[argument] = z[candidates]
        return jax.grad(weighted, (0, 1, 2, 3), has_aux=True)(table, *rows, weights)

    def run_all(*args: Any) -> Any:
        return [run(check, *args) for check in checks]

    args = (z["relation_table"], z["head_emb"], z["tail_emb"], network.get("params", {}))
    results = jax.device_get(jax.jit(run_all)(*args))
    for (mode, method, *_), (grads, (scores, after)) in zip(checks, results, strict=True):
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
