"""Negatives of the right type in training, and each validation triple ranked against candidates of its own.

The counterpart of BESS-KGE's notebook 1 (ogbl-biokg), on a small graph of the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_graphs import grouped_graph

import bess_jax as bj

N_SHARD = 4
N_EPOCH = 10

bj.request_devices(N_SHARD)  # virtual ones, where there is no accelerator
placement = bj.Placement.create(N_SHARD)
graph = grouped_graph(
    {"disease": 300, "drug": 300, "function": 200, "protein": 700},
    [
        ("treats", "drug", "disease"),
        ("targets", "drug", "protein"),
        ("has_role", "protein", "function"),
        ("involved_in", "protein", "disease"),
        ("interacts", "protein", "protein"),
    ],
    n_triple=30_000,
    n_candidate=100,
)
offsets = np.fromiter(graph.type_offsets.values(), dtype=np.int32)
sharding = bj.Sharding.create(graph.n_entity, N_SHARD, seed=1234, type_offsets=offsets)

# --- training ---------------------------------------------------------------------------------------------------------

train = bj.PartitionedTripleSet.create_from_dataset(graph, "train", sharding)
negatives = bj.TypeBasedShardedNegativeSampler(
    triple_types=train.types, n_negative=4, sharding=sharding, corruption_scheme="ht", local_sampling=False, seed=1
)
batches = bj.RigidShardedBatchSampler(
    partitioned_triple_set=train, negative_sampler=negatives, shard_bs=240, batches_per_step=4, seed=2
)
score_fn = bj.RotatE(
    negative_sample_sharing=False,
    scoring_norm=1,
    sharding=sharding,
    n_relation_type=graph.n_relation_type,
    embedding_size=16,
)
model = bj.EmbeddingMovingBessKGE(
    negative_sampler=negatives,
    score_fn=score_fn,
    loss_fn=bj.LogSigmoidLoss(margin=3.0, negative_adversarial_sampling=True),
    axis_name=placement.axis_name,
)
rule = bj.dense(optax.adamw(0.1))
init = jax.vmap(lambda key, shard: bj.init_train_state(model, rule, key, shard), in_axes=(None, 0))
state = placement.put(jax.jit(init)(jax.random.key(0), jnp.arange(N_SHARD)))
train_step = placement.map(bj.make_train_step(model, rule, placement.axis_name), donate_argnums=(0,))
for epoch in range(N_EPOCH):
    for batch in batches.batches(epoch):
        losses, state = train_step(state, placement.put(bj.shard_major(batch)))
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: loss {placement.get(losses).mean() / batches.shard_bs:.3f}")

# --- validation -------------------------------------------------------------------------------------------------------

valid = bj.PartitionedTripleSet.create_from_dataset(graph, "valid", sharding)
candidates = bj.TripleBasedShardedNegativeSampler(
    negative_heads=valid.neg_heads, negative_tails=valid.neg_tails, sharding=sharding, corruption_scheme="ht", seed=0
)
queries = bj.RigidShardedBatchSampler(
    partitioned_triple_set=valid,
    negative_sampler=candidates,
    shard_bs=240,
    seed=0,
    duplicate_batch=True,  # each triple twice: its head is replaced, and its tail
    shuffle=False,
)
evaluation = bj.Evaluation(["mrr", "hits@1", "hits@10"], reduction="sum")
ranking = bj.ScoreMovingBessKGE(
    negative_sampler=candidates, score_fn=score_fn, evaluation=evaluation, axis_name=placement.axis_name
)
rank = placement.map(lambda params, batch: ranking.forward(params, **batch)["metrics"])
total, n_query = np.zeros(3), 0
for batch in queries.batches(0):
    total += placement.get(rank(state.inference_params, placement.put(bj.shard_major(batch)))).sum(axis=0)
    n_query += batch["triple_mask"].sum()
for name, value in zip(evaluation.metric_order, total / n_query, strict=True):
    print(f"{name} {value:.3f}")
