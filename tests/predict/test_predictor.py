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

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.ask.ranker import NonFiniteScoreError
from bess_jax.cli.main import main
from bess_jax.data.dataset import near_spellings
from bess_jax.predict import predictor as predictor_module
from bess_jax.predict.classifier import Judge
from bess_jax.predict.names import make_query, read_queries, triple_ids
from bess_jax.predict.table import is_among, rows
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder

N_ENTITY, N_RELATION, D = 37, 4, 4
SIDES = ("head", "relation", "tail")


def make_dataset() -> bj.KGDataset:
    rng = np.random.default_rng(0)
    triples = np.unique(rng.integers([N_ENTITY, N_RELATION, N_ENTITY], size=(340, 3)), axis=0).astype(np.int32)
    triples = rng.permutation(triples)
    fan = np.array([[1, 1, t] for t in range(N_ENTITY)], np.int32)  # every entity is a known answer to (1, 1, ?)
    return bj.KGDataset(
        n_entity=N_ENTITY,
        n_relation_type=N_RELATION,
        triples={"train": np.concatenate([triples[:200], fan]), "valid": triples[200:260], "test": triples[260:]},
        entity_dict=tuple(f"e{i}" for i in range(N_ENTITY)),
        relation_dict=tuple(f"r{i}" for i in range(N_RELATION)),
        entity_labels={"e0": "Anna", "e1": "Ben", "e2": "Smith", "e3": "Smith", "e9": "[odd] label"},
        type_offsets={"person": 0, "place": 20, "thing": 30},
    )


@dataclasses.dataclass
class World:
    """A random ComplEx model and the scores of all triples: forward, and of heads as the inverse relation has them."""

    predictor: bj.Predictor
    score: np.ndarray  # (n_entity, n_relation, n_entity) float64
    head_score: np.ndarray

    def of(self, side: str, triple: list[int]) -> np.ndarray:
        head, relation, tail = triple
        if side == "head":
            return self.head_score[:, relation, tail]
        return self.score[head, :, tail] if side == "relation" else self.score[head, relation]


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(1)
    dataset = make_dataset()
    sharding = bj.Sharding.create(N_ENTITY, 3, seed=4)
    score_fn = bj.ComplEx(
        negative_sample_sharing=False,
        sharding=sharding,
        n_relation_type=N_RELATION,
        embedding_size=D,
        inverse_relations=True,
    )
    entity = rng.normal(size=(N_ENTITY, 2 * D)).astype(np.float32)
    relation = rng.normal(size=(2 * N_RELATION, 2 * D)).astype(np.float32)
    placement = bj.Placement.create(3)
    params = bj.Params(
        bj.shard_table(entity, sharding), {"relation_embedding": np.broadcast_to(relation, (3, *relation.shape))}
    )
    ranker = bj.Ranker(score_fn=score_fn, placement=placement, chunk=8)
    e, r = (x[:, :D].astype(np.complex128) + 1j * x[:, D:] for x in (entity, relation))
    score = np.einsum("hd,rd,td->hrt", e, r[:N_RELATION], e.conj()).real
    head_score = np.einsum("td,rd,hd->hrt", e, r[N_RELATION:], e.conj()).real
    return World(bj.Predictor(dataset=dataset, ranker=ranker, params=placement.put(params)), score, head_score)


def full_sort(world: World, side: str, triple: list[int], k: int, allowed: Any = None, new: bool = False) -> list[int]:
    """The best answers by sorting all of them."""
    score, column = world.of(side, triple), SIDES.index(side)
    answers = []
    truth = {tuple(row) for row in world.predictor.dataset.all_triples().tolist()}
    for answer in range(len(score)):
        row = [*triple[:column], answer, *triple[column + 1 :]]
        if (allowed is None or answer in allowed) and not (new and tuple(row) in truth):
            answers.append(answer)
    return sorted(answers, key=lambda i: (-score[i], i))[:k]


