"""Scores of all entities for every query, known answers filtered out: exact ranks, answers, and answers of one type.

BESS-KGE's notebook 2 scores all entities on the host (`evaluate_mrr_cpu`); `AllScoresPipeline` is its way for large
graphs. `Ranker` finds the same ranks without a table of scores.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bess_jax as bj

N_SHARD = 4
N_EPOCH = 30

bj.request_devices(N_SHARD)  # virtual ones, where there is no accelerator
placement = bj.Placement.create(N_SHARD)
graph = bj.load_dataset("umls")
sharding = bj.Sharding.create(graph.n_entity, n_shard=N_SHARD, seed=0)

# --- training ---------------------------------------------------------------------------------------------------------

negatives = bj.RandomShardedNegativeSampler(n_negative=4, sharding=sharding, seed=1, corruption_scheme="ht")
batches = bj.RigidShardedBatchSampler(
    partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(graph, "train", sharding),
    negative_sampler=negatives,
    shard_bs=128,
    seed=2,
)
score_fn = bj.DistMult(
    negative_sample_sharing=True, sharding=sharding, n_relation_type=graph.n_relation_type, embedding_size=32
)
model = bj.EmbeddingMovingBessKGE(
    negative_sampler=negatives,
    score_fn=score_fn,
    loss_fn=bj.SampledSoftmaxCrossEntropyLoss(n_entity=graph.n_entity),
    axis_name=placement.axis_name,
)
rule = bj.dense(optax.adam(0.01))
init = jax.vmap(lambda key, shard: bj.init_train_state(model, rule, key, shard), in_axes=(None, 0))
state = placement.put(jax.jit(init)(jax.random.key(0), jnp.arange(N_SHARD)))
train_step = placement.map(bj.make_train_step(model, rule, placement.axis_name), donate_argnums=(0,))
for epoch in range(N_EPOCH):
    for batch in batches.batches(epoch):
        losses, state = train_step(state, placement.put(bj.shard_major(batch)))
params = state.inference_params

# --- all scores -------------------------------------------------------------------------------------------------------

test = bj.PartitionedTripleSet.create_from_dataset(graph, "test", sharding, partition_mode="h_shard")
queries = bj.RigidShardedBatchSampler(
    partitioned_triple_set=test,
    negative_sampler=bj.PlaceholderNegativeSampler(corruption_scheme="t"),
    shard_bs=64,
    seed=0,
    return_triple_idx=True,
)
pipeline = bj.AllScoresPipeline(
    batch_sampler=queries,
    corruption_scheme="t",
    score_fn=score_fn,
    placement=placement,
    evaluation=bj.Evaluation(["mrr", "hits@1", "hits@10"], return_ranks=True),
    filter_triples=list(graph.triples.values()),
    return_scores=True,
    return_topk=True,
    k=3,
)
out = pipeline.forward(params)
print(", ".join(f"{name} {value:.3f}" for name, value in out["metrics_avg"].items()), "(tails, filtered)")

triples = graph.triples["test"][test.triple_sort_idx[out["triple_idx"]]]  # in the order of the results
n_filtered = np.isneginf(out["scores"]).sum(axis=1)
for (head, relation, tail), best, n in list(zip(triples, out["topk_global_id"], n_filtered, strict=True))[:3]:
    answers = ", ".join(graph.entity_dict[e] for e in best)
    print(f"({graph.entity_dict[head]}, {graph.relation_dict[relation]}, ?) {answers}")
    print(f"  held out: {graph.entity_dict[tail]}; {n} other known answers left out")

ranker = bj.Ranker(score_fn=score_fn, placement=placement)
known = bj.KnownAnswers(graph.all_triples(), graph.n_relation_type)
ranks = ranker.ranks(params, triples, known)
print(f"mrr {ranks.metrics()['tail']['mrr']:.3f} by Ranker")
