"""Metrics of ranks, against hand-computed values and plain loops."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax.ask import ranks as ranks_module
from bess_jax.ask.ranks import Ranks, SideRanks
from bess_jax.data.relations import relation_categories

FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}
SIDES = ("head", "relation", "tail")


def side_ranks(better: Any, ties: Any = 0, n_candidate: Any = 1000) -> SideRanks:
    better = np.asarray(better, np.int64)
    ties, n_candidate = (np.broadcast_to(x, better.shape).astype(np.int64) for x in (ties, n_candidate))
    return SideRanks(better, ties, n_candidate, -better.astype(np.float32))


def some_triples(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.zeros(n), np.arange(n)], axis=1).astype(np.int32)


def random_ranks(n: int, seed: int = 0, sides: tuple[str, ...] = SIDES, n_relation: int = 7) -> Ranks:
    """Ranks with ties, and relations of very different frequency; relation 3 does not occur."""
    rng = np.random.default_rng(seed)
    weight = np.array([64, 32, 16, 0, 8, 4, 2][:n_relation], float)
    relation = rng.choice(n_relation, size=n, p=weight / weight.sum())
    triples = np.stack([rng.integers(50, size=n), relation, rng.integers(50, size=n)], axis=1).astype(np.int32)
    of_side = {}
    for side in sides:
        n_candidate = rng.integers(5, 60, size=n)
        better = (n_candidate * rng.random(n) ** 3).astype(int)
        ties = ((n_candidate - better) * rng.random(n) ** 4).astype(int)
        of_side[side] = side_ranks(better, ties, n_candidate)
    return Ranks(triples, of_side)


def plain(ranks: list[float], n_candidates: list[int], hits: tuple[int, ...]) -> dict[str, float]:
    """The metrics of some queries, one after the other."""
    n = len(ranks)
    mean, expected = math.fsum(ranks) / n, math.fsum((c + 1) / 2 for c in n_candidates) / n
    return {
        "mrr": math.fsum(1 / rank for rank in ranks) / n,
        **{f"hits@{k}": sum(rank <= k for rank in ranks) / n for k in hits},
        "mean_rank": mean,
        "adjusted_mean_rank": mean / expected,
        "adjusted_mean_rank_index": 1 - (mean - 1) / (expected - 1),
    }


def plain_grouped(ranks: Ranks, key: Any, ties: str, hits: tuple[int, ...]) -> dict[Any, dict[str, dict[str, float]]]:
    """`plain` of the triples with the same `key(triple)`, for each side and for heads and tails together."""
    found: Any = defaultdict(lambda: defaultdict(lambda: ([], [])))
    number: Any = defaultdict(int)
    for i, triple in enumerate(ranks.triples.tolist()):
        number[key(triple)] += 1
        for side, of_side in ranks.sides.items():
            better, tie, n_candidate = (int(x[i]) for x in of_side[:3])
            places = range(1 + better, 1 + better + tie + 1)
            rank = {"optimistic": places[0], "pessimistic": places[-1], "average": sum(places) / len(places)}[ties]
            for name in {side, "both"} if side != "relation" else {side}:
                found[key(triple)][name][0].append(rank)
                found[key(triple)][name][1].append(n_candidate)
    return {
        group: {side: {"n": number[group], **plain(*lists, hits)} for side, lists in sides.items()}
        for group, sides in found.items()
    }


def assert_same(actual: Any, expected: Any, **tolerance: float) -> None:
    """Equal keys and close values of nested dictionaries."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        if isinstance(value, dict):
            assert_same(value, expected[name], **tolerance)
        else:
            np.testing.assert_allclose(value, expected[name], **tolerance, err_msg=str(name))


def test_tie_rules() -> None:
    """Two candidates are better and three tie: the answer has one of the places 3, 4, 5, 6."""
    of_side = side_ranks([2, 0], [3, 0])
    np.testing.assert_array_equal(of_side.rank("optimistic"), [3, 1])
    np.testing.assert_array_equal(of_side.rank("pessimistic"), [6, 1])
    np.testing.assert_array_equal(of_side.rank("average"), [4.5, 1])
    np.testing.assert_array_equal(of_side.rank(), [4.5, 1])
    assert of_side.rank("optimistic").dtype == np.float64
    ranks = Ranks(some_triples(2), {"head": of_side, "tail": of_side, "relation": of_side})
    for values in (ranks.head, ranks.relation, ranks.tail, ranks.rank("head")):
        np.testing.assert_array_equal(values, [4.5, 1])
    np.testing.assert_array_equal(ranks.rank("relation", "pessimistic"), [6, 1])


