"""Score functions as users compile them, on more rows than jaxlib 0.10.2 sums rightly, against float64, row by row."""

from __future__ import annotations

from functools import partial
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
QUERIES = 2


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


# Own candidates: every model in every width, its further norms and options in one. Shared ones: one width each.
EVERY_WIDTH, ONE_WIDTH = (
    [
        pytest.param(*param.values, width, id=f"{param.id}-{width}")
        for number, param in enumerate(CASES)
        for width in (WIDTHS if every and first_of_its_model(param) else WIDTHS[number % len(WIDTHS) :][:1])
    ]
    for every in (True, False)
)


@pytest.mark.parametrize(("name", "arguments", "width"), EVERY_WIDTH)
def test_triples_and_their_own_candidates(name: str, arguments: dict[str, Any], width: int) -> None:
    """A row of each table for each triple: a wrong sum shows in a row of its own."""
    case = sized(name, arguments, width)
    model = case.make(shared=False).clone(n_relation_type=ROWS)
    E, R = model.entity_width, model.relation_width
    head, tail, candidate = drawn(1, ROWS, E), drawn(2, ROWS, E), drawn(3, ROWS, 1, E)
    table, relation = drawn(4, 2 * ROWS, R), np.arange(ROWS, dtype=np.int32)[::-1]
    weight, own_weight = drawn(5, ROWS), drawn(6, ROWS, 1)

    @jax.jit
    def run(table: Any, head: Any, tail: Any, candidate: Any) -> Any:
        def weighted(table: Any, head: Any, tail: Any, candidate: Any) -> Any:
            variables = case.variables(table, case.network)
            scores = model.apply(variables, head, relation, tail, candidate, method="score_triple_and_tails")
            return jnp.sum(weight * scores[0]) + jnp.sum(own_weight * scores[1]), scores

        return jax.grad(weighted, (0, 1, 2, 3), has_aux=True)(table, head, tail, candidate)

    gradients, (score, own_score) = run(table, head, tail, candidate)
    rows = table[relation]
    of_triples = expected(case, head, rows, tail)
    of_own = expected(case, head, rows, candidate[:, 0])
    assert_close(score, of_triples.score, FLOAT32)
    assert_close(own_score[:, 0], of_own.score, FLOAT32)
    weights = weight[:, None], own_weight
    by_head, by_relation, _ = (
        sum(w * slope for w, slope in zip(weights, slopes, strict=True))
        for slopes in zip(of_triples.slopes, of_own.slopes, strict=True)
    )
    assert_close(gradients[0][relation], by_relation, ACCUMULATED)
    assert_close(gradients[1], by_head, ACCUMULATED)
    assert_close(gradients[2], weights[0] * of_triples.slopes[2], ACCUMULATED)
    assert_close(gradients[3][:, 0], weights[1] * of_own.slopes[2], ACCUMULATED)


@pytest.mark.parametrize(("name", "arguments", "width"), ONE_WIDTH)
def test_shared_candidates(name: str, arguments: dict[str, Any], width: int) -> None:
    """A few queries meet all candidates; gradients by candidate, each row a sum over the queries."""
    case = sized(name, arguments, width)
    model = case.make(shared=True)
    known, candidate = drawn(1, QUERIES, model.entity_width), drawn(2, ROWS, model.entity_width)
    relation = np.arange(QUERIES, dtype=np.int32)
    weight = drawn(3, QUERIES, ROWS)
    sides = ("tail", "head") if model.scores_heads else ("tail",)

    @partial(jax.jit)
    def run(candidate: Any) -> Any:
        def weighted(candidate: Any, side: str) -> Any:
            rows = (known, relation, candidate[None]) if side == "tail" else (candidate[None], relation, known)
            score = model.apply(case.variables(case.table, case.network), *rows, method=f"score_{side}s")
            return jnp.sum(weight * score), score

        return [jax.grad(partial(weighted, side=side), has_aux=True)(candidate) for side in sides]

    for side, (gradient, score) in zip(sides, run(candidate), strict=True):
        relations = case.table[relation][:, None]
        rows = (known[:, None], relations, candidate) if side == "tail" else (candidate, relations, known[:, None])
        theirs = expected(case, *rows)
        hidden = near(case, theirs.score, *rows)
        assert_close(score, np.where(hidden, np.nan, theirs.score), FLOAT32, least=0.8)
        slopes = np.where(hidden[..., None], np.nan, theirs.slopes[2 if side == "tail" else 0])
        assert_close(gradient, np.sum(weight[..., None] * slopes, axis=0), ACCUMULATED, least=0.6)
