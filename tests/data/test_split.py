"""Splits: disjoint, of the sizes asked for, and nothing in valid or test that train does not know."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bess_jax._compat import TypeAlias
from bess_jax.data.files import DataWarning
from bess_jax.data.keys import triple_keys
from bess_jax.data.split import split_triples

Rows: TypeAlias = "Mapping[str, NDArray[np.int64]]"


def broken_laws(triples: NDArray[np.int32], rows: Rows) -> list[str]:
    """What is wrong with a split; sizes are for other tests."""
    found = []
    together = np.concatenate([*rows.values()])
    if any(np.any(np.diff(of_split) <= 0) for of_split in rows.values()):
        found.append("order")
    if len({tuple(triple) for triple in triples[together].tolist()}) != len(together):
        found.append("disjoint")
    if {tuple(t) for t in triples[together].tolist()} != {tuple(t) for t in triples.tolist()}:
        found.append("whole")
    known = triples[rows["train"]]
    for name, columns in (("entities", [0, 2]), ("relations", [1])):
        if not np.isin(triples[together][:, columns], known[:, columns]).all():
            found.append(name)
    first = {tuple(triple): row for row, triple in reversed([*enumerate(triples.tolist())])}
    if any(first[tuple(triples[row].tolist())] != row for row in together):
        found.append("first")
    return found


def quietly_split(
    triples: NDArray[np.int32], parts: tuple[float, float, float], seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return split_triples(triples, parts, seed)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60),
    st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.5, 0.0), (0.9, 0.0, 0.1), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)]),
    st.integers(0, 5),
)
def test_laws(rows: list[tuple[int, int, int]], parts: tuple[float, float, float], seed: int) -> None:
    triples = np.array(rows, np.int32)
    try:
        found = quietly_split(triples, parts, seed)
    except ValueError:  # train needs all
        return
    assert [*found] == [name for name, part in zip(("train", "valid", "test"), parts, strict=True) if part]
    assert all(of_split.dtype == np.int64 for of_split in found.values())
    assert broken_laws(triples, found) == []


@pytest.mark.parametrize(
    ("law", "train", "test"),
    [
        ("order", [2, 0, 1], [3]),
        ("disjoint", [0, 1, 2], [2, 3]),
        ("whole", [0, 1, 2], []),
        ("entities", [1, 2, 3], [0]),
        ("relations", [0, 1, 3], [2]),
        ("first", [0, 1, 2, 4], []),
    ],
)
def test_each_law_can_be_broken(law: str, train: list[int], test: list[int]) -> None:
    """Else the test above would tell nothing of it."""
    triples = np.array([[0, 0, 1], [1, 0, 2], [1, 1, 2], [2, 0, 1], [2, 0, 1]], np.int32)
    assert broken_laws(triples, {"train": np.array(train), "test": np.array(test, int)}) == [law]
    assert broken_laws(triples, {"train": np.arange(3), "test": np.array([3])}) == []


def many(n: int = 4000) -> NDArray[np.int32]:
    return np.unique(np.random.default_rng(3).integers([50, 4, 50], size=(n, 3)).astype(np.int32), axis=0)


@pytest.mark.parametrize("parts", [(0.7, 0.15, 0.15), (0.801, 0.1, 0.099), (0.5, 0.0, 0.5)])
def test_sizes(parts: tuple[float, float, float]) -> None:
    triples = many()
    found = split_triples(triples, parts)
    wanted = {"valid": round(parts[1] * len(triples)), "test": round(parts[2] * len(triples))}
    assert {name: len(of_split) for name, of_split in found.items() if name != "train"} == {
        name: n for name, n in wanted.items() if n
    }
    assert len(found["train"]) == len(triples) - sum(wanted.values())


def test_seed() -> None:
    triples = many()
    one, again, other = (split_triples(triples, seed=seed)["test"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_all_triples_that_train_can_spare_are_drawn_equally() -> None:
    """Of a full graph, each triple is in test about as often."""
    triples = np.argwhere(np.ones((6, 2, 6), bool)).astype(np.int32)
    count = np.zeros(len(triples))
    for seed in range(400):
        count[split_triples(triples, (0.5, 0.25, 0.25), seed)["test"]] += 1
    expected = 400 / 4
    assert np.abs(count - expected).max() < 5 * np.sqrt(expected)


def test_valid_and_test_are_alike() -> None:
    """Triples between entities that have many can be spared early in a random order: both get their part of them."""
    ring = [(i, 0, i + 1) for i in range(5, 205)]
    dense = [(h, r, t) for h in range(5) for r in range(8) for t in range(5)]
    triples = np.array(ring + dense, np.int32)
    share = {"valid": 0.0, "test": 0.0}
    for seed in range(50):
        found = split_triples(triples, (0.5, 0.25, 0.25), seed)
        for name in share:
            share[name] += np.mean(found[name] >= len(ring)) / 50
    assert abs(share["valid"] - share["test"]) < 0.03


def test_repeated_triples_are_told() -> None:
    triples = np.concatenate([many(), many()[:7]])
    with pytest.warns(DataWarning, match=rf"^7 of {len(triples):,} triples are left out.*row {len(triples) - 7:,} "):
        found = split_triples(triples)
    assert broken_laws(triples, found) == []


def test_a_train_that_needs_more_is_told() -> None:
    """In a chain of entities most triples are needed; what is left goes to valid and test as the parts are."""
    chain = np.stack([np.arange(40), np.zeros(40, int), np.arange(1, 41)], axis=1)
    with pytest.warns(DataWarning, match=r"of 40 different triples stay in train.* for test, in place of 4 and 12"):
        found = split_triples(chain, (0.6, 0.1, 0.3))
    assert broken_laws(chain, found) == []
    assert 0 < len(found["valid"]) < len(found["test"]) < 12


def test_nothing_left_is_refused() -> None:
    apart = np.arange(30).reshape(10, 3)
    with pytest.raises(
        ValueError, match=r"10 of 10 different triples stay in train.*0 are left for valid and 0.*such as 1,0,0"
    ):
        split_triples(apart)
    assert len(split_triples(apart, (1.0, 0.0, 0.0))["train"]) == 10


@pytest.mark.parametrize(
    "parts",
    [
        *((0.7, 0.2, 0.2), (1.1, -0.1, 0.0), (0.0, 0.5, 0.5), (0.5, 0.5), (float("nan"), 0.5, 0.5)),
        *("100", "0.8,0.1,0.1", None, 0.8, (0.8, 0.1, "x")),
    ],
)
def test_wrong_parts(parts: Any) -> None:
    with pytest.raises(ValueError, match="split must be the parts of train"):
        split_triples(many(), parts)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None, True])
def test_wrong_seeds(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number >= 0, got "):
        split_triples(many(), seed=seed)


def test_parts_may_be_rounded() -> None:
    assert [*split_triples(many(), (0.1 + 0.2, 0.3, 0.4))] == ["train", "valid", "test"]


@pytest.mark.parametrize(
    ("triples", "text"),
    [
        (np.zeros((0, 3), np.int32), "at least one triple, got none"),
        (np.zeros((3, 2), np.int32), r"shape \(n_triple, 3\)"),
        (np.full((3, 3), -1), "integers >= 0, got int64 from -1"),
        (np.zeros((3, 3)), "integers >= 0, got float64"),
    ],
)
def test_wrong_triples(triples: NDArray[np.int32], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        split_triples(triples)


def test_ids_whose_product_needs_more_than_64_bits() -> None:
    """Keys of triples stay apart where head, relation and tail are all as large as they may be."""
    top = 2**31 - 1
    rng = np.random.default_rng(0)
    triples = np.concatenate([rng.integers(top, size=(500, 3)), [[top, top, top], [top, top, 0], [0, top, top]]])
    one = triples[:50] - [4, 0, 0]
    triples = np.concatenate([triples, triples[::50], one[one[:, 0] >= 0]])  # 4 * 2**62 is 0 in 64 bits
    equal = (triples[:, None] == triples[None]).all(axis=2)
    key = triple_keys(triples)
    assert np.array_equal(key[:, None] == key[None], equal)
