"""The sharded step against a dense float64 oracle, over shards, devices, mappings and updates; and what it compiles."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
from shared import oracle
from shared.oracle import Loss, Settings
from shared.tolerance import ACCUMULATED

import bess_jax as bj
from bess_jax.step.spmd import exchange
from bess_jax.update.train import TrainState, make_train_step

N_ENTITY, N_RELATION, SIZE = 211, 5, 6  # SIZE even: components of ComplEx come in two halves
LR, EPS = 0.05, 1e-2  # a large eps: with a small one, Adam's g / |g| magnifies rounding where g is near 0
MAPPINGS = ("vmap", "pmap", "shard_map")
# What is compiled here runs for milliseconds: five times faster to compile.

MODELS: dict[str, Callable[..., bj.BaseScoreFunction]] = {
    "TransE1": lambda **kw: bj.TransE(embedding_size=SIZE, scoring_norm=1, **kw),
    "TransE2": lambda **kw: bj.TransE(embedding_size=SIZE, scoring_norm=2, **kw),
    "DistMult": lambda **kw: bj.DistMult(embedding_size=SIZE, **kw),
    "ComplEx": lambda **kw: bj.ComplEx(embedding_size=SIZE // 2, **kw),
}
LOG_SIGMOID = Loss("LogSigmoid", margin=2.0, adversarial=0.7, scale=3.0)
RANKING = Loss("MarginRanking", margin=1.5)
SOFTMAX = Loss("SampledSoftmax", n_entity=N_ENTITY, scale=0.5)
FLAT, OWN, EVERYONE = {"shared": True, "flat": True}, {"shared": False, "flat": False}, {"shared": True, "flat": False}
SETTINGS = (
    Settings("TransE1", LOG_SIGMOID, "h", augment=True, **FLAT),
    Settings("DistMult", RANKING, "t", **FLAT),
    Settings("ComplEx", SOFTMAX, "ht", augment=True, **FLAT),
    Settings("TransE2", dataclasses.replace(RANKING, adversarial=1.0), "ht", **OWN),
    Settings("ComplEx", LOG_SIGMOID, "t", augment=True, **EVERYONE),
    Settings("DistMult", SOFTMAX, "h", shared=False, flat=True),
    Settings("TransE2", SOFTMAX, "ht", augment=True, **EVERYONE),
    Settings("DistMult", dataclasses.replace(LOG_SIGMOID, adversarial=None), "ht", local=True, **OWN),
)


def sgd() -> Any:
    return optax.sgd(LR)


def adam() -> Any:
    return optax.adam(LR, eps=EPS)


def row_adagrad() -> Any:
    return bj.row_adagrad(LR, eps=EPS)


UPDATES: dict[str, tuple[Callable[[], bj.UpdateRule], Callable[[], Any]]] = {
    "sparse_sgd": (lambda: bj.row_sparse(sgd()), lambda: oracle.Sgd(LR)),
    "sparse_adam": (lambda: bj.row_sparse(adam()), lambda: oracle.Adam(LR, eps=EPS)),
    "dense_adam": (lambda: bj.dense(adam()), lambda: oracle.Adam(LR, eps=EPS)),
    "sparse_row_adagrad": (lambda: bj.row_sparse(row_adagrad()), lambda: oracle.RowAdagrad(LR, eps=EPS)),
    "dense_row_adagrad": (lambda: bj.dense(row_adagrad()), lambda: oracle.RowAdagrad(LR, eps=EPS)),
}
# Every number of shards meets SGD and both kinds of Adam, and every setting comes at least once.
CASES = [(n_shard, update) for n_shard in (1, 2, 3, 4, 8) for update in ("sparse_sgd", "sparse_adam", "dense_adam")]
CASES += [(2, "sparse_row_adagrad"), (3, "dense_row_adagrad"), (8, "sparse_row_adagrad")]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with the batches and the tables to try it on."""

    sharding: bj.Sharding
    model: bj.EmbeddingMovingBessKGE
    sampler: bj.RigidShardedBatchSampler
    entity: np.ndarray  # (S * M, E) by entity_global id, padding last
    relation: np.ndarray

    @classmethod
    def create(
        cls, settings: Settings, n_shard: int, n_step: int, n_entity: int = N_ENTITY, n_triple: int = 300
    ) -> Case:
        rng = np.random.default_rng(n_shard)
        sharding = bj.Sharding.create(n_entity, n_shard, seed=3)
        triples = rng.integers([n_entity, N_RELATION, n_entity], size=(n_triple, 3)).astype(np.int32)
        dataset = bj.KGDataset(n_entity=n_entity, n_relation_type=N_RELATION, triples={"train": triples})
        negatives = bj.RandomShardedNegativeSampler(
            sharding=sharding,
            corruption_scheme=settings.scheme,
            n_negative=2,
            seed=1,
            flat_negative_format=settings.flat,
            local_sampling=settings.local,
        )
        sampler = bj.RigidShardedBatchSampler(
            partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding),
            negative_sampler=negatives,
            shard_bs=max(8, 2 * n_shard),
            batches_per_step=n_step,
            seed=2,
        )
        score_fn = MODELS[settings.model](
            negative_sample_sharing=settings.shared, sharding=sharding, n_relation_type=N_RELATION
        )
        model = bj.EmbeddingMovingBessKGE(
            negative_sampler=negatives,
            score_fn=score_fn,
            loss_fn=make_loss(settings.loss),
            return_scores=True,
            augment_negative=settings.augment,
        )
        n_slot = n_shard * sharding.max_entity_per_shard
        entity = rng.normal(size=(n_slot, score_fn.entity_width)).astype(np.float32)
        relation = rng.normal(size=(N_RELATION, score_fn.relation_width)).astype(np.float32)
        return cls(sharding, model, sampler, entity, relation)

    def state(self, rule: bj.UpdateRule) -> TrainState:
        """State of all shards, on the host."""
        entity = self.entity[self.sharding.shard_and_idx_to_entity]
        relation = np.broadcast_to(self.relation, (self.sharding.n_shard, *self.relation.shape))
        params = bj.Params(entity, {"relation_embedding": relation})
        return jax.device_get(TrainState(params, jax.vmap(rule.init)(params)))

    def fed(self, batch: dict[str, np.ndarray], rule: bj.UpdateRule, placement: bj.Placement) -> Any:
        merged = bj.merge_ids(batch, self.sharding.max_entity_per_shard) if rule.sparse else batch
        return placement.put(bj.shard_major(merged))


