"""Embeddings in global order, and in files that other programs read."""

from __future__ import annotations

import csv
import dataclasses
import os
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shared.blocks import ROOT
from shared.trained import Trained

import bess_jax as bj
from bess_jax.predict import embeddings
from bess_jax.predict.embeddings import EmbeddingTable
from bess_jax.run.models import BUILT_IN

BOTH = ("npz", "safetensors", "projector")
SINGLE = ("parquet", "csv", "tsv", "word2vec")
ENDING = {"word2vec": ".vec", "projector": ""}


def tables(world: Trained) -> dict[str, EmbeddingTable]:
    return {"entity": world.predictor.entity_table(), "relation": world.predictor.relation_table()}


def of_rows(array: np.ndarray, **columns: Any) -> EmbeddingTable:
    """A table of made up rows."""
    array = np.asarray(array, np.float32)
    names = columns.pop("names", [f"n{i}" for i in range(len(array))])
    labels = columns.pop("labels", names)
    parts = {"entity": array.shape[1]}
    return EmbeddingTable(
        what="entity", parts=parts, names=names, labels=labels, types=columns.pop("types", None), read=array.__getitem__
    )


HARD = np.float32([[1e-45, -3.4028235e38, 0.1, 1 / 3], [1.1754942e-38, -0.0, 16777217, np.nextafter(np.float32(1), 2)]])
"""Numbers that short texts do not give back."""


def read(file: Path, format: str, what: str = "entity") -> tuple[np.ndarray, list[str] | None, list[str]]:
    """Numbers, names and labels of a file, as other programs read them."""
    if format == "npz":
        with np.load(file, allow_pickle=False) as archive:
            return archive[what], archive[f"{what}_name"].tolist(), archive[f"{what}_label"].tolist()
    if format == "safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(file)
        columns = []
        for name in (f"{what}_name", f"{what}_label"):
            text, ends = tensors[f"{name}.text"].tobytes(), tensors[f"{name}.ends"].tolist()
            columns.append([text[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)])
        return tensors[what], columns[0], columns[1]
    if format == "parquet":
        import pandas as pd

        frame = pd.read_parquet(file)
        assert frame["id"].tolist() == list(range(len(frame)))
        return np.stack(frame["embedding"].tolist()), frame["name"].tolist(), frame["label"].tolist()
    if format in ("csv", "tsv"):
        import pandas as pd

        options: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if format == "tsv" else {}
        frame = pd.read_csv(file, keep_default_na=False, **options)
        assert frame["id"].tolist() == list(range(len(frame)))
        first = [*frame.columns].index("label") + 1 + ("type" in frame)
        numbers = frame.iloc[:, first:].to_numpy(np.float64).astype(np.float32)
        return numbers, list(map(str, frame["name"])), list(map(str, frame["label"]))
    if format == "word2vec":
        first, *lines = file.read_text().removesuffix("\n").split("\n")
        rows = [line.split(" ") for line in lines]
        assert first == f"{len(rows)} {len(rows[0]) - 1}"
        names = [row[0] for row in rows]
        return np.array([row[1:] for row in rows], np.float64).astype(np.float32), names, names
    numbers = np.loadtxt(file / f"{what}_tensors.tsv", np.float64, delimiter="\t", ndmin=2).astype(np.float32)
    header, *lines = (file / f"{what}_metadata.tsv").read_text().removesuffix("\n").split("\n")
    columns = dict(zip(header.split("\t"), zip(*(line.split("\t") for line in lines), strict=True), strict=True))
    return numbers, list(columns["name"]), list(columns["label"])


def test_tables_are_in_global_order_without_padding(world: Trained) -> None:
    """Three shards of 13 rows, of 37 entities; the scores of the model come out of them."""
    entity, relation = tables(world).values()
    assert entity.array.shape == (37, 8)
    assert entity.array.dtype == np.float32
    e, r = (table.part("real") + 1j * table.part("imaginary") for table in (entity, relation))
    score = np.einsum("hd,rd,td->hrt", e, r[:4], e.conj()).real
    np.testing.assert_allclose(score, world.score, rtol=1e-4, atol=1e-4)
    head_score = np.einsum("td,rd,hd->hrt", e, r[4:], e.conj()).real
    np.testing.assert_allclose(head_score, world.head_score, rtol=1e-4, atol=1e-4)
    assert list(entity.names)[:2] == ["e0", "e1"]
    assert list(entity.labels)[:4] == ["Anna", "Ben", "Smith", "Smith"]
    assert entity.types == ["person"] * 20 + ["place"] * 10 + ["thing"] * 7
    assert relation.names == [f"r{i}{end}" for end in ("", "_inverse") for i in range(4)]
    assert entity.components[3:5] == ["real_3", "imaginary_0"]
    assert repr(entity) == "EmbeddingTable(entity: 37 rows of real 4, imaginary 4)"
    with pytest.raises(ValueError, match="name must be one of 'real', 'imaginary', got 'angle'"):
        entity.part("angle")


