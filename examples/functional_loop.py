"""ComplEx on WN18RR with your own training loop under `jax.pmap`: one shard on each device."""

from functools import partial

import jax
import numpy as np
import optax

import bess_jax as bj

bj.request_devices(4)  # virtual ones, where there is no accelerator
dataset = bj.load_dataset("wn18rr")
sharding = bj.Sharding.create(dataset.n_entity, n_shard=jax.local_device_count(), seed=0)
triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding, add_inverse_triples=True)
negatives = bj.RandomShardedNegativeSampler(
    n_negative=64, sharding=sharding, seed=1, corruption_scheme="t", flat_negative_format=True
)
batches = bj.RigidShardedBatchSampler(
    partitioned_triple_set=triples, negative_sampler=negatives, shard_bs=256, batches_per_step=1, seed=2
)
score_fn = bj.ComplEx(
    negative_sample_sharing=True,
    sharding=sharding,
    n_relation_type=dataset.n_relation_type,
    embedding_size=32,
    inverse_relations=True,
)
loss_fn = bj.SampledSoftmaxCrossEntropyLoss(n_entity=dataset.n_entity)
model = bj.EmbeddingMovingBessKGE(negative_sampler=negatives, score_fn=score_fn, loss_fn=loss_fn, augment_negative=True)
rule = bj.row_sparse(optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-20))

params = model.init(jax.random.key(0))  # every leaf has the shard axis in front
state = bj.TrainState(params, jax.pmap(rule.init)(params))


@partial(jax.pmap, axis_name="shard", donate_argnums=0)
def train_step(state: bj.TrainState, batch: dict[str, jax.Array]) -> tuple[jax.Array, bj.TrainState]:
    def loss(params: bj.Params, batch: dict[str, jax.Array]) -> jax.Array:
        return model.forward(params, **batch)["loss"]

    value, params, opt_state = rule.step(loss, state.params, state.opt_state, batch, "shard")
    return value, bj.TrainState(params, opt_state)


for epoch in range(3):
    losses = []
    for step in range(batches.calls_per_epoch):
        batch = bj.merge_ids(batches.batch(epoch, step), sharding.max_entity_per_shard)
        value, state = train_step(state, bj.shard_major(batch))
        losses.append(np.mean(value) / batches.shard_bs)
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")

ranker = bj.Ranker(score_fn=score_fn, placement=bj.Placement.create(sharding.n_shard))
known = bj.KnownAnswers(dataset.all_triples(), dataset.n_relation_type)
ranks = ranker.ranks(ranker.placement.put(jax.device_get(state.params)), dataset.triples["valid"], known)
print(f"validation MRR {ranks.metrics()['both']['mrr']:.3f}")
