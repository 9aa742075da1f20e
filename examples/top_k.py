"""The ten best answers to each query among all entities, on several shards and then on one.

The counterpart of BESS-KGE's notebook 2 (YAGO3-10), on a small graph of the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_graphs import grouped_graph

import bess_jax as bj

N_SHARD = 4
N_EPOCH = 20

bj.request_devices(N_SHARD)  # virtual ones, where there is no accelerator
graph = grouped_graph(
    {"person": 800, "city": 100, "country": 40, "club": 100},
    [
        ("wasBornIn", "person", "city"),
        ("isCitizenOf", "person", "country"),
        ("isLocatedIn", "city", "country"),
        ("playsFor", "person", "club"),
    ],
    n_triple=20_000,
)
sharding = bj.Sharding.create(graph.n_entity, n_shard=N_SHARD, seed=12345)

# --- training ---------------------------------------------------------------------------------------------------------

placement = bj.Placement.create(N_SHARD)
negatives = bj.RandomShardedNegativeSampler(
    n_negative=1, sharding=sharding, seed=1, corruption_scheme="ht", local_sampling=False, flat_negative_format=False
)
batches = bj.RigidShardedBatchSampler(
    partitioned_triple_set=bj.PartitionedTripleSet.create_from_dataset(graph, "train", sharding),
    negative_sampler=negatives,
    shard_bs=240,
    batches_per_step=4,
    seed=2,
)
score_fn = bj.ComplEx(
    negative_sample_sharing=True, sharding=sharding, n_relation_type=graph.n_relation_type, embedding_size=16
)
model = bj.EmbeddingMovingBessKGE(
    negative_sampler=negatives,
    score_fn=score_fn,
    loss_fn=bj.LogSigmoidLoss(margin=6.0, negative_adversarial_sampling=True),
    axis_name=placement.axis_name,
)
print(f"{model.n_embedding_parameters:,} parameters")
rule = bj.dense(optax.adamw(0.02))
init = jax.vmap(lambda key, shard: bj.init_train_state(model, rule, key, shard), in_axes=(None, 0))
state = placement.put(jax.jit(init)(jax.random.key(0), jnp.arange(N_SHARD)))
train_step = placement.map(bj.make_train_step(model, rule, placement.axis_name), donate_argnums=(0,))
for epoch in range(N_EPOCH):
    for batch in batches.batches(epoch):
        losses, state = train_step(state, placement.put(bj.shard_major(batch)))
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: loss {placement.get(losses).mean() / batches.shard_bs:.3f}")
params = placement.get(state.inference_params)  # on the host

# --- top-k, on any number of shards -----------------------------------------------------------------------------------

evaluation = bj.Evaluation(["mrr", "hits@3", "hits@10"], worst_rank_infty=True, reduction="sum")


def validate(score_fn, params):
    """Mean metrics of all validation queries (h, r, ?), and (head, relation, tail, answers) of the last batch."""
    sharding, placement = score_fn.sharding, bj.Placement.create(score_fn.sharding.n_shard)
    valid = bj.PartitionedTripleSet.create_from_dataset(graph, "valid", sharding, partition_mode="h_shard")
    candidates = bj.PlaceholderNegativeSampler(corruption_scheme="t")  # all entities
    queries = bj.RigidShardedBatchSampler(
        partitioned_triple_set=valid,
        negative_sampler=candidates,
        shard_bs=240,
        seed=0,
        shuffle=False,
        return_triple_idx=True,
    )
    module = bj.TopKQueryBessKGE(
        k=10,
        candidate_sampler=candidates,
        score_fn=score_fn,
        evaluation=evaluation,
        window_size=500,
        axis_name=placement.axis_name,
    )
    answer = placement.map(lambda params, batch: module.forward(params, **batch))
    params, total, n_query = placement.put(params), np.zeros(3), 0
    for batch in queries.batches(0):
        rows = batch.pop("triple_idx")
        out = placement.get(answer(params, placement.put(bj.shard_major(batch))))
        total += out["metrics"].sum(axis=0)
        n_query += batch["triple_mask"].sum()
    filled = batch["triple_mask"].ravel()
    triples = graph.triples["valid"][valid.triple_sort_idx][rows.ravel()[filled]]
    answers = out["topk_global_id"].reshape(-1, 10)[filled]
    return dict(zip(evaluation.metric_order, (total / n_query).tolist(), strict=True)), triples, answers


metrics, triples, answers = validate(score_fn, params)
for (head, relation, tail), best in list(zip(triples.tolist(), answers.tolist(), strict=True))[:2]:
    print(f"({graph.entity_dict[head]}, {graph.relation_dict[relation]}, ?)")
    print("  " + ", ".join(graph.entity_dict[e] + (" <-- held out" if e == tail else "") for e in best))
one_shard = bj.Sharding.create(graph.n_entity, n_shard=1, seed=12345)
on_one, _, _ = validate(*bj.update_sharding(score_fn, params, one_shard))
for name, value in metrics.items():
    print(f"{name} {value:.3f} on {N_SHARD} shards, {on_one[name]:.3f} on one")
