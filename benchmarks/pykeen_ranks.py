"""Filtered ranks of ComplEx by PyKEEN's evaluator; used by `exact_ranks.py`.

    python pykeen_ranks.py TABLES.npz

The file has train, valid and test, (n, 3) ids, and the tables entity and relation, rows of [real half, imaginary half].
Writes ranks.npz beside it: head and tail, (n,) realistic ranks, and the seconds that evaluation took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from pykeen.evaluation import RankBasedEvaluator
from pykeen.models import ComplEx
from pykeen.triples import CoreTriplesFactory

BATCH = 256


def main(file: Path) -> None:
    torch.set_num_threads(2)
    data = np.load(file)
    splits = {name: torch.tensor(data[name], dtype=torch.long) for name in ("train", "valid", "test")}
    size = data["entity"].shape[1] // 2
    factory = CoreTriplesFactory(splits["train"], num_entities=len(data["entity"]), num_relations=len(data["relation"]))
    model = ComplEx(triples_factory=factory, embedding_dim=size, random_seed=0)
    for representations, name in (
        (model.entity_representations, "entity"),
        (model.relation_representations, "relation"),
    ):
        halves = data[name].reshape(-1, 2, size)  # PyKEEN has real and imaginary parts in turns
        representations[0]._embeddings.weight.data = torch.tensor(np.swapaxes(halves, 1, 2).reshape(-1, 2 * size))
    evaluator = RankBasedEvaluator(filtered=True, clear_on_finalize=False)
    others = [splits["train"], splits["valid"]]
    start = time.perf_counter()
    evaluator.evaluate(model, splits["test"], batch_size=BATCH, additional_filter_triples=others, use_tqdm=False)
    seconds = time.perf_counter() - start
    ranks = {side: np.concatenate(evaluator.ranks[side, "realistic"]) for side in ("head", "tail")}
    np.savez(file.with_name("ranks.npz"), seconds=seconds, **ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
