"""Programs of the core, small, with all their draws made by NumPy: the same numbers under any JAX.

A program takes a placement of `N_SHARD` shards and returns arrays on the host. It runs as it stands under Python 3.8
with JAX 0.3.16, which the IPU's JAX is a fork of, and under the newest.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ipu import readme_loop

import bess_jax as bj
from bess_jax._compat import TypeAlias
from bess_jax.ask.all_scores import AllScoresPipeline
from bess_jax.ask.topk import TopKQueryBessKGE
from bess_jax.data.negative_sampler import PlaceholderNegativeSampler
from bess_jax.step.bess import ScoreState

N_SHARD, N_ENTITY, N_RELATION, N_STEP = 4, 41, 3, 3
SIZE = 6  # even: components of ComplEx and RotatE come in two halves
LEARNING_RATE = 0.05
EPS = 1e-2  # of Adam: a first step is rate * g / (|g| + eps), and where g is 0 but for rounding, a small eps makes it 1

Results: TypeAlias = "dict[str, np.ndarray]"


class Program(NamedTuple):
    """What is run, and by which exchange."""

    run: Callable[[Any], Results]
    exchange: str = "ring"


# --- what all programs are about --------------------------------------------------------------------------------------


@lru_cache
def graph() -> bj.KGDataset:
    rng = np.random.default_rng(0)
    triples = rng.integers([N_ENTITY, N_RELATION, N_ENTITY], size=(312, 3)).astype(np.int32)
    offsets = {"a": 0, "b": 11, "c": 27}
    splits = {"train": triples[:300], "test": triples[300:]}
    return bj.KGDataset(n_entity=N_ENTITY, n_relation_type=N_RELATION, triples=splits, type_offsets=offsets)


@lru_cache
def sharding() -> bj.Sharding:
    return bj.Sharding.create(N_ENTITY, N_SHARD, seed=0, type_offsets=np.array([0, 11, 27], np.int32))


@lru_cache
def triples(inverse: bool = False, split: str = "train", mode: str = "ht_shardpair") -> bj.PartitionedTripleSet:
    return bj.PartitionedTripleSet.create_from_dataset(graph(), split, sharding(), mode, add_inverse_triples=inverse)


MODELS: dict[str, Callable[..., bj.BaseScoreFunction]] = {
    "ComplEx": lambda norm, **kw: bj.ComplEx(embedding_size=SIZE // 2, **kw),
    "DistMult": lambda norm, **kw: bj.DistMult(embedding_size=SIZE, **kw),
    "TransE": lambda norm, **kw: bj.TransE(embedding_size=SIZE, scoring_norm=norm, **kw),
    "RotatE": lambda norm, **kw: bj.RotatE(embedding_size=SIZE // 2, scoring_norm=norm, **kw),
    "PairRE": lambda norm, **kw: bj.PairRE(embedding_size=SIZE, scoring_norm=norm, **kw),
    "TripleRE": lambda norm, **kw: bj.TripleRE(embedding_size=SIZE, scoring_norm=norm, u=0.5 * (norm - 1), **kw),
    "BoxE": lambda norm, **kw: bj.BoxE(embedding_size=SIZE // 2, scoring_norm=norm, **kw),
    "InterHT": lambda norm, **kw: bj.InterHT(embedding_size=SIZE // 2, scoring_norm=norm, **kw),
    "TranS": lambda norm, **kw: bj.TranS(embedding_size=SIZE // 2, scoring_norm=norm, **kw),
    "ConvE": lambda norm, **kw: bj.ConvE(
        **{
            "embedding_size": SIZE,
            "output_channels": 4,
            "input_dropout": 0.0,
            "feature_map_dropout": 0.0,
            "hidden_dropout": 0.0,
            **kw,
        }
    ),
}
LOSSES: dict[str, Any] = {
    "logsigmoid": bj.LogSigmoidLoss(margin=2.0, negative_adversarial_sampling=True),
    "margin": bj.MarginRankingLoss(margin=1.5, negative_adversarial_sampling=False),
    "sampled": bj.SampledSoftmaxCrossEntropyLoss(n_entity=N_ENTITY),
    "bce": bj.BCEWithLogitsLoss(offset=1.0),
    "softmax": bj.SoftmaxCrossEntropyLoss(),
    "softmax_all": bj.SoftmaxCrossEntropyLoss(positive_among_negatives=True, label_smoothing=0.1),
    "bce_all": bj.BCEWithLogitsLoss(positive_among_negatives=True, label_smoothing=0.1),
}
SCHEMES = {"embedding": bj.EmbeddingMovingBessKGE, "score": bj.ScoreMovingBessKGE}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optax.sgd(LEARNING_RATE),
    "adagrad": lambda: optax.adagrad(LEARNING_RATE),
    "adam": lambda: optax.adam(LEARNING_RATE, eps=EPS),
    "row_adagrad": lambda: bj.row_adagrad(LEARNING_RATE),
    "adam_float16": lambda: bj.low_precision(optax.adam(LEARNING_RATE, eps=EPS), loss_scale=16.0),
}
RULES = {"sparse": bj.row_sparse, "dense": bj.dense}


@lru_cache
def update_rule(rule: str, optimizer: str, accumulated: bool) -> bj.UpdateRule:
    made = RULES[rule](OPTIMIZERS[optimizer]())
    return bj.accumulate(made) if accumulated else made


# Negatives: whether every positive meets those of all, and whether there is one list of them.
LISTS = {"shared": (True, True), "own": (False, False), "everyone": (True, False), "one": (False, True)}


def negatives(kind: str, side: str) -> bj.ShardedNegativeSampler:
    """Sampler of negatives by one of `LISTS`, or "local", "types", "given_one", "given_own" or "all"."""
    common: dict[str, Any] = {"sharding": sharding(), "corruption_scheme": side}
    rng = np.random.default_rng(1)
    if kind in ("given_one", "given_own"):
        n = 1 if kind == "given_one" else len(triples().triples)
        heads, tails = rng.integers(N_ENTITY, size=(2, n, 7)).astype(np.int32)
        return bj.TripleBasedShardedNegativeSampler(negative_heads=heads, negative_tails=tails, **common)
    if kind == "all":
        return bj.AllEntitiesNegativeSampler(**common)
    if kind == "types":
        types = triples().types
        return bj.TypeBasedShardedNegativeSampler(triple_types=types, n_negative=2, seed=1, **common)
    flat = LISTS.get(kind, (False, False))[1]
    return bj.RandomShardedNegativeSampler(
        n_negative=2, seed=1, flat_negative_format=flat, local_sampling=kind == "local", **common
    )


def drawn(tree: Any, dtype: str = "float32", seed: int = 2) -> Any:
    """Arrays of the shapes of a tree, normal draws of `seed`."""
    rng = np.random.default_rng(seed)
    return jax.tree_util.tree_map(lambda x: rng.normal(scale=0.5, size=x.shape).astype(dtype), tree)


def replicated(tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda x: np.broadcast_to(x, (N_SHARD, *x.shape)), tree)


def shapes(model: bj.BaseScoreFunction) -> Any:
    return jax.eval_shape(model.init_params, jax.ShapeDtypeStruct((2,), np.uint32))


def parameters(score_fn: bj.BaseScoreFunction, dtype: str = "float32") -> bj.Params:
    """Parameters of all shards; rows of padding are drawn too."""
    table = np.zeros((N_SHARD, sharding().max_entity_per_shard, score_fn.entity_width))
    return bj.Params(drawn(table, dtype), replicated(drawn(shapes(score_fn), dtype, seed=3)))


def statistics(score_fn: bj.BaseScoreFunction) -> Any:
    if not score_fn.has_network:
        return ()
    return replicated(jax.tree_util.tree_map(np.asarray, score_fn.init_state()))


def numbers(params: bj.Params) -> Results:
    """The tables, the replicated ones once: shards must hold the same bits."""
    out = {"entity": params.entity}
    for number, leaf in enumerate(jax.tree_util.tree_leaves((params.score_fn, params.score_state))):
        if not np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)):
            raise AssertionError(f"shards hold different values of replicated leaf {number}")
        out[f"replicated_{number}"] = leaf[0]
    return out


# --- training ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Training:
    """Three training steps."""

    model: str
    scheme: str = "embedding"
    rule: str = "sparse"
    optimizer: str = "adagrad"
    side: str = "t"
    lists: str = "shared"
    loss: str = "logsigmoid"
    norm: int = 1
    dtype: str = "float32"
    accumulated: bool = False
    options: Any = ()  # of the distribution scheme
    network: Any = ()  # of the score function
    sampler: Any = ()  # of the batch sampler

    def score_fn(self) -> bj.BaseScoreFunction:
        shared = LISTS.get(self.lists, (self.lists in ("given_one", "all"), None))[0]
        common: dict[str, Any] = {"sharding": sharding(), "n_relation_type": N_RELATION, **dict(self.network)}
        if self.model == "ConvE":
            common["inverse_relations"] = True
        return MODELS[self.model](self.norm, negative_sample_sharing=shared, **common)

    def scheme_of(self, score_fn: bj.BaseScoreFunction, **options: Any) -> bj.BessKGE:
        sampler = negatives(self.lists, self.side)
        return SCHEMES[self.scheme](negative_sampler=sampler, score_fn=score_fn, **options, **dict(self.options))

    def batch(self, model: bj.BessKGE) -> Any:
        inverse = model.score_fn.inverse_relations
        sampler = bj.RigidShardedBatchSampler(
            partitioned_triple_set=triples(inverse),
            negative_sampler=model.negative_sampler,
            batches_per_step=N_STEP * (2 if self.accumulated else 1),
            seed=4,
            **{"shard_bs": 2 * N_SHARD, **dict(self.sampler)},
        )
        batch = sampler.batch(0, 0)
        return bj.group_steps(batch, 2) if self.accumulated else batch

    def __call__(self, placement: Any) -> Results:
        score_fn = self.score_fn()
        model = self.scheme_of(score_fn, loss_fn=LOSSES[self.loss])
        rule = update_rule(self.rule, self.optimizer, self.accumulated)
        params = parameters(score_fn, self.dtype)
        state = bj.TrainState(params, jax.vmap(rule.init)(params))
        if score_fn.has_network:
            keys = np.random.default_rng(5).integers(2**32, size=(N_SHARD, 2), dtype=np.uint32)
            state = state._replace(score_state=ScoreState(statistics(score_fn), keys))
        batch = self.batch(model)
        if rule.sparse:
            batch = bj.merge_ids(batch, sharding().max_entity_per_shard)
        step = placement.map(bj.make_train_step(model, rule, placement.axis_name), donate_argnums=(0,))
        losses, state = step(placement.put(jax.device_get(state)), placement.put(bj.shard_major(batch)))
        losses, params = placement.get((losses, state.inference_params))
        return {"loss": losses, **numbers(params)}


@dataclasses.dataclass(frozen=True)
class Scoring(Training):
    """One step without update: scores, ranks and metrics."""

    evaluation: Any = ()

    def __call__(self, placement: Any) -> Results:
        score_fn = self.score_fn()
        evaluation = bj.Evaluation(["hits@1", "hits@3", "mrr"], return_ranks=True, **dict(self.evaluation))
        model = self.scheme_of(
            score_fn,
            return_scores=True,
            evaluation=evaluation,
            axis_name=placement.axis_name,
            loss_fn=LOSSES[self.loss],
        )
        params = parameters(score_fn)._replace(score_state=statistics(score_fn))
        batch = {name: array[:1] for name, array in self.batch(model).items()}
        forward = placement.map(lambda params, batch: model.forward(params, **batch))
        out = placement.get(forward(placement.put(params), placement.put(bj.shard_major(batch))))
        # Whether equal scores tie in every bit is up to XLA's products, which older XLA computes in other orders.
        gap = np.abs(out["negative_score"] - out["positive_score"][..., None])
        clear = (gap > 1e-5).all(axis=-1)
        metrics = np.where(clear[:, None], out["metrics"], 0)
        return {**out, "ranks": np.where(clear, out["ranks"], 0), "metrics": metrics, "clear": clear}


def training_programs() -> dict[str, Program]:
    """All models by both schemes, updates of rows and of tables, and three optimizers; the rest of the choices vary."""
    sides, lists, losses = ("t", "h", "ht"), tuple(LISTS), ("logsigmoid", "margin", "sampled", "bce", "softmax")
    out = {}
    for m, model in enumerate(MODELS):
        network = model == "ConvE"
        for i, (scheme, rule, optimizer) in enumerate(itertools.product(SCHEMES, RULES, ("sgd", "adagrad", "adam"))):
            if network and scheme == "score":
                continue  # a network is trained where the triple is
            s, u, o = i // 6, i // 3 % 2, i % 3
            out[f"train/{model}/{scheme}/{rule}/{optimizer}"] = Program(
                Training(
                    model,
                    scheme,
                    rule,
                    optimizer,
                    side="t" if network else sides[(o + u + m) % 3],
                    lists=lists[(o + 2 * u + s + m) % 4],
                    loss=losses[(i + m) % 5],
                    norm=1 + (u + s) % 2,
                ),
                exchange="all_to_all" if (i + m) % 5 == 4 else "ring",
            )
    return out


def further_programs() -> dict[str, Program]:
    """What else a step can be told to do."""
    augment = (("augment_negative", True),)
    n3 = (("regularizer", bj.LpRegularization(weight=0.01)),)
    l2 = (("regularizer", bj.LpRegularization(weight=0.01, p=2)),)
    relation = (("relation_weight", 0.25),)
    drop = (("input_dropout", 0.2), ("feature_map_dropout", 0.2), ("hidden_dropout", 0.3))
    runs: dict[str, Any] = {
        "given_one/embedding": Training("ComplEx", lists="given_one", side="ht"),
        "given_one/score": Training("TransE", "score", lists="given_one", side="ht"),
        "given_own/embedding": Training("DistMult", lists="given_own", side="t"),
        "given_own/score": Training("RotatE", "score", lists="given_own", side="ht"),
        "types/embedding": Training("TransE", lists="types", side="ht"),
        "types/score": Training("ComplEx", "score", lists="types", side="h"),
        "local/own": Training("DistMult", lists="local", side="ht"),
        "augment/shared": Training("ComplEx", side="ht", options=augment, loss="sampled"),
        "augment/everyone": Training("TransE", lists="everyone", side="h", options=augment),
        "all_entities/embedding": Training("ComplEx", lists="all", side="t", loss="softmax_all"),
        "all_entities/score": Training("ComplEx", "score", lists="all", side="ht", loss="softmax_all"),
        "all_answers/embedding": Training(
            "DistMult", lists="all", side="ht", loss="bce_all", sampler=(("return_answer_share", True),)
        ),
        "all_answers/score": Training(
            "ComplEx", "score", lists="all", side="t", loss="bce_all", sampler=(("return_answer_share", True),)
        ),
        "n3": Training("ComplEx", side="ht", options=n3, loss="sampled"),
        "n3/score": Training("RotatE", "score", side="ht", options=n3, loss="sampled"),
        "l2/dense": Training("TransE", rule="dense", side="ht", options=l2),
        "relation/ComplEx": Training("ComplEx", side="ht", options=relation, loss="sampled"),
        "relation/score": Training("TransE", "score", side="t", options=relation),
        "relation/BoxE": Training("BoxE", side="h", options=relation),
        "weights": Training("DistMult", side="ht", sampler=(("hrt_freq_weighting", True),)),
        "twice": Training("DistMult", side="ht", sampler=(("duplicate_batch", True), ("shard_bs", 4 * N_SHARD))),
        "accumulated/sparse": Training("ComplEx", side="ht", accumulated=True, optimizer="adam"),
        "accumulated/dense": Training("TransE", "score", "dense", side="t", accumulated=True),
        "row_adagrad/sparse": Training("ComplEx", side="t", optimizer="row_adagrad", loss="sampled"),
        "row_adagrad/dense": Training("ComplEx", "score", "dense", side="t", optimizer="row_adagrad"),
        "float16/embedding": Training("ComplEx", side="ht", optimizer="adam_float16", dtype="float16"),
        "float16/score": Training("TransE", "score", side="ht", optimizer="adam_float16", dtype="float16"),
        "inverse": Training("TransE", side="t", network=(("inverse_relations", True),)),
        "dropout": Training("ConvE", network=drop, lists="own"),
        "dropout/synchronized": Training("ConvE", network=(*drop, ("synchronize_batch_norm", True)), loss="sampled"),
        "no_normalization": Training("ConvE", network=(("batch_normalization", False),), loss="bce"),
    }
    scored: dict[str, Any] = {
        f"evaluated/{model}/{scheme}": Scoring(
            model,
            scheme,
            side="t" if model == "ConvE" else ("ht", "t", "h")[(m + s) % 3],
            lists=tuple(LISTS)[(m + 2 * s) % 4],
            norm=1 + (m + s) % 2,
        )
        for m, model in enumerate(MODELS)
        for s, scheme in enumerate(SCHEMES)
    }
    scored["evaluated/rounded"] = Scoring(
        "ComplEx", side="t", evaluation=(("exact_ties", False), ("mode", "pessimistic"))
    )
    scored["evaluated/given"] = Scoring("TransE", "score", side="ht", lists="given_one")
    return {
        **{f"train/{name}": Program(run) for name, run in runs.items()},
        **{f"step/{name}": Program(run) for name, run in scored.items()},
    }


# --- questions --------------------------------------------------------------------------------------------------------


def make_model(model: str, shared: bool = True, inverse: bool = False) -> Any:
    score_fn = MODELS[model](
        1,
        negative_sample_sharing=shared,
        sharding=sharding(),
        n_relation_type=N_RELATION,
        inverse_relations=inverse or model == "ConvE",
    )
    return score_fn, parameters(score_fn)._replace(score_state=statistics(score_fn))


def best_of_batch(model: str, side: str, kind: str, placement: Any) -> Results:
    """`TopKQueryBessKGE` among all entities, in windows, one list or a list for each query."""
    mode = "h_shard" if side == "t" else "t_shard"
    score_fn, params = make_model(model, shared=kind != "own")
    partitioned = triples(split="test", mode=mode)
    if kind == "all":
        candidates: Any = PlaceholderNegativeSampler(corruption_scheme=side)
    else:
        rows = 1 if kind == "one" else len(partitioned.triples)
        listed = np.stack([np.random.default_rng(6 + i).permutation(N_ENTITY)[:17] for i in range(rows)])
        candidates = bj.TripleBasedShardedNegativeSampler(
            sharding=sharding(),
            corruption_scheme=side,
            negative_heads=listed.astype(np.int32),
            negative_tails=listed.astype(np.int32),
            mask_on_gather=True,
        )
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=partitioned, negative_sampler=candidates, shard_bs=6, seed=0, shuffle=False
    )
    batch = sampler.batch(0, 0)
    module = TopKQueryBessKGE(
        k=5,
        candidate_sampler=candidates,
        score_fn=score_fn,
        evaluation=bj.Evaluation(["hits@3", "mrr"], return_ranks=True),
        return_scores=True,
        window_size=4,
        axis_name=placement.axis_name,
    )

    def ask(params: Any, batch: Any, entity_id: Any) -> Any:
        return module.forward(params, entity_id=entity_id, **batch)

    args = params, bj.shard_major(batch), sharding().shard_and_idx_to_entity
    return placement.get(placement.map(ask)(*map(placement.put, args)))


def all_scores(model: str, side: str, placement: Any) -> Results:
    """`AllScoresBESS`, block by block, by the pipeline that filters and ranks on the host."""
    score_fn, params = make_model(model)
    sampler = bj.RigidShardedBatchSampler(
        partitioned_triple_set=triples(split="test", mode="h_shard" if side == "t" else "t_shard"),
        negative_sampler=PlaceholderNegativeSampler(corruption_scheme=side),
        shard_bs=6,
        seed=0,
    )
    pipeline = AllScoresPipeline(
        batch_sampler=sampler,
        corruption_scheme=side,
        score_fn=score_fn,
        placement=placement,
        evaluation=bj.Evaluation(["mrr"], return_ranks=True),
        filter_triples=[graph().triples["train"]],
        return_scores=True,
        window_size=7,
    )
    found = pipeline.forward(placement.put(params))
    scores = np.where(np.isinf(found["scores"]), 0, found["scores"])
    return {"scores": scores.astype(np.float32), "omitted": np.isinf(found["scores"]), "ranks": found["ranks"]}


def counts(ranks: bj.Ranks) -> Results:
    out = {}
    for side, found in ranks.sides.items():
        for name, array in found._asdict().items():
            out[f"{side}_{name}"] = array
    return out


def ranker(model: str, placement: Any, **options: Any) -> Any:
    score_fn, params = make_model(model, **options)
    return bj.Ranker(score_fn=score_fn, placement=placement, chunk=8, window=128), placement.put(params)


def test_triples() -> Any:
    return graph().triples["test"]


def known() -> bj.KnownAnswers:
    return bj.KnownAnswers(graph().all_triples(), N_RELATION)


def ranks(model: str, sides: Sequence[Any], placement: Any) -> Results:
    """Ranks among all entities, other answers left out."""
    asked, params = ranker(model, placement)
    return counts(asked.ranks(params, test_triples(), known(), sides=sides))


def ranks_of_few(model: str, placement: Any) -> Results:
    """Ranks among some entities, and of relations."""
    asked, params = ranker(model, placement)
    few = bj.Candidates(np.arange(N_ENTITY) % 2, np.arange(len(test_triples())) % 2)
    found = asked.ranks(params, test_triples(), known(), sides=("head", "relation"), among={"head": few})
    return counts(found)


def ranks_of_lists(model: str, placement: Any) -> Results:
    """Ranks among entities that are listed for each query."""
    asked, params = ranker(model, placement)
    listed = np.random.default_rng(7).integers(N_ENTITY, size=(len(test_triples()), 9)).astype(np.int32)
    return counts(asked.ranks_among(params, test_triples(), {"head": listed[:1], "tail": listed}))


def best(model: str, side: str, placement: Any) -> Results:
    """The best answers to queries, known ones left out."""
    asked, params = ranker(model, placement)
    found = asked.top_k(params, side, test_triples(), 2 if side == "relation" else 6, known())
    return {"id": found.id, "score": found.score}


def triple_scores(model: str, placement: Any) -> Results:
    asked, params = ranker(model, placement, inverse=True)
    return {"score": asked.score(params, test_triples())}


def neighbours(model: str, measure: str, placement: Any) -> Results:
    asked, params = ranker(model, placement)
    found = bj.Neighbours.of_entities(asked, params, measure).nearest(np.arange(8), 4)
    return {"id": found.id, "score": found.score}


def question_programs() -> dict[str, Program]:
    sides = {model: ("head", "tail")[m % 2 : m % 2 + 1] for m, model in enumerate(MODELS)}
    sides["ComplEx"] = "head", "tail"
    sides["ConvE"] = ("head",)  # as tails of inverse relations
    runs: dict[str, Any] = {f"ask/ranks/{model}": partial(ranks, model, sides[model]) for model in MODELS}
    for model in ("ComplEx", "TransE", "BoxE"):
        runs[f"ask/ranks_of_few/{model}"] = partial(ranks_of_few, model)
        runs[f"ask/ranks_of_lists/{model}"] = partial(ranks_of_lists, model)
        runs[f"ask/scores/{model}"] = partial(triple_scores, model)
    runs["ask/ranks_of_few/ConvE"] = partial(ranks_of_few, "ConvE")
    for model, side in (("ComplEx", "head"), ("TransE", "tail"), ("ConvE", "head"), ("PairRE", "relation")):
        runs[f"ask/best/{model}/{side}"] = partial(best, model, side)
    runs["ask/best/DistMult/relation"] = partial(best, "DistMult", "relation")
    for model, side, kind in itertools.product(("ComplEx", "TransE"), ("h", "t"), ("all", "one", "own")):
        runs[f"ask/best_of_batch/{model}/{side}/{kind}"] = partial(best_of_batch, model, side, kind)
    for model, side in (("ComplEx", "h"), ("RotatE", "t"), ("ConvE", "t")):
        runs[f"ask/all_scores/{model}/{side}"] = partial(all_scores, model, side)
    for model, measure in (("ComplEx", "cosine"), ("TransE", "l1"), ("RotatE", "l2")):
        runs[f"ask/neighbours/{model}/{measure}"] = partial(neighbours, model, measure)
    return {name: Program(run) for name, run in runs.items()}


PROGRAMS: dict[str, Program] = {
    **training_programs(),
    **further_programs(),
    **question_programs(),
    "readme/loop": Program(readme_loop.run),
}


# --- what an IPU cannot run, or runs slowly ---------------------------------------------------------------------------


def on_shards(fn: Callable[..., Any], placement: Any) -> Results:
    rng = np.random.default_rng(8)
    table, ids = rng.normal(size=(N_SHARD, 9, SIZE)).astype(np.float32), rng.integers(9, size=(N_SHARD, 2, 4))
    arrays = map(placement.put, (table, ids.astype(np.int32)))
    return {"value": placement.get(placement.map(partial(fn, placement.axis_name))(*arrays))}


def two_keys(axis_name: Any, table: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.lexsort((ids[0], ids[1])).astype(jnp.float32) + table[0, 0]


def two_columns(axis_name: Any, table: jax.Array, ids: jax.Array) -> jax.Array:
    return table.at[ids[0], ids[1]].add(1.0, mode="drop")


def largest(axis_name: Any, table: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.lax.pmax(table, axis_name)


FORBIDDEN: dict[str, Program] = {
    "forbidden/a sort by two keys": Program(partial(on_shards, two_keys)),
    "forbidden/a scatter by two columns": Program(partial(on_shards, two_columns)),
    "forbidden/a maximum over shards": Program(partial(on_shards, largest)),
}
"""To see that the audit sees them."""
