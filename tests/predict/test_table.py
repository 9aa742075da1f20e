"""Results as columns, records, frames and text."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.trained import Trained

from bess_jax.predict.table import Table, is_among


def test_columns_records_and_frames_agree(world: Trained) -> None:
    predictor = world.predictor
    for table in (
        predictor.top_k(head=["Anna", 5], relation=1, k=4, probability="platt"),
        predictor.top_k(head="Ben", relation=1, new_only=True),
        predictor.score("test", probability="platt"),
        predictor.classify("valid"),
        predictor.similar(relation="r1", k=3, measure="l2"),
    ):
        frame = table.frame()
        assert list(frame.columns) == list(table.columns)
        assert frame.to_dict("records") == table.records()
        assert all(list(values) == list(frame[name]) for name, values in table.columns.items())
        assert len(table) == len(frame) == len(table.records())
        json.dumps(table.records())


def test_printed() -> None:
    table = Table({"name": ["a", "x" * 30], "score": np.array([0.5, -12], np.float32), "id": [7, 8]})
    assert repr(table).splitlines() == [
        "                    name     score  id",
        "                       a    0.5000   7",
        f"{'x' * 23}…  -12.0000   8",
        "Table: 2 rows",
    ]
    long = repr(Table({f"column {i}": list(range(1000)) for i in range(40)})).splitlines()
    assert len(long) == 1 + 10 + 1 + 1
    assert max(map(len, long)) == 120
    assert long[-1] == "Table: 1,000 rows"
    assert repr(Table({"name": []})).splitlines() == ["name", "Table: 0 rows"]


def test_shown_by_notebooks(world: Trained) -> None:
    text = Table({"<name>": [f"<{i}>" for i in range(12)], "score": np.arange(12.0)})._repr_html_()
    assert text.count("<tr>") == 1 + 10
    assert '<th scope="col">&lt;name&gt;</th>' in text
    assert '<th scope="row">&lt;9&gt;</th><td>9.0000</td>' in text
    assert "The first 10 of 12 rows" in text
    model = world.predictor._repr_html_()
    assert '<th scope="row">graph</th><td>KGDataset(37 entities, 4 relations;' in model
    assert "folder" not in model  # it is of none


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_is_among(seed: int) -> None:
    rng = np.random.default_rng(seed)
    some, others = (rng.integers([3, 2, 4], size=(rng.integers(12), 3)).astype(np.int32) for _ in range(2))
    expected = [row in others.tolist() for row in some.tolist()]
    assert is_among(some, others).tolist() == expected
