"""What works without extras: graphs, training, ranks, answers. And what does not says how to install it."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import tiny

import bess_jax as bj

needed = importlib.metadata.requires("bess_jax") or []
core = {re.split(r"[^\w-]", line)[0] for line in needed if "extra ==" not in line}
assert core == {"jax", "jaxlib", "flax", "optax", "chex", "numpy"}, core
absent = "filelock jinja2 matplotlib mlflow optuna pandas plotly polars pyarrow sklearn tensorboardX torch tyro"
for module in (*absent.split(), "wandb", "xxhash"):
    assert importlib.util.find_spec(module) is None, module

wn18rr = bj.load_dataset("wn18rr")
assert wn18rr.n_entity == 40_943
assert bj.TrainConfig.from_recipe(bj.recipe_for("wn18rr")).dataset == "wn18rr"
tiny.dataset().save(Path("graph.npz"))
dataset = bj.load_dataset("graph.npz")

rows = ["source,kind,target"] + [
    f'"e{i}, the {i}th",{p},"e{i * k % 10}, the {i * k % 10}th"' for p, k in (("a", 1), ("b", 3)) for i in range(10)
]
Path("graph.csv").write_text("\n".join(rows))
with gzip.open("graph.csv.gz", "wt") as file:
    file.write("\n".join(rows))
for name in ("graph.csv", "graph.csv.gz"):
    found = bj.KGDataset.from_file(name, columns=("source", "kind", "target"), split=(0.8, 0.1, 0.1))
    assert (found.n_entity, found.n_relation_type, len(found.all_triples())) == (10, 2, 20)

sharding = bj.Sharding.create(dataset.n_entity, 1, seed=0)
triples = bj.PartitionedTripleSet.create_from_dataset(dataset, "train", sharding)
negatives = bj.RandomShardedNegativeSampler(sharding=sharding, n_negative=1, seed=1, corruption_scheme="t")
batches = bj.RigidShardedBatchSampler(partitioned_triple_set=triples, negative_sampler=negatives, shard_bs=16, seed=2)
score_fn = bj.DistMult(negative_sample_sharing=True, sharding=sharding, n_relation_type=3, embedding_size=4)
loss_fn = bj.LogSigmoidLoss(margin=1.0, negative_adversarial_sampling=False)
model = bj.EmbeddingMovingBessKGE(negative_sampler=negatives, score_fn=score_fn, loss_fn=loss_fn)
rule = bj.row_sparse(bj.row_adagrad(0.1))
params = model.init(jax.random.key(0))
opt_state = jax.pmap(rule.init)(params)
step = jax.pmap(
    lambda p, s, batch: rule.step(lambda q, b: model.forward(q, **b)["loss"], p, s, batch, "shard"), axis_name="shard"
)
for call in range(batches.calls_per_epoch):
    batch = bj.merge_ids(batches.batch(0, call), sharding.max_entity_per_shard)
    loss, params, opt_state = step(params, opt_state, bj.shard_major(batch))
assert np.isfinite(loss).all()

predictor = tiny.predictor()
assert len(predictor.top_k(head="e1", relation="likes", k=3).records()) == 3
assert 0 < predictor.ranks("test").metrics()["both"]["mrr"] < 1

done = subprocess.run([sys.executable, "-m", "bess_jax", "--help"], capture_output=True, text=True, check=False)
assert done.returncode == 2, done
assert done.stderr.endswith("pip install 'bess_jax[cli]'\n"), done.stderr
n_package = len(list(importlib.metadata.distributions()))
print(f"{n_package} packages in all")