def make_loss(loss: Loss) -> Any:
    if loss.kind == "SampledSoftmax":
        return bj.SampledSoftmaxCrossEntropyLoss(n_entity=loss.n_entity, loss_scale=loss.scale)
    kind = {"LogSigmoid": bj.LogSigmoidLoss, "MarginRanking": bj.MarginRankingLoss}[loss.kind]
    return kind(
        margin=loss.margin,
        negative_adversarial_sampling=loss.adversarial is not None,
        negative_adversarial_scale=loss.adversarial or 1.0,
        loss_scale=loss.scale,
    )


def assert_replicated(tree: Any) -> None:
    """Every shard holds the same bits."""
    for leaf in jax.tree_util.tree_leaves(tree):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


# --- one or a few steps against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.model}-{s.loss.kind}-{s.scheme}")
def test_oracle_gradient(settings: Settings) -> None:
    """The oracle's own gradients, by central differences in a random direction."""
    case = Case.create(settings, n_shard=3, n_step=1)
    batch = {k: v[0] for k, v in case.sampler.batch(0, 0).items()}
    tables = (case.entity.astype(np.float64), case.relation.astype(np.float64))
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=table.shape) for table in tables]
    at = oracle.step(*tables, batch, case.sharding, settings)
    weights = [settings.loss.weights(scores) for scores in at.negative]
    h = 1e-6

    def loss(sign: int) -> float:
        moved = [table + sign * h * d for table, d in zip(tables, direction, strict=True)]
        return float(oracle.step(*moved, batch, case.sharding, settings, frozen=weights).loss.sum())

    slope = (at.entity_grad * direction[0]).sum() + (at.relation_grad * direction[1]).sum()
    assert abs(slope) > 0.1
    np.testing.assert_allclose((loss(1) - loss(-1)) / (2 * h), slope, rtol=1e-6)


