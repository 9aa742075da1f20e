"""Labels of all entities (1vsAll, KvsAll, smoothed) and the relation as a further objective: steps of whole graphs.

A batch holds every triple of the graph once, so that its loss is that of all queries, by the formula of their labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared import formulas
from shared.oracle import SCORERS, Array
from shared.tolerance import ACCUMULATED, FLOAT32

import bess_jax as bj
from bess_jax.data.groups import group_by_query
from bess_jax.step.loss import Labels
from bess_jax.step.relation import relation_loss

N_ENTITY, N_RELATION, SIZE = 23, 3, 4
MODELS: dict[str, Any] = {"DistMult": bj.DistMult, "ComplEx": bj.ComplEx, "TransE1": bj.TransE}
EMBEDDING, SCORE = bj.EmbeddingMovingBessKGE, bj.ScoreMovingBessKGE


# --- the formulas, in float64, over the dense tables ------------------------------------------------------------------


class Query(NamedTuple):
    """(known, relation, ?) or (?, relation, known), with its right answers."""

    side: str  # the one that is asked for
    known: int
    relation: int
    answers: list[int]


def queries(triples: Array, scheme: str, answers: str) -> Iterator[Query]:
    """Those of the triples, one for each, or one for all that ask for the same."""
    for side in scheme:
        found: dict[tuple[int, int], set[int]] = {}
        for h, r, t in triples.tolist():
            known, answer = (t, h) if side == "h" else (h, t)
            if answers == "one":
                yield Query(side, known, r, [answer])
            found.setdefault((known, r), set()).add(answer)
        if answers == "all":
            for (known, r), right in found.items():
                yield Query(side, known, r, sorted(right))


@dataclasses.dataclass
class Total:
    """A sum of losses of scores, with its gradients with respect to the tables."""

    model: str
    entity: Array
    relation: Array
    loss: float = 0.0

    def __post_init__(self) -> None:
        self.entity, self.relation = self.entity.astype(np.float64), self.relation.astype(np.float64)
        self.d_entity, self.d_relation = np.zeros_like(self.entity), np.zeros_like(self.relation)

    def scores(self, h: Any, r: Any, t: Any) -> Array:
        return SCORERS[self.model](self.entity[h], self.relation[r], self.entity[t])[0]

    def add(self, loss: float, by_score: Array, h: Any, r: Any, t: Any) -> None:
        gradients = SCORERS[self.model](self.entity[h], self.relation[r], self.entity[t])[1]
        tables = (self.d_entity, self.d_relation, self.d_entity)
        for table, ids, gradient in zip(tables, (h, r, t), gradients, strict=True):
            np.add.at(table, np.broadcast_to(ids, by_score.shape), by_score[:, None] * gradient)
        self.loss += loss

    def add_query(self, query: Query, loss_fn: Any) -> None:
        """Loss of the labels of all entities."""
        everyone = np.arange(len(self.entity))
        h, t = (everyone, query.known) if query.side == "h" else (query.known, everyone)
        score = self.scores(h, query.relation, t) + getattr(loss_fn, "offset", 0.0)
        label = np.isin(everyone, query.answers).astype(np.float64)
        if isinstance(loss_fn, bj.SoftmaxCrossEntropyLoss):
            label /= label.sum()
            total = np.logaddexp.reduce(score)
            share = np.exp(score - total)
        else:
            total = np.logaddexp(0, score).sum()
            share = np.exp(-np.logaddexp(0, -score))
        label = (1 - loss_fn.label_smoothing) * label + loss_fn.label_smoothing / len(label)
        self.add(total - label @ score, share - label, h, query.relation, t)

    def add_relation(self, triple: Array, weight: float) -> None:
        """Loss of the relation, of all there are."""
        h, own, t = triple.tolist()
        every = np.arange(len(self.relation))
        score = self.scores(h, every, t)
        total = np.logaddexp.reduce(score)
        self.add(weight * (total - score[own]), weight * (np.exp(score - total) - (every == own)), h, every, t)


# --- one step on all triples ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph, whose shards differ in size and whose partitions are partly empty, and how to train on it."""

    n_shard: int
    mapping: Any
    scheme: Any  # under "ht" every triple comes twice, once for each side
    moving: Any
    model: str
    loss_fn: Any
    answers: str = "one"
    relation_weight: float = 0.0
    inverse: bool = False
    sparse: bool = True
    k: int = 1  # micro-batches of the update
    together: int = 1  # answers of a query that are scored together

    def __str__(self) -> str:
        return f"{self.n_shard}-{self.mapping}-{self.scheme}-{self.model}-{self.answers}-{self.together}"

    @cached_property
    def sharding(self) -> bj.Sharding:
        return bj.Sharding.create(N_ENTITY, self.n_shard, seed=1)

    @cached_property
    def triples(self) -> Array:
        """Different ones, many of them of the same query."""
        drawn = np.random.default_rng(3).integers([6, N_RELATION, N_ENTITY], size=(50, 3))
        return np.unique(drawn, axis=0).astype(np.int32)

    @cached_property
    def trained(self) -> Array:
        inverse = self.triples[:, ::-1] + np.array([0, N_RELATION, 0], np.int32)
        return np.concatenate([self.triples, inverse]) if self.inverse else self.triples

    @cached_property
    def sampler(self) -> bj.RigidShardedBatchSampler:
        graph = bj.KGDataset(n_entity=N_ENTITY, n_relation_type=N_RELATION, triples={"train": self.triples})
        triples = bj.PartitionedTripleSet.create_from_dataset(
            graph, "train", self.sharding, add_inverse_triples=self.inverse
        )
        counts = triples.triple_counts if self.together == 1 else group_by_query(triples, self.together).counts
        size = -(-int(counts.max()) // (2 * self.k)) * 2  # even, for "ht"
        twice = self.scheme == "ht"
        return bj.RigidShardedBatchSampler(
            partitioned_triple_set=triples,
            negative_sampler=bj.AllEntitiesNegativeSampler(sharding=self.sharding, corruption_scheme=self.scheme),
            shard_bs=size * self.n_shard * (1 + twice),
            batches_per_step=self.k,
            seed=0,
            duplicate_batch=twice,
            answers_per_query=self.together,
            return_answer_share=self.answers == "all",
        )

    @cached_property
    def bess(self) -> Any:
        size = SIZE // 2 if self.model == "ComplEx" else SIZE
        score_fn = MODELS[self.model](
            negative_sample_sharing=True,
            sharding=self.sharding,
            n_relation_type=N_RELATION,
            embedding_size=size,
            inverse_relations=self.inverse,
        )
        return self.moving(
            negative_sampler=self.sampler.negative_sampler,
            score_fn=score_fn,
            loss_fn=self.loss_fn,
            relation_weight=self.relation_weight,
        )

    def host_batch(self) -> dict[str, Array]:
        """The only call of an epoch; triples that are there to fill up have weight 0."""
        if self.together > 1:
            return self.grouped_batch()
        (batch,) = self.sampler.batches(0)
        mask = batch.pop("triple_mask")
        batch["triple_weight"] = mask.reshape(*mask.shape[:2], -1).astype(np.float32)
        assert mask.sum() == len(self.trained) * len(self.scheme)
        return batch

    def grouped_batch(self) -> dict[str, Array]:
        """As `host_batch`; the sampler repeats groups, which have weights already."""
        number, is_new = self.sampler.positions(0, 0)
        batch = self.sampler.batch(0, 0)
        assert is_new is not None
        batch["triple_weight"] *= is_new.reshape(*is_new.shape[:2], -1, 1)
        assert batch["triple_weight"].sum() == len(self.trained)
        assert batch["tail"].shape == (*np.swapaxes(number, 1, 2).shape, self.together)
        return batch

    def tables(self, draw: Any) -> tuple[Array, Array]:
        score_fn = self.bess.score_fn
        rows = self.n_shard * self.sharding.max_entity_per_shard, score_fn.entity_width
        return draw(rows).astype(np.float32), draw((score_fn.n_relation, score_fn.relation_width)).astype(np.float32)

    def params(self, entity: Array, relation: Array) -> bj.Params:
        """Those of all shards, by rows of the table by entity_global id, padding last."""
        relations = np.broadcast_to(relation, (self.n_shard, *relation.shape))
        return bj.Params(entity[self.sharding.shard_and_idx_to_entity], {"relation_embedding": relations})

    def expected(self, entity: Array, relation: Array) -> Total:
        total = Total(self.model, entity[:N_ENTITY], relation)
        for query in queries(self.trained, self.scheme, self.answers):
            total.add_query(query, self.loss_fn)
        for triple in self.trained:
            total.add_relation(triple, self.relation_weight * len(self.scheme))
        return total


def softmax(smoothing: float = 0.0, **arguments: Any) -> Any:
    return bj.SoftmaxCrossEntropyLoss(positive_among_negatives=True, label_smoothing=smoothing, **arguments)


def bce(smoothing: float = 0.0, **arguments: Any) -> Any:
    return bj.BCEWithLogitsLoss(positive_among_negatives=True, label_smoothing=smoothing, **arguments)


CASES = (
    Case(1, "vmap", "t", EMBEDDING, "DistMult", bce(0.1), "all", 0.5, sparse=False),
    Case(2, "pmap", "ht", EMBEDDING, "ComplEx", softmax(0.3), "all", 0.7),
    Case(2, "vmap", "h", SCORE, "TransE1", bce(offset=2.0), "all", k=2),
    Case(3, "shard_map", "t", EMBEDDING, "ComplEx", bce(0.2, offset=0.3), "one", 0.4, inverse=True),
    Case(3, "vmap", "ht", SCORE, "DistMult", softmax(0.1), "one", 1.0, sparse=False),
    Case(4, "pmap", "h", SCORE, "TransE1", softmax(), "all", 0.3, inverse=True),
    Case(4, "vmap", "t", SCORE, "ComplEx", softmax(0.2), "all", 0.6, inverse=True, k=2),
    Case(8, "vmap", "ht", EMBEDDING, "TransE1", bce(0.1, offset=1.0), "all", 0.2),
    Case(1, "vmap", "t", EMBEDDING, "ComplEx", softmax(0.1), "one", 0.4, inverse=True, sparse=False, together=3),
    Case(2, "pmap", "t", SCORE, "TransE1", bce(0.2, offset=1.0), "all", 0.3, k=2, together=4),
    Case(3, "vmap", "t", EMBEDDING, "DistMult", softmax(), "all", 0.5, inverse=True, together=2),
)


@pytest.fixture(scope="module")
def rules() -> dict[bool, bj.UpdateRule]:
    """Updates that take away the gradient as it is."""
    return {True: bj.row_sparse(optax.sgd(1.0)), False: bj.dense(optax.sgd(1.0))}


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.n_shard}-{c.mapping}-{c.scheme}-{c.model}-{c.answers}-{c.together}"
)
@jax.numpy_dtype_promotion("standard")  # optax.apply_updates needs it
def test_step_on_all_triples(case: Case, rules: Any) -> None:
    """Loss and gradients of the sum over triples are those of all labels of all queries."""
    rule, rng = rules[case.sparse], np.random.default_rng(case.n_shard)
    entity, relation = case.tables(lambda shape: rng.normal(size=shape))
    batch = case.host_batch()
    if case.k > 1:
        batch, rule = bj.group_steps(batch, case.k), bj.accumulate(rule)
    if rule.sparse:
        batch = bj.merge_ids(batch, case.sharding.max_entity_per_shard)
    placement = bj.Placement.create(case.n_shard, None if case.mapping == "vmap" else case.n_shard, case.mapping)
    step = placement.map(bj.make_train_step(case.bess, rule, placement.axis_name))
    params = case.params(entity, relation)
    state = bj.TrainState(params, jax.device_get(jax.vmap(rule.init)(params)))
    losses, state = placement.get(step(placement.put(state), placement.put(bj.shard_major(batch))))

    total = case.expected(entity, relation)
    np.testing.assert_allclose(losses.sum(), total.loss, **ACCUMULATED)
    d_entity = params.entity - state.params.entity
    is_padding = case.sharding.shard_and_idx_to_entity >= N_ENTITY
    assert is_padding.any() == (case.n_shard > 1)
    np.testing.assert_array_equal(d_entity[is_padding], 0)
    slots = case.sharding.entity_to_shard, case.sharding.entity_to_idx
    np.testing.assert_allclose(d_entity[slots], total.d_entity, rtol=1e-4, atol=3e-5)  # a difference of float32 tables
    d_relation = relation - state.params.score_fn["relation_embedding"][-1]
    np.testing.assert_allclose(d_relation, total.d_relation, rtol=1e-4, atol=3e-5)


