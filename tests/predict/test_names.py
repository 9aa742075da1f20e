"""What users call things, as ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shared.trained import Trained

from bess_jax.data.files import DataError
from bess_jax.data.names import near_spellings
from bess_jax.predict.names import make_query, read_entities, read_queries, triple_ids


def test_near_spellings() -> None:
    assert near_spellings("DGO", ["dog", "god", "zebra"])[0] in ("dog", "god")
    assert near_spellings("xyz", ["dog"]) == []
    many = [f"name_{i}" for i in range(120_000)]  # too many to compare with each
    assert near_spellings("name_77x77", many)[0].startswith("name_77")
    assert near_spellings("nmae_77", [*many, "other"])[0] == "name_77"
    assert near_spellings("Name_1199999", many)[0] == "name_119999"


def test_triples_in_all_forms(world: Trained, tmp_path: Path) -> None:
    import pandas as pd

    dataset = world.predictor.dataset
    ids = dataset.triples["test"]
    names = [(f"e{h}", f"r{r}", str(t)) for h, r, t in ids.tolist()]
    file = tmp_path / "triples.tsv"
    file.write_text("".join("\t".join(row) + "\n" for row in names))
    for form in ("test", ids, ids.astype(np.int64), ids.tolist(), names, file, pd.DataFrame(names), pd.DataFrame(ids)):
        np.testing.assert_array_equal(triple_ids(dataset, form), ids)
    file.write_text("e1\tr1\te2\n\ne1\tr1\tnobody\n")
    for bad, message in (
        ("tset", "split must be one of 'train', 'valid', 'test', got 'tset'"),
        (file, r"triples.tsv, line 3: no entity is named or labelled 'nobody'"),
        (tmp_path / "absent.tsv", "absent.tsv: cannot be read: No such file"),
        ([("e1", "r1", "e2"), ("e1", "r1")], r"row 1: a triple is \(head, relation, tail\), got"),
        (ids[:, :2], "triples must have shape"),
        (ids + 37, r"triples\[0, 0\] is .*, but entity ids go from 0 to 36"),
    ):
        with pytest.raises(ValueError, match=message):
            triple_ids(dataset, bad)


def test_queries_in_rows(world: Trained) -> None:
    dataset = world.predictor.dataset
    query = read_queries(dataset, [("Anna", "r1", None), ("?", 2, "e5"), (3, "?", 7)])
    assert query.triples.tolist() == [[0, 1, 0], [0, 2, 5], [3, 0, 7]]
    assert query.asked.tolist() == [2, 0, 1]
    assert query.sides == ["head", "relation", "tail"]
    assert make_query(dataset, [0, 1], "r1", None).sides == ["tail"]
    with pytest.raises(ValueError, match=r"row 1: a query is"):
        read_queries(dataset, [(0, 1, None), (None, 1, None)])


def test_files_are_read_by_the_rules_for_text(world: Trained, tmp_path: Path) -> None:
    dataset, file = world.predictor.dataset, tmp_path / "names.tsv"
    file.write_bytes("\ufeff Anna\t r1\t?\u00a0\r\n\r\ne1\t? \t2\r\n".encode())
    assert (
        read_queries(dataset, file).triples.tolist()
        == read_queries(dataset, [(0, 1, "?"), (1, "?", 2)]).triples.tolist()
    )
    file.write_bytes("\ufeffAnna \r\n \n3".encode())
    assert read_entities(dataset, file).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"head\trelation\ttail\ne1\tr1\te2\n", 1, "no entity is named or labelled 'head'"),
        (b"e1\tr1\te2\n\ne1\tr1\t99999999999999999999999\n", 3, "no entity is named or labelled '9999"),
        (b"e1\tr1\te2\n" + b"x" * 2_000_000, 2, "longer than 1,048,576 characters"),
        (b"e1\tr1\t" + b"x" * 900_000, 1, "xxx'... (900,000 characters)"),
        (b"e1\tr1\t2147483648", 1, "entity 2147483648 is out of range"),
        ("e1\tr1\te2\n".encode("utf-16"), 1, "looks like UTF-16"),
        (b"e1\tr1\n", 1, "expected 3"),
    ],
)
def test_files_are_refused_by_line(world: Trained, tmp_path: Path, content: bytes, line: int, reason: str) -> None:
    file = tmp_path / "names.tsv"
    file.write_bytes(content)
    with pytest.raises(DataError) as error:
        triple_ids(world.predictor.dataset, file)
    assert (error.value.file, error.value.line) == (file, line)
    assert reason in error.value.reason
    assert len(error.value.reason) < 300


def test_candidates_are_refused_by_line(world: Trained, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    for content, line, reason in (
        ("e1\n\nnobody\n", 3, "nobody"),
        ("e1\te2\n", 1, "expected 1"),
        (" \n", None, "no entity"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=reason) as error:
            read_entities(world.predictor.dataset, file)
        assert (error.value.file, error.value.line) == (file, line)
