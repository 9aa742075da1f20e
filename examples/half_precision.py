"""Tables in float16, rounded at random: TransE on a graph like ogbl-wikikg2, validated while it trains.

The counterpart of BESS-KGE's notebook 3 (ogbl-wikikg2), on a small graph of the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_graphs import grouped_graph

import bess_jax as bj

N_SHARD = 4
N_EPOCH = 8

bj.request_devices(N_SHARD)  # virtual ones, where there is no accelerator
placement = bj.Placement.create(N_SHARD)
graph = grouped_graph(
    {"human": 1_000, "place": 300, "work": 500, "language": 100},
    [
        ("place of birth", "human", "place"),
        ("author", "work", "human"),
        ("narrative location", "work", "place"),
        ("languages spoken", "human", "language"),
        ("language of work", "work", "language"),
    ],
    n_triple=25_000,
    n_candidate=50,
)
sharding = bj.Sharding.create(graph.n_entity, n_shard=N_SHARD, seed=432)
train = bj.PartitionedTripleSet.create_from_dataset(graph, "train", sharding)
negatives = bj.RandomShardedNegativeSampler(
    n_negative=32, sharding=sharding, seed=1, corruption_scheme="t", local_sampling=False, flat_negative_format=True
)
batches = bj.RandomShardedBatchSampler(
    partitioned_triple_set=train, negative_sampler=negatives, shard_bs=240, batches_per_step=4, seed=2
)
score_fn = bj.TransE(
    negative_sample_sharing=True,
    scoring_norm=1,
    sharding=sharding,
    n_relation_type=graph.n_relation_type,
    embedding_size=32,
    entity_initializer=[bj.init_KGE_normal],
    relation_initializer=[bj.init_KGE_normal],
)
loss_scale = 64.0  # keeps small gradients from vanishing in float16; taken out again by `low_precision`
model = bj.EmbeddingMovingBessKGE(
    negative_sampler=negatives,
    score_fn=score_fn,
    loss_fn=bj.SampledSoftmaxCrossEntropyLoss(n_entity=graph.n_entity, loss_scale=loss_scale),
    augment_negative=True,
    axis_name=placement.axis_name,
)

# --- half precision ---------------------------------------------------------------------------------------------------

optimizer = bj.low_precision(optax.sgd(0.003, momentum=0.95), loss_scale, stochastic_rounding=True, seed=3)
rule = bj.dense(optimizer)


def init(key, shard):
    params = bj.cast_params(model.init_shard(key, shard), jnp.float16)
    return bj.TrainState(params, rule.init(params))


state = placement.put(jax.jit(jax.vmap(init, in_axes=(None, 0)))(jax.random.key(0), jnp.arange(N_SHARD)))
print(f"tables in {state.params.entity.dtype}")
train_step = placement.map(bj.make_train_step(model, rule, placement.axis_name), donate_argnums=(0,))

# --- training and validation in turn, against all entities ------------------------------------------------------------

sample = graph.triples["valid"][np.random.default_rng(0).choice(len(graph.triples["valid"]), 500)]
sample_set = bj.PartitionedTripleSet.create_from_queries(
    graph, sharding, queries=sample[:, :2], query_mode="hr", ground_truth=sample[:, 2]
)
everything = bj.PlaceholderNegativeSampler(corruption_scheme="t", seed=0)
queries = bj.RigidShardedBatchSampler(
    partitioned_triple_set=sample_set, negative_sampler=everything, shard_bs=128, seed=0, shuffle=False
)
module = bj.TopKQueryBessKGE(
    k=10,
    candidate_sampler=everything,
    score_fn=score_fn,
    evaluation=bj.Evaluation(["mrr"], worst_rank_infty=True, reduction="sum"),
    window_size=500,
    axis_name=placement.axis_name,
)
answer = placement.map(lambda params, batch: module.forward(params, **batch)["metrics"])
for epoch in range(N_EPOCH):
    for batch in batches.batches(epoch):
        losses, state = train_step(state, placement.put(bj.shard_major(batch)))
    if epoch % 4 == 3:
        found = [answer(state.params, placement.put(bj.shard_major(batch))) for batch in queries.batches(0)]
        mrr = sum(placement.get(metrics).sum() for metrics in found) / len(sample)
        loss = placement.get(losses).mean() / batches.shard_bs / loss_scale
        print(f"epoch {epoch + 1}: loss {loss:.3f}, sample mrr {mrr:.3f}")

# --- validation against the candidates of each triple -----------------------------------------------------------------

valid = bj.PartitionedTripleSet.create_from_dataset(graph, "valid", sharding)
candidates = bj.TripleBasedShardedNegativeSampler(
    negative_heads=valid.neg_heads, negative_tails=valid.neg_tails, sharding=sharding, corruption_scheme="t", seed=0
)
queries = bj.RigidShardedBatchSampler(
    partitioned_triple_set=valid, negative_sampler=candidates, shard_bs=240, seed=0, shuffle=False
)
evaluation = bj.Evaluation(["mrr", "hits@1", "hits@10"], reduction="sum")
ranking = bj.ScoreMovingBessKGE(
    negative_sampler=candidates,
    score_fn=score_fn.clone(negative_sample_sharing=False),  # each triple meets its own candidates
    evaluation=evaluation,
    axis_name=placement.axis_name,
)
rank = placement.map(lambda params, batch: ranking.forward(params, **batch)["metrics"])
total = sum(
    placement.get(rank(state.params, placement.put(bj.shard_major(batch)))).sum(axis=0) for batch in queries.batches(0)
)
for name, value in zip(evaluation.metric_order, total / len(valid.triples), strict=True):
    print(f"{name} {value:.3f}")
