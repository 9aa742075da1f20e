"""Gradients of a step add to tables row by row, and to nothing else by index."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from shared import lowering
from shared.steps import SETTINGS, Case

import bess_jax as bj
from bess_jax.audit.hlo import read_program
from bess_jax.audit.ipu import verdicts


@pytest.mark.parametrize("scheme", [bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE])
def test_no_slow_scatter(scheme: Any) -> None:
    case = Case.create(dataclasses.replace(SETTINGS[2], augment=False), n_shard=4, n_step=1)
    model = scheme(
        negative_sampler=case.model.negative_sampler,
        score_fn=case.model.score_fn,
        loss_fn=case.model.loss_fn,
        evaluation=bj.Evaluation(metric_list=["mrr"], exact_ties=True),
        relation_weight=0.5,
        axis_name=lowering.AXIS,
    )
    params = bj.Params(case.entity[: case.sharding.max_entity_per_shard], {"relation_embedding": case.relation})
    batch = {name: np.asarray(array[0, :1]) for name, array in case.sampler.batch(0, 0).items()}
    program = lowering.text(jax.grad(lambda p, b: model.forward(p, **b)["loss"]), params, batch)
    scatters = [one for one in verdicts(read_program(program), 4) if one.opcode == "scatter"]
    assert scatters
    assert not [one for one in scatters if one.status == "slow"]
