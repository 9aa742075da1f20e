"""Ranks and best answers over all entities, against brute force."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bess_jax as bj
from bess_jax.ask.known import COLUMNS, Candidates, KnownAnswers
from bess_jax.ask.ranker import NonFiniteScoreError, Ranker
from bess_jax.ask.shard import Omitted, Queries, Table, rank_entities

pytestmark = pytest.mark.optimized  # ties must be real in programs as users run them

N_RELATION = 3
MODELS = {
    "TransE-1": (bj.TransE, {"scoring_norm": 1}),
    "TransE-2": (bj.TransE, {"scoring_norm": 2}),
    "DistMult": (bj.DistMult, {}),
    "ComplEx": (bj.ComplEx, {}),
}


def world(
    model: str, n_shard: int, inverse: bool = False, n_entity: int = 1201, ties: bool = True
) -> tuple[bj.BaseScoreFunction, bj.Params, np.ndarray, np.ndarray, np.ndarray]:
    """Score function, sharded parameters, and the global tables and triples; many rows are equal."""
    rng = np.random.default_rng(n_shard)
    kind, arguments = MODELS[model]
    sharding = bj.Sharding.create(n_entity, n_shard, seed=5)
    score_fn = kind(
        negative_sample_sharing=False,
        sharding=sharding,
        n_relation_type=N_RELATION,
        embedding_size=8,
        inverse_relations=inverse,
        **arguments,
    )
    entity = rng.normal(size=(n_entity, score_fn.entity_width)).astype(np.float32)
    if ties:
        entity = entity[rng.integers(n_entity // 3, size=n_entity)]  # every row about three times
    relation = rng.normal(size=(score_fn.n_relation, score_fn.relation_width)).astype(np.float32)
    padded = np.concatenate([entity, np.full((n_shard * sharding.max_entity_per_shard, entity.shape[1]), np.nan)])
    params = bj.Params(
        padded.astype(np.float32)[sharding.shard_and_idx_to_entity],
        {"relation_embedding": np.broadcast_to(relation, (n_shard, *relation.shape))},
    )
    size = (600,)
    triples = np.stack([rng.integers(high, size=size) for high in (n_entity, N_RELATION, n_entity)], axis=1)
    return score_fn, params, entity, relation, np.unique(triples, axis=0).astype(np.int32)


def all_scores(
    score_fn: bj.BaseScoreFunction, entity: np.ndarray, relation: np.ndarray, side: str, triples: np.ndarray
) -> np.ndarray:
    """(n, n_entity) float64 scores of every entity on one side of the triples; equal rows have the same score."""
    entity, row_of = np.unique(entity, axis=0, return_inverse=True)
    triples = np.stack([row_of[triples[:, 0]], triples[:, 1], row_of[triples[:, 2]]], axis=1)
    h, r, t = entity[triples[:, 0]], relation[triples[:, 1]], entity[triples[:, 2]]
    if score_fn.inverse_relations and side == "head":
        h, r, side = t, relation[triples[:, 1] + N_RELATION], "tail"
    h, r, t, every = (x.astype(np.float64) for x in (h, r, t, entity))
    if isinstance(score_fn, bj.TransE):
        distance = (h + r)[:, None] - every if side == "tail" else every + (r - t)[:, None]
        score = -np.linalg.norm(distance, score_fn.scoring_norm, axis=-1)
    elif isinstance(score_fn, bj.ComplEx):
        h, r, t, every = (x[..., :8] + 1j * x[..., 8:] for x in (h, r, t, every))
        score = ((h * r) @ every.conj().T).real if side == "tail" else (every @ (r * t.conj()).T).T.real
    else:
        score = (h * r) @ every.T if side == "tail" else (r * t) @ every.T
    return score[:, row_of]


def brute_force(
    score_fn: bj.BaseScoreFunction,
    entity: np.ndarray,
    relation: np.ndarray,
    side: str,
    triples: np.ndarray,
    known: np.ndarray,
    among: Candidates | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Better candidates, ties and number of candidates of each query, from all scores in float64."""
    if side == "relation":
        each = (np.where(np.arange(3) == 1, r, triples) for r in range(N_RELATION))
        of_tails = [np.take_along_axis(all_scores(score_fn, entity, relation, "tail", t), t[:, [2]], 1) for t in each]
        scores = np.concatenate(of_tails, axis=1)
    else:
        scores = all_scores(score_fn, entity, relation, side, triples)
    column = COLUMNS[side]
    rest = [x for x in range(3) if x != column]
    counts = []
    for number, (triple, row) in enumerate(zip(triples, scores, strict=True)):
        competes = np.ones(len(row), bool) if among is None else among.entity_group == among.query_group[number]
        competes[known[(known[:, rest] == triple[rest]).all(axis=1), column]] = False
        competes[triple[column]] = False
        rivals, own = row[competes], row[triple[column]]
        counts.append(((rivals > own).sum(), (rivals == own).sum(), 1 + len(rivals)))
    better, ties, n_candidate = np.array(counts).T
    return better, ties, n_candidate