# --- answers ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SIDES),
    st.integers(0, 79),
    st.sampled_from([1, 3, 4]),
    st.booleans(),
    st.sampled_from([None, "type", "listed"]),
)
def test_answers_equal_a_full_sort(
    world: World, side: str, number: int, k: int, new_only: bool, among: str | None
) -> None:
    triple = world.predictor.dataset.triples["test"][number % 66].tolist()
    options: dict[str, Any] = {}
    allowed: Any = None
    if side != "relation" and among == "type":
        options["type"], allowed = "place", range(20, 30)
    elif side != "relation" and among == "listed":
        options["candidates"], allowed = ["Anna", "e5", 7, "8", 36], [0, 5, 7, 8, 36]
    given_names = {name: i for name, i in zip(SIDES, triple, strict=True) if name != side}
    frame = world.predictor.topk(**given_names, k=k, new_only=new_only, **options)
    expected = full_sort(world, side, triple, k, allowed, new_only)
    assert frame["id"].tolist() == expected
    np.testing.assert_allclose(frame["score"], world.of(side, triple)[expected], rtol=1e-4, atol=1e-5)


def test_columns_and_records(world: World) -> None:
    """Lists of names, labels out, places, splits; and the same as plain records."""
    dataset = world.predictor.dataset
    frame = world.predictor.topk(head=["Anna", "e5", 7], relation="r1", k=3)
    assert list(frame) == ["query", "place", "head", "relation", "tail", "score", "splits", "id", "name"]
    assert frame["query"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert frame["place"].tolist() == [1, 2, 3] * 3
    assert frame["head"].tolist() == ["Anna"] * 3 + ["e5"] * 3 + ["e7"] * 3
    assert set(frame["relation"]) == {"r1"}
    for row in frame.to_dict("records"):
        head = dataset.find_entity(row["head"])
        assert row["id"] in full_sort(world, "tail", [head, 1, 0], 3)
        assert row["tail"] == dataset.entity_label(row["id"])
        assert row["name"] == dataset.entity_dict[row["id"]]
        held = [split for split, triples in dataset.triples.items() if [head, 1, row["id"]] in triples.tolist()]
        assert row["splits"] == ",".join(held)
    records = world.predictor.answers(make_query(dataset, ["Anna", "e5", 7], "r1", None), 3).records()
    assert [(r["head"], r["relation"], r["tail"]) for r in records] == [
        ("Anna", "r1", None),
        ("e5", "r1", None),
        ("e7", "r1", None),
    ]
    flat = [answer for record in records for answer in record["answers"]]
    assert [answer["label"] for answer in flat] == frame["tail"].tolist()
    assert [answer["score"] for answer in flat] == frame["score"].tolist()
    json.dumps(records)


def test_no_answer_left_is_an_empty_answer(world: World) -> None:
    frame = world.predictor.topk(head=1, relation=1, new_only=True)
    assert len(frame) == 0
    assert "score" in frame
    query = make_query(world.predictor.dataset, [1, 2], 1, None)
    first, second = world.predictor.answers(query, 4, new_only=True, probability=None).records()
    assert first == {"head": "Ben", "relation": "r1", "tail": None, "answers": []}
    assert len(second["answers"]) == 4
    few = world.predictor.topk(head=5, relation=1, k=10, candidates=[3, 4])
    assert sorted(few["id"]) == [3, 4]
    assert len(world.predictor.topk(head=[], relation=1)) == 0


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"head": "Anna", "relation": "r0", "tail": "Ben"}, "exactly one of .* must be missing.*; missing: none"),
        ({"head": "Anna"}, "exactly one of .* must be missing.*; missing: relation, tail"),
        ({"head": "Ana", "relation": "r0"}, "no entity is named or labelled 'Ana'; nearest: 'Anna'"),
        ({"head": "Anna", "relation": "R9"}, "no relation is named or labelled 'R9'$"),
        ({"head": "Smith", "relation": 0}, "'Smith' is not unique: give one of the names e2, e3"),
        ({"head": 37, "relation": 0}, "entity 37 is out of range"),
        ({"head": -1, "relation": 0}, "entity -1 is out of range"),
        ({"head": 0, "relation": "4"}, "relation 4 is out of range: .*ids go from 0 to 3"),
        ({"head": 0, "relation": 0, "k": 38}, "k must be between 1 and the number of entities, 37, got 38"),
        ({"head": 0, "tail": 0, "k": 5}, "k must be between 1 and the number of relations, 4, got 5"),
        ({"head": 0, "relation": 0, "k": 0}, "k must be between 1 .* got 0"),
        ({"head": 0, "relation": 0, "candidates": []}, "candidates must be a list of at least one entity"),
        ({"head": 0, "tail": 0, "k": 2, "candidates": [1]}, "leave them away where relations are asked for"),
        ({"head": 0, "relation": 0, "candidates": [1], "type": "place"}, "one of candidates and type, got both"),
        ({"head": 0, "relation": 0, "type": "plase"}, "no entity type is named 'plase'; nearest: 'place'"),
        ({"head": [0, 1, 2], "relation": [0, 1]}, "of one length, got 3 of head, 2 of relation"),
        ({"head": 0, "relation": 0, "probability": "plat"}, "probability must be one of 'platt', 'isotonic'"),
    ],
)
def test_bad_questions(world: World, question: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.predictor.topk(**question)


def test_a_graph_without_types(world: World) -> None:
    predictor = dataclasses.replace(
        world.predictor, dataset=dataclasses.replace(world.predictor.dataset, type_offsets=None)
    )
    for ask in (lambda: predictor.topk(0, 0, type="place"), lambda: predictor.rank(by_type=True)):
        with pytest.raises(ValueError, match="the graph has no entity types"):
            ask()


def test_frames_are_all_that_needs_pandas(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    query = make_query(world.predictor.dataset, "Anna", "r0", None)
    assert len(world.predictor.answers(query, 3).records()[0]["answers"]) == 3
    world.predictor.scored("test")
    world.predictor.neighbours(entity="Anna", k=2)
    with pytest.raises(MissingExtraError, match=r"needs the package pandas: pip install 'bess_jax\[frames\]'"):
        world.predictor.topk(0, 0)
    with pytest.raises(MissingExtraError, match="writing parquet needs the package pyarrow"):
        world.predictor.predict([(0, 0, None)], tmp_path / "x.parquet")


# --- names ------------------------------------------------------------------------------------------------------------


def test_near_spellings() -> None:
    assert near_spellings("DGO", ["dog", "god", "zebra"])[0] in ("dog", "god")
    assert near_spellings("xyz", ["dog"]) == []
    many = [f"name_{i}" for i in range(120_000)]  # too many to compare with each
    assert near_spellings("name_77x77", many)[0].startswith("name_77")
    assert near_spellings("nmae_77", [*many, "other"])[0] == "name_77"
    assert near_spellings("Name_1199999", many)[0] == "name_119999"


def test_triples_in_all_forms(world: World, tmp_path: Path) -> None:
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
        (tmp_path / "absent.tsv", "there is no file .*absent.tsv"),
        ([("e1", "r1", "e2"), ("e1", "r1")], r"row 1: a triple is \(head, relation, tail\), got"),
        (ids[:, :2], "triples must have shape"),
        (ids + 37, r"triples\[0, 0\] is .*, but entity ids go from 0 to 36"),
    ):
        with pytest.raises(ValueError, match=message):
            triple_ids(dataset, bad)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_is_among(seed: int) -> None:
    rng = np.random.default_rng(seed)
    some, others = (rng.integers([3, 2, 4], size=(rng.integers(12), 3)).astype(np.int32) for _ in range(2))
    expected = [row in others.tolist() for row in some.tolist()]
    assert is_among(some, others).tolist() == expected


# --- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", ["filtered", "train only", "raw", "type", "listed"])
def test_ranks_equal_counting(world: World, side: Any, form: str) -> None:
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
    found = world.predictor.rank(triples, [side], **options)
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


def test_bad_ranks(world: World) -> None:
    with pytest.raises(ValueError, match="one of candidates and by_type, got both"):
        world.predictor.rank(by_type=True, candidates=[1])
    with pytest.raises(ValueError, match="split must be one of"):
        world.predictor.rank(filter=["nothing"])


# --- scores, probabilities, classes -----------------------------------------------------------------------------------


def test_scores_and_probabilities_are_those_of_triples(world: World) -> None:
    """A triple has one probability, whichever side is asked for: that of its own score."""
    predictor = world.predictor
    ids = predictor.dataset.triples["test"]
    frame = predictor.score("test", probability="platt")
    expected = world.score[tuple(ids.T)]
    np.testing.assert_allclose(frame["score"], expected, rtol=1e-4, atol=1e-5)
    assert set(frame["splits"]) <= {"test", "train,test"}
    platt = predictor.judge.calibration("platt")
    np.testing.assert_allclose(frame["probability"], platt(expected), atol=1e-5)
    for question in ({"head": 4, "relation": 2}, {"relation": 2, "tail": 4}, {"head": 4, "tail": 8}):
        answers = predictor.topk(**question, k=3, probability="platt", new_only=True)
        labels = answers[["head", "relation", "tail"]].replace("Smith", "e2")  # that of two entities: looked up by id
        triples = triple_ids(predictor.dataset, labels)
        asked = next(column for column, name in enumerate(SIDES) if name not in question)
        triples[:, asked] = answers["id"]
        np.testing.assert_allclose(answers["probability"], platt(world.score[tuple(triples.T)]), atol=1e-5)


def test_classification_equals_counting(world: World) -> None:
    predictor = world.predictor
    judge = Judge(dataset=predictor.dataset, ranker=predictor.ranker, params=predictor.params, seed=5)
    labelled = judge.labelled("test")
    n = len(labelled.true) // 2
    assert labelled.true.tolist() == [True] * n + [False] * n
    found = judge.accuracy("test")
    right = (labelled.score >= judge.thresholds.of(labelled.relation)) == labelled.true
    assert found["accuracy"] == pytest.approx(right.mean())
    assert sum(row["n"] for row in found["by_relation"]) == found["n"] == 2 * n
    for row in found["by_relation"]:
        assert row["accuracy"] == pytest.approx(right[labelled.relation == row["id"]].mean())
    assert judge.accuracy("valid")["accuracy"] >= 0.5  # thresholds are the best ones there
    frame = predictor.classify("valid")
    assert (frame["true"] == (frame["score"] >= frame["threshold"])).all()


def test_false_triples_of_a_split_are_false_and_its_own(world: World) -> None:
    judge, truth = world.predictor.judge, world.predictor.dataset.all_triples()
    made = {}

    class Seen:
        def score(self, params: Any, triples: np.ndarray) -> np.ndarray:
            made[len(made)] = triples
            return np.zeros(len(triples), np.float32)

    spy = dataclasses.replace(judge, ranker=Seen())
    for split in ("valid", "test", "test"):
        spy.labelled(split)
    for number, split in ((0, "valid"), (1, "test")):
        n = len(made[number]) // 2
        assert is_among(made[number][:n], world.predictor.dataset.triples[split]).all()
        assert not is_among(made[number][n:], truth).any()
    np.testing.assert_array_equal(made[1], made[2])


def test_a_diverged_model_is_refused(world: World) -> None:
    broken = dataclasses.replace(
        world.predictor, params=world.predictor.params._replace(entity=world.predictor.params.entity * np.nan)
    )
    for ask in (lambda: broken.score("test"), lambda: broken.rank()):
        with pytest.raises(NonFiniteScoreError, match="not finite"):
            ask()


# --- many queries -----------------------------------------------------------------------------------------------------


def mixed_queries(dataset: bj.KGDataset, n: int) -> list[tuple[str, ...]]:
    """Queries of all sides, one after the other."""
    found = []
    for number, (h, r, t) in enumerate(dataset.triples["test"][:n].tolist()):
        row = [f"e{h}", f"r{r}", f"e{t}"]
        row[number % 3] = "?"
        found.append(tuple(row))
    return found


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_many_queries_are_answered_as_one_by_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import pandas as pd

    monkeypatch.setattr(predictor_module, "_HELD", 30)  # 8 queries at a time
    queries, file, out = mixed_queries(world.predictor.dataset, 30), tmp_path / "q.tsv.gz", tmp_path / f"a{suffix}"
    import gzip

    with gzip.open(file, "wt") as lines:
        lines.writelines("\t".join(row) + "\n" for row in queries)
    out.write_text("what was there")
    done: list[tuple[int, int]] = []
    for source in (file, queries):
        n = world.predictor.predict(
            source, out, k=3, new_only=True, probability="isotonic", progress=lambda *at: done.append(at)
        )
        assert n == 30
        assert sum(at[0] for at in done) == 30
        assert {at[1] for at in done} == {30}
        done.clear()
        expected = []
        for number, row in enumerate(queries):
            one = {name: value for name, value in zip(SIDES, row, strict=True) if value != "?"}
            frame = world.predictor.topk(**one, k=3, new_only=True, probability="isotonic")
            expected.append(frame.assign(query=number))
        every = pd.concat(expected, ignore_index=True)
        if suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(out), every, check_dtype=False, rtol=1e-5)
        else:
            records = [json.loads(line) for line in out.read_text().splitlines()]
            assert [record["query"] for record in records] == list(range(30))
            flat = [answer["id"] for record in records for answer in record["answers"]]
            assert flat == every["id"].tolist()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, out.name])