def test_metrics_by_hand() -> None:
    """Head ranks 1 and 4 of 9 candidates, tail ranks 2 and 10 of 19: expected ranks 5 and 10."""
    ranks = Ranks(some_triples(2), {"tail": side_ranks([1, 9], 0, 19), "head": side_ranks([0, 3], 0, 9)})
    metrics = ranks.metrics(hits=(1, 3, 10))
    assert list(metrics) == ["head", "tail", "both"]  # whatever the order of the sides
    assert repr(ranks) == "Ranks(2 triples; MRR: head 0.6250, tail 0.3000)"
    names = ["mrr", "hits@1", "hits@3", "hits@10", "mean_rank", "adjusted_mean_rank", "adjusted_mean_rank_index"]
    assert [list(of_side) for of_side in metrics.values()] == [names] * 3
    assert all(type(value) is float for of_side in metrics.values() for value in of_side.values())
    expected = {
        "head": [(1 + 1 / 4) / 2, 0.5, 0.5, 1, 2.5, 2.5 / 5, 1 - 1.5 / 4],
        "tail": [(1 / 2 + 1 / 10) / 2, 0, 0.5, 1, 6, 6 / 10, 1 - 5 / 9],
        "both": [(1 + 1 / 4 + 1 / 2 + 1 / 10) / 4, 0.25, 0.5, 1, 4.25, 4.25 / 7.5, 1 - 3.25 / 6.5],
    }
    for side, values in expected.items():
        np.testing.assert_allclose(list(metrics[side].values()), values, **FLOAT64)


def test_ties_and_hits() -> None:
    """A rank of 1.5 is no hit at 1; hits are those asked for."""
    ranks = Ranks(some_triples(1), {"relation": side_ranks([0], [1])})
    assert list(ranks.metrics()) == ["relation"]
    hits = {
        ties: ranks.metrics(hits=(1, 2), ties=ties)["relation"] for ties in ("average", "optimistic", "pessimistic")
    }
    assert [(m["hits@1"], m["hits@2"], m["mean_rank"]) for m in hits.values()] == [(0, 1, 1.5), (1, 1, 1), (0, 1, 2)]
    assert "hits@10" not in hits["average"]
    assert "hits@10" in ranks.metrics()["relation"]


@pytest.mark.parametrize("ties", ["average", "optimistic", "pessimistic"])
def test_agrees_with_plain_loops(ties: Any) -> None:
    ranks, hits = random_ranks(400), (1, 5)
    (everything,) = plain_grouped(ranks, lambda triple: None, ties, hits).values()
    metrics = ranks.metrics(hits, ties)
    assert list(metrics) == ["head", "tail", "both", "relation"]
    assert_same({side: {"n": 400, **of_side} for side, of_side in metrics.items()}, everything, **FLOAT64)

    by_relation = plain_grouped(ranks, lambda triple: triple[1], ties, hits)
    found = ranks.by_relation(hits, ties)
    assert_same(found, by_relation, **FLOAT64)
    assert list(found) == [0, 1, 2, 4, 5, 6]
    assert all(
        type(relation) is int and list(of[s]) == ["n", *metrics[s]] for relation, of in found.items() for s in of
    )

    macro = ranks.macro(hits, ties)
    assert macro.keys() == metrics.keys()
    for side, of_side in macro.items():
        assert list(of_side) == list(metrics[side])
        for name, value in of_side.items():
            mean = math.fsum(by_relation[r][side][name] for r in by_relation) / len(by_relation)
            assert value == pytest.approx(mean, rel=1e-12)
    assert abs(macro["head"]["mrr"] - metrics["head"]["mrr"]) > 1e-3  # the two do differ here


def test_by_category_agrees_with_plain_loop() -> None:
    ranks = random_ranks(400)
    rng = np.random.default_rng(1)
    n_head, n_tail = np.array([[300, 300], [3, 40], [40, 3], [3, 3], [40, 40]]).T
    relation = rng.integers(5, size=200)
    train = np.stack([rng.integers(n_head[relation]), relation, rng.integers(n_tail[relation])], 1).astype(np.int32)
    train = np.concatenate([train, train[:50]])  # duplicates

    unique = {tuple(row) for row in train.tolist()}

    def category(triple: list[int]) -> str:
        heads, tails = defaultdict(set), defaultdict(set)
        for h, r, t in unique:
            if r == triple[1]:
                heads[t].add(h)
                tails[h].add(t)
        if not heads:
            return "unseen"
        means = (sum(map(len, others.values())) / len(others) for others in (heads, tails))
        return "-".join("1" if mean < 1.5 else "N" for mean in means)

    of_relation = {r: category([0, r, 0]) for r in range(7)}
    assert len(set(of_relation.values())) == 5
    found = ranks.by_category(train, hits=(2,), ties="pessimistic")
    assert list(found) == ["1-1", "1-N", "N-1", "N-N", "unseen"]
    assert_same(found, plain_grouped(ranks, lambda triple: of_relation[triple[1]], "pessimistic", (2,)), **FLOAT64)
    assert sum(of["head"]["n"] for of in found.values()) == 400