def check(ranks: bj.Ranks, side: Any, expected: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    better, ties, n_candidate = expected
    found = ranks.sides[side]
    np.testing.assert_array_equal(found.better, better)
    np.testing.assert_array_equal(found.ties, ties)
    np.testing.assert_array_equal(found.n_candidate, n_candidate)
    expected_ranks = {"optimistic": 1 + better, "pessimistic": 1 + better + ties, "average": 1 + better + ties / 2}
    for rule, rank in expected_ranks.items():
        np.testing.assert_array_equal(ranks.rank(side, rule), rank)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "n_shard"),
    [(model, n_shard) for model in ("TransE-1", "ComplEx") for n_shard in (1, 2, 3, 4, 8)]
    + [("TransE-2", 3), ("DistMult", 4)],
)
def test_ranks_equal_brute_force_with_ties(model: str, n_shard: int) -> None:
    score_fn, params, entity, relation, triples = world(model, n_shard, inverse=n_shard == 3)
    placement = bj.Placement.create(n_shard, mapping=("pmap", "shard_map")[n_shard % 2])
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=48, window=128)
    twice = np.concatenate([triples, triples[:200]])  # a known answer may be given twice
    asked, known = triples[:110], KnownAnswers(twice, N_RELATION)
    group = np.random.default_rng(0).integers(4, size=len(entity)).astype(np.int32)
    among = {side: Candidates(group, group[asked[:, COLUMNS[side]]]) for side in ("head", "tail")}
    filtered = ranker.ranks(placement.put(params), asked, known, sides=("head", "relation", "tail"))
    typed = ranker.ranks(placement.put(params), asked, known, among=among)
    raw = ranker.ranks(placement.put(params), asked)
    for side in ("head", "tail"):
        args = score_fn, entity, relation, side, asked
        check(filtered, side, brute_force(*args, triples))
        check(typed, side, brute_force(*args, triples, among[side]))
        check(raw, side, brute_force(*args, np.zeros((0, 3), int)))
    assert np.mean(filtered.tail % 1 == 0.5) > 0.1  # there were ties


@pytest.mark.parametrize("n_shard", [1, 2, 4])
def test_relations_are_ranked_and_found(n_shard: int) -> None:
    score_fn, params, entity, relation, triples = world("TransE-1", n_shard)
    relation[2] = relation[0]  # equal relations tie
    params = params._replace(
        score_fn={"relation_embedding": np.broadcast_to(relation, (n_shard, *relation.shape)).copy()}
    )
    placement = bj.Placement.create(n_shard)
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=32)
    asked, known = triples[:70], KnownAnswers(triples, N_RELATION)
    ranks = ranker.ranks(placement.put(params), asked, known, sides=("relation",))
    better, ties, n_candidate = brute_force(score_fn, entity, relation, "relation", asked, triples)
    check(ranks, "relation", (better, ties, n_candidate))
    assert set(ties) == {0, 1}
    found = ranker.top_k(placement.put(params), "relation", asked, N_RELATION)
    tail_scores = [
        all_scores(score_fn, entity, relation, "tail", np.stack([asked[:, 0], np.full(70, r), asked[:, 2]], axis=1))
        for r in range(N_RELATION)
    ]
    scores = np.stack([x[np.arange(70), asked[:, 2]] for x in tail_scores], axis=1)
    np.testing.assert_array_equal(found.id, np.argsort(-scores, axis=1, kind="stable"))
    np.testing.assert_allclose(found.score, -np.sort(-scores, axis=1), rtol=1e-5)
    new = ranker.top_k(placement.put(params), "relation", asked, N_RELATION, known=known)
    assert not np.any(new.id == asked[:, [1]])


