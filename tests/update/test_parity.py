"""Twenty steps of training against the reference, array by array."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from shared.golden import GRADIENT, Case, close, golden, golden_cases, make_loss, recorded_sampler

import bess_jax as bj
from bess_jax.update.train import TrainState, make_train_step

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", golden_cases("training"))
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_training(name: str) -> None:
    case = Case("training", name)
    cfg = case.cfg
    sharding = case.sharding()
    model = bj.EmbeddingMovingBessKGE(
        negative_sampler=recorded_sampler(cfg, sharding),
        score_fn=case.score_fn(sharding),
        loss_fn=make_loss(cfg["loss"]),
        augment_negative=cfg["augment_negative"],
    )
    optimizer = cfg["optimizer"]
    tx = optax.sgd(optimizer["lr"]) if optimizer["name"] == "sgd" else optax.adam(optimizer["lr"], *optimizer["betas"])
    file = golden("training")
    data = {key: file[f"{cfg['data']}/{key}"] for key in file.below(cfg["data"])}
    rules = [bj.dense(tx)] + ([bj.row_sparse(tx)] if optimizer["name"] == "sgd" else [])
    for rule in rules:
        step = jax.jit(jax.vmap(make_train_step(model, rule), axis_name="shard"))
        params = case.params()
        state = TrainState(params, jax.vmap(rule.init)(params))
        fed = bj.shard_major(bj.merge_ids(data, sharding.max_entity_per_shard) if rule.sparse else data)
        losses = []
        for until in (1, 5, cfg["n_step"]):
            loss, state = step(state, {k: v[:, len(losses) : until] for k, v in fed.items()})
            losses.extend(np.asarray(loss).T)
            suffix = "final" if until == cfg["n_step"] else f"after_{until}"
            case.check(f"entity_{suffix}", state.params.entity, GRADIENT)
            relation = np.asarray(state.params.score_fn["relation_embedding"])
            close(relation, np.broadcast_to(case[f"relation_{suffix}"], relation.shape), GRADIENT)
        case.check("loss_per_replica", np.array(losses), GRADIENT)
        case.check("loss", np.sum(losses, axis=1), GRADIENT)
    case.check_all_seen()
