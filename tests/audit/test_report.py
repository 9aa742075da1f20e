"""Findings of an audit: each has a program without it, and one that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from shared.lowering import AXIS, array, ids, lowered

import bess_jax as bj
from bess_jax.audit.report import Audit, audit_program

TABLE, AT, ROWS = array(100, 8), ids(5), array(5, 8)
UPDATES = (Path(__file__).parent / "jax_0_3_16" / "updates.hlo").read_text(encoding="utf-8")


def audit(fn: Callable[..., Any], *args: Any) -> Audit:
    return audit_program(lowered(fn, *args), n_shard=4, tables=[(100, 8)])


def in_place(table: Any, at: Any, rows: Any) -> Any:
    return table.at[at].add(rows)


def in_loop(table: Any, at: Any, rows: Any) -> Any:
    def one(table: Any, at: Any) -> Any:
        return table.at[at].add(rows), table[at].sum()

    return lax.scan(one, table, at[None].repeat(3, 0))


def dense(table: Any, at: Any, rows: Any) -> Any:
    gradient = jax.grad(lambda table: (table[at] * rows).sum())(table)
    return table - 0.1 * gradient


def by_two_columns(table: Any, at: Any, rows: Any) -> Any:
    return table.at[at, at].add(rows[:, 0])


@pytest.mark.parametrize(
    ("name", "fn", "n"),
    [
        ("dense-gradient", in_place, 0),
        ("dense-gradient", in_loop, 0),
        ("dense-gradient", lambda t, i, x: lax.dynamic_update_slice(t, x, (0, 0)), 0),
        ("dense-gradient", dense, 1),
        ("dense-gradient", lambda t, i, x: t * 2, 1),
        ("slow-scatter", in_place, 0),
        ("slow-scatter", by_two_columns, 1),
        ("table-copy", in_place, 0),
        ("table-copy", lambda t, i, x: t[i], 0),
        ("table-copy", lambda t, i, x: t.astype(jnp.float16)[i], 1),
        ("table-copy", lambda t, i, x: t.T[:, i], 1),
        ("table-copy", lambda t, i, x: jnp.concatenate([t, x])[i], 1),
        ("table-copy", lambda t, i, x: (t * 2).T, 0),
        ("all-gather", in_place, 0),
        ("all-gather", lambda t, i, x: lax.all_gather(x, AXIS), 1),
        ("scatter", in_place, 1),
        ("topk", in_place, 0),
    ],
)
def test_forbidden(name: str, fn: Any, n: int) -> None:
    found = audit(fn, TABLE, AT, ROWS).forbidden([name])
    assert (len(found) > 0) == (n > 0), found
    assert all(one.startswith(f"{name}: ") for one in found)


def test_gradients_are_not_in_place() -> None:
    assert {one.opcode for one in audit(dense, TABLE, AT, ROWS).dense_gradients} >= {"broadcast", "scatter", "subtract"}
    assert not audit(in_loop, TABLE, AT, ROWS).dense_gradients


def test_a_name_that_is_none() -> None:
    with pytest.raises(ValueError, match="got 'all-gathers'; did you mean 'all-gather'"):
        audit(in_place, TABLE, AT, ROWS).forbidden(["all-gathers"])
    with pytest.raises(ValueError, match="got 'x'"):
        audit(in_place, TABLE, AT, ROWS).forbidden(["x"])


def test_counts_of_the_older_jax() -> None:
    found = audit_program(UPDATES, n_shard=4, tables=[(100, 8)])
    assert found.scatters == {"rows": 3, "loop": 0}
    assert (found.operations["gather"], found.operations["while"]) == (3, 1)
    assert [(one.opcode, one.nbytes, one.times, one.group, one.sent) for one in found.collectives] == [
        ("all-reduce", 4, 3, 4, 18.0)
    ]
    assert found.sent_bytes == 18
    assert not found.forbidden(["dense-gradient", "slow-scatter", "table-copy", "all-gather"])
    broken = UPDATES.replace("inserted_window_dims={0}", "inserted_window_dims={1}")
    assert audit_program(broken, n_shard=4).scatters == {"rows": 0, "loop": 3}


def test_temporaries() -> None:
    found = audit(lambda t, i, x: (t[i] @ x.T, in_place(t, i, x)), TABLE, AT, ROWS)
    assert [(one.opcode, one.shape, one.nbytes) for one in found.temporaries[:2]] == [
        ("gather", "f32[5,8]", 160),
        ("transpose", "f32[8,5]", 160),
    ]
    assert not any(one.shape == "f32[100,8]" for one in found.temporaries)


def test_sorts() -> None:
    found = audit(lambda x: (lax.sort(x), lax.top_k(x, 2)), array(5))
    assert [one.opcode for one in found.sorts] == ["sort", "topk"]


def test_forms() -> None:
    found = audit(lambda t, i, x: (dense(t, i, x), by_two_columns(t, i, x), lax.psum(x, AXIS)), TABLE, AT, ROWS)
    assert json.loads(json.dumps(found.as_dict()))["scatters"] == {"rows": 1, "loop": 1}
    assert found.as_dict()["sent_bytes"] == 240
    lines = found.as_text().splitlines()
    assert "sent            240 bytes a device and step" in lines
    assert "  all-reduce f32[5,8], 160 bytes, 240 bytes sent, groups of 4" in lines
    assert "scatters        rows 1, loop 1" in lines
    assert any("index columns" in line for line in lines)
    assert not any("counted once" in line for line in lines)
    loop = audit(lambda x: lax.while_loop(lambda x: x[0] < 9, lambda x: x * 2, x), array(3))
    assert "how often these loops run is not known" in loop.as_text()


def steps(rule: bj.UpdateRule) -> Any:
    """A compiled training step of two shards."""
    sharding = bj.Sharding.create(4000, 2, seed=0)
    sampler = bj.RandomShardedNegativeSampler(
        n_negative=3, sharding=sharding, seed=1, corruption_scheme="t", flat_negative_format=True
    )
    score_fn = bj.DistMult(negative_sample_sharing=True, sharding=sharding, n_relation_type=5, embedding_size=8)
    loss = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=False)
    model = bj.EmbeddingMovingBessKGE(negative_sampler=sampler, score_fn=score_fn, loss_fn=loss)
    placement = bj.Placement.create(2)
    state = jax.eval_shape(
        jax.vmap(lambda shard: bj.init_train_state(model, rule, jax.random.key(0), shard)), jnp.arange(2)
    )
    batch = {name: np.zeros((1, 2, 2, 4), np.int32) for name in ("head", "relation", "tail")}
    batch["negative"] = np.zeros((1, 2, 2, 1, 3), np.int32)
    batch = bj.shard_major(bj.merge_ids(batch, sharding.max_entity_per_shard) if rule.sparse else batch)
    return placement.map(bj.make_train_step(model, rule), donate_argnums=(0,)).lower(state, batch)


@pytest.mark.long
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
@pytest.mark.parametrize("stage", ["lowered", "compiled"])
@pytest.mark.parametrize("sparse", [True, False])
def test_steps(sparse: bool, stage: str) -> None:
    """A dense update has gradients of a table's size, a row-sparse one has none and copies no table."""
    step = steps(bj.row_sparse(optax.adam(0.1)) if sparse else bj.dense(optax.adam(0.1)))
    found = audit_program(step if stage == "lowered" else step.compile(), n_shard=2, tables=[(2000, 8)])
    assert bool(found.dense_gradients) is not sparse, found.dense_gradients
    assert not (sparse and found.table_copies)
    assert found.scatters["loop"] == 0
    if stage == "lowered":  # compiled for a CPU some are loops
        assert found.scatters["rows"] == (5 if sparse else 2)
    assert not found.unknown_loops
    assert bool(found.memory) is (stage == "compiled")
    assert found.operations["all-to-all"] == 2