@pytest.mark.parametrize(("n_shard", "update"), CASES)
@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_step(n_shard: int, update: str) -> None:
    """Losses, scores and tables after 3 steps, under every mapping."""
    settings = SETTINGS[CASES.index((n_shard, update)) % len(SETTINGS)]
    case = Case.create(settings, n_shard, n_step=3)
    batch = case.sampler.batch(0, 0)
    assert ("triple_weight" in batch) == (n_shard == 8)  # with 8 shards, some pairs have no triple
    make_rule, make_update = UPDATES[update]
    rule = make_rule()
    expected = oracle.train(case.entity, case.relation, batch, case.sharding, settings, make_update, rule.sparse)
    slots = case.sharding.shard_and_idx_to_entity
    start, results = case.state(rule), {}
    mappings = MAPPINGS if n_shard > 1 else MAPPINGS[:1]  # on one device they are the same
    for mapping in mappings:
        placement = bj.Placement.create(n_shard, None if mapping == "vmap" else n_shard, mapping)
        model = dataclasses.replace(case.model, axis_name=placement.axis_name)
        train_step = make_train_step(model, rule, placement.axis_name)

        def one_call(state: TrainState, fed: Any, first: Any, step: Any = train_step, model: Any = model) -> Any:
            out = model.forward(state.params, **first)
            return *step(state, fed), (out["positive_score"], out["negative_score"])

        first = placement.put({k: v[:, :1] for k, v in bj.shard_major(batch).items()})
        args = (placement.put(start), case.fed(batch, rule, placement), first)
        losses, state, scores = placement.get(placement.map(one_call)(*args))
        results[mapping] = (losses, state.params, scores)

        np.testing.assert_allclose(losses, np.stack([s.loss for s in expected.steps], axis=1), **ACCUMULATED)
        np.testing.assert_allclose(scores[0], expected.steps[0].positive, **ACCUMULATED)
        np.testing.assert_allclose(scores[1], expected.steps[0].negative, **ACCUMULATED)
        np.testing.assert_allclose(state.params.entity, expected.entity[slots], **ACCUMULATED)
        relation = state.params.score_fn["relation_embedding"]
        np.testing.assert_allclose(relation[0], expected.relation, **ACCUMULATED)
        assert_replicated(state.params.score_fn)
        if rule.sparse:
            assert_replicated(state.opt_state.score_fn)
            touched = [s.touched for s in expected.steps]
            still = ~np.isin(slots, np.concatenate(touched))
            if update == "sparse_adam":  # rows by which it differs from dense Adam
                assert still.any()
                assert not np.isin(touched[0], touched[1]).all()
            np.testing.assert_array_equal(state.params.entity[still], case.entity[slots][still])
    for mapping in mappings[1:]:
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (results[mapping], results["vmap"])), strict=True):
            np.testing.assert_allclose(ours, theirs, **ACCUMULATED)
    assert np.abs(expected.entity - case.entity).max() > LR / 2  # the steps did move something
    assert np.abs(expected.relation - case.relation).max() > LR / 2


# --- shards on fewer devices ------------------------------------------------------------------------------------------


@jax.numpy_dtype_promotion("standard")
def test_devices() -> None:
    """8 shards on 1, 2, 4 and 8 devices: 20 steps from one seed give the same losses and tables.

    Not bit by bit: sums over shards and over repeated rows come in another order.
    """
    case = Case.create(SETTINGS[2], n_shard=8, n_step=5)
    rule = bj.row_sparse(adam())
    start, batches, results = case.state(rule), [case.sampler.batch(0, call) for call in range(4)], []
    for mapping, n_device in [("vmap", 1), *((m, d) for d in (2, 4, 8) for m in ("pmap", "shard_map"))]:
        placement = bj.Placement.create(8, n_device, mapping)
        assert isinstance(placement.axis_name, tuple) == (n_device in (2, 4))
        step = placement.map(make_train_step(case.model, rule, placement.axis_name), donate_argnums=(0,))
        state, losses = placement.put(start), []
        for batch in batches:
            loss, state = step(state, case.fed(batch, rule, placement))
            losses.append(placement.get(loss))
        results.append((np.concatenate(losses, axis=1), placement.get(state)))
        assert_replicated(results[-1][1].params.score_fn)
    assert results[0][0].shape == (8, 20)
    assert results[0][0][:, -5:].sum() < 0.9 * results[0][0][:, :5].sum()
    for result in results[1:]:
        for ours, theirs in zip(*map(jax.tree_util.tree_leaves, (result, results[0])), strict=True):
            np.testing.assert_allclose(ours, theirs, **ACCUMULATED)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("n_device", [1, 2, 4, 8])
def test_exchange(mapping: Any, n_device: int) -> None:
    """A transpose of the first two axes, however the shards are laid out."""
    placement = bj.Placement.create(8, n_device, mapping)
    x = np.arange(8 * 8 * 3, dtype=np.int32).reshape(8, 8, 3)
    y = placement.map(lambda block: exchange(block, placement.axis_name))(placement.put(x))
    np.testing.assert_array_equal(placement.get(y), np.swapaxes(x, 0, 1))


