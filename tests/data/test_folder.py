"""Folders: splits of several formats or drawn, and what lies beside them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import bess_jax as bj

SPLITS = {"train": "a\tr\tb\nb\tr\tc\nc\tr\td\nd\ts\te\n", "valid": "a\ts\tc\nb\tr\td\n", "test": "e\tr\ta\n"}


def folder_of(path: Path, **files: str) -> Path:
    """A folder with files whose names end with .tsv, or as after "__": `train__csv`."""
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        stem, _, ending = name.partition("__")
        content = text.encode()
        file = path / f"{stem}.{ending.replace('_', '.') or 'tsv'}"
        file.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    return path


def named(dataset: bj.KGDataset, triples: np.ndarray) -> list[list[str]]:
    names, relations = dataset.entity_dict or (), dataset.relation_dict or ()
    return [[names[h], relations[r], names[t]] for h, r, t in triples.tolist()]


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize("valid", ["valid", "val", "dev"])
def test_splits_of_several_formats(tmp_path: Path, valid: str) -> None:
    turtle = "".join(f"<x:{h}> <x:{r}> <x:{t}> .\n" for h, r, t in rows(SPLITS["test"]))
    folder = folder_of(
        tmp_path / "g",
        train__csv="head,relation,tail\n" + SPLITS["train"].replace("\t", ","),
        test__nt=turtle,
        **{f"{valid}__txt_gz": SPLITS["valid"], f"{valid}_negatives": "a\tr\ta\n"},
    )
    with pytest.warns(bj.DataWarning, match="taken for a header"):
        dataset = bj.KGDataset.from_folder(folder)
    assert list(dataset.triples) == ["train", "valid", "test"]
    assert named(dataset, dataset.triples["train"]) == rows(SPLITS["train"])
    assert named(dataset, dataset.triples["valid"]) == rows(SPLITS["valid"])
    assert named(dataset, dataset.triples["test"]) == [["x:e", "x:r", "x:a"]]
    assert dataset.original_triple_ids is None
    assert list(dataset.negatives or {}) == ["valid"]


def test_names_in_upper_case(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "g", Train__TSV=SPLITS["train"], valid__TXT=SPLITS["valid"], TEST=SPLITS["test"])
    (folder / "Types.txt").write_text("".join(f"{name}\tx\n" for name in "abcde"))
    dataset = bj.KGDataset.from_folder(folder)
    assert named(dataset, dataset.triples["valid"]) == rows(SPLITS["valid"])
    assert dataset.type_offsets == {"x": 0}
    (folder / "train.csv").write_text("a,r,b\n")
    with pytest.raises(bj.DataError, match=r"has Train.TSV and train.csv, of which only one may be"):
        bj.KGDataset.from_folder(folder)


@pytest.mark.parametrize("name", ["types.csv", "Labels.parquet", "val_negatives.txt.bz2", "train_negatives.csv"])
def test_files_that_are_not_read_are_told(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "g", **SPLITS)
    for harmless in (name, "notes.txt", "train.del", "types"):
        (folder / harmless).write_text("a,b\n")
    with pytest.warns(bj.DataWarning, match=f"1 files are not read, .* like those of files that are: '{name}'; what"):
        bj.KGDataset.from_folder(folder)


def test_columns_and_split_are_used(tmp_path: Path) -> None:
    lines = "".join(f"{i % 7},{i % 11},r{i % 2}\n" for i in range(77))
    folder = folder_of(tmp_path / "g", train__csv="from,to,how\n" + lines)
    with pytest.warns(bj.DataWarning, match=r"no valid and no test: of the 77 triples of train, 15 .* and 23 for test"):
        dataset = bj.load_dataset(folder, ("from", "how", "to"), (0.5, 0.2, 0.3), seed=3)
    assert {split: len(triples) for split, triples in dataset.triples.items()} == {"train": 39, "valid": 15, "test": 23}
    table = [line.split(",") for line in lines.splitlines()]
    for split, ids in (dataset.original_triple_ids or {}).items():
        assert named(dataset, dataset.triples[split]) == [[table[i][0], table[i][2], table[i][1]] for i in ids]


@pytest.mark.parametrize("missing", ["valid", "test"])
def test_one_split_is_drawn(tmp_path: Path, missing: str) -> None:
    """From train, as large beside it as `split` says; the other one stays as it is."""
    train = "".join(f"e{i % 10}\tr\te{i % 9}\n" for i in range(90))
    files = {**SPLITS, "train": train, "test": "e0\tr\te0\n", "valid": "e1\tr\te1\n"}
    del files[missing]
    with pytest.warns(bj.DataWarning, match=f"has no {missing}: of the 90 .*, 18 for {missing} are drawn"):
        dataset = bj.KGDataset.from_folder(folder_of(tmp_path / "g", **files), split=(0.4, 0.1, 0.1))
    given = "test" if missing == "valid" else "valid"
    assert list(dataset.triples) == ["train", "valid", "test"]
    assert named(dataset, dataset.triples[given]) == rows(files[given])
    drawn = named(dataset, np.concatenate([dataset.triples["train"], dataset.triples[missing]]))
    assert sorted(drawn) == sorted(rows(train))
    ids = dataset.original_triple_ids or {}
    assert sorted([*ids["train"], *ids[missing]]) == list(range(90))
    assert ids[given].tolist() == [0]
    with pytest.warns(bj.DataWarning, match="drawn"):
        again = bj.KGDataset.from_folder(tmp_path / "g", split=(0.4, 0.1, 0.1))
    assert again.digest() == dataset.digest()


def test_no_part_no_split(tmp_path: Path) -> None:
    dataset = bj.KGDataset.from_folder(folder_of(tmp_path / "g", train=SPLITS["train"]), split=(1, 0, 0))
    assert list(dataset.triples) == ["train"]


BESIDE = {
    "types": "b\tplace\na\tperson\nc\tplace\nnobody\tghost\ne\tthing\nd\tperson\n",
    "labels": "a\tAnna\nb\tBerlin\n",
    "relation_labels": "r\tlives in\n",
    "valid_negatives": "a\ts\ta\nc\tr\tb\nd\tr\te\n",
    "test_negatives": "a\tr\te\n",
    "valid_head_candidates": "d\te\nc\ta\n",
    "valid_tail_candidates": "a\tb\td\n",
    "test_tail_candidates__txt_gz": "b\tc\te\n",
}


def test_everything_beside_the_triples(tmp_path: Path) -> None:
    dataset = bj.KGDataset.from_folder(folder_of(tmp_path / "g", **SPLITS, **BESIDE))
    assert dataset.entity_dict == ("a", "d", "b", "c", "e")
    assert dataset.type_offsets == {"person": 0, "place": 2, "thing": 4}
    for split, text in SPLITS.items():
        assert named(dataset, dataset.triples[split]) == rows(text)
    assert [dataset.entity_label(i) for i in range(5)] == ["Anna", "d", "Berlin", "c", "e"]
    assert dataset.find_relation("lives in") == 0
    negatives = {split: named(dataset, triples) for split, triples in (dataset.negatives or {}).items()}
    assert negatives == {split: rows(BESIDE[f"{split}_negatives"]) for split in ("valid", "test")}
    listed = {
        f"{split}_{side}": [[(dataset.entity_dict or ())[i] for i in line] for line in ids.tolist()]
        for side, by_split in (("head", dataset.neg_heads), ("tail", dataset.neg_tails))
        for split, ids in (by_split or {}).items()
    }
    assert listed == {
        "valid_head": [["d", "e"], ["c", "a"]],
        "valid_tail": [["a", "b", "d"]],
        "test_tail": [["b", "c", "e"]],
    }
    dataset.save(tmp_path / "g.npz")
    assert bj.load_dataset(tmp_path / "g.npz").digest() == dataset.digest()


def test_types_reach_the_typed_sampler(tmp_path: Path) -> None:
    """What replaces a tail has its type."""
    folder = folder_of(tmp_path / "g", **SPLITS, types=BESIDE["types"])
    dataset = bj.KGDataset.from_folder(folder)
    sharding = bj.Sharding.create(5, 1, seed=0, type_offsets=np.array([*(dataset.type_offsets or {}).values()]))
    sampler = bj.TypeBasedShardedNegativeSampler(
        triple_types=(dataset.ht_types or {})["train"],
        n_negative=20,
        sharding=sharding,
        corruption_scheme="t",
        local_sampling=False,
        seed=3,
    )
    drawn = sampler.sample(np.arange(4, dtype=np.int32).reshape(1, 1, 4), 0, 0)["negative"][0, 0, 0]
    entities = np.asarray(dataset.entity_dict)[sharding.shard_and_idx_to_entity[0][drawn]]
    assert [set(of_triple) for of_triple in entities] == [{"b", "c"}, {"b", "c"}, {"a", "d"}, {"e"}]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"types": "a\tx\nb\ty\na\tz\n"},
            r"types.tsv, line 3: 'a' has a type already, 'x'; an entity",
        ),
        ({"types": "a\n"}, r"types.tsv, line 1: expected 2 non-empty columns"),
        ({"types": "a\tx\tb\n"}, r"types.tsv, line 1: expected 2 non-empty columns"),
        ({"test_negatives": "a\tr\tb\n\na\tr\tz\n"}, r"test_negatives.tsv, line 3: no triple .* has the entity 'z'"),
        ({"test_negatives": "a\tq\tb\n"}, r"test_negatives.tsv, line 1: no triple .* has the relation 'q'"),
        (
            {"test_negatives": "head\trelation\ttail\na\tr\tb\n"},
            r"line 1: no triple .* the entity 'head'",
        ),
        ({"test_negatives": "\n"}, r"test_negatives.tsv: holds no triple"),
        (
            {"valid_head_candidates": "a\nb\nc\n"},
            r"each of 2 triples, or one for all, got 3",
        ),
        ({"valid_head_candidates": "a\tb\nc\n"}, r"candidates.tsv, line 2: has 1 candidates, but lines before it 2"),
        (
            {"valid_head_candidates": "a\tz\nb\tc\n"},
            r"candidates.tsv, line 1: no triple .* the entity 'z'",
        ),
        ({"valid_head_candidates": "a\t\tb\n"}, r"candidates.tsv, line 1: no triple of the splits has the entity ''"),
        ({"valid_head_candidates": ""}, r"or one for all, got 0"),
        (
            {"valid_negatives": "a\tr\tb\n", "dev_negatives": "a\tr\tb\n"},
            r"has dev_negatives.tsv and valid_negatives.tsv",
        ),
        ({"dev": "a\tr\tb\n"}, r"has dev.tsv and valid.tsv, of which only one may be"),
        ({"train__csv": "a,r,b\n"}, r"has train.csv and train.tsv, of which only one may be"),
    ],
)
def test_malformed_files(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(bj.DataError, match=message):
        bj.load_dataset(folder_of(tmp_path / "g", **{**SPLITS, **files}))


def test_missing_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "g", valid=SPLITS["valid"], mine__csv="a,r,b\n")
    with pytest.raises(bj.DataError, match=r"g: has no file train.*it has mine.csv, valid.tsv: name one of them train"):
        bj.load_dataset(folder)
    folder = folder_of(tmp_path / "h", train=SPLITS["train"] * 1, valid_tail_candidates="a\n", test=SPLITS["test"])
    with pytest.warns(bj.DataWarning), pytest.raises(bj.DataError, match="triples of valid, of which there is no file"):
        bj.load_dataset(folder, split=(0.5, 0.5, 0))
