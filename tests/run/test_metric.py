"""The validation metric: names, and which of two values is better."""

from __future__ import annotations

import numpy as np
import pytest

from bess_jax.ask.ranks import Ranks, SideRanks
from bess_jax.run.metric import Metric, n_in_vain


def side(*better: int) -> SideRanks:
    n = len(better)
    return SideRanks(np.array(better), np.zeros(n, np.int64), np.full(n, 50), np.zeros(n, np.float32))


METRICS = Ranks(np.zeros((2, 3), np.int32), {"head": side(0, 9), "tail": side(1, 2)}).metrics()


def test_every_metric_of_ranks_has_a_name() -> None:
    for one_side, values in METRICS.items():
        for name, value in values.items():
            for text in [f"{one_side}.{name}"] + [name] * (one_side == "both"):
                metric = Metric.parse(text)
                assert metric.value(METRICS) == value
                assert Metric.parse(str(metric)) == metric
                assert metric.goodness(METRICS) == (value if metric.higher_is_better else -value)
    lower = {name for name in METRICS["both"] if not Metric.parse(name).higher_is_better}
    assert lower == {"mean_rank", "adjusted_mean_rank"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mmr", "'mrr'"),
        ("hits@11", "'hits@1'"),
        ("tial.mrr", "'tail.mrr'"),
        ("relation.mrr", "mrr"),
        ("x" * 500, "one side"),
    ],
)
def test_others_are_refused(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"metric must be one of mrr, .*{hint}") as error:
        Metric.parse(text)
    assert len(str(error.value)) < 300


def test_better() -> None:
    mrr, rank = Metric.parse("mrr"), Metric.parse("mean_rank")
    assert mrr.is_better(0.5, 0.4)
    assert not mrr.is_better(0.4, 0.4)
    assert rank.is_better(3, 4)
    assert not rank.is_better(4, 3)
    for metric in (mrr, rank):
        assert metric.is_better(1.0, None)
        assert not metric.is_better(None, 1.0)
        assert not metric.is_better(float("nan"), None)


def test_in_vain() -> None:
    assert [n_in_vain([1, 2, 2, 1, 3][:n]) for n in range(6)] == [0, 0, 0, 1, 2, 0]
    assert n_in_vain([1, 1.5, 2.0, 2.1], min_improvement=0.9) == 1  # the step from 1 to 2 counts, though made of two
    assert n_in_vain([float("nan"), float("nan")]) == 2