@pytest.mark.parametrize(("n_shard", "n_device", "mapping"), [(1, 1, "pmap"), (4, 2, "pmap"), (4, 2, "shard_map")])
def test_any_shards_on_any_devices(n_shard: int, n_device: int, mapping: Any) -> None:
    sharding = bj.Sharding.create(10, n_shard, seed=3)
    placement = bj.Placement.create(n_shard, n_device, mapping)
    score_fn = bj.TransE(negative_sample_sharing=True, sharding=sharding, n_relation_type=2, embedding_size=3)
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    relation = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = placement.put(
        bj.Params(bj.shard_table(rows, sharding), {})._replace(
            score_fn={"relation_embedding": np.broadcast_to(relation, (n_shard, 2, 3))}
        )
    )
    dataset = bj.KGDataset(n_entity=10, n_relation_type=2, triples={"train": np.zeros((1, 3), np.int32)})
    predictor = bj.Predictor(dataset=dataset, ranker=bj.Ranker(score_fn=score_fn, placement=placement), params=params)
    np.testing.assert_array_equal(predictor.entity_table().array, rows)
    np.testing.assert_array_equal(predictor.relation_table().array, relation)
    assert predictor.entity_table().names is None
    assert predictor.relation_table().labels == ["0", "1"]
    half = dataclasses.replace(predictor, params=jax.tree_util.tree_map(lambda x: x.astype("bfloat16"), params))
    np.testing.assert_array_equal(half.entity_table().array, rows)  # small whole numbers, which it holds


def test_frame(world: Trained) -> None:
    entity, relation = tables(world).values()
    frame = entity.frame()
    assert list(frame.columns) == ["id", "name", "label", "type", *entity.components]
    np.testing.assert_array_equal(frame[entity.components].to_numpy(), entity.array)
    assert frame["label"][2] == "Smith"
    assert "type" not in relation.frame()


@pytest.mark.parametrize("what", ["entity", "relation"])
@pytest.mark.parametrize("format", [*BOTH, *SINGLE])
def test_every_format_gives_the_numbers_back(
    world: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, what: str
) -> None:
    monkeypatch.setattr(embeddings, "_PIECE", 40)  # five rows at a time
    table = tables(world)[what]
    out, done = tmp_path / f"a{ENDING.get(format, f'.{format}')}", []
    bj.export([*tables(world).values()] if format in BOTH else table, out, progress=done.append)
    numbers, names, labels = read(out, format, what)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, table.array)
    assert names == list(table.names or ())
    assert labels == list(table.names if format == "word2vec" else table.labels)
    assert sum(done) == (
        len(tables(world)["entity"]) + len(tables(world)["relation"]) if format in BOTH else len(table)
    )
    assert max(done) == 5
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("format", [*BOTH, *SINGLE])
def test_hard_numbers_are_exact(tmp_path: Path, format: str) -> None:
    bj.export(of_rows(HARD), tmp_path / "a", format)
    numbers, _, _ = read(tmp_path / "a", format)
    np.testing.assert_array_equal(numbers.view(np.uint32), HARD.view(np.uint32))


AWKWARD = [
    'plain "quoted", with comma',
    "tab\there",
    "line\nbreak",
    "carriage\rreturn",
    "ünïcode 猫",
    "\u2028 \x1b[31m",
]
ESCAPED = [
    'plain "quoted", with comma',
    "tab\\there",
    "line\\nbreak",
    "carriage\\rreturn",
    "ünïcode 猫",
    "\\u2028 \\x1b[31m",
]


@pytest.mark.parametrize("format", [*BOTH, *SINGLE])
def test_awkward_names_survive_or_are_told(tmp_path: Path, recwarn: pytest.WarningsRecorder, format: str) -> None:
    table = of_rows(np.arange(12).reshape(6, 2), names=AWKWARD)
    expected = {"tsv": ESCAPED, "projector": ESCAPED, "word2vec": None}.get(format, AWKWARD)
    if expected is AWKWARD:
        bj.export(table, tmp_path / "a", format)
    else:
        with pytest.warns(bj.DataWarning, match=r"names.* have (tabs|white space)"):
            bj.export(table, tmp_path / "a", format)
    numbers, names, _ = read(tmp_path / "a", format)
    np.testing.assert_array_equal(numbers, table.array)
    if expected is None:
        assert names == [
            'plain_"quoted",_with_comma',
            "tab_here",
            "line_break",
            "carriage_return",
            "ünïcode_猫",
            "___[31m",
        ]
    else:
        assert names == expected


