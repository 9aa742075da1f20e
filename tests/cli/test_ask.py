"""The commands that ask a trained model: what they print, as JSON and as tables, and what they refuse."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from shared.commands import records

from bess_jax.cli import show
from bess_jax.cli.main import main
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder


def read_json(args: str, run: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """The one document that a command prints on stdout."""
    capsys.readouterr()
    assert main([*args.replace("RUN", str(run)).split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_repeats_the_metrics_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    for side in ("head", "tail", "both"):
        assert f"{records(run)[-1][side]['mrr']:.4f}" in out


@pytest.mark.parametrize("known", ["--head", "--tail"])
def test_predict(run: Path, capsys: pytest.CaptureFixture[str], known: str) -> None:
    assert main(["predict", str(run), known, "usa", "--relation", "treaties", "--k", "14"]) == 0
    out = capsys.readouterr().out
    assert ("(usa, treaties, ?)" if known == "--head" else "(?, treaties, usa)") in out
    assert all(name in out for name in ("brazil", "china", "uk", "ussr", "train"))


def test_predict_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json("predict RUN --head usa --relation treaties -k 3", run, capsys)
    assert (found["head"], found["relation"], found["tail"], found["k"]) == ("usa", "treaties", None, 3)
    assert [answer["place"] for answer in found["answers"]] == [1, 2, 3]
    dataset = Experiment.create(RunFolder.open(run).config()).dataset
    for answer in found["answers"]:
        triple = [dataset.find_entity("usa"), dataset.find_relation("treaties"), answer["id"]]
        held = [split for split, triples in dataset.triples.items() if triple in triples.tolist()]
        assert answer["splits"] == ",".join(held)
        assert answer["label"] == dataset.entity_label(answer["id"])
        score = read_json(f"score RUN --head usa --relation treaties --tail {answer['label']}", run, capsys)
        assert score["triples"][0]["score"] == pytest.approx(answer["score"], rel=1e-4, abs=1e-5)
    new = read_json("predict RUN --head usa --relation treaties -k 14 --new-only", run, capsys)["answers"]
    every = read_json("predict RUN --head usa --relation treaties -k 14", run, capsys)["answers"]
    assert len(every) == 14
    assert [a["id"] for a in new] == [a["id"] for a in every if not a["splits"]]
    relations = read_json("predict RUN --head usa --tail uk -k 55 --probability platt", run, capsys)["answers"]
    assert len({answer["id"] for answer in relations}) == 55
    assert all(0 < answer["probability"] < 1 for answer in relations)


def test_predict_among_candidates_and_for_many_queries(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates, queries, out = tmp_path / "c.txt", tmp_path / "q.tsv", tmp_path / "a.jsonl"
    candidates.write_text("uk\nchina\n\n5\n")
    found = read_json(f"predict RUN --head usa --relation treaties --candidates {candidates}", run, capsys)
    dataset = Experiment.create(RunFolder.open(run).config()).dataset
    assert {a["id"] for a in found["answers"]} == {dataset.find_entity("uk"), dataset.find_entity("china"), 5}
    queries.write_text("usa\ttreaties\t?\n?\ttreaties\tusa\nusa\t?\tuk\n")
    done = read_json(f"predict RUN --queries {queries} --out {out} -k 4", run, capsys)
    assert (done["n_query"], done["out"]) == (3, str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for line, args in zip(lines, ("--head usa --relation treaties", "--tail usa --relation treaties"), strict=False):
        one = read_json(f"predict RUN {args} -k 4", run, capsys)["answers"]
        assert [answer["id"] for answer in line["answers"]] == [answer["id"] for answer in one]
    assert main(["predict", str(run), "--queries", str(queries), "--out", str(out)]) == 0
    assert "answers to 3 queries" in capsys.readouterr().out
    candidates.write_text("uk\nukk\n")
    assert main(["predict", str(run), "--head", "usa", "--relation", "0", "--candidates", str(candidates)]) == 2
    assert "c.txt, line 2: no entity is named or labelled 'ukk'; nearest: 'uk'" in capsys.readouterr().err
    candidates.write_text("")
    assert main(["predict", str(run), "--head", "usa", "--relation", "0", "--candidates", str(candidates)]) == 2
    assert "c.txt: names no entity" in capsys.readouterr().err


def test_evaluate_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--macro --confidence --per relation --classification --sides head relation tail"
    found = read_json(f"evaluate RUN {options}", run, capsys)
    logged = records(run)[-1]
    for side in ("head", "tail", "both"):
        assert found["metrics"][side]["mrr"] == pytest.approx(logged[side]["mrr"])
        low, high = found["confidence"]["intervals"][side]["mrr"]
        assert low < found["metrics"][side]["mrr"] < high
    by_relation = [row["metrics"]["relation"] for row in found["by_relation"]]
    assert sum(metrics["n"] for metrics in by_relation) == found["n_triple"]
    assert found["macro"]["relation"]["mrr"] == pytest.approx(np.mean([metrics["mrr"] for metrics in by_relation]))
    assert found["classification"]["accuracy"] > 0.6
    by_category = read_json("evaluate RUN --split valid --per category", run, capsys)["by_category"]
    assert set(by_category) <= {"1-1", "1-N", "N-1", "N-N"}
    means = [
        read_json(f"evaluate RUN {options}", run, capsys)["metrics"]["both"]["mean_rank"]
        for options in ("--ties optimistic --tolerance 0.2", "--tolerance 0.2", "--ties pessimistic --tolerance 0.2")
    ]
    assert means[0] < means[1] < means[2]
    assert read_json("evaluate RUN --raw", run, capsys)["metrics"]["both"]["mrr"] < logged["both"]["mrr"]


def test_similar_and_score_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json("similar RUN --entity usa -k 13 --measure l2", run, capsys)
    assert len({row["id"] for row in found["neighbours"]}) == 13
    assert "usa" not in {row["label"] for row in found["neighbours"]}
    distances = [row["l2"] for row in found["neighbours"]]
    assert distances == sorted(distances)
    assert distances[0] > 0
    file = tmp_path / "t.tsv"
    file.write_text("usa\ttreaties\tuk\nuk\ttreaties\t0\n")
    triples = read_json(f"score RUN --triples {file} --classify --probability isotonic", run, capsys)["triples"]
    assert [row["head"] for row in triples] == ["usa", "uk"]
    assert all(row["true"] == (row["score"] >= row["threshold"]) for row in triples)
    assert all(0 <= row["probability"] <= 1 for row in triples)


def test_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What people read, and nothing of it is cut off."""
    for args, parts in (
        ("evaluate RUN --macro --confidence --per category", ["AMRI", "95% intervals", "N-N"]),
        ("evaluate RUN --classification", ["classification", "of them corrupted"]),
        ("evaluate RUN --per relation --classification", ["commonbloc2", "by relation, both sides", "threshold"]),
        ("evaluate RUN --sides tail relation --per relation", ["commonbloc2", "tails", "relations"]),
        ("similar RUN --entity usa -k 13", ["most like usa", "cosine", "uk"]),
        ("similar RUN --relation treaties --measure l1", ["most like treaties", "l1"]),
        ("score RUN --head usa --relation treaties --tail uk --classify", ["usa", "treaties", "uk", "true", "train"]),
        ("predict RUN --head usa --tail uk", ["(usa, ?, uk)", "score"]),
    ):
        assert main(args.replace("RUN", str(run)).split()) == 0
        out = capsys.readouterr().out
        assert all(part in out for part in parts), out
        assert "…" not in out