def test_nothing_half_written_stays(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "_HELD", 30)
    out = tmp_path / "a.jsonl"
    out.write_text("what was there")
    real, calls = bj.Predictor.answers, []

    def answers(self: bj.Predictor, *args: Any) -> Any:
        calls.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(bj.Predictor, "answers", answers)
    with pytest.raises(KeyboardInterrupt):
        world.predictor.predict(mixed_queries(world.predictor.dataset, 30), out, k=3)
    assert len(calls[-1]) == 2  # the part, beside what was there
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert out.read_text() == "what was there"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Anna\tr0\n", "q.tsv, line 1: expected 3 non-empty columns"),
        ("Anna\tr0\t?\n\nAnna\tr0\tBen\n", "q.tsv, line 3: a query is .* with '[?]' for one of them, got"),
        ("?\tr0\t?\n", "q.tsv, line 1: a query is"),
        ("Anna\tr0\t?\nAnnna\tr0\t?\n", "q.tsv, line 2: no entity is named or labelled 'Annna'; nearest: 'Anna'"),
        ("Anna\t?\tBen\n", "k must be between 1 and the number of relations, 4, got 10"),
    ],
)
def test_malformed_queries(world: World, tmp_path: Path, text: str, message: str) -> None:
    file, out = tmp_path / "q.tsv", tmp_path / "out.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        world.predictor.predict(file, out)
    assert not out.exists()


