"""The systems that `peers.py` compares: each trains on a graph in ids until its meter has seen enough."""

from __future__ import annotations

import contextlib
import gzip
import logging
import re
import tempfile
import time
import typing
from pathlib import Path
from typing import Any

WIDTH, BATCH, N_NEGATIVE, LEARNING_RATE = 128, 1024, 256, 0.1
COMPLEX, PRODUCT = ("ComplEx", "RotatE"), ("DistMult", "ComplEx")


class Enough(Exception):  # noqa: N818  (not an error)
    """The measurement is done."""


class Meter:
    """Speed of work that comes in pieces, from the end of the warm-up on."""

    def __init__(self, started: float, seconds: float, warm_up_s: float) -> None:
        self.started, self.seconds, self.warm_up_s = started, seconds, warm_up_s
        self.first = self.since = self.last = 0.0
        self.n_warm = self.n = 0.0

    def tick(self, n: float) -> None:
        """Counts a piece that has just ended.

        Raises:
            Enough: when it was the last one.
        """
        self.last = time.time()
        if not self.since:
            self.n_warm += n
            self.first = self.first or self.last
            if self.last - self.first >= self.warm_up_s:
                self.since = self.last
            return
        self.n += n
        if self.last - self.since >= self.seconds:
            raise Enough

    def record(self) -> dict[str, float]:
        """Triples per second and seconds of start-up."""
        speed = self.n / (self.last - self.since)
        return {"speed": speed, "start_up_s": self.since - self.started - self.n_warm / speed}


def read_graph(folder: Path) -> tuple[list[tuple[int, int, int]], int, int]:
    """Training triples in ids, number of entities and of relations in all splits."""
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    triples: list[tuple[int, int, int]] = []
    for split in ("train", "valid", "test"):
        for line in read_split(folder, split).splitlines():
            head, relation, tail = line.split("\t")[:3]
            h, t = (entities.setdefault(name, len(entities)) for name in (head, tail))
            r = relations.setdefault(relation, len(relations))
            if split == "train":
                triples.append((h, r, t))
    return triples, len(entities), len(relations)


def read_split(folder: Path, split: str) -> str:
    for end in (".txt", ".tsv", ".txt.gz", ".tsv.gz"):
        file = folder / (split + end)
        if file.is_file():
            data = file.read_bytes()
            return (gzip.decompress(data) if end.endswith(".gz") else data).decode()
    raise SystemExit(f"{folder} has no {split}.txt or {split}.tsv (plain or .gz)")


def measure_bess_jax(folder: Path, model: str, n_shard: int, meter: Meter, optimizer: str) -> dict[str, Any]:
    from bess_jax.run.config import TrainConfig
    from bess_jax.run.experiment import Experiment
    from bess_jax.step.spmd import request_devices

    request_devices(n_shard)
    product = model in PRODUCT
    config = TrainConfig(
        dataset=str(folder),
        model=model.partition("-")[0],
        embedding_size=WIDTH // 2 if model in COMPLEX else WIDTH,
        scoring_norm=2 if model == "TransE-L2" else 1,
        init_scale=1e-3 if product else 0.0,
        n_shard=n_shard,
        batch_size=2 * BATCH,
        n_negative=N_NEGATIVE,
        augment_negative=False,
        loss="softmax" if product else "logsigmoid",
        margin=9.0,
        regularization=0.0,
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=LEARNING_RATE,
        n_epoch=100_000,
    )
    experiment = Experiment.create(config)
    state = experiment.init()
    triples_per_call = len(experiment.dataset.triples["train"]) / experiment.sampler.calls_per_epoch
    start = time.perf_counter()
    first_call_s = 0.0
    with contextlib.closing(experiment.calls(state)) as calls, contextlib.suppress(Enough):
        for _ in calls:
            first_call_s = first_call_s or time.perf_counter() - start
            meter.tick(triples_per_call)
    return {"first_call_s": first_call_s}


def measure_torch(folder: Path, model: str, n_core: int, meter: Meter) -> dict[str, Any]:
    import torch
    import torch_step

    torch.set_num_threads(n_core)
    triples, n_entity, n_relation = read_graph(folder)
    steps = torch_step.train(
        model, torch.tensor(triples), n_entity, n_relation, WIDTH, BATCH, N_NEGATIVE, LEARNING_RATE
    )
    with contextlib.suppress(Enough):
        for n in steps:
            meter.tick(n)
    return {}


