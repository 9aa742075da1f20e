"""Ids ordered by entity type."""

from __future__ import annotations

import pandas as pd
import pytest

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


def test_entities_without_a_type_come_last() -> None:
    with pytest.warns(DataWarning, match=r"2 of 4 entities have no type, such as 'b', 'd'.*'untyped'"):
        new_id, offsets = order_by_type(["a", "b", "c", "d"], {"a": "zebra", "c": "ant"})
    assert new_id.tolist() == [1, 2, 0, 3]
    assert list(offsets.items()) == [("ant", 0), ("zebra", 1), ("untyped", 2)]
