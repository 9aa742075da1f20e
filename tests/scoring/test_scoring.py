"""Every score function against its formula in float64, alone and sharded."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared import oracle
from shared.formulas import (
    CASES,
    FORMULAS,
    KINDS,
    VARIANTS,
    B,
    Case,
    N,
    Negatives,
    complex_,
    length,
    normal,
    random_batch,
)
from shared.oracle import Loss, Settings
from shared.tolerance import ACCUMULATED, FLOAT32

import bess_jax as bj


def test_every_score_function_is_tested() -> None:
    assert len(KINDS) >= 10
    assert set(KINDS) == set(FORMULAS) == set(VARIANTS)
    assert {param.values[0] for param in CASES} == set(KINDS)


# --- one score function -----------------------------------------------------------------------------------------------


def modes(model: Any) -> list[tuple[str, bool, bool]]:
    """Method, are candidates shared, does each triple bring its own."""
    methods = ["score_tails", *(["score_heads"] if model.scores_heads else [])]
    return [(method, shared, own) for method in methods for shared in (True, False) for own in (True, False)]


def all_scores(case: Case, relation: Any, network: Any, table: Any, head: Any, tail: Any, candidate: Any) -> list[Any]:
    """Scores of the triples, and of candidates (B, N, E), or its first block, in all modes."""
    variables = case.variables(table, network)
    scores = [case.model.apply(variables, head, relation, tail, method="score_triple")]
    for method, shared, own in modes(case.model):
        met = candidate if own else candidate[:1]
        rows = (met, relation, tail) if method == "score_heads" else (head, relation, met)
        scores.append(case.make(shared).apply(variables, *rows, method=method))
    return scores


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_scores_and_gradients(name: str, arguments: dict[str, Any]) -> None:
    """Triples, heads and tails, shared or not, give what the formula gives; gradients too, and finite at 0."""
    case = Case(name, arguments)
    E = case.model.entity_width
    head, tail, candidate = normal(1, B, E), normal(2, B, E), normal(3, B, N, E)
    relation = np.array([1, 5, 1])  # 5 is an inverse relation, 1 comes twice
    weights = [normal(4 + i, *w) for i, w in enumerate([(B,), *((B, N * B), (B, N), (B, N), (B, N)) * 2])]

    @partial(jax.jit)
    def run(*args: Any) -> Any:
        def weighted(*args: Any) -> Any:
            scores = all_scores(case, relation, case.network, *args)
            assert [score.shape for score in scores] == [w.shape for w in weights[: len(scores)]]
            return sum(jnp.sum(w * score) for w, score in zip(weights, scores, strict=False)), scores

        return jax.grad(weighted, (0, 1, 2, 3), has_aux=True)(*args)

    gradients, scores = run(case.table, head, tail, candidate)
    expected = [np.zeros_like(x, np.float64) for x in (case.table, head, tail, candidate)]
    rows = case.table[relation]
    score, by = case.scorer(head, rows, tail)
    np.testing.assert_allclose(scores[0], score, **FLOAT32)
    np.add.at(expected[0], relation, weights[0][:, None] * by[1])
    expected[1] += weights[0][:, None] * by[0]
    expected[2] += weights[0][:, None] * by[2]
    for got, weight, (method, shared, own) in zip(scores[1:], weights[1:], modes(case.model), strict=False):
        met = candidate if own else candidate[:1]
        if shared:
            met = met.reshape(1, -1, E)
        h, t = (met, tail[:, None]) if method == "score_heads" else (head[:, None], met)
        score, by = case.scorer(h, rows[:, None], t)
        np.testing.assert_allclose(got, score, **FLOAT32)
        by_h, by_r, by_t = (weight[..., None] * d for d in by)
        by_met, by_known = (by_h, by_t) if method == "score_heads" else (by_t, by_h)
        np.add.at(expected[0], relation, by_r.sum(1))
        expected[2 if method == "score_heads" else 1] += by_known.sum(1)
        if shared or not own:
            by_met = by_met.sum(0, keepdims=True)
        expected[3][: len(candidate) if own else 1] += by_met.reshape(-1, N, E)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **ACCUMULATED)

    table = case.table.copy()
    table[1] = 0
    for row in (np.zeros((B, E), np.float32), head):
        same = np.broadcast_to(row[:, None], candidate.shape)  # head = tail = candidate, all 0 in the first round
        for leaf in jax.tree_util.tree_leaves(run(table, row, row, same)):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_bfloat16_is_kept(name: str, arguments: dict[str, Any]) -> None:
    """Scores of bfloat16 rows and weights are bfloat16, and so are the gradients; near those of float32."""
    case = Case(name, arguments)
    E = case.model.entity_width
    low = partial(jax.tree_util.tree_map, lambda x: jnp.asarray(x, jnp.bfloat16))
    network = {**low(case.network), **{k: v for k, v in case.network.items() if k == "batch_stats"}}
    args = low((case.table, normal(1, B, E), normal(2, B, E), normal(3, B, N, E)))
    relation = np.array([1, 5, 1])

    def total(*args: Any) -> Any:
        scores = all_scores(case, relation, network, *args)
        return sum(jnp.sum(score) for score in scores), scores

    gradients, scores = jax.eval_shape(jax.grad(total, (0, 1, 2, 3), has_aux=True), *args)
    assert {leaf.dtype for leaf in (*gradients, *scores)} == {jnp.dtype(jnp.bfloat16)}
    table, head, tail, _ = args
    variables = case.variables(table, network)
    fn = jax.jit(partial(case.model.apply, method="score_triple"))
    score = fn(variables, head, relation, tail)
    expected = case.formula(head, np.asarray(table)[relation], tail)
    np.testing.assert_allclose(np.float32(score), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", KINDS)
def test_initial_rows(name: str) -> None:
    """Drawn by part, or by a given function; the parts make up the row, and all rows are counted."""
    case = Case(name, VARIANTS[name][0])
    model = case.model
    ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros
    key = jax.random.key(0)

    def init(model: Any) -> Any:
        both = lambda key: (model.init_entity(key, 50), model.init_params(key)["relation_embedding"])  # noqa: E731
        return jax.jit(both)(key)

    entity, relation = init(model)
    assert entity.shape == (50, model.entity_width)
    assert relation.shape == (model.n_relation, model.relation_width)
    assert np.isfinite(entity).all()
    assert len(np.unique(entity, axis=0)) == 50
    sizes = [part.width for part in model.entity_parts]
    given = case.make(entity_initializer=[ones, zeros, ones][: len(sizes)], relation_initializer=ones)
    assert hash(given) == hash(given.clone())
    row = np.repeat([1.0, 0.0, 1.0][: len(sizes)], sizes)
    for ours, theirs in zip(init(given), (np.broadcast_to(row, entity.shape), np.ones_like(relation)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    scheme = bj.EmbeddingMovingBessKGE(
        negative_sampler=Negatives(case.sharding, "t", True), score_fn=model, return_scores=True
    )
    assert scheme.n_embedding_parameters == 10 * entity.shape[1] + relation.size


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, {"embedding_size": 0}, "embedding_size must be >= 1, got 0") for name in KINDS),
        *((name, {"n_relation_type": 0}, "n_relation_type must be >= 1, got 0") for name in KINDS),
        *(
            (name, {"scoring_norm": 3}, "scoring_norm must be one of 1, 2, got 3")
            for name, kind in KINDS.items()
            if hasattr(kind, "scoring_norm")
        ),
        ("BoxE", {"entity_initializer": (jax.nn.initializers.ones,)}, "must be one function or 2, for position, bump"),
        ("BoxE", {"eps": 0.0}, "eps must be > 0"),
        ("TripleRE", {"u": -1.0}, "u must be >= 0 and finite, got -1.0"),
        ("ConvE", {"embedding_size": 7}, r"kernel_height must be between 1 and 2, .* got 3"),
        ("ConvE", {"embedding_size": 12, "embedding_height": 5}, r"embedding_size must be input_channels \*"),
        ("ConvE", {"embedding_size": 12, "embedding_height": 0}, r"embedding_size must be input_channels \*"),
        ("ConvE", {"embedding_size": 12, "input_channels": 0}, r"input_channels must be >= 1, got 0"),
        ("ConvE", {"embedding_size": 12, "output_channels": 0}, r"output_channels must be >= 1, got 0"),
        ("ConvE", {"embedding_size": 12, "hidden_dropout": 1.0}, "hidden_dropout must be at least 0 and less than 1"),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    good = {"negative_sample_sharing": True, "n_relation_type": 2, "embedding_size": 12}
    KINDS[name](sharding=bj.Sharding.create(10, 1, 0), **good)
    with pytest.raises(ValueError, match=message):
        KINDS[name](sharding=bj.Sharding.create(10, 1, 0), **(good | arguments))


# --- sharded ----------------------------------------------------------------------------------------------------------


def step_settings(case: Case, n_shard: int) -> Settings:
    """Both formats of negatives, with and without sharing and augmentation."""
    scheme = "ht" if case.model.scores_heads else "t"
    form = {1: (False, False, False), 2: (True, True, True), 3: (True, False, True), 4: (False, True, False)}
    shared, flat, augment = form.get(n_shard, (True, True, True))
    return Settings(case.name, Loss("LogSigmoid", margin=2.0), scheme, shared=shared, flat=flat, augment=augment)


def grid() -> list[Any]:
    """All of model x shards x mapping, in whose quick part every two of them meet (on one shard mappings are alike)."""
    params = []
    for i, name in enumerate(KINDS):
        for j, n_shard in enumerate((1, 2, 3, 4, 8)):
            for k, mapping in enumerate(("vmap", "pmap", "shard_map")[: 1 if n_shard == 1 else 3]):
                quick = n_shard == 1 or (i + j + k) % 3 == 0
                marks = [] if quick else [pytest.mark.slow]
                params.append(pytest.param(name, n_shard, mapping, marks=marks, id=f"{name}-{n_shard}-{mapping}"))
    return params


@pytest.mark.parametrize(("name", "n_shard", "mapping"), grid())
def test_sharded(name: str, n_shard: int, mapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, scores and gradients of a sharded step are those of the dense formula."""
    sharding = bj.Sharding.create(4 * n_shard + 1, n_shard, seed=1)
    case = Case(name, VARIANTS[name][0], sharding)
    settings = step_settings(case, n_shard)
    size = 2
    sets = len(settings.scheme) if settings.flat else n_shard * size
    batch = random_batch(sharding, sets, size)
    slots = sharding.shard_and_idx_to_entity
    entity = normal(6, slots.size, case.model.entity_width)
    monkeypatch.setitem(oracle.SCORERS, name, case.scorer)
    expected = oracle.step(entity, case.table, batch, sharding, settings)
    network = case.network
    replicated = jax.tree_util.tree_map(
        lambda x: np.broadcast_to(x, (n_shard, *x.shape)), case.variables(case.table, network)
    )
    params = bj.Params(entity[slots], replicated["params"], replicated.get("batch_stats", ()))
    fed = {key: array[:, None] for key, array in batch.items()}
    placement = bj.Placement.create(n_shard, None if mapping == "vmap" else n_shard, mapping)
    model = bj.EmbeddingMovingBessKGE(
        negative_sampler=Negatives(sharding, settings.scheme, settings.flat),
        score_fn=case.make(settings.shared),
        loss_fn=bj.LogSigmoidLoss(margin=2.0, negative_adversarial_sampling=False),
        augment_negative=settings.augment,
        return_scores=True,
        axis_name=placement.axis_name,
    )

    def one_shard(params: bj.Params, batch: Any) -> Any:
        def loss(p: bj.Params) -> Any:
            out = model.forward(p._replace(score_state=params.score_state), **batch)
            return out["loss"], out

        return jax.grad(loss, has_aux=True)(params._replace(score_state=()))

    args = placement.put(params), placement.put(fed)
    mapped = placement.map(one_shard).lower(*args).compile()
    gradients, out = placement.get(mapped(*args))
    np.testing.assert_allclose(out["positive_score"], expected.positive, **ACCUMULATED)
    np.testing.assert_allclose(out["negative_score"], expected.negative, **ACCUMULATED)
    np.testing.assert_allclose(out["loss"], expected.loss, **ACCUMULATED)
    scale = np.abs(expected.entity_grad).max()  # entries are small differences of terms of this size
    by_scale = {**ACCUMULATED, "atol": max(ACCUMULATED["atol"], 1e-6 * scale)}
    np.testing.assert_allclose(gradients.entity, expected.entity_grad[slots], **by_scale)
    by_relation = gradients.score_fn["relation_embedding"].sum(0)
    np.testing.assert_allclose(by_relation, expected.relation_grad, **ACCUMULATED)


