"""Known answers and candidates, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bess_jax.ask.known import Candidates, KnownAnswers


def test_known_answers() -> None:
    triples = np.array([[0, 1, 3], [0, 1, 4], [2, 0, 1], [5, 1, 3]], np.int32)
    known = KnownAnswers(triples, 2)
    query, answer = known.of("tail", np.array([[0, 1, 9], [2, 1, 9], [2, 0, 9]]))
    assert list(zip(query.tolist(), answer.tolist(), strict=True)) == [(0, 3), (0, 4), (2, 1)]
    query, answer = known.of("head", np.array([[9, 1, 3]]))
    assert sorted(answer.tolist()) == [0, 5]
    assert query.tolist() == [0, 0]
    query, answer = known.of("relation", np.array([[2, 9, 1], [2, 9, 100], [100, 9, 1]]))
    assert (query.tolist(), answer.tolist()) == ([0], [0])
    asked = np.array([[0, 1, 9], [2, 1, 9], [2, 0, 9]], np.int32)
    near = known.near("tail", asked)
    assert len(near) == 3
    np.testing.assert_array_equal(near.of("tail", asked), known.of("tail", asked))
    assert repr(near) == "KnownAnswers(3 triples)"


def test_candidates() -> None:
    listed = Candidates.listed([1, 4, 4], 5, 2)
    assert listed.n_candidate.tolist() == [2, 2]
    assert (listed.entity_group == listed.query_group[0]).nonzero()[0].tolist() == [1, 4]
    typed = Candidates.of_types([0, 3], 5, np.array([1, 0, 1]))
    assert typed.n_candidate.tolist() == [2, 3, 2]
    assert (typed.entity_group == typed.query_group[1]).nonzero()[0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="candidates must be a list of at least one entity"):
        Candidates.listed([], 5, 1)
    with pytest.raises(ValueError, match=r"candidates\[1\] is 5, but entity ids go from 0 to 4"):
        Candidates.listed([0, 5], 5, 1)
    with pytest.raises(ValueError, match=r"types\[0\] is 2, but type ids go from 0 to 1"):
        Candidates.of_types([0, 3], 5, np.array([2]))
