"""What users call entities and relations: ids by name, label or number, and near spellings."""

from __future__ import annotations

import difflib
import itertools
import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from bess_jax.data.text import shorten

_COMPARED = 50_000
"""Names that an unknown one is compared with, at most: as many take about half a second."""

_LONGEST_COMPARED = 200
"""Characters of a name that is compared with others, at most."""


def near_spellings(text: str, names: Collection[str], n: int = 5) -> list[str]:
    """The `n` names most like `text`, upper and lower case being equal, best first; fewer where nothing is like it.

    Of very many names, only those are compared that have its first or its second half: one mistake leaves one of them.
    Nothing is near a text of more than 200 characters.
    """
    if len(text) > _LONGEST_COMPARED:
        return []
    wanted = text.lower()
    if len(names) > _COMPARED:
        first, second = wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]
        names = [name for name in names if (low := name.lower()).startswith(first) or low.endswith(second)]
    by_lower = {name.lower(): name for name in itertools.islice(names, _COMPARED)}
    return [by_lower[low] for low in difflib.get_close_matches(wanted, by_lower, n)]


class Names:
    """Ids of entities or relations by what a user calls them. Dictionaries are made when first needed."""

    def __init__(self, what: str, n: int, names: Sequence[str] | None, labels: Mapping[str, str]) -> None:
        self._what, self._n, self._names, self._labels = what, n, names, labels

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names or ())}

    @cached_property
    def _name_of(self) -> dict[str, str]:
        """Label -> a name with this label."""
        return {label: name for name, label in self._labels.items() if name in self._ids}

    @cached_property
    def _repeated_labels(self) -> set[str]:
        labels = [label for name, label in self._labels.items() if name in self._ids]
        return set() if len(labels) == len(self._name_of) else {x for x, n in Counter(labels).items() if n > 1}

    def find(self, item: str | int) -> int:
        """The id; see `KGDataset.find_entity`."""
        if not isinstance(item, str):
            return self._number(operator.index(item))
        if item in self._ids:
            return self._ids[item]
        if item in self._repeated_labels:
            same = [name for name, label in self._labels.items() if label == item and name in self._ids]
            shown = ", ".join(map(shorten, same[:10]))
            raise ValueError(f"{self._what} label {shorten(item)} is not unique: give one of the names {shown}")
        if item in self._name_of:
            return self._ids[self._name_of[item]]
        if item.isascii() and item.isdecimal() and len(item) < 20:  # int() refuses very long ones
            return self._number(int(item))
        near = near_spellings(item, [*self._ids, *self._name_of])
        hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
        raise ValueError(f"no {self._what} is named or labelled {shorten(item)}{hint}")

    def _number(self, number: int) -> int:
        if not 0 <= number < self._n:
            raise ValueError(
                f"{self._what} {number} is out of range: no {self._what} has this name, and ids go from 0 to "
                f"{self._n - 1}"
            )
        return number
