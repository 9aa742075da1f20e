"""Score functions as users compile them, on more rows than jaxlib 0.10.2 sums rightly, against float64, row by row."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared.formulas import CASES, Case
from shared.oracle import Array
from shared.tolerance import ACCUMULATED, FLOAT32

from bess_jax.scoring.distance import Distance

pytestmark = pytest.mark.optimized

ROWS = 33_000  # XLA's fault begins at 32,769, see test_xla_faults.py
WIDTHS = (1, 2, 3, 5)
QUERIES = 2  # of width 3, they meet that fault if the scores are summed


class Expected(NamedTuple):
    """Float64 scores, and their slopes by head, relation and tail; what is too near a kink to tell is NaN."""

    score: Array
    slopes: tuple[Array, Array, Array]


def expected(case: Case, *rows: Array) -> Expected:
    """By central differences; rows broadcast. A slope counts if it is the same on both sides."""
    at, step, slopes = [np.asarray(x, np.float64) for x in rows], 1e-5, []
    score = case.formula(*at)
    for i, row in enumerate(at):
        of_row = []
        for e in step * np.eye(row.shape[-1]):
            up, down = (case.formula(*at[:i], row + x, *at[i + 1 :]) for x in (e, -e))
            slope, jump = (up - down) / (2 * step), np.abs(up - 2 * score + down) / step
            of_row.append(np.where(jump < 1e-3 * (1 + np.abs(slope)), slope, np.nan))
        slopes.append(np.stack(of_row, axis=-1))
    return Expected(score, (slopes[0], slopes[1], slopes[2]))


def assert_close(ours: Any, theirs: Array, tolerance: dict[str, float], least: float = 0.99) -> None:
    """Every entry, but those of `theirs` that are NaN; they are few.

    Entries may be small differences of large terms: the absolute tolerance is at least 1e-6 of the largest entry.
    """
    counts = np.isfinite(theirs)
    assert counts.mean() > least
    assert np.isfinite(ours).all()
    ours, theirs = np.asarray(ours)[counts], theirs[counts]
    atol = max(tolerance["atol"], 1e-6 * np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=tolerance["rtol"], atol=atol)


def drawn(seed: int, *shape: int) -> Array:
    """Of either sign, and of size 0.5 to 1.5: rows of width 1 have lengths to divide by."""
    rng = np.random.default_rng(seed)
    return (rng.choice([-1, 1], size=shape) * rng.uniform(0.5, 1.5, size=shape)).astype(np.float32)


def sized(name: str, arguments: dict[str, Any], width: int) -> Case:
    kernel = {"kernel_height": 1, "kernel_width": 1, "input_channels": 1} if name == "ConvE" else {}
    return Case(name, {**arguments, **kernel, "embedding_size": width})


def near(case: Case, score: Array, *rows: Array) -> Array:
    """Where a distance is so short that 2-norms by products, which leave out what rounding hides, are another function.

    See `scoring.distance.Distance`: its squares are wrong by 1e-6 of the squared lengths.
    """
    model = case.model
    if not (isinstance(model.combiner, Distance) and model.combiner.p == 2):
        return np.zeros(score.shape, bool)
    square = sum(np.sum(np.asarray(x, np.float64) ** 2, axis=-1) for x in rows)
    return score**2 < 0.01 * square


def first_of_its_model(param: Any) -> bool:
    return param is next(other for other in CASES if other.values[0] == param.values[0])


# Own candidates: every model in every width, its further norms and options in one. Shared ones: products in every
# width, for the fault is theirs; others in one.
OWN, SHARED = (
    [
        pytest.param(*param.values, width, id=f"{param.id}-{width}")
        for number, param in enumerate(CASES)
        for width in (WIDTHS if in_every_width(param) else WIDTHS[number % len(WIDTHS) :][:1])
    ]
    for in_every_width in (first_of_its_model, lambda param: param.values[0] in ("DistMult", "ComplEx"))
)


@pytest.mark.parametrize(("name", "arguments", "width"), OWN)
def test_triples_and_their_own_candidates(name: str, arguments: dict[str, Any], width: int) -> None:
    """A row of each table for each triple, a candidate for either end: a wrong sum shows in a row of its own."""
    case = sized(name, arguments, width)
    model = case.make(shared=False).clone(n_relation_type=ROWS)
    E, R = model.entity_width, model.relation_width
    head, tail, candidate = drawn(1, ROWS, E), drawn(2, ROWS, E), drawn(3, ROWS, 1, E)
    table, relation = drawn(4, 2 * ROWS, R), np.arange(ROWS, dtype=np.int32)[::-1]
    weights = [drawn(5 + i, ROWS) for i in range(3 if model.scores_heads else 2)]  # of triples, tails and heads

    @jax.jit
    def run(table: Any, head: Any, tail: Any, candidate: Any) -> Any:
        def weighted(table: Any, head: Any, tail: Any, candidate: Any) -> Any:
            variables = case.variables(table, case.network)
            triple, tails = model.apply(variables, head, relation, tail, candidate, method="score_triple_and_tails")
            scores = [triple, tails[:, 0]]
            if model.scores_heads:
                scores.append(model.apply(variables, candidate, relation, tail, method="score_heads")[:, 0])
            return sum(jnp.sum(w * score) for w, score in zip(weights, scores, strict=True)), scores

        return jax.grad(weighted, (0, 1, 2, 3), has_aux=True)(table, head, tail, candidate)

    (by_table, by_head, by_tail, by_candidate), scores = run(table, head, tail, candidate)
    rows = {"head": head, "relation": table[relation], "tail": tail, "candidate": candidate[:, 0]}
    slopes: dict[str, Any] = dict.fromkeys(rows, 0)
    ends = (("head", "tail"), ("head", "candidate"), ("candidate", "tail"))
    for (h, t), weight, score in zip(ends, weights, scores, strict=False):
        theirs = expected(case, rows[h], rows["relation"], rows[t])
        assert_close(score, theirs.score, FLOAT32)
        for of, slope in zip((h, "relation", t), theirs.slopes, strict=True):
            slopes[of] = slopes[of] + weight[:, None] * slope
    ours = {"head": by_head, "relation": by_table[relation], "tail": by_tail, "candidate": by_candidate[:, 0]}
    for of in rows:
        assert_close(ours[of], slopes[of], ACCUMULATED)


@pytest.mark.parametrize(("name", "arguments", "width"), SHARED)
def test_shared_candidates(name: str, arguments: dict[str, Any], width: int) -> None:
    """A few queries meet all candidates: scores and gradients by candidate, by known entity and by relation."""
    case = sized(name, arguments, width)
    model = case.make(shared=True)
    known, candidate = drawn(1, QUERIES, model.entity_width), drawn(2, ROWS, model.entity_width)
    relation = np.arange(QUERIES, dtype=np.int32)

    for side in ("tail", "head") if model.scores_heads else ("tail",):
        relations = case.table[relation][:, None]
        rows = (known[:, None], relations, candidate) if side == "tail" else (candidate, relations, known[:, None])
        theirs = expected(case, *rows)
        certain = np.all([np.isfinite(slope).all(axis=-1) for slope in theirs.slopes], axis=0)
        certain &= ~near(case, theirs.score, *rows)
        weight = np.where(certain, drawn(3, QUERIES, ROWS), 0)  # sums over all rows leave out what is too near a kink

        @jax.jit
        def run(candidate: Any, known: Any, table: Any, side: str = side, weight: Array = weight) -> Any:
            def weighted(candidate: Any, known: Any, table: Any) -> Any:
                variables = case.variables(table, case.network)
                ends = (known, candidate[None]) if side == "tail" else (candidate[None], known)
                score = model.apply(variables, ends[0], relation, ends[1], method=f"score_{side}s")
                return jnp.sum(weight * score), score

            return jax.grad(weighted, (0, 1, 2), has_aux=True)(candidate, known, table)

        (by_candidate, by_known, by_table), score = run(candidate, known, case.table)
        assert_close(score, np.where(certain, theirs.score, np.nan), FLOAT32, least=0.6)
        terms = [np.where(certain[..., None], weight[..., None] * slope, 0) for slope in theirs.slopes]
        head, of_relation, tail = terms
        of_candidate, of_known = (tail, head) if side == "tail" else (head, tail)
        assert_close(by_candidate, of_candidate.sum(axis=0), ACCUMULATED)
        for ours, term in ((by_known, of_known), (by_table[relation], of_relation)):
            size = np.abs(weight).sum(axis=1).max() + np.abs(term).sum(axis=1).max()
            np.testing.assert_allclose(ours, term.sum(axis=1), rtol=1e-4, atol=1e-6 * size)  # a thirtieth of a lost row
