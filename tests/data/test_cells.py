"""Names looked up in bytes have the ids that a dictionary gives them, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bess_jax.data.formats import cells
from bess_jax.data.formats.cells import LONGEST, Cells
from bess_jax.data.formats.vocabulary import Vocabulary

NAMES = st.text("ab\x7fé漢", min_size=1, max_size=40)


def look_up(table: Cells, names: list[str]) -> list[int]:
    """Ids of names that stand in a text, with a tab after each."""
    raw = np.frombuffer("".join(f"{name}\t" for name in names).encode() + bytes(LONGEST), dtype=np.uint8)
    sizes = np.array([len(name.encode()) for name in names], dtype=np.intp)
    ends = np.cumsum(sizes + 1) - 1
    return list(table.ids(raw, ends - sizes, ends))


def expected(known: dict[str, int], names: list[str]) -> list[int]:
    return [known.setdefault(name, len(known)) for name in names]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(NAMES, max_size=30), max_size=5))
def test_ids_in_order_of_appearance(blocks: list[list[str]]) -> None:
    given_, known = {}, {}
    table = Cells(given_)
    for names in blocks:
        assert look_up(table, names) == expected(known, names)
    assert given_ == known


@pytest.mark.parametrize("factors", [None, 0], ids=["mixed", "all in one place"])
def test_many_names(monkeypatch: pytest.MonkeyPatch, factors: int | None) -> None:
    """The table grows; where all names fall together, few are kept, and the others are looked up as before."""
    if factors is not None:
        monkeypatch.setattr(cells, "_FACTORS", np.full(4, factors, dtype=np.uint64))
    rng = np.random.default_rng(0)
    table, known = Cells({}), {}
    for n in (1, 10, 3_000, 30_000, 5):
        names = [f"name {i}" * (1 + i % 5) for i in rng.integers(0, 2 * n, n).tolist()]
        assert look_up(table, names) == expected(known, names)
    assert len(known) > 10_000


def test_names_that_share_their_first_bytes_and_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_FACTORS", np.zeros(4, dtype=np.uint64))
    names = ["x" * n for n in (1, 7, 8, 9, 16, 23, 24, 25, 31, 32, 33, 40)]
    names += ["x" * 32 + "y", "x" * 31 + "y", "x" * 8 + "y", "y" + "x" * 8]
    table = Cells({})
    assert look_up(table, names) == look_up(table, names) == list(range(len(names)))


def test_names_that_a_vocabulary_forgets() -> None:
    vocabulary = Vocabulary()
    raw = np.frombuffer(b"a\tr\tb\n" + bytes(LONGEST), dtype=np.uint8)
    starts = [np.array([i]) for i in (0, 2, 4)]
    ends = [start + 1 for start in starts]
    assert vocabulary.ids_of_cells(raw, starts, ends).tolist() == [[0, 0, 1]]
    vocabulary.forget(0, 0)
    assert vocabulary.ids(["b"], ["s"], ["c"]).tolist() == [[0, 0, 1]]
    assert vocabulary.ids_of_cells(raw, starts, ends).tolist() == [[2, 1, 0]]
    assert vocabulary.entities == {"b": 0, "c": 1, "a": 2}
