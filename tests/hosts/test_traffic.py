"""What travels between hosts in a step: formula and table of docs/hosts.md against the compiled program."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.update.train import make_train_step

DOCS = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
WIDTH = 4
"""Bytes of a float32."""


def exchanged(n_host: int, n_shard: int, rows: int, row_width: int) -> float:
    """Bytes that a host sends in the exchanges of a step, there and back, `rows` = P + L N of `row_width` = E each."""
    here = n_shard // n_host
    return 2 * here * (n_shard - here) * rows * row_width * WIDTH


def summed(n_host: int, n_relation: int, relation_width: int) -> float:
    """Bytes that a host sends to sum gradients (n_relation, R) over hosts, in a ring."""
    return 2 * (1 - 1 / n_host) * n_relation * relation_width * WIDTH


def sizes(shapes: str) -> list[int]:
    """Bytes of the float32 arrays in a piece of HLO."""
    return [
        WIDTH * int(np.prod([int(n) for n in found.split(",")])) for found in re.findall(r"f32\[([\d,]+)\]", shapes)
    ]


@pytest.mark.parametrize(("n_device", "share"), [(2, True), (4, True), (4, False), (8, True)])
def test_formula(n_device: int, share: bool, nations: Path) -> None:
    """All-to-all and all-reduce of the compiled step move the bytes of the formula, on two hosts, and nothing else."""
    config = TrainConfig(
        dataset=str(nations),
        n_shard=8,
        n_device=n_device,
        mapping="shard_map",
        embedding_size=8,
        batch_size=256,
        n_negative=16,
        share_negatives=share,
        augment_negative=share,
    )
    experiment = Experiment.create(config)
    placement, batch = experiment.placement, experiment.host_batch(0, 0)
    step = placement.map(make_train_step(experiment.model, experiment.rule, placement.axis_name))
    text = step.lower(experiment.init(), placement.put(batch)).compile().as_text()
    moves = re.findall(r"= (.*) (all-to-all|all-reduce|all-gather|collective-permute|reduce-scatter)\(", text)
    assert [kind for _, kind in moves].count("all-to-all") == 2
    assert {kind for _, kind in moves} == {"all-to-all", "all-reduce"}
    here = n_device // 2
    sent = 0
    for shapes, kind in moves:
        if kind == "all-to-all":
            assert len(set(sizes(shapes))) == 1
            assert len(sizes(shapes)) == n_device
            sent += here * (n_device - here) * sizes(shapes)[0]
    score_fn = experiment.model.score_fn
    rows = sum(batch[name][0, 0, 0].size for name in ("tail", "negative"))
    assert sent == exchanged(2, 8, rows, score_fn.entity_width)
    reduced = sum(sum(sizes(shapes)) for shapes, kind in moves if kind == "all-reduce")
    assert reduced == score_fn.n_relation * score_fn.relation_width * WIDTH


def test_table() -> None:
    """The table of the documentation: 8 shards a host, B = 4096 = S N, rows of 256 numbers, 1000 relations."""
    for n_host in (2, 16, 256):
        n_shard = 8 * n_host
        sent = exchanged(n_host, n_shard, 2 * 4096 // n_shard, 256) + summed(n_host, 1000, 256)
        milliseconds = [f"{sent * 8 / rate / 1e6:.1f} ms" for rate in (100, 400)]
        slice_bytes = 2 * 4096 // n_shard * 256 * WIDTH / 1024
        row = [f"{n_host}", f"{n_shard:,}", f"{sent / 1e6:.0f} MB", f"{slice_bytes:g} KiB", *milliseconds]
        assert f"| {' | '.join(row)} |" in DOCS
