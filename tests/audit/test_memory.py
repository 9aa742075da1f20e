"""What a step takes of an IPU's memory: against sums by hand, XLA's account, and the limits of BESS-KGE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import bess_jax as bj
from bess_jax.audit.memory import BYTES_PER_IPU, Budget, StepMemory, describe, limits, step_memory

MOVING = {"embeddings": bj.EmbeddingMovingBessKGE, "scores": bj.ScoreMovingBessKGE}
P, N, N_RELATION = 16, 32, 10


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """Which `optax.adam` needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def model_of(moving: str = "embeddings", n_entity: int = 1000, n_shard: int = 4, width: int = 8) -> bj.BessKGE:
    sharding = bj.Sharding.create(n_entity, n_shard, seed=0)
    sampler = bj.RandomShardedNegativeSampler(
        n_negative=N,
        sharding=sharding,
        seed=0,
        corruption_scheme="t",
        local_sampling=False,
        flat_negative_format=True,
    )
    score_fn = bj.DistMult(
        negative_sample_sharing=True, sharding=sharding, n_relation_type=N_RELATION, embedding_size=width
    )
    loss_fn = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=False)
    return MOVING[moving](negative_sampler=sampler, score_fn=score_fn, loss_fn=loss_fn)


def batches_of(n_shard: int, *, sparse: bool, n_step: int = 2) -> dict[str, jax.ShapeDtypeStruct]:
    sizes = dict.fromkeys(("head", "relation", "tail"), (n_step, n_shard, P))
    sizes["negative"] = (n_step, n_shard, 1, N)
    if sparse:
        sizes["entity_rows"] = (n_step, n_shard * (2 * P + N))
    return {name: jax.ShapeDtypeStruct(size, jnp.int32) for name, size in sizes.items()}


def memory_of(rule: bj.UpdateRule, n_shard: int = 4, moving: str = "embeddings", **sizes: Any) -> StepMemory:
    model = model_of(moving, n_shard=n_shard, **sizes)
    return step_memory(model, rule, batches_of(n_shard, sparse=rule.sparse))


@pytest.mark.parametrize("line", limits(), ids=str)
def test_limits_of_besskge(line: Any) -> None:
    """Fractions of 1472 tiles of 624 KiB; bytes for each number: 2 of the weight, and those of its optimizer."""
    percent = {(100, 4): 34, (128, 4): 65, (256, 4): 49, (512, 4): 61, (100, 16): 35, (128, 16): 67, (512, 16): 61}
    percent |= {(256, 16): 48}
    expected = 65 if (line.width, line.optimizer) == (256, "adam") else percent[line.width, line.n_ipu]
    assert round(100 * line.fraction) == expected
    assert round(100 * line.n_entity / line.n_ipu * line.width * line.bytes_per_number / 940_572_672) == expected
    assert BYTES_PER_IPU == 897 * 2**20
    budget = Budget(line.n_ipu)
    most = line.max_entities(budget)
    assert (most > line.n_entity) == (expected < 50)
    assert most / line.n_ipu * line.width * line.bytes_per_number <= 0.5 * BYTES_PER_IPU


def test_a_sparse_step_by_hand() -> None:
    """Adagrad: table and state of 250 rows; 64 rows of each of 4 shards are touched."""
    memory = memory_of(bj.row_sparse(optax.adagrad(0.1)))
    row, relation = 8 * 4, N_RELATION * 8 * 4
    assert memory.row == {"entity table": row, "its optimizer state": row}
    gathered, sent, scores = 4 * (2 * P + N), 4 * (P + N), 4 * P * (1 + 4 * N) * 4
    assert memory.rest == {
        "relations and networks, their gradients": 2 * relation,
        "their optimizer state and statistics": relation,
        "batches": 2 * 4 * (3 * 4 * P + 4 * N + gathered),
        "touched rows, their state and gradients": gathered * 4 * row,
        "gathered rows, their gradients": 2 * gathered * row,
        "exchanged rows, their gradients": 2 * sent * row,
        "scores, their gradients": 2 * scores,
        "held by the exchange": 2 * sent * row,
    }
    assert memory.total == 250 * memory.per_row + memory.fixed


def test_state_is_that_of_the_optimizer() -> None:
    row = 8 * 4
    states = {"sgd": optax.sgd(0.1), "adam": optax.adam(0.1), "row_adagrad": bj.row_adagrad(0.1)}
    sparse = {name: memory_of(bj.row_sparse(tx)).row["its optimizer state"] for name, tx in states.items()}
    assert sparse == {"sgd": 0, "adam": 2 * row, "row_adagrad": 4}
    dense = memory_of(bj.dense(optax.adam(0.1)))
    assert dense.per_row == (1 + 2 + 1 + 3) * row
    assert "touched rows, their state and gradients" not in dense.rest
    half = step_memory(model_of(), bj.row_sparse(optax.sgd(0.1)), batches_of(4, sparse=True), dtype="float16")
    assert half.row["entity table"] == row // 2