def test_labels_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"head": ["[red]a"], "relation": ["[/b]"], "tail": ["[c]"], "score": np.array([1.0])}
    show.scored(Console(), columns)
    out = capsys.readouterr().out
    assert all(part in out for part in ("[red]a", "[/b]", "[c]"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("evaluate nowhere", "nowhere: there is no such run folder"),
        ("predict RUN --relation treaties", "give two of --head, --relation and --tail"),
        ("predict RUN --relation treaties --head usa --tail uk", "give two of --head, --relation and --tail"),
        ("predict RUN --queries q.tsv", "give --queries and --out together"),
        ("predict RUN --queries q.tsv --out a.jsonl --head usa", "give either --queries, or two of"),
        ("predict RUN --queries absent.tsv --out a.jsonl", "absent.tsv: cannot be read: No such file"),
        ("predict RUN --queries absent.tsv --out a.xls", "end with one of .parquet, .jsonl, .csv, .tsv, got a.xls"),
        ("predict RUN --relation treaties --head usa --type person", "the graph has no entity types"),
        (
            "predict RUN --relation treatis --head usa",
            "no relation is named or labelled 'treatis'; nearest: 'treaties'",
        ),
        (
            "predict RUN --relation treaties --head usa --k 0",
            "k must be between 1 and the number of entities, 14, got 0",
        ),
        ("similar RUN", "give one of --entity and --relation"),
        ("similar RUN --entity usa --k 14", "k must be between 1 and the number of other entities, 13, got 14"),
        ("score RUN --head usa", "give either --head, --relation and --tail, or --triples"),
        ("score RUN --head usa --relation treaties --tail nobody", "error: no entity is named or labelled 'nobody'"),
        ("evaluate RUN --tolerance -1", "tolerance must be >= 0, got -1"),
        ("evaluate RUN --by-type", "the graph has no entity types"),
        ("predict RUN --relation treaties --head atlantis", "no entity is named or labelled 'atlantis'"),
        ("predict RUN --relation treaties --head 14", "entity 14 is out of range"),
        ("predict RUN --relation 55 --head usa", "relation 55 is out of range"),
        (
            "predict RUN --relation treaties --head usa --k 15",
            "k must be between 1 and the number of entities, 14, got 15",
        ),
    ],
)
def test_bad_questions(args: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args.replace("RUN", str(run)).split()) == 2
    assert message in capsys.readouterr().err


def test_checkpoint_of_another_model_or_graph(
    run: Path, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.toml").read_text()
    for old, new, message in (
        ("embedding_size = 16", "embedding_size = 8", "embedding_size is 8, but the checkpoint epoch-"),
        ('model = "ComplEx"', 'model = "DistMult"', "model is 'DistMult', but"),
        ("seed = 0\n", "", None),  # it is the default
        ("n_shard = 2", "n_shard = 1", None),  # rows are laid out anew
    ):
        (copy / "config.toml").write_text(config.replace(old, new))
        assert main(["evaluate", str(copy)]) == (2 if message else 0)
        assert (message or "") in capsys.readouterr().err
    graph = tmp_path / "graph"
    shutil.copytree(nations, graph)
    with gzip.open(graph / "test.txt.gz", "at") as file:
        file.write("atlantis\ttreaties\tusa\n")
    (copy / "config.toml").write_text(config)
    assert main(["evaluate", str(copy), "--dataset", str(graph)]) == 2
    assert "is of another graph: these parts differ: entities, triples/test" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints")
    assert main(["evaluate", str(copy)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