def test_relation_categories_by_hand() -> None:
    """Relation 0 sits on the limit: 3 triples for 2 heads is a mean of 1.5 tails, which is N."""
    train = [(0, 0, 1), (0, 0, 2), (5, 0, 3)]  # heads of each tail: 1
    train += [(1, 1, 0), (2, 1, 0), (5, 1, 3)]  # the same turned round
    train += [(0, 2, 1), (0, 2, 2), (3, 2, 4), (5, 2, 6)]  # 4 triples, 3 heads, 4 tails: below 1.5
    train += [(h, 4, t) for h in range(2) for t in range(2)]
    train += [(0, 5, 1)] * 3  # one triple
    rows = np.array(train, np.int32)
    expected = ["1-N", "N-1", "1-1", "unseen", "N-N", "1-1", "unseen"]
    for seed in range(3):
        found = relation_categories(np.random.default_rng(seed).permutation(rows), 7)
        assert found.tolist() == expected
    assert relation_categories(np.zeros((0, 3), np.int32), 2).tolist() == ["unseen"] * 2
    ranks = Ranks(rows, {"head": side_ranks(np.zeros(len(rows)))})
    assert {name: of["head"]["n"] for name, of in ranks.by_category(rows).items()} == {
        "1-1": 7, "1-N": 3, "N-1": 3, "N-N": 4
    }  # fmt: skip
    assert list(ranks.by_category(rows[:0])) == ["unseen"]


def test_adjusted_metrics() -> None:
    """Random scores give 1 and 0 however many candidates there are, perfect ones an index of 1, the worst ones -1."""
    rng = np.random.default_rng(0)
    n_candidate = rng.integers(2, 500, size=20_000)
    triples = some_triples(len(n_candidate))

    def metrics(better: np.ndarray) -> dict[str, float]:
        return Ranks(triples, {"head": side_ranks(better, 0, n_candidate)}).metrics()["head"]

    chance = metrics(rng.integers(n_candidate))
    assert chance["adjusted_mean_rank"] == pytest.approx(1, abs=0.03)
    assert chance["adjusted_mean_rank_index"] == pytest.approx(0, abs=0.03)
    assert metrics(0 * n_candidate)["adjusted_mean_rank_index"] == 1
    assert metrics(n_candidate - 1)["adjusted_mean_rank_index"] == pytest.approx(-1, abs=1e-12)


def test_single_candidates_have_no_index() -> None:
    """Where nothing could go wrong the index is NaN, without warning, and so is a mean with it."""
    triples = some_triples(3)
    triples[2, 1] = 1
    ranks = Ranks(triples, {"tail": side_ranks([0, 0, 3], 0, [1, 1, 9])})
    by_relation = ranks.by_relation()
    assert math.isnan(by_relation[0]["tail"]["adjusted_mean_rank_index"])
    assert by_relation[0]["tail"]["adjusted_mean_rank"] == 1
    assert by_relation[1]["tail"]["adjusted_mean_rank_index"] == 1 - 3 / 4
    assert math.isnan(ranks.macro()["tail"]["adjusted_mean_rank_index"])
    assert ranks.macro()["tail"]["mean_rank"] == 2.5
    assert ranks.metrics()["tail"]["adjusted_mean_rank_index"] == pytest.approx(1 - 1 / (7 / 3 - 1))
    lonely = Ranks(some_triples(7), {"tail": side_ranks([0] * 7, 0, 1)}).bootstrap(0, n_sample=20)["tail"]
    assert np.isnan(lonely["adjusted_mean_rank_index"]).all()
    assert lonely["mrr"] == (1, 1)


