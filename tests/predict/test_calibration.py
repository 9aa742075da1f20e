"""Probabilities and thresholds against what their definitions give by hand or by trying everything."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.predict.calibration import (
    Isotonic,
    Labelled,
    Platt,
    Thresholds,
    best_threshold,
    corrupt,
    read_fitted,
    write_fitted,
)


def labelled(score: list[float], true: list[bool], relation: list[int] | None = None) -> Labelled:
    return Labelled(np.array(score, np.float64), np.array(true), np.array(relation or [0] * len(score), np.int32))


def draw(seed: int, n: int = 4000, slope: float = 1.5, intercept: float = -0.5) -> Labelled:
    """Scores whose triples are true with the probability of a logistic curve."""
    rng = np.random.default_rng(seed)
    score = rng.normal(scale=2, size=n) + 10
    true = rng.random(n) < 1 / (1 + np.exp(-(slope * (score - 10) + intercept)))
    return Labelled(score, true, np.zeros(n, np.int32))


# --- false triples ----------------------------------------------------------------------------------------------------


def test_false_triples_are_uniform_over_all_that_are_false() -> None:
    """Every entity that makes no known triple comes about as often, and no other one does."""
    rng = np.random.default_rng(1)
    n_entity = 12
    known = np.unique(rng.integers([n_entity, 2, n_entity], size=(90, 3)), axis=0).astype(np.int32)
    known = rng.permutation(known)
    index = bj.KnownAnswers(known, 2)
    triple = known[17]
    many = np.repeat(triple[None], 20_000, axis=0)
    false, possible = corrupt(many, n_entity, index, rng)
    assert possible.all()
    truth = {tuple(row) for row in known.tolist()}
    for column in (0, 2):
        rows = false[(false[:, 2 - column] == triple[2 - column]) & (false[:, column] != triple[column])]
        count = np.bincount(rows[:, column], minlength=n_entity)
        allowed = []
        for entity in range(n_entity):
            row = triple.copy()
            row[column] = entity
            allowed.append(tuple(row.tolist()) not in truth)
        np.testing.assert_array_equal(count > 0, allowed)
        share = count[allowed] / count.sum()
        np.testing.assert_allclose(share, 1 / sum(allowed), rtol=0.2)
        assert count.sum() == pytest.approx(10_000, rel=0.05)


def test_false_triples_of_many_and_those_that_cannot_be_made() -> None:
    full = np.array([[h, 0, t] for h in range(4) for t in range(4)], np.int32)  # relation 0 holds everywhere
    some = np.array([[0, 1, 1], [2, 1, 3]], np.int32)
    index = bj.KnownAnswers(np.concatenate([full, some]), 2)
    false, possible = corrupt(np.concatenate([full, some]), 4, index, np.random.default_rng(0))
    np.testing.assert_array_equal(possible, [False] * 16 + [True] * 2)
    truth = {tuple(row) for row in some.tolist()}
    assert len(false) == 2
    assert all(tuple(row) not in truth and row[1] == 1 for row in false.tolist())
    again, _ = corrupt(np.concatenate([full, some]), 4, index, np.random.default_rng(0))
    np.testing.assert_array_equal(false, again)


# --- probabilities ----------------------------------------------------------------------------------------------------


def test_platt_is_where_the_likelihood_is_flat() -> None:
    data = draw(0)
    fitted = Platt.fit(data)
    n, m = data.true.sum(), (~data.true).sum()
    error = np.where(data.true, (n + 1) / (n + 2), 1 / (m + 2)) - fitted(data.score)
    assert abs(error.sum()) < 1e-2
    assert abs((error * (data.score - 10)).sum()) < 1e-2
    assert fitted.slope == pytest.approx(1.5, rel=0.1)
    assert fitted.intercept == pytest.approx(-0.5 - 15, rel=0.1)
    np.testing.assert_allclose(fitted(np.array([9.0])), 1 / (1 + np.exp(-(fitted.slope * 9 + fitted.intercept))))
    assert fitted(np.array([-1e4, 1e4])).tolist() == [0, 1]


def test_platt_of_scores_that_tell_all_triples_apart_is_finite() -> None:
    fitted = Platt.fit(labelled([1, 2, 3, 4], [False, False, True, True]))
    assert 0 < fitted.slope < 50
    np.testing.assert_allclose(fitted(np.array([2.5])), 0.5, atol=1e-6)
    same = Platt.fit(labelled([2, 2, 2, 2], [False, False, True, True]))
    np.testing.assert_allclose(same(np.array([2.0])), 0.5, atol=1e-6)


def test_isotonic_by_hand() -> None:
    fitted = Isotonic.fit(labelled([1, 2, 3, 4, 5], [False, True, False, True, True]))
    np.testing.assert_allclose(fitted(np.array([0, 1, 2, 3, 4, 9])), [0, 0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(fitted(np.array([[1.5], [3.5]])), [[0.25], [0.75]])


@pytest.mark.parametrize("kind", [Platt, Isotonic])
def test_probabilities_are_shares(kind: type[Platt | Isotonic]) -> None:
    """Of the triples that get about probability p, about the share p is true."""
    fitted, other = kind.fit(draw(0)), draw(1, n=20_000)
    p = fitted(other.score)
    for low in np.arange(0, 1, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        assert other.true[inside].mean() == pytest.approx(p[inside].mean(), abs=0.04)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn.linear_model", "sklearn.isotonic"):
        monkeypatch.setitem(sys.modules, module, None)
    for kind in (Platt, Isotonic):
        with pytest.raises(MissingExtraError, match=r"needs the package sklearn.*pip install 'bess_jax\[frames\]'"):
            kind.fit(draw(0))


# --- thresholds -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
def test_best_threshold_equals_trying_all(rows: list[tuple[int, bool]]) -> None:
    score, true = np.array([row[0] for row in rows], np.float64), np.array([row[1] for row in rows])
    found = best_threshold(score, true)
    tried = {t: int(((score >= t) == true).sum()) for t in np.arange(-3.5, 4.5, 0.5)}
    assert ((score >= found) == true).sum() == max(tried.values())
    lowest = min(t for t in tried if tried[t] == max(tried.values()))
    np.testing.assert_array_equal(score >= found, score >= lowest)
    assert score.min() <= found <= np.nextafter(score.max(), np.inf)


def test_thresholds_of_relations() -> None:
    scores = [1, 2, 3, 11, 12, 13, 14]
    fitted = Thresholds.fit(labelled(scores, [False, True, True, False, False, False, True], [5, 5, 5, 2, 2, 2, 2]))
    assert (list(fitted.relation), list(fitted.threshold)) == ([2, 5], [13.5, 1.5])
    assert fitted.common == 13.5  # right for five of seven
    np.testing.assert_array_equal(fitted.of(np.array([5, 2, 0, 9])), [1.5, 13.5, 13.5, 13.5])
    assert fitted(np.array([1.5, 1.4, 13.6]), np.array([5, 5, 0])).tolist() == [True, False, True]


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_plain_numbers(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    assert read_fitted(file, {"n_call": 3}) == {}
    data = draw(0, n=200)
    fitted = {"platt": Platt.fit(data), "isotonic": Isotonic.fit(data), "thresholds": Thresholds.fit(data)}
    write_fitted(file, {"n_call": 3}, fitted)
    assert set(json.loads(file.read_text())["content"]) == {"made_of", "fitted"}
    again = read_fitted(file, {"n_call": 3})
    for kind in ("platt", "isotonic"):
        np.testing.assert_array_equal(again[kind](data.score), fitted[kind](data.score))
    np.testing.assert_array_equal(again["thresholds"].of(data.relation), fitted["thresholds"].of(data.relation))
    assert read_fitted(file, {"n_call": 4}) == {}  # of other parameters
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_damaged_files_are_not_believed(tmp_path: Path) -> None:
    """A flipped bit gives nothing, so that the numbers are made again, or it is harmless."""
    file, made_of, fitted = tmp_path / "calibration.json", {"n_call": 3}, {"platt": Platt(0.5, -1.25)}
    write_fitted(file, made_of, fitted)
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert read_fitted(file, made_of) in ({}, fitted)
    for text in (b"[]", b"{", b"", whole[:-20], b'{"made_of": {"n_call": 3}, "fitted": {"platt": {"slope": 1}}}'):
        file.write_bytes(text)
        assert read_fitted(file, made_of) == {}
    write_fitted(file, made_of, fitted)
    assert read_fitted(file, made_of) == fitted
