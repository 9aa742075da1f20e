"""Ids ordered by entity type."""

from __future__ import annotations

import pytest

from bess_jax.data.files import DataWarning
from bess_jax.data.types import order_by_type


def test_types_are_alphabetical_and_entities_keep_their_order() -> None:
    entities = ["d", "b", "x", "a", "c"]
    types = {"a": "person", "b": "city", "c": "city", "d": "person", "x": "City", "other": "unused"}
    new_id, offsets = order_by_type(entities, types)
    assert offsets == {"City": 0, "city": 1, "person": 3}
    assert list(offsets.values()) == sorted(offsets.values())
    assert sorted(entities, key=lambda name: new_id[entities.index(name)]) == ["x", "b", "c", "d", "a"]


def test_entities_without_a_type_come_last() -> None:
    with pytest.warns(DataWarning, match=r"2 of 4 entities have no type, such as 'b', 'd'.*'untyped'"):
        new_id, offsets = order_by_type(["a", "b", "c", "d"], {"a": "zebra", "c": "ant"})
    assert new_id.tolist() == [1, 2, 0, 3]
    assert list(offsets.items()) == [("ant", 0), ("zebra", 1), ("untyped", 2)]
