"""Small models of PyKEEN with random numbers, by name. Needs PyKEEN; nothing else in the tests imports this."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pykeen.models import ERModel, model_resolver
from pykeen.triples import TriplesFactory

N_ENTITY, N_RELATION, D = 7, 3, 4
FACTORY_NAMES = [f"e{i}" for i in range(N_ENTITY)], [f"r{i}" for i in range(N_RELATION)]

_CONV_E = {
    "embedding_dim": 12,
    "embedding_height": 3,
    "embedding_width": 4,
    "output_channels": 3,
    "kernel_height": 2,
    "kernel_width": 3,
}
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "TransE_p1": ("TransE", {"scoring_fct_norm": 1}, False),
    "TransE_p2": ("TransE", {"scoring_fct_norm": 2}, False),
    "TransE_p1_power": ("TransE", {"scoring_fct_norm": 1, "power_norm": True}, False),
    "TransE_p2_inverse": ("TransE", {"scoring_fct_norm": 2}, True),
    "DistMult": ("DistMult", {}, False),
    "DistMult_inverse": ("DistMult", {}, True),
    "ComplEx": ("ComplEx", {}, False),
    "ComplEx_inverse": ("ComplEx", {}, True),
    "RotatE": ("RotatE", {}, False),
    "RotatE_inverse": ("RotatE", {}, True),
    "PairRE_p1": ("PairRE", {"p": 1}, False),
    "PairRE_p2_inverse": ("PairRE", {"p": 2}, True),
    "PairRE_as_it_is": ("PairRE", {"p": 1, "entity_normalizer": None}, False),
    "TripleRE": ("TripleRE", {"p": 2, "u": 0.7}, False),
    "TripleRE_no_offset": ("TripleRE", {"p": 1, "u": None}, False),
    "BoxE_p1": ("BoxE", {"p": 1}, False),
    "BoxE_p2_inverse": ("BoxE", {"p": 2}, True),
    "BoxE_p2_no_tanh": ("BoxE", {"p": 2, "tanh_map": False}, False),
    "ConvE": ("ConvE", _CONV_E, True),
    "ConvE_no_norm": ("ConvE", _CONV_E | {"apply_batch_normalization": False}, True),
    "ConvE_channels": ("ConvE", _CONV_E | {"embedding_height": 2, "embedding_width": 3}, True),
}
"""Name -> model, its options, and whether it has inverse relations."""


def factory(has_inverse: bool) -> TriplesFactory:
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers([N_ENTITY, N_RELATION, N_ENTITY], size=(60, 3)), axis=0)
    entities, relations = FACTORY_NAMES
    names = np.array([[entities[h], relations[r], entities[t]] for h, r, t in rows])
    return TriplesFactory.from_labeled_triples(names, create_inverse_triples=has_inverse)


def make(case: str) -> tuple[Any, TriplesFactory]:
    """A model in evaluation, all of whose numbers are random, after its constrainers, and what it is of."""
    name, options, has_inverse = CASES[case]
    triples = factory(has_inverse)
    torch.manual_seed(sorted(CASES).index(case))
    if name == "TripleRE":  # which is no class of its own
        shapes = [{"shape": D} for _ in range(3)]
        model: Any = ERModel(
            triples_factory=triples,
            interaction=name,
            interaction_kwargs=options,
            entity_representations_kwargs={"shape": D},
            relation_representations_kwargs=shapes,
        )
    else:
        sizes = {} if name == "ConvE" else {"embedding_dim": D}
        model = model_resolver.make(name, triples_factory=triples, **sizes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    model.post_parameter_update()
    return model.eval(), triples


def scores(model: Any) -> dict[str, np.ndarray]:
    """Scores (h, r, t) of all triples as they are and, where there are inverse relations, as these have them."""
    every = np.stack(np.meshgrid(*map(np.arange, (N_ENTITY, N_RELATION, N_ENTITY)), indexing="ij"), axis=-1)
    shape, triples = every.shape[:-1], torch.as_tensor(every.reshape(-1, 3))
    with torch.no_grad():
        found = {"score": model.predict_hrt(triples).numpy().reshape(shape)}
        if model.use_inverse_triples:
            pairs = torch.as_tensor(every[0].reshape(-1, 3)[:, 1:])  # (r, t)
            heads = model.predict_h(pairs).numpy()  # ((r, t), h)
            found["head_score"] = np.moveaxis(heads.reshape(N_RELATION, N_ENTITY, N_ENTITY), -1, 0)
    return found
