"""The commands, as a user meets them: a whole run on a small graph, and every bad input."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.cli import report
from bess_jax.cli.main import main
from bess_jax.run.config import TrainConfig, check_settings
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder

SMALL = [
    "--n-shard",
    "2",
    "--batch-size",
    "64",
    "--n-negative",
    "16",
    "--embedding-size",
    "16",
    "--regularization",
    "0.01",
]


def train(nations: Path, run: Path, *args: str) -> int:
    return main(["train", "--dataset", str(nations), *SMALL, "--run", str(run), *args])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    """A finished run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train(nations, path, "--n-epoch", "20", "--eval-every", "10") == 0
    return path


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_run_folder_and_quality(run: Path) -> None:
    lines = records(run)
    assert [line["epoch"] for line in lines if "loss" in line] == list(range(1, 21))
    assert [line["epoch"] for line in lines if line.get("split") == "valid"] == [10]
    assert all(line["positives_per_second"] > 0 and line["waiting"] >= 0 for line in lines[1:] if "loss" in line)
    test = lines[-1]
    assert test["split"] == "test"
    assert test["both"]["mrr"] > 0.65  # ranking by frequency gives 0.55
    assert RunFolder.open(run).config().embedding_size == 16


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


def read_json(args: str, run: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """The one document that a command prints on stdout."""
    capsys.readouterr()
    assert main([*args.replace("RUN", str(run)).split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


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
    assert "c.txt names no entity" in capsys.readouterr().err


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


def test_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What people read, and nothing of it is cut off."""
    for args, parts in (
        ("evaluate RUN --macro --confidence --per category --classification", ["AMRI", "95% intervals", "N-N", "half"]),
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
    report.scored(Console(), columns)
    out = capsys.readouterr().out
    assert all(part in out for part in ("[red]a", "[/b]", "[c]"))


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


def test_a_continued_run_is_the_same_run(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight, halves = tmp_path / "straight", tmp_path / "halves"
    assert train(nations, straight, "--n-epoch", "4") == 0
    assert "% of the time" in capsys.readouterr().out.replace("\n", " ")
    assert train(nations, halves, "--n-epoch", "2") == 0
    assert main(["train", "--resume", str(halves), "--n-epoch", "4", "--n-device", "1"]) == 0
    states = []
    for path in (straight, halves):
        folder = RunFolder.open(path)
        experiment = Experiment.create(folder.config())
        n_call, state = folder.restore(experiment.placement.shapes(experiment.shapes)._asdict(), experiment.dataset)
        assert n_call == 4 * experiment.sampler.calls_per_epoch
        states.append(state)
    for a, b in zip(*(jax.tree_util.tree_leaves(state) for state in states), strict=True):
        np.testing.assert_allclose(a, b, **ACCUMULATED)
    assert main(["train", "--resume", str(halves), "--learning-rate", "3"]) == 2
    assert "learning_rate cannot change when a run is continued" in capsys.readouterr().err


def test_ctrl_c_saves_a_checkpoint(tmp_path: Path, nations: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "bess_jax", "train", "--dataset", str(nations), *SMALL, "--run", str(run)]
    process = subprocess.Popen([*command, "--n-epoch", "100000"], stdout=subprocess.PIPE, text=True)
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out
    assert main(["evaluate", str(run)]) == 0


def test_toml_file(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('n_epoch = 1\nlearning_rate = 0.05\nmodel = "DistMult"\naugment_negative = false\n')
    assert train(nations, tmp_path / "run", "--config", str(file), "--learning-rate", "0.2") == 0
    config = RunFolder.open(tmp_path / "run").config()
    assert (config.n_epoch, config.learning_rate, config.model) == (1, 0.2, "DistMult")
    assert not config.augment_negative
    for text, message in (
        ("lerning_rate = 1.0", "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
        ("n_epoch = 1.5", "n_epoch must be of type int, got 1.5"),
        ('augment_negative = "no"', "augment_negative must be of type bool, got 'no'"),
        ("n_epoch = ", "not a TOML file"),
    ):
        file.write_text(text)
        assert train(nations, tmp_path / "none", "--config", str(file)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert str(file) in error
    assert train(nations, tmp_path / "none", "--config", str(tmp_path / "absent.toml")) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--batch-size 3", "batch_size must be a positive multiple of 4 (n_shard^2, the shard pairs), got 3"),
        ("--corruption ht --batch-size 4", "batch_size must be a positive multiple of 8 (2 n_shard^2), got 4"),
        ("--n-negative 15", "n_negative must be a positive multiple of 2 (n_shard), got 15"),
        ("--n-device 3", "n_device must be a divisor of n_shard = 2, got 3"),
        ("--mapping vmap --n-device 2", "n_device must be 1 under mapping vmap, got 2"),
        ("--share-negatives False", "augment_negative=True needs share_negatives=True"),
        ("--n-epoch 0", "n_epoch must be >= 1, got 0"),
        ("--learning-rate nan", "learning_rate must be > 0 and finite, got nan"),
        ("--seed -1", "seed must be >= 0, got -1"),
        ("--dataset nowhere", "nowhere' is neither a shipped graph nor a folder"),
        ("--resume nowhere", "there is no run folder nowhere"),
    ],
)
def test_bad_settings(
    args: str, message: str, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(nations, tmp_path / "run", *args.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_more_shards_than_entities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(graph(tmp_path / "g"), tmp_path / "run", *["--n-shard", "4"]) == 2
    assert "n_shard must be at most the number of entities, 3, got 4" in capsys.readouterr().err


def test_bad_option_and_model() -> None:
    for args in ("--lerning-rate 3", "--model Nope", "--n-epoch 1.5"):
        with pytest.raises(SystemExit) as stop:
            main(["train", *args.split()])
        assert stop.value.code == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("evaluate nowhere", "there is no run folder nowhere"),
        ("predict RUN --relation treaties", "give two of --head, --relation and --tail"),
        ("predict RUN --relation treaties --head usa --tail uk", "give two of --head, --relation and --tail"),
        ("predict RUN --queries q.tsv", "give --queries and --out together"),
        ("predict RUN --queries q.tsv --out a.jsonl --head usa", "give either --queries, or two of"),
        ("predict RUN --queries absent.tsv --out a.jsonl", "there is no file absent.tsv"),
        ("predict RUN --queries absent.tsv --out a.csv", "out must end with .parquet or .jsonl, got a.csv"),
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


def test_existing_run_folder_is_not_touched(run: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train(nations, run) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_checkpoint_of_another_model_or_graph(
    run: Path, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.toml").read_text()
    for old, new, message in (
        ("embedding_size = 16", "embedding_size = 8", "is of another model: ['params'].entity is float32[2, 7, 32]"),
        ('model = "ComplEx"', 'model = "DistMult"', "is of another model"),
        ("n_shard = 2", "n_shard = 1", "is of another model"),
    ):
        (copy / "config.toml").write_text(config.replace(old, new))
        assert main(["evaluate", str(copy)]) == 2
        assert message in capsys.readouterr().err
    graph = tmp_path / "graph"
    shutil.copytree(nations, graph)
    with gzip.open(graph / "test.txt.gz", "at") as file:
        file.write("atlantis\ttreaties\tusa\n")
    (copy / "config.toml").write_text(config.replace(str(nations.resolve()), str(graph)))
    assert main(["evaluate", str(copy)]) == 2
    assert "is of another graph" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints")
    (copy / "config.toml").write_text(config)
    assert main(["evaluate", str(copy)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_diverging_run_ends_with_a_message(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(nations, tmp_path / "run", "--optimizer", "sgd", "--learning-rate", "1e30") == 1
    assert "lower learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["softmax", "logsigmoid", "margin"])
@pytest.mark.parametrize("corruption", ["h", "ht"])
def test_other_settings_train(tmp_path: Path, nations: Path, loss: str, corruption: str) -> None:
    args = f"--model TransE --loss {loss} --corruption {corruption} --inverse-relations False --n-epoch 1".split()
    assert train(nations, tmp_path / "run", *args, "--init-scale", "0.1", "--regularization", "0") == 0


def test_row_adagrad_trains(tmp_path: Path, nations: Path) -> None:
    assert train(nations, tmp_path / "run", "--optimizer", "row_adagrad", "--n-epoch", "5") == 0
    losses = [line["loss"] for line in records(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


# --- files ------------------------------------------------------------------------------------------------------------


def graph(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in ({"train": "a\tr\tb\nb\tr\tc\n", "valid": "a\tr\tc\n", "test": "c\ts\ta\n"} | files).items():
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
        ({"test": ""}, "test.tsv holds no triple"),
        ({"labels": "a\n"}, "labels.tsv, line 1: expected 2"),
    ],
)
def test_malformed_files(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=r"line|holds no") as error:
        bj.load_dataset(graph(tmp_path / "g", **files))
    assert message in str(error.value)


def test_missing_split_and_bad_encodings(tmp_path: Path) -> None:
    folder = graph(tmp_path / "g")
    (folder / "valid.tsv").unlink()
    with pytest.raises(ValueError, match=r"has no file valid\.txt or valid\.tsv"):
        bj.load_dataset(folder)
    (folder / "valid.tsv").write_bytes(b"a\tr\tb\n\xff\tr\tb\n")
    with pytest.raises(ValueError, match="not readable as UTF-8"):
        bj.load_dataset(folder)
    (folder / "valid.tsv").unlink()
    (folder / "valid.tsv.gz").write_bytes(b"plain text")
    with pytest.raises(ValueError, match=r"valid\.tsv\.gz, after line 0: not readable"):
        bj.load_dataset(folder)


def test_ambiguous_label(tmp_path: Path) -> None:
    dataset = bj.load_dataset(graph(tmp_path / "g", labels="a\tSmith\nb\tSmith\n"))
    with pytest.raises(ValueError, match="'Smith' is not unique: give one of the names a, b"):
        dataset.find_entity("Smith")


def test_shipped_graph_has_the_published_counts() -> None:
    dataset = bj.load_dataset("wn18rr")
    assert (dataset.n_entity, dataset.n_relation_type) == (40_943, 11)
    assert [len(dataset.triples[split]) for split in ("train", "valid", "test")] == [86_835, 3_034, 3_134]


def test_config_round_trip() -> None:
    config = TrainConfig(n_device=2)
    assert TrainConfig.from_dict(config.to_dict(), "here") == config
    check_settings(config.to_dict(), "here")


def test_functional_loop_runs_and_is_the_one_in_the_readme() -> None:
    root = Path(__file__).parents[2]
    code = (root / "examples" / "functional_loop.py").read_text()
    assert code.split('"""', 2)[2].strip() in (root / "README.md").read_text()
    program = code.replace("range(3)", "range(1)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) > 0.1
