"""ComplEx on WN18RR with a training loop of your own, under `jax.pmap`: one shard on each device."""

import jax

import bess_jax as bj

bj.request_devices(4)  # virtual ones, where there is no accelerator
dataset = bj.load_dataset("wn18rr")
sharding = bj.Sharding.create(dataset.n_entity, n_shard=4, seed=0)
triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding, add_inverse_triples=True)
negatives = bj.RandomShardedNegativeSampler(sharding=sharding, n_negative=1, seed=1, corruption_scheme="t")
batches = bj.RigidShardedBatchSampler(partitioned_triple_set=triples, negative_sampler=negatives, shard_bs=256, seed=2)
score_fn = bj.ComplEx(
    negative_sample_sharing=True, sharding=sharding, n_relation_type=11, embedding_size=32, inverse_relations=True
)
loss_fn = bj.SampledSoftmaxCrossEntropyLoss(n_entity=dataset.n_entity)
model = bj.EmbeddingMovingBessKGE(negative_sampler=negatives, score_fn=score_fn, loss_fn=loss_fn)
rule = bj.row_sparse(bj.row_adagrad(0.1))  # or any element-wise optimizer of optax


def step(params, opt_state, batch):  # what one shard does; it knows the axis "shard", and no device
    return rule.step(lambda p, b: model.forward(p, **b)["loss"], params, opt_state, batch, "shard")


params = model.init(jax.random.key(0))  # every leaf has the shard axis in front
opt_state = jax.pmap(rule.init)(params)
train_step = jax.pmap(step, axis_name="shard", donate_argnums=(0, 1))
for epoch in range(3):
    for call in range(batches.calls_per_epoch):
        batch = bj.merge_ids(batches.batch(epoch, call), sharding.max_entity_per_shard)
        loss, params, opt_state = train_step(params, opt_state, bj.shard_major(batch))
    print(f"epoch {epoch + 1}: loss {loss.mean() / batches.shard_bs:.3f}")

ranker = bj.Ranker(score_fn=score_fn, placement=bj.Placement.create(sharding.n_shard))
known = bj.KnownAnswers(dataset.all_triples(), dataset.n_relation_type)
ranks = ranker.ranks(params, dataset.triples["valid"], known)
print(f"validation MRR {ranks.metrics()['both']['mrr']:.3f}")
