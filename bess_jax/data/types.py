"""Entity types: ids in which the entities of a type stand together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bess_jax._compat import zip
from bess_jax._typing import Int32Array
from bess_jax.data.files import DataWarning
from bess_jax.data.text import shorten

UNTYPED = "untyped"
"""The type of entities without one; it stands last."""


def check_offsets(offsets: Mapping[str, int], n_entity: int) -> None:
    """Raises ValueError unless these are first ids of types: from 0, in the order of the ids, up to `n_entity`."""
    firsts, wanted = [*offsets.values()], f"whole numbers from 0, in the order of the ids, up to {n_entity:,}"
    whole = all(isinstance(first, (int, np.integer)) for first in firsts)
    if not whole or firsts[:1] != [0] or firsts != sorted(firsts) or firsts[-1] > n_entity:
        raise ValueError(f"type_offsets must be {wanted}, got {offsets!s:.200}")


def type_names(types: Any) -> dict[str, str]:
    """Entity name -> type, from a mapping or a pandas series; whole numbers are names, too.

    Raises:
        ValueError: if it is neither, or a type is no name.
    """
    if not hasattr(types, "keys"):
        raise ValueError(f"entity_types must map names of entities to types, got {type(types).__name__}")
    found = {}
    for name, kind in dict(types).items():
        if isinstance(kind, bool) or not isinstance(kind, (str, int, np.integer)) or kind == "":
            raise ValueError(f"entity_types[{shorten(name)}] must be the name of a type, got {shorten(kind)}")
        found[str(name)] = str(kind)
    return found


def order_by_type(entities: Sequence[str], types: Mapping[str, str]) -> tuple[Int32Array, dict[str, int]]:
    """New ids, in which types follow in alphabetical order, and the entities of a type in the order of the old ids.

    Entities without a type become a last type, "untyped", with a DataWarning. Types of other names are ignored.

    Args:
        entities: name of each entity, in the order of the old ids.
        types: entity name -> type.

    Returns:
        The new id of each old one, (n_entity,) int32, and type -> first new id, in the order of the ids.

    BESS-KGE: `KGDataset.from_dataframe`.
    """
    given = [*map(types.get, entities)]
    of_entity = [UNTYPED if kind is None else kind for kind in given]
    if None in given:
        untyped = [name for name, kind in zip(entities, given, strict=True) if kind is None]
        warnings.warn(
            f"{len(untyped):,} of {len(entities):,} entities have no type, such as "
            f"{', '.join(map(shorten, untyped[:3]))}: they are given the type {UNTYPED!r}, the last one; add them to "
            "the types to change that",
            DataWarning,
            stacklevel=2,
        )
    names = sorted(set(of_entity), key=lambda name: (name == UNTYPED, name))
    number = {name: i for i, name in enumerate(names)}
    type_id = np.fromiter(map(number.__getitem__, of_entity), dtype=np.int32, count=len(of_entity))
    new_id = np.empty(len(entities), np.int32)
    new_id[np.argsort(type_id, kind="stable")] = np.arange(len(entities), dtype=np.int32)
    first = np.searchsorted(np.sort(type_id), np.arange(len(names)))
    return new_id, dict(zip(names, first.tolist(), strict=True))