# --- what is compiled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_one_trace(mapping: Any) -> None:
    """Batches of one shape share one trace, also once the state is what the step returned."""
    case = Case.create(SETTINGS[1], n_shard=2, n_step=2)
    rule = bj.row_sparse(sgd())
    placement = bj.Placement.create(2, None if mapping == "vmap" else 2, mapping)
    train_step = make_train_step(case.model, rule, placement.axis_name)
    traces = []

    def counted(*args: Any) -> Any:
        traces.append(1)
        return train_step(*args)

    step, state = placement.map(counted, donate_argnums=(0,)), placement.put(case.state(rule))
    for epoch in range(2):
        for call in range(3):
            _, state = step(state, case.fed(case.sampler.batch(epoch, call), rule, placement))
    assert len(traces) == 1


INSTRUCTION = re.compile(r"^\s*(ROOT )?%\S+ = \w+\[([\d,]*)\]\S* ([\w-]+)\((%[\w.-]+)?.*")


def large_instructions(hlo: str, n_element: int) -> list[str]:
    """Instructions that make an array of at least `n_element` elements, other than by writing into their operand."""
    in_place = set()  # computations that end in such a write
    computation, found = "", []
    for line in hlo.splitlines():
        if header := re.match(r"^(?:ENTRY )?(%[\w.-]+) \(", line):
            computation, parameters = header[1], set()
        if not (match := INSTRUCTION.match(line)):
            continue
        root, dimensions, opcode, operand = match.groups()
        if opcode == "parameter":
            parameters.add(line.split()[0 if root is None else 1])
        size = int(np.prod([int(n) for n in dimensions.split(",") if n]))
        if size < n_element or opcode in ("parameter", "get-tuple-element", "bitcast"):
            continue
        if opcode in ("scatter", "dynamic-update-slice") and operand in parameters:
            if root:
                in_place.add(computation)
            continue
        called = re.search(r"calls=(%[\w.-]+)", line)
        if opcode == "fusion" and called and called[1] in in_place:
            continue
        found.append(line.strip()[:160])
    return found


def compile_step(rule: bj.UpdateRule, mapping: Any) -> tuple[Any, int, int]:
    """The compiled donating step of 4 shards, elements of a shard's table and table bytes of a device."""
    case = Case.create(SETTINGS[1], n_shard=4, n_step=2, n_entity=80_000)
    placement = bj.Placement.create(4, None if mapping == "vmap" else 4, mapping)
    step = placement.map(make_train_step(case.model, rule, placement.axis_name), donate_argnums=(0,))
    fed = case.fed(case.sampler.batch(0, 0), rule, placement)
    compiled = step.lower(placement.put(case.state(rule)), fed).compile()
    n_element = case.sharding.max_entity_per_shard * case.entity.shape[1]
    assert n_element > 500 * sum(fed[name][0, 0].size for name in ("head", "tail", "negative"))
    return compiled, n_element, n_element * 4 * placement.shards_per_device


@pytest.mark.optimized
@pytest.mark.parametrize("mapping", ["vmap", "pmap"])
@pytest.mark.parametrize(("optimizer", "n_moment"), [("sgd", 0), ("row_adagrad", 0), ("adagrad", 1), ("adam", 2)])
@jax.numpy_dtype_promotion("standard")
def test_no_array_of_table_size(mapping: Any, optimizer: str, n_moment: int) -> None:
    """A row-sparse step writes rows into the donated table and moments, and makes nothing else of that size."""
    optimizers = {"sgd": optax.sgd, "row_adagrad": bj.row_adagrad, "adagrad": optax.adagrad, "adam": optax.adam}
    rule = bj.row_sparse(optimizers[optimizer](0.1))
    compiled, n_element, table_bytes = compile_step(rule, mapping)
    hlo = compiled.as_text()
    assert re.search(r"= f32\[[\d,]*\d\]\S* scatter\(", hlo)  # as it is written, the text was understood
    assert large_instructions(hlo, n_element) == []
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.25 * table_bytes
    assert memory.alias_size_in_bytes >= (1 + n_moment) * table_bytes


@pytest.mark.optimized
@pytest.mark.parametrize("mapping", ["vmap", "pmap"])
@jax.numpy_dtype_promotion("standard")
def test_dense_update_makes_arrays_of_table_size(mapping: Any) -> None:
    """The test above can fail."""
    compiled, n_element, table_bytes = compile_step(bj.dense(optax.adam(0.1)), mapping)
    assert large_instructions(compiled.as_text(), n_element)
    assert compiled.memory_analysis().temp_size_in_bytes >= table_bytes