def test_word2vec_never_merges_two_names(tmp_path: Path) -> None:
    table = of_rows(np.zeros((3, 2)), names=["a b", "c", "a_b"])
    with pytest.raises(ValueError, match="'a b' and 'a_b' would be one name; export to another format"):
        bj.export(table, tmp_path / "a.vec")
    assert list(tmp_path.iterdir()) == []


def test_graphs_without_names(tmp_path: Path) -> None:
    table = dataclasses.replace(of_rows(HARD, labels=["0", "1"]), names=None)
    bj.export(table, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive) == ["entity", "entity_label"]
    bj.export(table, tmp_path / "a.vec")
    assert read(tmp_path / "a.vec", "word2vec")[1] == ["0", "1"]


def test_types_are_written(world: Trained, tmp_path: Path) -> None:
    import pandas as pd

    table = world.predictor.entity_table()
    for format in ("npz", "parquet", "csv"):
        bj.export(table, tmp_path / f"a.{format}")
    assert np.load(tmp_path / "a.npz")["entity_type"].tolist() == table.types
    assert pd.read_parquet(tmp_path / "a.parquet")["type"].tolist() == table.types
    assert pd.read_csv(tmp_path / "a.csv")["type"].tolist() == table.types
    bj.export(table, tmp_path / "projector")
    text = (tmp_path / "projector" / "projector_config.pbtxt").read_text()
    assert 'metadata_path: "entity_metadata.tsv"' in text
    assert (
        (tmp_path / "projector" / "entity_metadata.tsv").read_text().startswith("name\tlabel\ttype\ne0\tAnna\tperson\n")
    )


@pytest.mark.parametrize("format", [*BOTH, *SINGLE])
def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.setattr(embeddings, "_PIECE", 2)
    out = tmp_path / "a"
    if format != "projector":
        out.write_text("what was there")

    def stop(n_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bj.export(of_rows(np.ones((4, 2))), out, format, progress=stop)
    if format == "projector":
        assert list(tmp_path.iterdir()) == []
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert out.read_text() == "what was there"


@pytest.mark.parametrize("format", ["npz", "safetensors", "csv", "parquet", "word2vec"])
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """Of a table of 2 MB, read 16 KB at a time, only parts are held: in the worst case as text."""
    monkeypatch.setattr(embeddings, "_PIECE", 2**12)
    array = np.random.default_rng(0).normal(size=(2**11, 256)).astype(np.float32)
    table = of_rows(array)
    tracemalloc.start()
    bj.export(table, tmp_path / "a", format)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes / 2


def test_targets(world: Trained, tmp_path: Path) -> None:
    table = world.predictor.entity_table()
    with pytest.raises(ValueError, match=r"out must end with one of \.npz, .*\.w2v, or give a format, got .*a\.h5"):
        bj.export(table, tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"format must be one of 'npz', .*, got 'hdf5'"):
        bj.export(table, tmp_path / "a.h5", "hdf5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a file of format csv holds one table: export either entities or relations"):
        bj.export([table, table], tmp_path / "a.csv")
    with pytest.raises(ValueError, match="out must be a file in an existing folder"):
        bj.export(table, tmp_path / "no" / "a.csv")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="out must be a folder that is not there yet"):
        bj.export(table, tmp_path / "there")
    for tables, got in (([], "none"), ([table, table], "entity, entity")):
        with pytest.raises(ValueError, match=f"tables must be one of entities, one of relations, or both, got {got}"):
            bj.export(tables, tmp_path / "a.npz")
    os.mkfifo(tmp_path / "there" / "pipe")
    with pytest.raises(ValueError, match="out must be a file in an existing folder"):
        bj.export(table, tmp_path / "there" / "pipe", "csv")
    monster = of_rows(np.zeros((2000, 1)), names=["x" * 1_000_000, *(f"{i}" for i in range(1999))])
    with pytest.raises(ValueError, match=r"the longest, and one has 1,000,000 characters: .* export to .safetensors"):
        bj.export(monster, tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_document_names_the_parts_of_all_models() -> None:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8").split("\n## What the numbers mean\n")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.split("\n## ")[0].splitlines()
        if line.startswith("| ")
    ]
    told = {model: (entity, relation) for model, entity, relation in rows[2:]}
    sharding = bj.Sharding.create(4, 1, seed=0)
    models = {
        name: kind(negative_sample_sharing=True, sharding=sharding, n_relation_type=1, embedding_size=16)
        for name, kind in BUILT_IN.items()
    }
    parts = {
        name: tuple(", ".join(part.name for part in row) for row in (model.entity_parts, model.relation_parts))
        for name, model in models.items()
    }
    assert told == parts
