"""Your own data: a CSV file becomes a graph with entity types, is saved and read again, and a model is trained on it.

The counterpart of BESS-KGE's notebook 0. Needs pandas (`pip install '.[frames]'`); polars works as well, and
`KGDataset.from_file` reads the CSV file without either.
"""

import csv
import random
import tempfile
from pathlib import Path

import pandas as pd

import bess_jax as bj
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment

N_EPOCH = 40

# --- a table of triples, as one might have it -------------------------------------------------------------------------

rng = random.Random(0)
home = {f"City {i}, {'North' if i % 2 else 'South'}": f"Country {i % 5}" for i in range(20)}
lives = {f"Doe, Jane {i}": rng.choice(list(home)) for i in range(200)}
rows = [(city, "located in", country) for city, country in home.items()]
for person, city in lives.items():
    rows += [(person, "lives in", city), (person, "citizen of", home[city])]
    neighbours = [other for other in lives if lives[other] == city and other != person]
    rows += [(person, "knows", other) for other in rng.sample(neighbours, min(3, len(neighbours)))]
folder = Path(tempfile.mkdtemp())
with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("who", "does", "what"), *rows])  # names with commas are quoted
types = dict.fromkeys(lives, "person") | dict.fromkeys(home, "city") | dict.fromkeys(home.values(), "country")

# --- the graph --------------------------------------------------------------------------------------------------------

table = pd.read_csv(folder / "people.csv")
graph = bj.KGDataset.from_dataframe(
    table,
    head_column="who",
    relation_column="does",
    tail_column="what",
    entity_types=pd.Series(types),
    split=(0.8, 0.1, 0.1),
)
print(graph)
print("first id of each type:", dict(graph.type_offsets))
head, relation, tail = graph.triples["test"][0]
print("a triple:", (graph.entity_dict[head], graph.relation_dict[relation], graph.entity_dict[tail]))
print("as it was:", tuple(table.iloc[graph.original_triple_ids["test"][0]]))
print("types of its head and tail:", graph.ht_types["test"][0])

graph.save(folder / "people.npz")
graph = bj.KGDataset.load(folder / "people.npz")

# --- a model ----------------------------------------------------------------------------------------------------------

config = TrainConfig(n_shard=2, n_epoch=N_EPOCH, batch_size=64, embedding_size=32, n_negative=16, learning_rate=0.05)
bj.request_devices(config.n_shard)
experiment = Experiment.create(config, graph)
for progress in experiment.calls(experiment.init()):
    state = progress.state
ranks = experiment.ranker.ranks(state.inference_params, graph.triples["test"], experiment.known)
print(f"test MRR {ranks.metrics()['both']['mrr']:.3f}, among {graph.n_entity} entities")
