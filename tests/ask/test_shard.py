"""What a shard computes for queries: answers left out by their place, and programs without slow operations."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared import lowering
from shared.lowering import array, ids
from shared.tolerance import EXACT

import bess_jax as bj
from bess_jax.ask import shard
from bess_jax.ask.topk import TopKQueryBessKGE
from bess_jax.audit.hlo import read_program
from bess_jax.audit.ipu import verdicts
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler

Q, W, V, X = 8, 128, 2, 4


def test_places_outside_hide_nothing() -> None:
    score = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    row, column = (x.ravel() for x in np.mgrid[-2:8, -9:16])
    inside = (row >= 0) & (row < 5) & (column >= 0) & (column < 7)
    kept = np.random.default_rng(1).random(len(row)) < 0.5
    kept[inside & (row == 4) & (column == 6)] = True
    row, column, inside = row[kept], column[kept], inside[kept]
    expected = score.copy()
    expected[row[inside], column[inside]] = -np.inf
    assert 0 < np.isinf(expected).sum() < score.size
    hide = jax.jit(shard.hide)
    np.testing.assert_allclose(hide(score, row.astype(np.int32), column.astype(np.int32)), expected, **EXACT)


def test_places_have_32_bits() -> None:
    place = jax.ShapeDtypeStruct((X,), jnp.int32)
    assert jax.eval_shape(shard.hide, jax.ShapeDtypeStruct((2**20, 2**11 - 1), jnp.float32), place, place)
    with pytest.raises(ValueError, match=r"less than 2\*\*31, got 1048576 \* 2048"):
        jax.eval_shape(shard.hide, jax.ShapeDtypeStruct((2**20, 2**11), jnp.float32), place, place)


def programs() -> dict[str, Any]:
    """Name -> a function of one shard and its arguments."""
    sharding = bj.Sharding.create(4 * 200, 4, seed=0)
    score_fn = bj.DistMult(negative_sample_sharing=True, sharding=sharding, n_relation_type=9, embedding_size=6)
    params = bj.Params(array(200, 6), {"relation_embedding": array(9, 6)})
    table, queries = shard.Table(ids()), shard.Queries(ids(Q), ids(Q), ids(Q))
    omitted = shard.Omitted(ids(V, X), ids(V, X))
    of_relations = shard.Omitted(ids(1, X), ids(1, X))
    every = PlaceholderNegativeSampler(corruption_scheme="t")
    top_k = TopKQueryBessKGE(k=3, candidate_sampler=every, score_fn=score_fn)
    model = score_fn, lowering.AXIS
    return {
        "ranks": (partial(shard.rank_entities, *model, "tail", W, 0.0), params, table, queries, omitted),
        "best": (partial(shard.top_entities, *model, "tail", W, 3), params, table, queries, omitted),
        "ranks of lists": (partial(shard.rank_lists, *model, "tail", 0.0), params, queries, ids(Q, 5)),
        "ranks of relations": (partial(shard.rank_relations, *model, 0.0), params, queries, of_relations),
        "best relations": (partial(shard.top_relations, *model, 2), params, queries, of_relations),
        "top-k": (lambda p, r, h, i: top_k.forward(p, r, h, entity_id=i), params, ids(1, Q), ids(1, Q), ids(200)),
    }


@pytest.mark.parametrize("name", programs())
def test_no_slow_scatter_and_one_key_a_sort(name: str) -> None:
    fn, *args = programs()[name]
    found = verdicts(read_program(lowering.text(fn, *args)), 4)
    bad = [one for one in found if one.opcode in ("scatter", "sort") and one.status in ("slow", "unsupported")]
    assert not bad
    expected = {"ranks": "scatter", "best": "scatter", "ranks of relations": "scatter", "top-k": "sort"}
    assert expected.get(name) in {None, *(one.opcode for one in found)}
