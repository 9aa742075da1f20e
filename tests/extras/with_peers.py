"""The other systems that `benchmarks/peers.py` measures can be imported together, and PyKEEN trains."""

from __future__ import annotations

import numpy as np
import pykeen.pipeline
from pykeen.triples import TriplesFactory

triples = np.random.default_rng(0).integers(10, size=(40, 3)).astype(str)
factory = TriplesFactory.from_labeled_triples(triples)
result = pykeen.pipeline.pipeline(
    training=factory, testing=factory, model="DistMult", epochs=1, use_tqdm=False, evaluation_kwargs={"use_tqdm": False}
)
assert len(result.losses) == 1