def test_the_exchange_by_an_all_reduce_holds_all_shards() -> None:
    rule, batches = bj.row_sparse(optax.sgd(0.1)), batches_of(8, sparse=True)
    held = {
        how: step_memory(model_of(n_shard=8), rule, batches, how=how).rest["held by the exchange"]  # type: ignore[arg-type]
        for how in ("all_to_all", "ring", "emulated")
    }
    assert held == {how: n * 8 * (P + N) * 8 * 4 for how, n in (("all_to_all", 1), ("ring", 2), ("emulated", 8))}


@pytest.mark.parametrize("moving", MOVING)
@pytest.mark.parametrize("name", ["row_sparse", "dense"])
def test_the_largest_graph_that_fits(moving: str, name: str) -> None:
    """A model of that size fits, and one with a further row on each shard does not."""
    rule = getattr(bj, name)(optax.adam(0.1))
    budget = Budget(4, bytes_per_ipu=2_000_000, usable=0.75)
    most = budget.max_entities(memory_of(rule, moving=moving))
    fits, too_large = (memory_of(rule, moving=moving, n_entity=n) for n in (most, most + 1))
    budget.check(fits)
    assert fits.total <= 1_500_000 < too_large.total
    assert describe(budget, fits)[-2:] == [("in all", fits.total), ("75% of an IPU", 1_500_000)]
    assert sum(nbytes for _, nbytes in describe(budget, fits)[:-2]) == fits.total
    with pytest.raises(ValueError, match=rf"75% of an IPU, 1 MiB, .* {most:,} of the {most + 1:,} entities would fit"):
        budget.check(too_large)


def test_what_would_help_does() -> None:
    tx, budget = optax.adam(0.1), Budget(4, bytes_per_ipu=950_000, usable=1)
    dense = memory_of(bj.dense(tx), n_entity=20_000)
    with pytest.raises(ValueError, match="What would help: ") as caught:
        budget.check(dense)
    said = str(caught.value).split("What would help: ")[1].split("; ")
    assert said[0] == "8 IPUs"
    assert said[2:] == ["row_sparse in place of dense", "row_adagrad", "sgd without momentum"]
    width = int(said[1].split()[2])
    assert 2 <= width < 8
    for name, other in (("row_adagrad", bj.row_adagrad(0.1)), ("sgd without momentum", optax.sgd(0.1))):
        needed = dense.fixed + 5000 * memory_of(bj.dense(other)).per_row
        for less in (0, 1):
            with pytest.raises(ValueError, match="What would help: ") as caught:
                Budget(4, bytes_per_ipu=needed - less, usable=1).check(dense)
            assert (name in str(caught.value)) == (less == 0)
    budget.check(memory_of(bj.dense(tx), n_entity=20_000, width=width))


def test_refused() -> None:
    with pytest.raises(ValueError, match="power of two up to 64, got 6"):
        Budget(6)
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\], got 50"):
        Budget(4, usable=50)
    with pytest.raises(ValueError, match="number of shards, 4, got 16"):
        Budget(16).check(memory_of(bj.row_sparse(optax.sgd(0.1))))
    with pytest.raises(ValueError, match="merged ids for this rule, got no"):
        step_memory(model_of(), bj.row_sparse(optax.sgd(0.1)), batches_of(4, sparse=False))
    with pytest.raises(ValueError, match="unmerged ids for this rule, got them"):
        step_memory(model_of(), bj.dense(optax.sgd(0.1)), batches_of(4, sparse=True))


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("update", "moving"), [("sparse_adagrad", "embeddings"), ("sparse_adam", "scores"), ("dense_adam", "embeddings")]
)
def test_close_to_what_xla_takes(update: str, moving: str) -> None:
    """1,000,000 x 128 on 4 shards: within 1% of arguments and temporaries of the compiled step."""
    name, optimizer = update.split("_")
    rule = {"sparse": bj.row_sparse, "dense": bj.dense}[name](getattr(optax, optimizer)(0.1))
    model, batches = model_of(moving, 1_000_000, width=128), batches_of(4, sparse=rule.sparse, n_step=1)
    state = jax.eval_shape(lambda: bj.init_train_state(model, rule, jax.random.key(0), jnp.int32(0)))
    args = jax.tree_util.tree_map(lambda x: jax.ShapeDtypeStruct((4, *x.shape), x.dtype), (state, batches))
    step = bj.Placement.create(4, 4).map(bj.make_train_step(model, rule), donate_argnums=(0,))
    memory = step.lower(*args).compile().memory_analysis()  # type: ignore[attr-defined]
    taken = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    told = step_memory(model, rule, batches, how="all_to_all")
    assert abs(told.total / taken - 1) < 0.01