@pytest.mark.parametrize("n_shard", [1, 3])
def test_ranks_among_given_candidates(n_shard: int) -> None:
    """OGB's protocol: the rank is that of ogb.linkproppred.Evaluator (ogb 1.3.6), on the same scores."""
    score_fn, params, entity, relation, triples = world("TransE-1", n_shard)
    placement = bj.Placement.create(n_shard)
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=32)
    asked = triples[:75]
    rng = np.random.default_rng(1)
    lists = {"head": rng.integers(len(entity), size=(75, 40)), "tail": rng.integers(len(entity), size=(1, 40))}
    lists["head"][:, 3] = asked[:, 0]  # the answer itself among the candidates ties
    ranks = ranker.ranks_among(placement.put(params), asked, lists)
    for side, listed in lists.items():
        every = np.broadcast_to(listed, (75, 40))
        scores = all_scores(score_fn, entity, relation, side, asked)
        positive = np.take_along_axis(scores, asked[:, [COLUMNS[side]]], axis=1)
        negative = np.take_along_axis(scores, every, axis=1)
        optimistic, pessimistic = (negative > positive).sum(axis=1), (negative >= positive).sum(axis=1)
        np.testing.assert_array_equal(ranks.rank(side), 0.5 * (optimistic + pessimistic) + 1)
        np.testing.assert_array_equal(ranks.sides[side].n_candidate, 41)
    assert np.all(ranks.sides["head"].ties >= 1)


@pytest.mark.parametrize("n_query", [1, 2])
def test_equal_entities_tie_in_lists_of_few_queries(n_query: int) -> None:
    """The last columns of a product for a single query add up in another order, seen with 32 numbers, 1001 columns."""
    sharding, placement, rng = bj.Sharding.create(200, 1, seed=0), bj.Placement.create(1), np.random.default_rng(0)
    score_fn = bj.ComplEx(negative_sample_sharing=False, sharding=sharding, n_relation_type=1, embedding_size=16)
    rows = rng.normal(size=(3, 32)).astype(np.float32)
    entity = np.repeat(rows[[0]], 200, axis=0)
    entity[0] = rows[1]
    params = bj.Params(bj.shard_table(entity, sharding), {"relation_embedding": rows[None, 2:]})
    ranker = Ranker(score_fn=score_fn, placement=placement)
    triples, lists = np.array([[0, 0, 5]] * n_query, np.int32), rng.integers(1, 200, size=(n_query, 1000))
    ranks = ranker.ranks_among(placement.put(params), triples, {"tail": lists})
    assert (ranks.sides["tail"].ties == 1000).all()


def test_scores_within_the_tolerance_tie() -> None:
    score_fn, params, entity, relation, triples = world("TransE-1", 2, ties=False)
    placement = bj.Placement.create(2)
    asked, tolerance = triples[:60], 0.25
    ranker = Ranker(score_fn=score_fn, placement=placement, tolerance=tolerance)
    found = ranker.ranks(placement.put(params), asked).sides["tail"]
    scores = all_scores(score_fn, entity, relation, "tail", asked)
    own = np.take_along_axis(scores, asked[:, [2]], axis=1)
    sure = np.abs(np.abs(scores - own) - tolerance).min(axis=1) > 1e-5  # rounding does not matter
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(found.better[sure], (scores > own + tolerance).sum(axis=1)[sure])
    np.testing.assert_array_equal(found.ties[sure], (np.abs(scores - own) <= tolerance).sum(axis=1)[sure] - 1)


