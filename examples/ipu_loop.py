"""TransE on IPUs, by what the IPU's JAX has of the package; elsewhere, try it with --platform cpu."""

import argparse

import jax
import optax

import bess_jax as bj

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--platform", default="ipu", choices=["ipu", "cpu"])
parser.add_argument("--n-shard", default=4, type=int, help="IPUs: a power of two")
parser.add_argument("--n-epoch", default=5, type=int)
args = parser.parse_args()

jax.config.update("jax_platform_name", "cpu")  # initialization, and all that is not mapped, stays on the host
if args.platform == "cpu":
    bj.request_devices(args.n_shard)
placement = bj.Placement.create(args.n_shard, platform=args.platform)

dataset = bj.load_dataset("umls")
sharding = bj.Sharding.create(dataset.n_entity, args.n_shard, seed=0)
triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding)
negatives = bj.RandomShardedNegativeSampler(
    sharding=sharding, n_negative=64, seed=1, corruption_scheme="ht", flat_negative_format=True
)
batches = bj.RigidShardedBatchSampler(
    partitioned_triple_set=triples, negative_sampler=negatives, shard_bs=256, batches_per_step=4, seed=2
)
score_fn = bj.TransE(
    negative_sample_sharing=True, sharding=sharding, n_relation_type=dataset.n_relation_type, embedding_size=64
)
model = bj.EmbeddingMovingBessKGE(
    negative_sampler=negatives,
    score_fn=score_fn,
    loss_fn=bj.LogSigmoidLoss(margin=6.0, negative_adversarial_sampling=True),
)
rule = bj.row_sparse(optax.adam(0.01))

params = model.init(jax.random.PRNGKey(0))
state = placement.put(bj.TrainState(params, jax.vmap(rule.init)(params)))
train = placement.map(bj.make_train_step(model, rule, placement.axis_name), donate_argnums=(0,))
for epoch in range(args.n_epoch):
    loss = 0.0
    for call in range(batches.calls_per_epoch):
        batch = bj.merge_ids(batches.batch(epoch, call), sharding.max_entity_per_shard)
        losses, state = train(state, placement.put(bj.shard_major(batch)))
        loss = placement.get(losses).mean() / batches.shard_bs
    print(f"epoch {epoch + 1}: loss {loss:.3f}")

params = placement.get(state.params)  # before another program runs: an IPU holds one at a time
ranker = bj.Ranker(score_fn=score_fn, placement=placement)
known = bj.KnownAnswers(dataset.all_triples(), dataset.n_relation_type)
ranks = ranker.ranks(placement.put(params), dataset.triples["valid"], known)
print(f"validation MRR {ranks.metrics()['both']['mrr']:.3f}")