def test_bootstrap_intervals() -> None:
    ranks = random_ranks(300)
    metrics, intervals = ranks.metrics(), ranks.bootstrap(3)
    assert {side: list(of) for side, of in intervals.items()} == {side: list(of) for side, of in metrics.items()}
    for side, of_side in intervals.items():
        for name, (low, high) in of_side.items():
            assert low < metrics[side][name] < high, (side, name)
            assert type(low) is float
    assert ranks.bootstrap(3) == intervals
    assert ranks.bootstrap(4) != intervals
    narrow = ranks.bootstrap(3, level=0.5)
    for side, of_side in intervals.items():
        for name, (low, high) in of_side.items():
            assert low < narrow[side][name][0] < narrow[side][name][1] < high
    only = ranks.bootstrap(3, n_sample=200, hits=(2,), ties="pessimistic")["head"]
    assert only["hits@2"][0] < ranks.metrics((2,), "pessimistic")["head"]["hits@2"] < only["hits@2"][1]


def test_bootstrap_agrees_with_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The percentiles are those of the metrics of resampled ranks, in blocks of any size."""
    ranks, n_sample = random_ranks(50), 40
    rng = np.random.default_rng(9)
    samples = []
    for _ in range(n_sample):
        drawn = rng.integers(50, size=50)
        sides = {side: SideRanks(*(x[drawn] for x in of)) for side, of in ranks.sides.items()}
        samples.append(Ranks(ranks.triples[drawn], sides).metrics())
    expected = {
        side: {name: np.percentile([m[side][name] for m in samples], [5, 95]) for name in of}
        for side, of in samples[0].items()
    }
    for block in (ranks_module.BLOCK, 150, 1):  # all samples at once, 3 at a time, one at a time
        monkeypatch.setattr(ranks_module, "BLOCK", block)
        assert_same(ranks.bootstrap(9, n_sample, level=0.9), expected, **FLOAT64)


def test_bootstrap_narrows_with_more_triples() -> None:
    """16 times the triples, a quarter of the width."""
    wide, narrow = (random_ranks(n).bootstrap(0)["both"]["mrr"] for n in (500, 8000))
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(4, rel=0.25)


def test_bootstrap_keeps_triples_together() -> None:
    """Where the head is first the tail is third, and the other way round: each triple has the mean rank 2."""
    better = np.tile([0, 2], 50)
    apart = Ranks(some_triples(100), {"head": side_ranks(better), "tail": side_ranks(2 - better)}).bootstrap(0)
    np.testing.assert_allclose(apart["both"]["mean_rank"], 2, **FLOAT64)
    assert np.ptp(apart["head"]["mean_rank"]) > 0.3
    alike = Ranks(some_triples(100), {"head": side_ranks(better), "tail": side_ranks(better)}).bootstrap(0)
    np.testing.assert_allclose(alike["both"]["mean_rank"], alike["head"]["mean_rank"], **FLOAT64)  # not sqrt(2) less


def test_bootstrap_coverage() -> None:
    """95% intervals hold the true values in about 95 of 100 draws of the triples."""
    rng = np.random.default_rng(0)
    places = np.arange(20)
    p = 0.8**places / (0.8**places).sum()
    truth = {"mean_rank": (p * (places + 1)).sum(), "mrr": (p / (places + 1)).sum(), "hits@3": p[:3].sum()}
    triples, n_draw = some_triples(200), 300
    covered = dict.fromkeys(truth, 0)
    for seed in range(n_draw):
        drawn = side_ranks(rng.choice(places, size=200, p=p), 0, 20)
        intervals = Ranks(triples, {"tail": drawn}).bootstrap(seed, n_sample=200)["tail"]
        for name, value in truth.items():
            covered[name] += intervals[name][0] <= value <= intervals[name][1]
    for name, n in covered.items():
        assert 0.91 <= n / n_draw <= 0.985, name


def test_frame() -> None:
    triples = np.array([[0, 1, 2], [2, 0, 1]], np.int32)
    sides = {"relation": side_ranks([1, 0], 0, 2), "head": side_ranks([4, 0], [1, 0], 9)}
    ranks = Ranks(triples, sides)
    plain_frame = ranks.frame()
    ids, values = ["head", "relation", "tail"], ["side", "rank", "better", "ties", "n_candidate", "score"]
    assert list(plain_frame.columns) == ids + values
    assert plain_frame[ids].to_numpy().tolist() == [[0, 1, 2], [2, 0, 1]] * 2
    assert plain_frame["side"].tolist() == ["head", "head", "relation", "relation"]
    assert plain_frame["rank"].tolist() == [5.5, 1, 2, 1]
    assert ranks.frame(ties="optimistic")["rank"].tolist() == [5, 1, 2, 1]
    assert plain_frame[["better", "ties", "n_candidate"]].to_numpy().tolist() == [
        [4, 1, 9],
        [0, 0, 9],
        [1, 0, 2],
        [0, 0, 2],
    ]
    assert plain_frame["score"].tolist() == [-4, 0, -1, 0]
    assert plain_frame.index.tolist() == [0, 1, 2, 3]
    assert plain_frame["score"].dtype == np.float32

    dataset = bj.KGDataset(
        n_entity=3,
        n_relation_type=2,
        triples={"test": triples},
        entity_dict=("a", "b", "c"),
        relation_dict=("likes", "knows"),
        entity_labels={"c": "Carol"},
    )
    frame = ranks.frame(dataset)
    labels = ["head_label", "relation_label", "tail_label"]
    assert list(frame.columns) == ids + labels + values
    assert frame[labels].to_numpy().tolist() == [["a", "knows", "Carol"], ["Carol", "likes", "b"]] * 2
    np.testing.assert_allclose(frame["rank"], plain_frame["rank"], **EXACT)

    small = bj.KGDataset(n_entity=2, n_relation_type=2, triples={"test": np.zeros((1, 3), np.int32)})
    with pytest.raises(ValueError, match=r"triples\[0, 2\] is 2, but entity ids go from 0 to 1"):
        ranks.frame(small)


def test_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"Ranks.frame needs the package pandas: pip install 'bess_jax\[frames\]'"):
        random_ranks(3).frame()


def test_errors_of_ranks() -> None:
    good = side_ranks([0, 1])
    with pytest.raises(ValueError, match="triples must hold at least one triple, got none"):
        Ranks(np.zeros((0, 3), np.int32), {"head": side_ranks([])})
    with pytest.raises(ValueError, match=r"triples must have shape \(n, 3\)"):
        Ranks(np.zeros((2, 2), np.int32), {"head": good})
    with pytest.raises(ValueError, match="sides must hold the ranks of at least one of head, relation, tail, got none"):
        Ranks(some_triples(2), {})
    with pytest.raises(ValueError, match="a key of sides must be one of 'head', 'relation', 'tail', got 'both'"):
        Ranks(some_triples(2), {"both": good})
    with pytest.raises(ValueError, match=r"sides\['tail'\]\.better must have shape \(n,\) = \(3\), got \(2,\)"):
        Ranks(some_triples(3), {"tail": good})
    for wrong in (good._replace(better=np.array([0, -1])), side_ranks([0, 4], [0, 2], 6)):
        with pytest.raises(ValueError, match=r"1 \+ better \+ ties <= n_candidate, got \{'better'.* at 1"):
            Ranks(some_triples(2), {"tail": wrong})
    Ranks(some_triples(2), {"tail": side_ranks([0, 3], [0, 2], 6)})  # the last of six


def test_errors_of_arguments() -> None:
    ranks = random_ranks(5, sides=("head", "tail"))
    for ask in (lambda: ranks.relation, lambda: ranks.rank("relation")):
        with pytest.raises(ValueError, match="side must be one that was ranked, head, tail, got 'relation'"):
            ask()
    calls = (ranks.metrics, ranks.by_relation, ranks.macro, lambda **kw: ranks.bootstrap(0, **kw))
    calls += (lambda **kw: ranks.by_category(ranks.triples, **kw),)
    for call in calls:
        with pytest.raises(ValueError, match="ties must be one of 'average', 'optimistic', 'pessimistic', got 'mean'"):
            call(ties="mean")
        for bad in (0, -1, 1.5, "1"):
            with pytest.raises(ValueError, match=r"hits\[1\] must be an integer >= 1, got "):
                call(hits=(1, bad))
        call(hits=(np.int64(2),))
    for message, bad in {
        "seed must be >= 0, got -1": {"seed": -1},
        "n_sample must be >= 1, got 0": {"seed": 0, "n_sample": 0},
        "level must be between 0 and 1, both excluded, got 95": {"seed": 0, "level": 95},
    }.items():
        with pytest.raises(ValueError, match=message):
            ranks.bootstrap(**bad)
    with pytest.raises(ValueError, match=r"train must have shape \(n_train, 3\)"):
        ranks.by_category(np.zeros((3, 2), np.int32))
    with pytest.raises(ValueError, match=r"train\[1, 1\] is 2, but relation ids go from 0 to 1"):
        relation_categories(np.array([[0, 1, 0], [0, 2, 0]], np.int32), 2)