def test_scores_of_triples() -> None:
    score_fn, params, entity, relation, triples = world("ComplEx", 3, inverse=True)
    placement = bj.Placement.create(3)
    found = Ranker(score_fn=score_fn, placement=placement, chunk=50).score(placement.put(params), triples[:130])
    expected = all_scores(score_fn, entity, relation, "tail", triples[:130])[np.arange(130), triples[:130, 2]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert Ranker(score_fn=score_fn, placement=placement).score(placement.put(params), triples[:0]).shape == (0,)


def test_ranks_do_not_depend_on_chunks_and_windows() -> None:
    score_fn, params, _, _, triples = world("ComplEx", 2, n_entity=1201)
    placement = bj.Placement.create(2)
    known = KnownAnswers(triples, N_RELATION)
    found = [
        Ranker(score_fn=score_fn, placement=placement, chunk=chunk, window=window).ranks(
            placement.put(params), triples[:100], known
        )
        for chunk, window in ((7, 128), (64, 300), (1000, 1000), (1, 256))
    ]
    for ranks in found[1:]:
        for side in ("head", "tail"):
            np.testing.assert_array_equal(ranks.rank(side), found[0].rank(side))


def test_a_diverged_model_is_refused() -> None:
    score_fn, params, _, _, triples = world("DistMult", 2)
    params.entity[:] = np.nan
    placement = bj.Placement.create(2)
    with pytest.raises(NonFiniteScoreError, match="not finite"):
        Ranker(score_fn=score_fn, placement=placement).ranks(
            placement.put(params), triples[:4], KnownAnswers(triples, N_RELATION)
        )


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_shard", [1, 4])
def test_no_answer_hides_scores_that_are_not_finite(value: float, n_shard: int) -> None:
    """Neither that of a query that diverged nor that of one entity among many, and whichever sign NaN has."""
    score_fn, params, *_, triples = world("DistMult", n_shard, ties=False, n_entity=301)
    placement, sharding = bj.Placement.create(n_shard), score_fn.sharding
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=16, window=128)
    bad = 17
    params.entity[sharding.entity_to_shard[bad], sharding.entity_to_idx[bad], 0] = value
    queries = triples[(triples[:, [0, 2]] != bad).all(axis=1)][:40]
    with pytest.raises(NonFiniteScoreError, match=r"scores of query \(\d+, \d, \?\) are not finite"):
        ranker.top_k(placement.put(params), "tail", queries, 3 if value > -np.inf or np.isnan(value) else 301)
    with pytest.raises(NonFiniteScoreError, match=r"scores of query \(17, \?, 1\) are not finite"):
        ranker.top_k(placement.put(params), "relation", np.array([[0, 0, 1], [bad, 0, 1]], np.int32), 3)
    fine = [i for i in range(301) if i != bad]
    found = ranker.top_k(placement.put(params), "tail", queries, 301, among=Candidates.listed(fine, 301, len(queries)))
    np.testing.assert_array_equal(np.sum(found.id >= 0, axis=1), 300)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n_shard", [1, 4])
def test_top_k_equals_a_full_sort(model: str, n_shard: int) -> None:
    score_fn, params, entity, relation, triples = world(model, n_shard, ties=False, n_entity=301)
    placement = bj.Placement.create(n_shard)
    ranker = Ranker(score_fn=score_fn, placement=placement, chunk=16, window=128)
    for side in ("tail", "head"):
        queries = triples[:40]
        for k in (3, len(entity)):
            found = ranker.top_k(placement.put(params), side, queries, k)
            scores = all_scores(score_fn, entity, relation, side, queries)
            np.testing.assert_allclose(np.round(found.score, 3), np.round(-np.sort(-scores)[:, :k], 3), atol=2e-3)
            gap = np.abs(np.diff(-np.sort(-scores), axis=1))[:, :k].min(axis=1) > 1e-3
            assert gap.any() or k == len(entity)
            np.testing.assert_array_equal(found.id[gap], np.argsort(-scores, axis=1)[gap, :k])