@pytest.mark.parametrize("p", [1, 2])
def test_rotate_as_reference(p: int) -> None:
    """The norm of the stored numbers: with p = 1 not that of the moduli, and heads are scored in another way."""
    case = Case("RotatE", {"scoring_norm": p, "as_reference": True})
    head, tail, relation = normal(1, B, 12), normal(2, B, 12), np.array([1, 5, 1])
    variables = case.variables(case.table, case.network)
    triple = case.model.apply(variables, head, relation, tail, method="score_triple")
    own = case.make(False).apply(variables, head[:, None], relation, tail, method="score_heads")[:, 0]
    apart = complex_(head) * np.exp(1j * case.table[relation]) - complex_(tail)
    flat = -length(np.concatenate([apart.real, apart.imag], axis=-1), p)
    np.testing.assert_allclose(triple, flat, **FLOAT32)
    assert np.allclose(own, triple, rtol=1e-4) == (p == 2)
    assert np.allclose(flat, -length(apart, p), rtol=1e-4) == (p == 2)


def test_rotate_penalizes_moduli_of_entities_only() -> None:
    case = Case("RotatE", {})
    head, tail, relation = normal(1, B, 12), normal(2, B, 12), np.array([1, 5, 1])
    variables = case.variables(case.table, case.network)
    of_head, of_relation, of_tail = case.model.apply(variables, head, relation, tail, method="penalized")
    np.testing.assert_allclose(of_head, np.abs(complex_(head)) ** 2, **FLOAT32)
    np.testing.assert_allclose(of_tail, np.abs(complex_(tail)) ** 2, **FLOAT32)
    assert of_relation.shape == (B, 0)