def test_queries_have_several_answers() -> None:
    """Else the cases would be the same for one answer as for all."""
    of_query = [len(query.answers) for query in queries(CASES[0].triples, "t", "all")]
    assert max(of_query) >= 4
    assert min(of_query) == 1


@pytest.mark.parametrize("loss_fn", [softmax(0.25), bce(0.25)])
def test_padding_in_half_precision(loss_fn: Any) -> None:
    """In bfloat16 the loss is exact where its scores are: padding adds nothing to the mean of all scores."""
    case = Case(3, "vmap", "ht", EMBEDDING, "DistMult", loss_fn, "all", 0.5)
    rng = np.random.default_rng(0)
    entity, relation = case.tables(lambda shape: rng.integers(-1, 2, size=shape))
    params = bj.cast_params(jax.tree_util.tree_map(jnp.asarray, case.params(entity, relation)), jnp.bfloat16)
    batch = bj.shard_major(case.host_batch())
    forward = jax.jit(jax.vmap(lambda p, b: case.bess.forward(p, **b)["loss"], axis_name="shard"))
    loss = forward(params, batch)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss.sum(), case.expected(entity, relation).loss, **FLOAT32)


# --- the relation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in formulas.FORMULAS if name != "ConvE"])
def test_relation_loss_of_every_model(name: str) -> None:
    """Its formula, for all six rows of the relation table."""
    case = formulas.Case(name, formulas.VARIANTS[name][0])
    head, tail = (formulas.normal(i, 3, case.model.entity_width) for i in (1, 2))
    own = np.array([5, 0, 3], np.int32)
    variables = case.variables(jnp.asarray(case.table), case.network)
    loss = jax.jit(lambda h, t: relation_loss(case.model, variables, h, own, t))(head, tail)
    score = np.stack([case.formula(head, row[None], tail) for row in case.table], axis=1)
    expected = np.logaddexp.reduce(score, axis=1) - score[np.arange(3), own]
    np.testing.assert_allclose(loss, expected, **ACCUMULATED)