def test_top_k_never_returns_padding_and_leaves_out_what_is_known() -> None:
    score_fn, params, *_ = world("DistMult", 4, n_entity=5)
    placement = bj.Placement.create(4)
    ranker = Ranker(score_fn=score_fn, placement=placement)
    triples = np.array([[0, 1, 3], [0, 1, 4], [2, 0, 1]], np.int32)
    query, skip = np.array([[0, 1, -7]], np.int32), KnownAnswers(triples, N_RELATION)  # the last column is not read
    found = ranker.top_k(placement.put(params), "tail", query, 5, skip)
    assert sorted(found.id[0].tolist()) == [-1, -1, 0, 1, 2]
    assert np.isneginf(found.score[0, 3:]).all()
    nothing = ranker.top_k(placement.put(params), "tail", query, 2, skip, Candidates.listed([3, 4], 5, 1))
    assert nothing.id.tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match="k must be between 1 and the number of entities, 5, got 6"):
        ranker.top_k(placement.put(params), "tail", query, 6)
    with pytest.raises(ValueError, match="k must be between 1 and the number of relations, 3, got 4"):
        ranker.top_k(placement.put(params), "relation", query[:, [0, 1, 0]], 4)


@cache
def small_ranker(n_shard: int) -> Ranker:
    sharding = bj.Sharding.create(21, n_shard, seed=0)
    score_fn = bj.DistMult(
        negative_sample_sharing=True, sharding=sharding, n_relation_type=N_RELATION, embedding_size=3
    )
    return Ranker(score_fn=score_fn, placement=bj.Placement.create(n_shard, n_device=1))


