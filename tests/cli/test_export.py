"""The command `export`, and a run that starts from what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shared.commands import train

import bess_jax as bj
from bess_jax.cli.main import main


def test_export_and_start_from_it(run: Path, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows go where their names are, however many shards there are, and in a graph with other ids."""
    out = tmp_path / "tables.npz"
    assert main(["export", str(run), str(out)]) == 0
    shown = capsys.readouterr().out
    assert "entity: 14 rows of 32 numbers (real 16, imaginary 16)" in shown
    assert "relation: 110 rows of 32 numbers" in shown
    model = bj.Predictor.load(run)
    with np.load(out) as archive:
        np.testing.assert_array_equal(archive["entity"], model.entity_table().array)
        np.testing.assert_array_equal(archive["relation"], model.relation_table().array)
        assert archive["relation_name"].tolist() == model.relation_table().names
    graph = tmp_path / "graph"
    graph.mkdir()
    triples = model.dataset.triples
    for split, part in (("train", triples["train"][::-1]), ("valid", triples["valid"]), ("test", triples["test"])):
        names = (
            [model.dataset.entity_label(h), model.dataset.relation_label(r), model.dataset.entity_label(t)]
            for h, r, t in part.tolist()
        )
        (graph / f"{split}.txt").write_text("".join("\t".join(row) + "\n" for row in names))
    options = ("--n-epoch", "1", "--learning-rate", "1e-30", "--n-shard", "1", "--start-from", str(out))
    assert train(graph, tmp_path / "new", *options) == 0
    new = bj.Predictor.load(tmp_path / "new")
    assert list(new.dataset.entity_dict or ()) != list(model.dataset.entity_dict or ())
    for old_table, new_table in (
        (model.entity_table(), new.entity_table()),
        (model.relation_table(), new.relation_table()),
    ):
        place = [list(old_table.names or ()).index(name) for name in new_table.names or ()]
        np.testing.assert_array_equal(new_table.array, old_table.array[place])


def test_what_is_written(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.csv"
    assert main(["export", str(run), str(out), "--what", "relations", "--checkpoint", "last", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["out"], found["format"]) == (str(out), "csv")
    assert found["relation"] == {"n": 110, "width": 32, "parts": {"real": 16, "imaginary": 16}}
    assert "entity" not in found
    assert len(out.read_text().splitlines()) == 111
    assert main(["export", str(run), str(tmp_path / "b.csv")]) == 0  # entities
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 15
    assert main(["export", str(run), str(tmp_path / "words.dat"), "--format", "word2vec", "--n-shard", "7"]) == 0
    assert (tmp_path / "words.dat").read_text().startswith("14 32\n")
    assert main(["export", str(run), str(tmp_path / "folder")]) == 0
    assert len(list((tmp_path / "folder").iterdir())) == 5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("nowhere a.npz", "nowhere: there is no such run folder"),
        (
            "RUN a.h5",
            "out must end with one of .npz, .safetensors, .parquet, .csv, .tsv, .txt, .vec, .w2v, or give a format",
        ),
        ("RUN a.csv --what both", "a file of format csv holds one table: export either entities or relations"),
        ("RUN no/such/folder/a.csv", "out must be a file in an existing folder"),
        ("RUN a.npz --checkpoint epoch-99", "holds no checkpoint 'epoch-99'"),
    ],
)
def test_bad_exports(
    args: str,
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *args.replace("RUN", str(run)).split()]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"entity_name": np.array(["usa"] * 14)}, "entity_name holds the same name twice"),
        ({"entity_name": np.arange(14)}, "entity_name must hold 14 strings, got int64"),
        ({"entity_name": np.array([f"x{i}" for i in range(14)])}, "has no entity and no relation of this graph"),
    ],
)
def test_bad_names_in_a_file_to_start_from(
    arrays: dict, message: str, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "t.npz", entity=np.zeros((14, 32), np.float32), **arrays)
    assert train(nations, tmp_path / "new", "--start-from", str(tmp_path / "t.npz")) == 2
    assert message in capsys.readouterr().err
