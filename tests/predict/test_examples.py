"""Telling examples: one query of each kind, drawn by a seed from all of that kind."""

from __future__ import annotations

import numpy as np
import pytest

import bess_jax as bj
from bess_jax.ask.ranks import SideRanks
from bess_jax.predict.examples import Example, telling_examples

RANK = {"right": [1], "near": [1.5, 2, 10], "wrong": [10.5, 11, 400]}


def make_ranks(rank: list[float], side: bj.Side = "tail") -> bj.Ranks:
    """Triples (i, i, i + 1000) of these ranks among 500 and more candidates; half ranks are ties of two."""
    n = len(rank)
    better, ties = np.floor(np.array(rank) - 1).astype(np.int64), (np.array(rank) % 1 > 0).astype(np.int64)
    of_side = SideRanks(better, ties, 500 + np.arange(n), np.zeros(n, np.float32))
    ids = np.arange(n, dtype=np.int32)
    return bj.Ranks(np.stack([ids, ids, ids + 1000], axis=1), {side: of_side})


def test_one_of_each_kind() -> None:
    rank = [400, 10, 1, 10.5, 1, 2, 11, 1.5]
    ranks = make_ranks(rank)
    seen = set()
    for seed in range(100):
        examples = telling_examples(ranks, seed)
        assert examples == telling_examples(ranks, seed)
        assert [example.kind for example in examples] == ["right", "near", "wrong"]
        for kind, side, (head, relation, tail), value, n_candidate in examples:
            assert value == rank[head]
            assert value in RANK[kind]
            assert (side, relation, tail, n_candidate) == ("tail", head, head + 1000, 500 + head)
            seen.add(head)
    assert seen == set(range(len(rank)))  # none is never drawn


@pytest.mark.parametrize(
    ("rank", "kinds"), [([1, 1], ["right"]), ([3], ["near"]), ([1, 99], ["right", "wrong"]), ([12], ["wrong"])]
)
def test_kinds_that_there_are(rank: list[float], kinds: list[str]) -> None:
    assert [example.kind for example in telling_examples(make_ranks(rank))] == kinds


@pytest.mark.parametrize(("rank", "place"), [(1, "1"), (2.5, "2.5"), (10_540, "10,540"), (1234.5, "1,234.5")])
def test_place(rank: float, place: str) -> None:
    assert Example("wrong", "tail", (0, 0, 0), float(rank), 40_943).place == f"{place} of 40,943"


def test_sides() -> None:
    ranks = make_ranks([1, 5], side="head")
    assert {example.side for example in telling_examples(ranks, side="head")} == {"head"}
    with pytest.raises(ValueError, match="side must be one that was ranked, head, got 'tail'"):
        telling_examples(ranks)