@given(st.integers(0, 10**6), st.sampled_from([1, 4]), st.sampled_from([1, 6, 21]), st.sampled_from(["head", "tail"]))
@settings(max_examples=60, deadline=None)
def test_top_k_equals_a_full_sort_of_any_integers(seed: int, n_shard: int, k: int, side: Any) -> None:
    """Integer embeddings: scores are exact, many tie, and ties go by id."""
    rng = np.random.default_rng(seed)
    ranker = small_ranker(n_shard)
    entity, relation = rng.integers(-2, 3, size=(21, 3)), rng.integers(-2, 3, size=(N_RELATION, 3))
    params = bj.Params(
        bj.shard_table(entity.astype(np.float32), ranker.score_fn.sharding),
        {"relation_embedding": np.broadcast_to(relation, (n_shard, N_RELATION, 3)).astype(np.float32)},
    )
    queries, known = (rng.integers([21, N_RELATION, 21], size=(n, 3)).astype(np.int32) for n in (4, 40))
    skip = KnownAnswers(known, N_RELATION)
    among = Candidates((np.arange(21) % 2).astype(np.int32), np.arange(4, dtype=np.int32) % 2)
    found = ranker.top_k(ranker.placement.put(params), side, queries, k, skip, among)
    scores = all_scores(ranker.score_fn, entity, relation, side, queries)
    scores[skip.of(side, queries)] = -np.inf
    scores[among.entity_group[None] != among.query_group[:, None]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_array_equal(found.id, np.where(expected > -np.inf, order, -1))
    np.testing.assert_array_equal(found.score, expected)


def test_the_score_function_stays_the_one_given() -> None:
    """Candidates are shared by all queries, or each has its own, whatever the model was trained with."""
    found = []
    for shared in (False, True):
        score_fn, params, _, _, triples = world("ComplEx", 2)
        score_fn = score_fn.clone(negative_sample_sharing=shared)
        placement = bj.Placement.create(2)
        ranker, state = Ranker(score_fn=score_fn, placement=placement, chunk=16), placement.put(params)
        lists = {"tail": np.arange(40 * 30).reshape(40, 30) % 1201}
        ranks = ranker.ranks(state, triples[:40]), ranker.ranks_among(state, triples[:40], lists)
        found.append([ranks[0].head, ranks[0].tail, ranks[1].tail, ranker.top_k(state, "tail", triples[:40], 5).id])
        assert ranker.score_fn is score_fn
        assert ranker.score_fn.negative_sample_sharing == shared
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_programs_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each kind of question and one more at most for another size, however many chunks and calls there are."""
    traced: list[Any] = []
    real = bj.Placement.map

    def count(self: bj.Placement, fn: Any) -> Any:
        def counted(*args: Any) -> Any:
            traced.append(fn)
            return fn(*args)

        return real(self, counted)

    monkeypatch.setattr(bj.Placement, "map", count)
    score_fn, params, _, _, triples = world("DistMult", 2, n_entity=301)
    placement = bj.Placement.create(2)
    ranker, state = Ranker(score_fn=score_fn, placement=placement, chunk=32), placement.put(params)
    n_traced = []
    for n in (100, 70, 100, 200, 70, 41):
        ranker.ranks(state, triples[:n], sides=("head", "relation", "tail"))
        ranker.top_k(state, "tail", triples[:n], 3)
        ranker.score(state, triples[:n])
        n_traced.append(len(traced))
    assert n_traced[0] == 5  # ranks of heads, relations and tails, best tails, scores
    assert n_traced[-1] <= 10


def test_bad_queries_are_refused() -> None:
    score_fn, params, _, _, triples = world("DistMult", 2)
    placement = bj.Placement.create(2)
    ranker, state = Ranker(score_fn=score_fn, placement=placement), placement.put(params)
    with pytest.raises(ValueError, match=r"triples\[0, 1\] is 3, but relation ids go from 0 to 2"):
        ranker.ranks(state, np.array([[0, 3, 1]], np.int32))
    with pytest.raises(ValueError, match=r"triples\[0, 0\] is 1201, but entity ids go from 0 to 1200"):
        ranker.score(state, np.array([[1201, 0, 1]], np.int32))
    with pytest.raises(ValueError, match="side must be one of 'head', 'relation', 'tail', got 'tails'"):
        ranker.top_k(state, "tails", triples[:1], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="candidates must be None where relations are requested"):
        ranker.ranks(state, triples[:3], sides=("relation",), among={"relation": Candidates.listed([1], 1201, 3)})
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k must be between 1 and the number of relations, 3, got {k}"):
            ranker.check_k("relation", k)
    with pytest.raises(ValueError, match=r"query_group of the candidates must have shape"):
        ranker.ranks(state, triples[:3], among={"tail": Candidates.listed([1], 1201, 2)})
    with pytest.raises(ValueError, match="must have one row for all or 3, got 2"):
        ranker.ranks_among(state, triples[:3], {"tail": np.zeros((2, 4), np.int32)})


def test_no_array_of_queries_times_entities() -> None:
    """The compiled ranking holds queries x window scores, far fewer than queries x entities."""
    n_entity, chunk, window = 20_000, 64, 128
    score_fn, _, _, _, _ = world("DistMult", 1, n_entity=n_entity)
    ranker = Ranker(score_fn=score_fn, placement=bj.Placement.create(1), chunk=chunk, window=window)
    params = bj.Params(
        jax.ShapeDtypeStruct((1, n_entity, 8), jnp.float32),
        {"relation_embedding": jax.ShapeDtypeStruct((1, N_RELATION, 8), jnp.float32)},
    )
    n_window = -(-n_entity // window)
    ids, omitted = np.zeros((1, chunk), np.int32), np.zeros((1, n_window, 2), np.int32)
    fn = ranker.placement.map(partial(rank_entities, ranker.score_fn, "shard", "tail", window, 0.0))
    table = Table(jax.ShapeDtypeStruct((1,), jnp.int32))
    compiled = fn.lower(params, table, Queries(ids, ids, ids), Omitted(omitted, omitted)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * 4 * chunk * n_entity
