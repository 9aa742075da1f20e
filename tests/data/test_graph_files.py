"""Graphs from files: names, labels, and what is said of files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

import bess_jax as bj


def graph(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in {"train": "a\tr\tb\nb\tr\tc\n", "valid": "a\tr\tc\n", "test": "c\ts\ta\n", **files}.items():
        (path / f"{name}.tsv").write_text(text)
    return path


def test_folder_of_tsv_files(tmp_path: Path) -> None:
    folder = graph(tmp_path / "g", labels="a\tAnna\nb\tBen\n", relation_labels="r\tknows\n")
    dataset = bj.load_dataset(folder)
    assert (dataset.n_entity, dataset.n_relation_type) == (3, 2)
    assert dataset.triples["train"].tolist() == [[0, 0, 1], [1, 0, 2]]
    assert [dataset.entity_label(i) for i in range(3)] == ["Anna", "Ben", "c"]
    assert dataset.find_entity("Ben") == dataset.find_entity("b") == dataset.find_entity("1") == 1
    assert dataset.find_relation("knows") == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": "a\tr\tb\na\tr\n"},
            "train.tsv, line 2: expected 3 non-empty columns separated by tabs, got 'a\\tr'",
        ),
        ({"train": "a r b\n"}, "train.tsv, line 1: expected 3"),
        ({"valid": "a\t\tb\n"}, "valid.tsv, line 1: expected 3"),
        ({"test": ""}, "test.tsv: holds no triple"),
        ({"labels": "a\n"}, "labels.tsv, line 1: expected 2"),
    ],
)
def test_malformed_files(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=r"line|holds no") as error:
        bj.load_dataset(graph(tmp_path / "g", **files))
    assert message in str(error.value)


def test_bad_encodings(tmp_path: Path) -> None:
    folder = graph(tmp_path / "g")
    (folder / "valid.tsv").write_bytes(b"a\tr\tb\n\xff\tr\tb\n")
    with pytest.raises(ValueError, match=r"valid\.tsv, line 2: not UTF-8"):
        bj.load_dataset(folder)
    (folder / "valid.tsv").unlink()
    (folder / "valid.tsv.gz").write_bytes(b"plain text")
    with pytest.raises(ValueError, match=r"valid\.tsv\.gz, line 1: cannot be read: Not a gzipped file"):
        bj.load_dataset(folder)


def test_ambiguous_label(tmp_path: Path) -> None:
    dataset = bj.load_dataset(graph(tmp_path / "g", labels="a\tSmith\nb\tSmith\n"))
    with pytest.raises(ValueError, match="'Smith' is not unique: give one of the names 'a', 'b'"):
        dataset.find_entity("Smith")


def test_shipped_graph_has_the_published_counts() -> None:
    dataset = bj.load_dataset("wn18rr")
    assert (dataset.n_entity, dataset.n_relation_type) == (40_943, 11)
    assert [len(dataset.triples[split]) for split in ("train", "valid", "test")] == [86_835, 3_034, 3_134]


def test_a_name_and_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph(tmp_path / "umls")
    assert bj.load_dataset("./umls").n_entity == 3
    with pytest.warns(bj.DataWarning, match=r"umls is taken for the graph of that name.*: to have that, write \./umls"):
        assert bj.load_dataset("umls").n_entity == 135
