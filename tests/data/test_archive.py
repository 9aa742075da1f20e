"""Graphs in one file: they come back whole, or the file is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bess_jax as bj
from bess_jax.data.archive import hash_arrays

ODD = ["", "a\nb", "c\td", "\0", "é", "\ufeff", "\x1b[31m"]
"""Names that no line of text can hold."""


def make(**changes: Any) -> bj.KGDataset:
    """A graph in which nothing is None, unless changed."""
    triples = np.array([[0, 0, 1], [2, 1, 6]], dtype=np.int32)
    graph = bj.KGDataset(
        n_entity=len(ODD),
        n_relation_type=2,
        triples={"train": triples, "one more/split": triples[:1]},
        entity_dict=ODD,
        relation_dict=("r", "s"),
        entity_labels={"a\nb": "A", "": "nothing"},
        relation_labels={"s": "sings"},
        type_offsets={"person": 0, "place": 4},
        neg_heads={"train": np.array([[1, 2, 3]], dtype=np.int32)},
        neg_tails={"train": np.array([[4, 5], [6, 0]], dtype=np.int32)},
        negatives={"one more/split": triples[1:]},
        original_triple_ids={"train": np.array([1, 0]), "one more/split": np.array([2])},
    )
    return dataclasses.replace(graph, **changes)


BARE: dict[str, Any] = {
    "entity_dict": None,
    "relation_dict": None,
    "entity_labels": {},
    "relation_labels": {},
    "type_offsets": None,
    "neg_heads": None,
    "neg_tails": None,
    "negatives": None,
    "original_triple_ids": None,
}


def assert_equal(found: bj.KGDataset, expected: bj.KGDataset) -> None:
    for field in dataclasses.fields(bj.KGDataset):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, dict) and any(isinstance(value, np.ndarray) for value in other.values()):
            assert list(one) == list(other), field.name
            for split in other:
                assert one[split].dtype == other[split].dtype
                np.testing.assert_array_equal(one[split], other[split])
        else:
            assert one == (tuple(other) if isinstance(other, list) else other), field.name


@pytest.mark.parametrize("changes", [{}, BARE, {"neg_heads": None, "entity_dict": None}], ids=["all", "bare", "some"])
def test_a_graph_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    graph = make(**changes)
    graph.save(tmp_path / "graph.npz")
    assert os.listdir(tmp_path) == ["graph.npz"]
    found = bj.load_dataset(tmp_path / "graph.npz")
    assert_equal(found, graph)
    assert found.digest() == graph.digest()


def test_shipped_graph_comes_back(tmp_path: Path) -> None:
    graph = bj.load_dataset("wn18rr")
    graph.save(tmp_path / "graph.npz")
    assert_equal(bj.KGDataset.load(tmp_path / "graph.npz"), graph)


def test_digests_tell_what_changed() -> None:
    graph = make()
    digest = graph.digest()
    assert [*digest] == [
        *("entities", "relations", "labels", "types", "candidates", "negatives"),
        *("triples/train", "triples/one more/split"),
    ]
    triples = {"train": graph.triples["train"][::-1], "one more/split": graph.triples["one more/split"]}
    changes: list[tuple[dict[str, Any], set[str]]] = [
        ({}, set()),
        ({"triples": {**graph.triples, "train": graph.triples["train"].astype(np.int64)}}, set()),
        ({"triples": triples}, {"triples/train"}),
        ({"triples": {"train": graph.triples["train"]}}, {"triples/one more/split"}),
        ({"n_entity": 8, "entity_dict": None}, {"entities"}),
        ({"entity_dict": None}, {"entities"}),
        ({"entity_dict": ["", "a", "\nbc", *ODD[3:]]}, {"entities"}),
        ({"n_relation_type": 3, "relation_dict": None}, {"relations"}),
        ({"entity_labels": {}}, {"labels"}),
        ({"entity_labels": graph.relation_labels, "relation_labels": graph.entity_labels}, {"labels"}),
        ({"type_offsets": {"person": 0, "place": 3}}, {"types"}),
        ({"type_offsets": None}, {"types"}),
        ({"neg_heads": graph.neg_tails, "neg_tails": graph.neg_heads}, {"candidates"}),
        ({"neg_heads": None, "neg_tails": None}, {"candidates"}),
        ({"negatives": {"train": graph.triples["train"]}}, {"negatives"}),
        ({"original_triple_ids": None}, set()),
    ]
    for change, parts in changes:
        other = make(**change).digest()
        assert {part for part in {*digest, *other} if digest.get(part) != other.get(part)} == parts, change


def test_names_that_are_no_text(tmp_path: Path) -> None:
    graph = make(entity_dict=["\udc80", *ODD[1:]])
    with pytest.raises(ValueError, match=r"entity_dict holds '\\udc80', which is not Unicode text"):
        graph.save(tmp_path / "graph.npz")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, file = make(), tmp_path / "graph.npz"
    graph.save(file)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        make(**BARE).save(file)
    assert error.value.filename == str(file)
    assert os.listdir(tmp_path) == ["graph.npz"]
    assert_equal(bj.KGDataset.load(file), graph)


def load(file: Path, content: bytes) -> bj.KGDataset | None:
    """The graph in a file, or None if it is refused by name."""
    file.write_bytes(content)
    try:
        return bj.KGDataset.load(file)
    except bj.DataError as error:
        if (error.file, error.line) != (file, None) or not str(error).startswith(f"{file}: "):
            raise
        return None


@pytest.mark.long
def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    file = tmp_path / "graph.npz"
    graph = make(**{**BARE, "relation_dict": ("r", "s")})
    graph.save(file)
    good = file.read_bytes()
    refused = 0
    for i in range(len(good)):
        found = load(file, good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :])
        refused += found is None
        if found is not None:
            assert_equal(found, graph)
    assert refused > 0.7 * len(good)  # the others: what the directory repeats or nobody reads, such as dates


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "graph.npz"
    make().save(file)
    good = file.read_bytes()
    for length in range(0, len(good), 7):
        assert load(file, good[:length]) is None
    assert load(file, good[100:]) is None


def rewritten(file: Path, out: Path, **members: bytes | None) -> Path:
    """A copy with members replaced or left out; all checksums fit."""
    arrays = {}
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(out, "w") as copy:
        for name in (name[: -len(".npy")] for name in archive.namelist()):
            content = members.get(name, archive.read(f"{name}.npy"))
            if name == "sha256" and name not in members:
                content = npy("(32,)", "'|u1'", hash_arrays(arrays))
            elif content is not None:
                with contextlib.suppress(
                    ValueError, MemoryError, OverflowError, tokenize.TokenError
                ):  # what NumPy does not read is never hashed
                    arrays[name] = np.lib.format.read_array(io.BytesIO(content))
            if content is not None:
                copy.writestr(f"{name}.npy", content)
    return out


def npy(shape: str, dtype: str = "'<i8'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"sha256": npy("(1,)", "'|u1'", b"1")}, "damaged: its members are not those"),
        ({"n_entity": None}, "has no member 'n_entity'"),
        ({"triples.1": None}, r"has no member 'triples\.1'"),
        ({"entity_dict.text": None}, r"has no member 'entity_dict\.text'"),
        ({"entity_labels.values.ends": None, "entity_labels.values.text": None}, "KGDataset"),
        ({"n_entity": b"five"}, "member 'n_entity.npy': damaged"),
        ({"n_entity": npy("(")}, "member 'n_entity.npy'"),
        ({"n_entity": npy("(" * 400 + ")" * 400)}, "member 'n_entity.npy'"),
        ({"n_entity": npy("()", "'|O'", b"cos\nsystem\n(S'ls'\ntR.")}, "member 'n_entity.npy'"),
        ({"n_entity": npy("()", "'a'", b"1")}, "KGDataset"),
        ({"n_entity": npy("(2,)", data=bytes(16))}, "KGDataset"),
        ({"n_entity": npy("()", data=(10).to_bytes(8, "little"))}, "entity_dict must have one name for each of the 10"),
        ({"n_entity": npy("()", data=(-1).to_bytes(8, "little", signed=True))}, "n_entity must be >= 1"),
        ({"triples.0": npy("(1000000000000, 3)")}, r"member 'triples\.0\.npy'"),
        ({"triples.0": npy(f"({10**30}, 3)")}, r"member 'triples\.0\.npy'"),
        ({"triples.0": npy("(-1, 3)")}, r"triples"),
        ({"triples.0": npy("(0, 3)")}, "triples"),
        ({"triples.0": npy("(1, 3)", "'<f8'", bytes(24))}, "triples"),
        ({"triples.0": npy("(1,)", "[('a', '<i4')]", bytes(4))}, "members are numbers"),
        ({"entity_dict.text": npy("(1,)", "'|u1'", b"\xff")}, "'utf-8' codec"),
        ({"neg_heads.0": npy("(1, 1)", "'<U1'", b"1\0\0\0")}, "members are numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of old names of types
def test_files_made_to_mislead(tmp_path: Path, members: dict[str, bytes | None], message: str) -> None:
    make().save(tmp_path / "graph.npz")
    file = rewritten(tmp_path / "graph.npz", tmp_path / "copy.npz", **members)
    with pytest.raises(bj.DataError, match=message):
        bj.KGDataset.load(file)


def test_what_is_no_archive(tmp_path: Path) -> None:
    file = tmp_path / "graph.npz"
    with pytest.raises(bj.DataError, match="No such file"):
        bj.load_dataset(file)
    file.mkdir()
    with pytest.raises(bj.DataError, match="expected a file, got a folder"):
        bj.KGDataset.load(file)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(bj.DataError, match="expected a file, got a pipe"):
        bj.load_dataset(tmp_path / "pipe.npz")
    other = tmp_path / "other.npz"
    np.savez_compressed(other, a=np.zeros(3))
    with pytest.raises(bj.DataError, match="compressed"):
        bj.KGDataset.load(other)
    for arrays in ({"a": np.zeros(3)}, {"sha256": np.zeros(3), "a": np.array(["", ""])}):
        np.savez(other, **arrays)
        with pytest.raises(bj.DataError, match="one is 'sha256'"):
            bj.KGDataset.load(other)
    bj.Sharding.create(11, 3, 0).save(other)
    with pytest.raises(bj.DataError, match=r"not a graph that KGDataset\.save wrote: it has no member 'n_entity'"):
        bj.KGDataset.load(other)
    make().save(other)
    with pytest.raises(bj.DataError, match=r"not a sharding that Sharding\.save wrote: it has the members"):
        bj.Sharding.load(other)
    other.write_bytes(other.read_bytes()[:-5])
    with pytest.raises(bj.DataError, match="damaged, or not a sharding"):
        bj.Sharding.load(other)
