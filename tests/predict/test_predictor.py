"""Questions to a model, in names, against scores of all entities written out in float64."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared.trained import N_ENTITY, N_RELATION, SIDES, Trained, full_sort

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.cli.main import main
from bess_jax.predict.names import make_query, read_queries
from bess_jax.run.about import About, Point
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder
from bess_jax.run.state import kinds_of_state, parts_of


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SIDES),
    st.integers(0, 79),
    st.sampled_from([1, 3, 4]),
    st.booleans(),
    st.sampled_from([None, "type", "listed"]),
)
def test_answers_equal_a_full_sort(
    world: Trained, side: str, number: int, k: int, new_only: bool, among: str | None
) -> None:
    triple = world.predictor.dataset.triples["test"][number % 66].tolist()
    options: dict[str, Any] = {}
    allowed: Any = None
    if side != "relation" and among == "type":
        options["type"], allowed = "place", range(20, 30)
    elif side != "relation" and among == "listed":
        options["candidates"], allowed = ["Anna", "e5", 7, "8", 36], [0, 5, 7, 8, 36]
    given_names = {name: i for name, i in zip(SIDES, triple, strict=True) if name != side}
    found = world.predictor.top_k(**given_names, k=k, new_only=new_only, **options)
    expected = full_sort(world, side, triple, k, allowed, new_only)
    assert found.columns["id"].tolist() == expected
    np.testing.assert_allclose(found.columns["score"], world.of(side, triple)[expected], rtol=1e-4, atol=1e-5)


def test_rows_of_answers(world: Trained) -> None:
    """Lists of names ask several queries; labels, places and splits come out."""
    dataset = world.predictor.dataset
    found = world.predictor.top_k(head=["Anna", "e5", 7], relation="r1", k=3)
    names = ["query", "place", "head", "relation", "tail", "score", "splits", "id", "name"]
    assert list(found.columns) == names
    records = found.records()
    assert [row["query"] for row in records] == [0] * 3 + [1] * 3 + [2] * 3
    assert [row["place"] for row in records] == [1, 2, 3] * 3
    assert [row["head"] for row in records] == ["Anna"] * 3 + ["e5"] * 3 + ["e7"] * 3
    for row in records:
        head = dataset.find_entity(row["head"])
        assert row["relation"] == "r1"
        assert row["id"] in full_sort(world, "tail", [head, 1, 0], 3)
        assert row["tail"] == dataset.entity_label(row["id"])
        assert row["name"] == dataset.entity_dict[row["id"]]
        held = [split for split, triples in dataset.triples.items() if [head, 1, row["id"]] in triples.tolist()]
        assert row["splits"] == ",".join(held)
    calibrated = world.predictor.top_k(0, 0, k=2, probability="platt")
    assert list(calibrated.columns) == [*names[:6], "probability", *names[6:]]


def test_answers_to_mixed_queries(world: Trained) -> None:
    """Queries of all sides at once have the answers that each has alone; a record for each query, of JSON values."""
    rows = [("Anna", "r1", None), (None, "r0", "e5"), ("e3", None, 7), ("e5", "r1", None)]
    found = world.predictor.answer(read_queries(world.predictor.dataset, rows), 3)
    by_query = found.by_query()
    assert [(r["head"], r["relation"], r["tail"]) for r in by_query] == [
        ("Anna", "r1", None),
        (None, "r0", "e5"),
        ("Smith", None, "e7"),
        ("e5", "r1", None),
    ]
    for number, (row, record) in enumerate(zip(rows, by_query, strict=True)):
        alone = world.predictor.top_k(**dict(zip(SIDES, row, strict=True)), k=3).columns
        here = [r for r in found.records() if r["query"] == number]
        asked = SIDES[row.index(None)]
        for rows_of_query in (record["answers"], here):
            assert [answer["id"] for answer in rows_of_query] == alone["id"].tolist()
            np.testing.assert_allclose([answer["score"] for answer in rows_of_query], alone["score"], rtol=1e-6)
        assert [answer["label"] for answer in record["answers"]] == alone[asked]
    json.dumps(by_query)


def test_no_answer_left_is_an_empty_answer(world: Trained) -> None:
    nothing = world.predictor.top_k(head=1, relation=1, new_only=True)
    assert len(nothing) == 0
    assert "score" in nothing.columns
    query = make_query(world.predictor.dataset, [1, 2], 1, None)
    first, second = world.predictor.answer(query, 4, new_only=True, probability=None).by_query()
    assert first == {"head": "Ben", "relation": "r1", "tail": None, "answers": []}
    assert len(second["answers"]) == 4
    few = world.predictor.top_k(head=5, relation=1, k=10, candidates=[3, 4])
    assert sorted(few.columns["id"]) == [3, 4]
    assert len(world.predictor.top_k(head=[], relation=1)) == 0


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"head": "Anna", "relation": "r0", "tail": "Ben"}, "exactly one of .* must be missing.*; missing: none"),
        ({"head": "Anna"}, "exactly one of .* must be missing.*; missing: relation, tail"),
        ({"head": "Ana", "relation": "r0"}, "no entity is named or labelled 'Ana'; nearest: 'Anna'"),
        ({"head": "Anna", "relation": "R9"}, "no relation is named or labelled 'R9'$"),
        ({"head": "Smith", "relation": 0}, "'Smith' is not unique: give one of the names 'e2', 'e3'"),
        ({"head": 37, "relation": 0}, "entity 37 is out of range"),
        ({"head": -1, "relation": 0}, "entity -1 is out of range"),
        ({"head": 0, "relation": "4"}, "relation 4 is out of range: .*ids go from 0 to 3"),
        ({"head": 0, "relation": 0, "k": 38}, "k must be between 1 and the number of entities, 37, got 38"),
        ({"head": 0, "tail": 0, "k": 5}, "k must be between 1 and the number of relations, 4, got 5"),
        ({"head": 0, "relation": 0, "k": 0}, "k must be between 1 .* got 0"),
        ({"head": 0, "relation": 0, "candidates": []}, "candidates must be a list of at least one entity"),
        ({"head": 0, "tail": 0, "k": 2, "candidates": [1]}, "leave them out where relations are requested"),
        ({"head": 0, "relation": 0, "candidates": [1], "type": "place"}, "one of candidates and type, got both"),
        ({"head": 0, "relation": 0, "type": "plase"}, "no entity type is named 'plase'; nearest: 'place'"),
        ({"head": [0, 1, 2], "relation": [0, 1]}, "of one length, got 3 of head, 2 of relation"),
        ({"head": 0, "relation": 0, "probability": "plat"}, "probability must be one of 'platt', 'isotonic'"),
    ],
)
def test_bad_questions(world: Trained, question: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.predictor.top_k(**question)


def test_a_graph_without_types(world: Trained) -> None:
    predictor = dataclasses.replace(
        world.predictor, dataset=dataclasses.replace(world.predictor.dataset, type_offsets=None)
    )
    for ask in (lambda: predictor.top_k(0, 0, type="place"), lambda: predictor.ranks(by_type=True)):
        with pytest.raises(ValueError, match="the graph has no entity types"):
            ask()


def test_frames_are_all_that_needs_pandas(world: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    predictor = world.predictor
    for found in (
        predictor.top_k(head="Anna", relation="r0", k=3),
        predictor.score("test"),
        predictor.classify("test"),
        predictor.similar(entity="Anna", k=3),
    ):
        assert len(found.records()) == len(found) >= 3
        assert repr(found)
        with pytest.raises(MissingExtraError, match=r"needs the package pandas: pip install 'bess_jax\[frames\]'"):
            found.frame()
    with pytest.raises(MissingExtraError, match="writing parquet needs the package pyarrow"):
        predictor.write_answers([(0, 0, None)], tmp_path / "x.parquet")


def test_what_is_shown_fits_a_screen(world: Trained) -> None:
    """Of a graph, a model and tables of any size, with what one wants to know first."""
    predictor = world.predictor
    found = predictor.top_k(head=list(range(N_ENTITY)), relation=0, k=30, probability="platt")
    for shown, parts in (
        (predictor, ("37 entities", "4 relations", "ComplEx", "3 shards")),
        (predictor.ranker, ("ComplEx", "3 shards on 3 devices", "chunk=8")),
        (predictor.classifier, ("ComplEx", "seed=0")),
        (predictor.ranks("test"), ("68 triples", "head 0.", "tail 0.")),
        (bj.KnownAnswers(predictor.dataset.all_triples(), N_RELATION), ("365 triples",)),
        (bj.Neighbours.of_entities(predictor.ranker, predictor.params), ("entity", "Similarity")),
        (found, ("query", "probability", "Anna", "1,110 rows")),
        (predictor.similar(entity=[0, 1, 2], k=30), ("cosine", "e1", "90 rows")),
    ):
        text = repr(shown)
        assert len(text) < 2000
        assert len(text.splitlines()) < 16
        assert max(map(len, text.splitlines())) <= 200
        assert all(part in text for part in parts), text


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", ["filtered", "train only", "raw", "type", "listed"])
def test_ranks_equal_counting(world: Trained, side: Any, form: str) -> None:
    dataset, column = world.predictor.dataset, SIDES.index(side)
    triples = dataset.triples["test"][:30]
    options: dict[str, Any] = {
        "train only": {"filter": ["train"]},
        "raw": {"filter": ()},
        "type": {"by_type": True},
    }.get(form, {})
    if form == "listed":
        options = {"candidates": ["Anna", 5, 7, 8, 30, 31]}
    left_out = {"raw": [], "train only": dataset.triples["train"].tolist()}.get(form, dataset.all_triples().tolist())
    found = world.predictor.ranks(triples, [side], **options)
    bounds = [0, 20, 30, N_ENTITY]
    for triple, rank in zip(triples.tolist(), found.rank(side), strict=True):
        score, answer = world.of(side, triple), triple[column]
        rivals = [i for i in range(len(score)) if [*triple[:column], i, *triple[column + 1 :]] not in left_out]
        if side != "relation" and form == "type":
            rivals = [
                i for i in rivals if np.searchsorted(bounds, i, "right") == np.searchsorted(bounds, answer, "right")
            ]
        if side != "relation" and form == "listed":
            rivals = [i for i in rivals if i in (0, 5, 7, 8, 30, 31)]
        assert rank == 1 + sum(score[i] > score[answer] for i in rivals if i != answer)


def test_bad_ranks(world: Trained) -> None:
    with pytest.raises(ValueError, match="give one of candidates, by_type and listed, got several"):
        world.predictor.ranks(by_type=True, candidates=[1])
    with pytest.raises(ValueError, match="split must be one of"):
        world.predictor.ranks(filter=["nothing"])


# --- run folders ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    options = "--n-shard 2 --batch-size 64 --n-negative 16 --embedding-size 8 --n-epoch 3 --eval-every 0"
    assert main(["train", "--dataset", str(nations), "--run", str(path), *options.split()]) == 0
    return path


def test_load(run: Path) -> None:
    predictor = bj.Predictor.load(run)
    assert len(predictor.ranker.placement.devices) == 2
    alone = bj.Predictor.load(str(run), n_device=1, platform="cpu")
    assert len(alone.ranker.placement.devices) == 1
    for one, other in zip(predictor.score("test").records(), alone.score("test").records(), strict=True):
        assert one["head"] == other["head"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-5)
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert predictor.ranks("test").metrics()["both"]["mrr"] == pytest.approx(logged["both"]["mrr"])
    with pytest.raises(ValueError, match="there is no such run folder"):
        bj.Predictor.load(run / "nothing")


def test_load_of_a_model_with_a_network(tmp_path: Path, nations: Path) -> None:
    """Its running statistics come along."""
    config = TrainConfig(dataset=str(nations), model="ConvE", embedding_size=64, n_shard=2, init_scale=0)
    experiment, folder = Experiment.create(config), RunFolder(tmp_path / "run")
    state = experiment.init()
    statistics = jax.tree_util.tree_map(lambda x: x + 0.5, state.score_state.statistics)
    state = state._replace(score_state=state.score_state._replace(statistics=statistics))
    with folder.locked():
        folder.begin(config, experiment.dataset)
    about = About(Point(0, 0, 1), config.to_dict(), experiment.dataset.digest())
    kinds = kinds_of_state(experiment.rule, experiment.shapes)
    folder.checkpoints.write(about, parts_of(experiment.placement.get_local(state), kinds), range(2))
    test = experiment.dataset.triples["test"]
    score = experiment.ranker.score(state.inference_params, test)
    np.testing.assert_allclose(bj.Predictor.load(folder.path).classifier.scores(test), score, rtol=1e-5, atol=1e-6)
    unchanged = state.params._replace(score_state=experiment.init().score_state.statistics)
    assert np.abs(experiment.ranker.score(unchanged, test) - score).max() > 1e-2


def test_calibrations_stay_in_the_run_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = bj.Predictor.load(run)
    first = predictor.score("test", probability="platt").columns["probability"]
    content = json.loads((run / "calibration.json").read_text())["content"]
    assert set(content["fitted"]) == {"platt"}
    assert content["made_of"] == {"checkpoint": predictor.checkpoint, "seed": 0}
    for module in ("sklearn", "sklearn.linear_model"):  # the numbers are enough
        monkeypatch.setitem(sys.modules, module, None)
    again = bj.Predictor.load(run)
    np.testing.assert_allclose(again.score("test", probability="platt").columns["probability"], first)
    again.classify("test")  # needs no other library
    assert set(json.loads((run / "calibration.json").read_text())["content"]["fitted"]) == {"platt", "thresholds"}
    with pytest.raises(MissingExtraError):  # numbers of another checkpoint do not count
        dataclasses.replace(again, checkpoint="another").score("test", probability="platt")


def test_as_many_answers_as_there_are(world: Trained) -> None:
    """Without `k` ten, or all: of relations there are four."""
    predictor = world.predictor
    assert len(predictor.top_k(head=0, tail=1)) == N_RELATION
    assert len(predictor.top_k(head=0, relation=1)) == 10
    assert len(predictor.similar(relation=0)) == N_RELATION - 1
    mixed = read_queries(predictor.dataset, [("e0", "?", "e1"), ("e0", "r1", "?")])
    table = predictor.answer(mixed)
    assert [list(table.columns["query"]).count(i) for i in (0, 1)] == [N_RELATION, 10]
    with pytest.raises(ValueError, match="k must be between 1 and the number of relations, 4, got 10"):
        predictor.top_k(head=0, tail=1, k=10)