def test_targets(world: World, tmp_path: Path) -> None:
    for target in (tmp_path / "a.csv", tmp_path / "a"):
        with pytest.raises(ValueError, match=r"out must end with \.parquet or \.jsonl, got"):
            world.predictor.predict([], target)
    with pytest.raises(ValueError, match="out must be a file in an existing folder"):
        world.predictor.predict([], tmp_path / "no" / "a.jsonl")
    assert world.predictor.predict([], tmp_path / "a.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_text() == ""
    with pytest.raises(ValueError, match=r"row 1: a query is"):
        read_queries(world.predictor.dataset, [(0, 1, None), (None, 1, None)])


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
    for one, other in zip(rows(predictor.scored("test")), rows(alone.scored("test")), strict=True):
        assert one["head"] == other["head"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-5)
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert predictor.rank("test").metrics()["both"]["mrr"] == pytest.approx(logged["both"]["mrr"])
    with pytest.raises(ValueError, match="there is no run folder"):
        bj.Predictor.load(run / "nothing")


def test_load_of_a_model_with_a_network(tmp_path: Path, nations: Path) -> None:
    """Its running statistics come along."""
    config = TrainConfig(dataset=str(nations), model="ConvE", embedding_size=64, n_shard=2, init_scale=0)
    experiment, folder = Experiment.create(config), RunFolder.create(tmp_path / "run", config)
    state = experiment.init()
    statistics = jax.tree_util.tree_map(lambda x: x + 0.5, state.score_state.statistics)
    state = state._replace(score_state=state.score_state._replace(statistics=statistics))
    folder.save(0, experiment.placement.get(state)._asdict(), experiment.dataset)
    test = experiment.dataset.triples["test"]
    score = experiment.ranker.score(state.inference_params, test)
    np.testing.assert_allclose(bj.Predictor.load(folder.path).judge.scores(test), score, rtol=1e-5, atol=1e-6)
    unchanged = state.params._replace(score_state=experiment.init().score_state.statistics)
    assert np.abs(experiment.ranker.score(unchanged, test) - score).max() > 1e-2


def test_calibrations_stay_in_the_run_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = bj.Predictor.load(run)
    first = predictor.score("test", probability="platt")["probability"]
    content = json.loads((run / "calibration.json").read_text())
    assert set(content["fitted"]) == {"platt"}
    assert content["made_of"] == {"n_call": predictor.n_call, "seed": 0}
    for module in ("sklearn", "sklearn.linear_model"):  # the numbers are enough
        monkeypatch.setitem(sys.modules, module, None)
    again = bj.Predictor.load(run)
    np.testing.assert_allclose(again.score("test", probability="platt")["probability"], first)
    again.classify("test")  # needs no other library
    assert set(json.loads((run / "calibration.json").read_text())["fitted"]) == {"platt", "thresholds"}
    with pytest.raises(MissingExtraError):  # numbers of another checkpoint do not count
        dataclasses.replace(again, n_call=again.n_call + 1).score("test", probability="platt")
