"""Bytes in programs of a step equal the formula of BESS."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from shared.lowering import array, ids, lowered

import bess_jax as bj
from bess_jax.audit.report import audit_program
from bess_jax.audit.traffic import exchange_bytes
from bess_jax.step.collectives import use_exchange

P, N, WIDTH = 16, 32, 128
MOVING = {"rows": bj.EmbeddingMovingBessKGE, "scores": bj.ScoreMovingBessKGE}
KNOWN = {("rows", 2): 49_152, ("rows", 4): 147_456, ("rows", 8): 344_064}
KNOWN |= {("scores", 2): 32_768, ("scores", 4): 245_760, ("scores", 8): 1_949_696}


def model(moving: str, n_shard: int, scheme: Any = "t", flat: bool = True, shared: bool = True, **kw: Any) -> Any:
    sharding = bj.Sharding.create(64 * n_shard, n_shard, seed=0)
    sampler = bj.RandomShardedNegativeSampler(
        n_negative=N, sharding=sharding, seed=1, corruption_scheme=scheme, flat_negative_format=flat, **kw
    )
    score_fn = bj.DistMult(negative_sample_sharing=shared, sharding=sharding, n_relation_type=5, embedding_size=WIDTH)
    return MOVING[moving](negative_sampler=sampler, score_fn=score_fn, return_scores=True)


def sent(model: Any, n_positive: int, how: Any, dtype: Any, training: bool = True) -> float:
    """Bytes that a shard sends for scores and the gradient of all rows, counted in the program."""
    n_shard, names = model.score_fn.sharding.n_shard, ("head", "relation", "tail")
    params = jax.tree.map(lambda x: array(*x.shape[1:], dtype=dtype), jax.eval_shape(model.init, jax.random.key(0)))
    batch = {name: ids(1, n_shard, n_positive) for name in names}
    batch["negative"] = ids(1, n_shard, model.negative_sampler.n_list(n_shard * n_positive), N)

    def scores(entity: Any, params: Any, batch: Any) -> Any:
        out = model.forward(params._replace(entity=entity), **batch)
        return jnp.square(out["negative_score"]).sum() + jnp.square(out["positive_score"]).sum()

    def fn(params: Any, batch: Any) -> Any:
        return (jax.grad(scores) if training else scores)(params.entity, params, batch)

    with use_exchange(how):
        program = lowered(fn, params, batch, n_shard=n_shard)
    return audit_program(program, n_shard=n_shard).sent_bytes


@pytest.mark.parametrize(
    "n_shard", [2, 4, pytest.param(8, marks=pytest.mark.long), pytest.param(16, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("how", ["all_to_all", "ring"])
@pytest.mark.parametrize("moving", MOVING)
def test_program_and_formula(moving: str, n_shard: int, how: Any) -> None:
    bess = model(moving, n_shard)
    formula = exchange_bytes(bess, P, how=how)
    assert formula.exchanged == KNOWN.get((moving, n_shard), formula.exchanged)
    assert sent(bess, P, how, jnp.float32) == formula.total
    assert (formula.queries > 0, formula.scores > 0) == (moving == "scores",) * 2


@pytest.mark.parametrize(
    ("moving", "options", "dtype", "training"),
    [
        ("rows", {"scheme": "ht"}, "float32", True),
        ("rows", {"flat": False, "shared": False}, "float16", True),
        ("rows", {"local_sampling": True}, "float32", True),
        ("scores", {"scheme": "ht"}, "float32", True),
        ("scores", {"scheme": "ht", "flat": False}, "float32", False),
        ("scores", {"shared": False, "flat": False}, "float16", True),
        ("scores", {"shared": False}, "float32", False),
    ],
)
def test_formats_of_negatives(moving: str, options: dict[str, Any], dtype: str, training: bool) -> None:
    bess = model(moving, 4, **options)
    formula = exchange_bytes(bess, 4, dtype=dtype, training=training)
    assert sent(bess, 4, "all_to_all", jnp.dtype(dtype), training) == formula.total


def test_emulated() -> None:
    """As counted in the programs of JAX 0.3.16, where every exchange is an all-reduce of S times the operand."""
    assert exchange_bytes(model("rows", 4), P, how="emulated").total == 1_179_648
    assert exchange_bytes(model("scores", 4), P, how="emulated").total == 2_950_656


def test_errors() -> None:
    bess = model("rows", 2)
    with pytest.raises(ValueError, match="n_positive must be >= 1, got 0"):
        exchange_bytes(bess, 0)
    with pytest.raises(ValueError, match="n_negative must be >= 1, got 0"):
        exchange_bytes(bess, 1, 0)
    with pytest.raises(ValueError, match="how must be one of 'all_to_all', 'ring', 'emulated', got 'tree'"):
        exchange_bytes(bess, 1, how="tree")  # type: ignore[arg-type]
