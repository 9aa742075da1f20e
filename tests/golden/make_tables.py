"""Records small models of PyKEEN and LibKGE, their numbers and their scores, in tables.npz.

python -m venv /tmp/others && /tmp/others/bin/pip install torch==2.13.0 pykeen==1.11.1
git clone https://github.com/uma-pi1/kge /tmp/kge   # and what it imports: pyyaml pandas path numba igraph ConfigSpace
PYTHONPATH=tests:/tmp/kge /tmp/others/bin/python tests/golden/make_tables.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from shared.pykeen_models import CASES, N_ENTITY, N_RELATION, make, scores

_SEARCHES = (
    *("ax", "ax.modelbridge", "ax.modelbridge.generation_strategy", "ax.service", "ax.service.ax_client", "igraph"),
    *("hpbandster", "hpbandster.optimizers", "hpbandster.core", "hpbandster.core.worker", "hpbandster.core.nameserver"),
    "hpbandster.core.result",
)
for absent in _SEARCHES:
    sys.modules.setdefault(absent, MagicMock())  # of hyperparameters, which LibKGE imports with its models
from kge import Config, Dataset  # noqa: E402
from kge.model import KgeModel  # noqa: E402

LIBKGE: dict[str, dict[str, Any]] = {
    "complex": {"model": "complex"},
    "distmult": {"model": "distmult"},
    "transe_p1": {"model": "transe", "transe.l_norm": 1.0},
    "transe_p2": {"model": "transe", "transe.l_norm": 2.0},
    "rotate_p1": {"model": "rotate", "rotate.l_norm": 1.0},
    "rotate_p2": {"model": "rotate", "rotate.l_norm": 2.0},
    "reciprocal_complex": {"base": "complex"},
    "reciprocal_transe": {"base": "transe", "reciprocal_relations_model.base_model.l_norm": 2.0},
    "reciprocal_conve": {"base": "conve"},
    "reciprocal_conve_no_bias": {"base": "conve", "reciprocal_relations_model.base_model.convolution_bias": False},
}


def layer_of(layer: Any) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in layer.state_dict().items() if key != "num_batches_tracked"}


def pykeen_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `from_pykeen` reads of a model, and its scores."""
    model, _ = make(name)
    interaction = model.interaction
    simple = {key: value for key, value in vars(interaction).items() if key in ("p", "power_norm", "u", "tanh_map")}
    config: dict[str, Any] = {
        "library": "pykeen",
        "class": type(model).__name__,
        "interaction": type(interaction).__name__,
        "attributes": simple,
        "use_inverse_triples": model.use_inverse_triples,
    }
    arrays = scores(model)
    for what in ("entity", "relation"):
        for i, representation in enumerate(getattr(model, f"{what}_representations")):
            arrays[f"{what}_{i}"] = representation(indices=None).detach().numpy()
    if hasattr(interaction, "shape_info"):
        config["shape_info"] = vars(interaction.shape_info)
        layers = [*interaction.hr2d, *interaction.hr1d]
        config["n_layer_2d"] = len(interaction.hr2d)
        config["layers"] = [type(layer).__name__ for layer in layers]
        for i, layer in enumerate(layers):
            arrays |= {f"layer_{i}.{key}": value for key, value in layer_of(layer).items()}
    return config, arrays


def libkge_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The checkpoint of a model, and its scores."""
    options = dict(LIBKGE[name])
    config = Config()
    config.set("console.quiet", True)
    config.set("job.device", "cpu")
    base = options.pop("base", None)
    if base is not None:
        config._import("reciprocal_relations_model")
        config.set("model", "reciprocal_relations_model")
        config.set("reciprocal_relations_model.base_model.type", base)
        config._import(base)
    else:
        base = options["model"]
        config._import(base)
    for key, value in options.items():
        config.set(key, value, create=True)
    is_conve = base == "conve"
    for what in ("entity", "relation"):
        prefix = f"{base}.{what}_embedder"
        config.set(
            f"{prefix}.dim", 8 if is_conve else (4 if (base, what) == ("rotate", "relation") else 8), create=True
        )
    if is_conve:
        config.set("conve.filter_size", 2)
    dataset = Dataset(config)
    dataset._num_entities, dataset._num_relations = N_ENTITY, N_RELATION
    dataset._meta = {"relation_ids": [f"r{i}" for i in range(N_RELATION)]}
    torch.manual_seed(sorted(LIBKGE).index(name))
    model = KgeModel.create(config, dataset).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
        h, r = (x.reshape(-1) for x in torch.meshgrid(torch.arange(N_ENTITY), torch.arange(N_RELATION), indexing="ij"))
        shape = N_ENTITY, N_RELATION, N_ENTITY
        arrays = {"score": model.score_sp(h, r).numpy().reshape(shape)}
        by_tail = model.score_po(r, h).numpy().reshape(shape)  # (t, r, h)
        arrays["head_score"] = np.transpose(by_tail, (2, 1, 0))
    kept = {key: value for key, value in config.options.items() if key in (config.get("model"), base, "model")}
    arrays |= {f"state.{k}": v.numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {"library": "libkge", "options": json.loads(json.dumps(kept))}, arrays


def main() -> None:
    cases, arrays = {}, {}
    for maker, names in ((pykeen_case, CASES), (libkge_case, LIBKGE)):
        for name in names:
            config, of_case = maker(name)
            case = f"{config['library']}_{name}"
            cases[case] = config
            arrays |= {f"{case}/{key}": value for key, value in of_case.items()}
    out = Path(__file__).parent / "tables.npz"
    np.savez_compressed(out, config=json.dumps({"cases": cases}), **arrays)
    print(f"{len(cases)} cases, {len(arrays)} arrays, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
