"""Ids ordered by entity type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import bess_jax as bj
from bess_jax.data.files import DataWarning
from bess_jax.data.types import order_by_type, type_names


def test_types_are_alphabetical_and_entities_keep_their_order() -> None:
    entities = ["d", "b", "x", "a", "c"]
    types = {"a": "person", "b": "city", "c": "city", "d": "person", "x": "City", "other": "unused"}
    new_id, offsets = order_by_type(entities, types)
    assert offsets == {"City": 0, "city": 1, "person": 3}
    assert list(offsets.values()) == sorted(offsets.values())
    assert sorted(entities, key=lambda name: new_id[entities.index(name)]) == ["x", "b", "c", "d", "a"]


def test_types_in_memory() -> None:
    assert type_names(pd.Series({"a": "x", 1: 2})) == {"a": "x", "1": "2"}
    for types, said in (
        ({"a": "x", "b": float("nan")}, r"entity_types\['b'\] must be the name of a type, got nan"),
        ({"a": None}, r"entity_types\['a'\] must be the name of a type, got None"),
        ({"a": ""}, "must be the name of a type, got ''"),
        ([("a", "x")], "entity_types must map names of entities to types, got list"),
    ):
        with pytest.raises(ValueError, match=said):
            type_names(types)


@pytest.mark.parametrize(
    "offsets", [{}, {"a": 1}, {"a": 0, "b": 9}, {"a": 0, "b": -1}, {"a": 3, "b": 0}, {"a": 0.0, "b": 1.5}]
)
def test_wrong_first_ids(offsets: Any) -> None:
    triples = np.array([[0, 0, 1], [1, 0, 2]])
    with pytest.raises(ValueError, match="type_offsets must be whole numbers from 0, in the order of the ids, up to 3"):
        bj.KGDataset.from_triples(triples, (1, 0, 0), type_offsets=offsets)


def test_entities_without_a_type_come_last() -> None:
    with pytest.warns(DataWarning, match=r"2 of 4 entities have no type, such as 'b', 'd'.*'untyped'"):
        new_id, offsets = order_by_type(["a", "b", "c", "d"], {"a": "zebra", "c": "ant"})
    assert new_id.tolist() == [1, 2, 0, 3]
    assert list(offsets.items()) == [("ant", 0), ("zebra", 1), ("untyped", 2)]