def measure_pykeen(folder: Path, model: str, n_core: int, meter: Meter) -> dict[str, Any]:
    import torch
    from pykeen.losses import InfoNCELoss, NSSALoss
    from pykeen.models import ComplEx, DistMult, RotatE, TransE
    from pykeen.sampling import BasicNegativeSampler
    from pykeen.training import SLCWATrainingLoop, TrainingCallback
    from pykeen.triples import CoreTriplesFactory

    class Tick(TrainingCallback):  # type: ignore[misc]
        def post_batch(self, epoch: int, batch: Any, **kwargs: Any) -> None:
            meter.tick(len(batch["positives"]))

    torch.set_num_threads(n_core)
    triples, n_entity, n_relation = read_graph(folder)
    factory = CoreTriplesFactory(torch.tensor(triples), num_entities=n_entity, num_relations=n_relation)
    product = model in PRODUCT
    loss = InfoNCELoss(margin=0.0, log_adversarial_temperature=0.0) if product else NSSALoss(margin=9.0)
    size = WIDTH // 2 if model in COMPLEX else WIDTH
    common = {"triples_factory": factory, "embedding_dim": size, "loss": loss, "regularizer": None}
    if model == "DistMult":
        kge = DistMult(**common, entity_constrainer=None)
    elif model == "ComplEx":
        kge = ComplEx(**common)
    elif model == "RotatE":
        kge = RotatE(**common)
    else:
        kge = TransE(**common, scoring_fct_norm=int(model[-1]), entity_constrainer=None)
    loop = SLCWATrainingLoop(
        model=kge,
        triples_factory=factory,
        optimizer=torch.optim.Adagrad(kge.get_grad_params(), lr=LEARNING_RATE),
        negative_sampler=BasicNegativeSampler,
        negative_sampler_kwargs={"num_negs_per_pos": 2 * N_NEGATIVE},
        automatic_memory_optimization=False,
    )
    with contextlib.suppress(Enough):
        loop.train(factory, num_epochs=100_000, batch_size=BATCH, use_tqdm=False, callbacks=Tick())
    return {}


def measure_pbg(folder: Path, model: str, n_core: int, meter: Meter) -> dict[str, Any]:
    import torch
    import torchbiggraph.schema
    from torchbiggraph.config import ConfigSchema
    from torchbiggraph.edgelist import EdgeList
    from torchbiggraph.entitylist import EntityList
    from torchbiggraph.graph_storages import EDGE_STORAGES, ENTITY_STORAGES, RELATION_TYPE_STORAGES
    from torchbiggraph.train import train_and_report_stats

    torchbiggraph.schema.unpack_optional = _unpack_optional
    triples, n_entity, n_relation = read_graph(folder)
    head, relation, tail = torch.tensor(triples).unbind(1)
    with tempfile.TemporaryDirectory() as scratch:
        graph, edges = f"{scratch}/graph", f"{scratch}/edges"
        for storage, path in ((ENTITY_STORAGES, graph), (RELATION_TYPE_STORAGES, graph), (EDGE_STORAGES, edges)):
            storage.make_instance(path).prepare()
        ENTITY_STORAGES.make_instance(graph).save_count("entity", 0, n_entity)
        RELATION_TYPE_STORAGES.make_instance(graph).save_count(n_relation)
        with EDGE_STORAGES.make_instance(edges).save_edges_by_appending(0, 0) as file:
            file.append_edges(EdgeList(EntityList.from_tensor(head), EntityList.from_tensor(tail), relation))
        operator = {"TransE-L2": "translation", "DistMult": "diagonal", "ComplEx": "complex_diagonal"}[model]
        settings = {
            "entity_path": graph,
            "edge_paths": [edges],
            "checkpoint_path": f"{scratch}/checkpoint",
            "entities": {"entity": {"num_partitions": 1}},
            "relations": [{"name": "all", "lhs": "entity", "rhs": "entity", "operator": operator}],
            "dynamic_relations": True,
            "dimension": WIDTH,
            "global_emb": False,
            "comparator": "l2" if model == "TransE-L2" else "dot",
            "loss_fn": "softmax",
            "lr": LEARNING_RATE,
            "batch_size": BATCH,
            "num_uniform_negs": N_NEGATIVE,
            "num_batch_negs": 0,
            "workers": n_core,
            "num_epochs": 10_000,
            "eval_fraction": 0.0,
        }
        log = Epochs()
        logging.getLogger("torchbiggraph").setLevel(logging.INFO)
        logging.getLogger("torchbiggraph").addHandler(log)
        epochs = train_and_report_stats(ConfigSchema.from_dict(settings))
        with contextlib.closing(epochs), contextlib.suppress(Enough):
            for _ in epochs:
                meter.tick(log.edges[-1])
    speed = sum(log.edges[1:]) / sum(log.seconds[1:])
    return {"speed": speed, "speed_with_checkpoints": meter.record()["speed"]}


def _unpack_optional(hint: Any) -> Any:
    """X of `X | None`. PBG 1.0.0 compares by identity, which fails after other imports (its issue 126)."""
    parts = set(typing.get_args(hint))
    inner = parts - {type(None)}
    if inner == parts or len(inner) != 1:
        raise TypeError(f"{hint} is not optional")
    return inner.pop()


class Epochs(logging.Handler):
    """Collects what PBG logs of its epochs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.edges: list[int] = []
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the sizes and times."""
        found = re.search(r"Processed (\d+) edges in ([\d.]+) s", record.getMessage())
        if found:
            self.edges.append(int(found[1]))
            self.seconds.append(float(found[2]))
