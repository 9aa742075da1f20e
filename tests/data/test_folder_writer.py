"""A graph written into a folder is read back as it was, or not written at all."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bess_jax as bj
from bess_jax.data.formats import folder_writer
from bess_jax.data.formats.folder_writer import by_appearance, write_folder


def full_graph(seed: int = 0) -> bj.KGDataset:
    """A graph with all that a folder holds; ids are in no order."""
    rng = np.random.default_rng(seed)
    n, n_relation = 12, 3
    triples = np.unique(rng.integers([n, n_relation, n], size=(80, 3)), axis=0).astype(np.int32)
    train, valid, test = np.split(rng.permutation(triples), [40, 55])
    return bj.KGDataset(
        n_entity=n,
        n_relation_type=n_relation,
        triples={"test": test, "train": train, "valid": valid},
        entity_dict=[f"entity {i}" for i in range(n)],
        relation_dict=["it's", "é", "# 2"],
        entity_labels={"entity 3": "three", "elsewhere": "not here", "entity 1": "three"},
        relation_labels={"é": "E"},
        type_offsets={"b": 0, "a": 5, "untyped": 9},
        neg_heads={"valid": rng.integers(n, size=(len(valid), 4)).astype(np.int32)},
        neg_tails={"test": rng.integers(n, size=(1, 5)).astype(np.int32), "valid": train[:15, :1].copy()},
        negatives={"test": train[:7].copy(), "valid": train[:2].copy()},
    )


def test_full_disks_are_told_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_folder(full_graph(), tmp_path / "g")
    assert caught.value.filename == str(tmp_path / "g")
    assert [*tmp_path.iterdir()] == []


def by_name(dataset: bj.KGDataset) -> dict[str, Any]:
    """All of a graph but its ids."""
    entities, relations = np.array(dataset.entity_dict, object), np.array(dataset.relation_dict, object)

    def named(ids: np.ndarray) -> list[tuple[str, ...]]:
        return [*zip(entities[ids[:, 0]], relations[ids[:, 1]], entities[ids[:, 2]], strict=True)]

    types = None
    if dataset.type_offsets is not None:
        names, starts = [*dataset.type_offsets], [*dataset.type_offsets.values()]
        kinds = np.searchsorted(starts, np.arange(dataset.n_entity), side="right") - 1
        types = {name: names[kind] for name, kind in zip(entities, kinds, strict=True)}
    return {
        "entities": {*entities},
        "relations": {*relations},
        "triples": {split: named(ids) for split, ids in dataset.triples.items()},
        "negatives": {split: named(ids) for split, ids in (dataset.negatives or {}).items()},
        "heads": {split: entities[ids].tolist() for split, ids in (dataset.neg_heads or {}).items()},
        "tails": {split: entities[ids].tolist() for split, ids in (dataset.neg_tails or {}).items()},
        "labels": (dict(dataset.entity_labels), dict(dataset.relation_labels)),
        "types": types,
    }


@pytest.mark.parametrize("seed", range(5))
def test_all_of_a_graph_comes_back(tmp_path: Path, seed: int) -> None:
    dataset = full_graph(seed)
    written = write_folder(dataset, tmp_path / "out")
    read = bj.KGDataset.from_folder(tmp_path / "out")
    assert read.digest() == written.digest()
    assert by_name(read) == by_name(dataset)
    again = write_folder(read, tmp_path / "again")
    assert again.digest() == read.digest()
    assert {*os.listdir(tmp_path)} == {"out", "again"}


NAMES = st.text(min_size=1, max_size=6)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=2, max_size=8, unique=True), NAMES, NAMES)
def test_any_name_comes_back_or_is_refused(tmp_path: Path, names: list[str], relation: str, label: str) -> None:
    folder = tmp_path / str(len(os.listdir(tmp_path)))
    head, tail = np.array([0, *range(len(names) - 1)]), np.array([0, *range(1, len(names))])
    dataset = bj.KGDataset(
        n_entity=len(names),
        n_relation_type=1,
        triples=dict.fromkeys(("train", "valid", "test"), np.stack([head, 0 * head, tail], axis=1).astype(np.int32)),
        entity_dict=names,
        relation_dict=[relation],
        entity_labels={names[0]: label},
    )
    try:
        write_folder(dataset, folder)
    except ValueError:
        assert not folder.exists()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bj.DataWarning)  # of quotes
        assert bj.KGDataset.from_folder(folder).digest() == dataset.digest()


def test_a_graph_without_names_is_called_by_its_ids(tmp_path: Path) -> None:
    triples = np.array([[2, 0, 0], [0, 1, 1]], np.int32)
    dataset = bj.KGDataset(n_entity=3, n_relation_type=2, triples=dict.fromkeys(("train", "valid", "test"), triples))
    write_folder(dataset, tmp_path / "out")
    read = bj.KGDataset.from_folder(tmp_path / "out")
    assert (read.entity_dict, read.relation_dict) == (("2", "0", "1"), ("0", "1"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"entity_dict": ["a\tb", *"cdefghijklm"]}, r"an entity cannot be written .* 'a\\tb'"),
        ({"entity_dict": ["a ", *"cdefghijklm"]}, "an entity cannot be written .* 'a '"),
        ({"relation_dict": ["x", "y\nz", "w"]}, "a relation cannot be written"),
        ({"relation_dict": ["x", "", "w"]}, "a relation cannot be written .* an empty name"),
        ({"relation_dict": ["x", "\0", "w"]}, "a relation cannot be written .* NUL"),
        ({"relation_dict": ["x", "\ufeffy", "w"]}, "a relation cannot be written"),
        ({"relation_dict": ["x", "\ud800", "w"]}, "a relation cannot be written .* surrogate"),
        ({"entity_labels": {"entity 1": "a\nb"}}, "a label of an entity cannot be written"),
        ({"entity_labels": {" entity": "a"}}, "an entity with a label cannot be written"),
        ({"relation_labels": {"x": ""}}, "a label of a relation cannot be written"),
        ({"relation_labels": {"": "x"}}, "a relation with a label cannot be written"),
        ({"type_offsets": {"\t": 0}}, "a type cannot be written"),
        ({"n_entity": 13, "entity_dict": None}, "1 entities stand in no triple"),
        ({"n_relation_type": 5, "relation_dict": None}, "2 relations stand in no triple"),
        (
            {"triples": {"valid": full_graph().triples["valid"]}, "neg_tails": None},
            "a folder holds train, valid and test, but the splits are",
        ),
    ],
)
def test_what_would_not_come_back_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        write_folder(dataclasses.replace(full_graph(), **changes), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="give the name of a new folder"):
        write_folder(full_graph(), tmp_path / "there")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write_folder(full_graph(), tmp_path / "link")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_writer.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_folder(full_graph(), tmp_path / "out")
    assert {*os.listdir(tmp_path)} == {"there", "link"}


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "labels.tsv").write_text("rubbish")
    dataset = dataclasses.replace(full_graph(), entity_labels={})
    write_folder(dataset, tmp_path / "out")
    assert bj.KGDataset.from_folder(tmp_path / "out").entity_labels == {}


def test_ids_that_are_in_order_stay(tmp_path: Path) -> None:
    dataset = by_appearance(full_graph())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_appearance(dataset).digest() == dataset.digest()