def sizes(jaxpr: Any) -> Iterator[int]:
    """Sizes of all arrays in a program."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree_util.tree_leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from sizes(getattr(inner, "jaxpr", inner))


def test_memory_of_the_relation_loss() -> None:
    """Neither the loss nor its gradient has an array of all relations, triples and components."""
    n_triple, n_relation, size = 16, 30, 8
    score_fn = bj.DistMult(
        negative_sample_sharing=True,
        sharding=bj.Sharding.create(9, 1, 0),
        n_relation_type=n_relation,
        embedding_size=size,
    )
    rows, table = jnp.ones((n_triple, size)), jnp.ones((n_relation, size))

    def loss(head: jax.Array, table: jax.Array, tail: jax.Array) -> jax.Array:
        variables = {"params": {"relation_embedding": table}}
        return jnp.sum(relation_loss(score_fn, variables, head, jnp.zeros(n_triple, jnp.int32), tail))

    program = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(rows, table, rows)
    assert max(sizes(program.jaxpr)) == n_relation * n_triple


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: softmax(1.0), "label_smoothing must be at least 0 and less than 1, got 1.0"),
        (lambda: bce(float("nan")), "label_smoothing must be at least 0 and less than 1, got nan"),
        (lambda: bj.BCEWithLogitsLoss(label_smoothing=0.1), "label_smoothing must be 0 unless the negatives are all"),
        (
            lambda: dataclasses.replace(CASES[0].bess, augment_negative=True),
            "augment_negative must be False for a loss_fn with positive_among_negatives=True",
        ),
        (lambda: dataclasses.replace(CASES[0].bess, relation_weight=-1.0), "relation_weight must be >= 0, got -1.0"),
        (
            lambda: dataclasses.replace(
                CASES[0].bess,
                score_fn=bj.ConvE(
                    negative_sample_sharing=True,
                    sharding=CASES[0].sharding,
                    n_relation_type=N_RELATION,
                    embedding_size=36,
                ),
            ),
            "relation_weight must be 0 for ConvE, whose network runs once a step",
        ),
    ],
)
def test_conflicts_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "loss_fn",
    [
        bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=False),
        bj.MarginRankingLoss(margin=1.0, negative_adversarial_sampling=False),
        bj.SampledSoftmaxCrossEntropyLoss(n_entity=9),
        bj.SoftmaxCrossEntropyLoss(),
        bj.BCEWithLogitsLoss(),
    ],
    ids=lambda loss_fn: type(loss_fn).__name__,
)
def test_losses_of_one_answer(loss_fn: Any) -> None:
    """They say that they cannot use what is known of the other answers; a mask is no trouble."""
    positive, negative = jnp.zeros(2), jnp.zeros((2, 3))
    loss_fn(positive, negative, 1.0, Labels(negative_mask=negative == 0))
    with pytest.raises(
        ValueError, match=f"answer_share must be None for {type(loss_fn).__name__}.*return_answer_share"
    ):
        loss_fn(positive, negative, 1.0, Labels(answer_share=jnp.ones(2)))


# --- answers of a query together --------------------------------------------------------------------------------------

OF_SAMPLES = (
    bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=True),
    bj.MarginRankingLoss(margin=1.0, negative_adversarial_sampling=True),
    bj.SampledSoftmaxCrossEntropyLoss(n_entity=N_ENTITY),
    bj.SoftmaxCrossEntropyLoss(),
    bj.BCEWithLogitsLoss(),
)


@pytest.mark.parametrize("loss_fn", OF_SAMPLES, ids=lambda loss_fn: type(loss_fn).__name__)
@pytest.mark.parametrize("n_shard", [1, 2, 4])
def test_answers_together(loss_fn: Any, n_shard: int) -> None:
    """Loss and gradients are those of each answer by itself, against the same sampled negatives."""
    together = 3
    case = Case(n_shard, "vmap", "t", EMBEDDING, "ComplEx", loss_fn, together=together)
    negatives = bj.RandomShardedNegativeSampler(sharding=case.sharding, n_negative=5, seed=0, corruption_scheme="t")
    negatives = dataclasses.replace(negatives, flat_negative_format=True)
    sampler = dataclasses.replace(case.sampler, negative_sampler=negatives, hrt_freq_weighting=True)
    penalty = bj.LpRegularization(weight=0.1)
    bess = dataclasses.replace(case.bess, negative_sampler=negatives, regularizer=penalty, relation_weight=0.3)
    batch = bj.shard_major(sampler.batch(0, 0))
    tail, weight = batch["tail"], batch["triple_weight"]
    alone = {
        **{name: np.repeat(batch[name], together, axis=-1) for name in ("head", "relation")},
        "tail": tail.reshape(*tail.shape[:-2], -1),
        "triple_weight": weight.reshape(*weight.shape[:-2], -1),
        "negative": batch["negative"],
    }
    entity, relation = case.tables(lambda shape: np.random.default_rng(0).normal(size=shape))
    params = jax.tree_util.tree_map(jnp.asarray, case.params(entity, relation))

    def total(params: bj.Params, batch: Any) -> jax.Array:
        return jnp.sum(jax.vmap(lambda p, b: bess.forward(p, **b)["loss"], axis_name="shard")(params, batch))

    loss, gradients = jax.jit(jax.value_and_grad(total))(params, batch)
    expected, by_formula = jax.jit(jax.value_and_grad(total))(params, alone)
    np.testing.assert_allclose(loss, expected, **ACCUMULATED)
    for found, wanted in zip(*map(jax.tree_util.tree_leaves, (gradients, by_formula)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for part in (batch, alone):
        del part["triple_weight"]  # each triple counts as one
    np.testing.assert_allclose(jax.jit(total)(params, batch), jax.jit(total)(params, alone), **ACCUMULATED)
    per_shard = weight.sum(axis=(1, 2, 3))
    counted = (weight > 0).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(per_shard, counted, rtol=1e-5)  # weights by frequency have the mean 1


@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups(size: int) -> None:
    """Every triple is in one group, of triples of its query and partition; groups of a query differ by one at most."""
    case = Case(3, "vmap", "t", EMBEDDING, "ComplEx", softmax())
    triples = case.sampler.partitioned_triple_set
    groups = group_by_query(triples, size)
    np.testing.assert_array_equal(np.sort(groups.rows[groups.mask]), np.arange(len(triples.triples)))
    np.testing.assert_array_equal(groups.counts.sum(), len(groups.rows))
    partition = np.repeat(np.arange(9), triples.triple_counts.ravel())
    of_group = np.repeat(np.arange(9), groups.counts.ravel())
    np.testing.assert_array_equal(partition[groups.rows], np.broadcast_to(of_group[:, None], groups.rows.shape))
    queries_of = triples.triples[groups.rows, :2]
    np.testing.assert_array_equal(queries_of, np.broadcast_to(queries_of[:, :1], queries_of.shape))
    sizes_of: dict[tuple[int, ...], list[int]] = {}
    for number, query, mask in zip(of_group, queries_of[:, 0].tolist(), groups.mask, strict=True):
        sizes_of.setdefault((number, *query), []).append(int(mask.sum()))
    assert all(max(found) - min(found) <= 1 and max(found) <= size for found in sizes_of.values())
    assert all(len(found) == -(-sum(found) // size) for found in sizes_of.values())


def test_relations_of_a_changed_model() -> None:
    """A model with a query for tails of its own is asked for each relation, where it has no query for relations."""

    class Doubled(bj.ComplEx):
        def query_tail(self, head: jax.Array, relation: jax.Array) -> jax.Array:
            return 2 * super().query_tail(head, relation)

    losses = []
    for kind in (Doubled, bj.ComplEx):
        sharding = bj.Sharding.create(9, 1, 0)
        model = kind(negative_sample_sharing=True, sharding=sharding, n_relation_type=4, embedding_size=3)
        rows = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6)), jnp.float32)
        table = model.init_params(jax.random.PRNGKey(0))["relation_embedding"]
        variables = {"params": {"relation_embedding": (1 if kind is Doubled else 2) * table}}
        losses.append(relation_loss(model, variables, rows[0], jnp.arange(5, dtype=jnp.int32) % 4, rows[1]))
    np.testing.assert_allclose(*losses, rtol=1e-5)
