"""Checkpoints of LibKGE (checked against commit 9bca31f): what their embedders are here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._optional import require
from bess_jax.data.archive import DAMAGE
from bess_jax.data.files import DataError, open_file
from bess_jax.predict.tables import Tables
from bess_jax.predict.tensors import Norm, conve_network, to_array, within

_MODELS = {"complex": "ComplEx", "distmult": "DistMult", "transe": "TransE", "rotate": "RotatE", "conve": "ConvE"}
_RECIPROCAL = "reciprocal_relations_model"
_REFUSED = (
    "damaged, or PyTorch does not read it without running what is pickled in it, as in LibKGE's own checkpoints, which "
    "hold a Config. Where LibKGE is installed and you trust the file, write a plain one: "
    'c = kge.util.io.load_checkpoint(FILE); torch.save({"model": c["model"], "config": c["config"].options, '
    '"dataset": c["dataset"]}, NEW)'
)


def from_libkge(
    checkpoint: str | Path | Mapping[str, Any],
    entities: Sequence[str] | None = None,
    relations: Sequence[str] | None = None,
) -> Tables:
    """The tables of a LibKGE checkpoint of ComplEx, DistMult, TransE, RotatE or ConvE.

    Reciprocal relations become inverse relations. docs/export.md tells the conventions of each model.

    Args:
        checkpoint: what `kge.util.io.load_checkpoint` gives, or a file that `torch.load(weights_only=True)` reads: with
            "model" and "config", the latter a `Config` or its options.
        entities: name of each entity by LibKGE's id, as in `entity_ids.del`; default: those in the checkpoint, if it is
            a package, else none.
        relations: the same of relations.

    Raises:
        DataError: if a file cannot be read; tells how to write one that can.
        ValueError: if the model has no counterpart here; tells what differs.
        MissingExtraError: without PyTorch, for a file.

    LibKGE: `kge.model`, `LookupEmbedder`, `ReciprocalRelationsModel`.
    """
    if not isinstance(checkpoint, Mapping):
        checkpoint = _read(Path(checkpoint))
    for key in ("model", "config"):
        if key not in checkpoint:
            raise ValueError(f"checkpoint must hold {key!r}, as LibKGE's do, got {', '.join(map(repr, checkpoint))}")
    options = getattr(checkpoint["config"], "options", checkpoint["config"])
    name = options["model"]
    has_inverse = name == _RECIPROCAL
    if has_inverse:
        base = options[_RECIPROCAL]["base_model"]
        name = base["type"]
        options = {**options, name: _merged(options.get(name, {}), base)}
    if name not in _MODELS:
        raise ValueError(f"LibKGE's {name} has no counterpart here; there are {', '.join(_MODELS)}")
    saved = checkpoint["model"]
    state = saved if isinstance(saved, Mapping) else saved[0]  # (state, meta)
    entity, relation = (_table(state, f"_{what}_embedder") for what in ("entity", "relation"))
    meta = checkpoint.get("dataset", {}).get("meta", {})
    given: dict[str, Any] = {
        "model": _MODELS[name],
        "inverse_relations": has_inverse,
        "entities": entities if entities is not None else meta.get("entity_ids"),
        "relations": relations if relations is not None else meta.get("relation_ids"),
    }
    if name == "conve":
        return _conv_e(state, options[name], entity, relation, given)
    size = entity.shape[1] // (2 if name in ("complex", "rotate") else 1)
    described: dict[str, Any] = {"embedding_size": size}
    if name in ("transe", "rotate"):
        p = options[name]["l_norm"]
        if p not in (1, 2):
            raise ValueError(f"l_norm must be 1 or 2 here, and the model has {p}")
        described["scoring_norm"] = int(p)
    return Tables(options=described, entity=entity, relation=relation, **given)


def _read(file: Path) -> Mapping[str, Any]:
    open_file(file).close()  # tells what it is, if it is no file
    torch = require("torch", "torch", "reading a LibKGE checkpoint")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (torch.serialization.pickle.UnpicklingError, AttributeError, *DAMAGE):
        raise DataError(_REFUSED, file) from None
    if not isinstance(found, Mapping):
        raise DataError(f"expected a checkpoint, a dictionary, got a {type(found).__name__}", file)
    return found


def _merged(default: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model, those of the model within it taking precedence."""
    merged = dict(default)
    for name, value in own.items():
        is_branch = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if is_branch else value
    return merged


def _table(state: Mapping[str, Any], embedder: str) -> NDArray[np.float32]:
    for prefix in ("", "_base_model."):
        for name in ("_embeddings", "embeddings"):  # the latter in old checkpoints
            key = f"{prefix}{embedder}.{name}.weight"
            if key in state:
                return to_array(state[key])
    raise ValueError(f"the checkpoint has no {embedder}._embeddings.weight: its embedder is no lookup_embedder")


def _conv_e(
    state: Mapping[str, Any],
    options: Mapping[str, Any],
    entity: NDArray[np.float32],
    relation: NDArray[np.float32],
    given: Mapping[str, Any],
) -> Tables:
    """ConvE, whose rows start with the bias of a tail, which relations have too and do not use."""
    for name, usual in (("stride", 1), ("padding", 0)):
        if options.get(name, usual) != usual:
            raise ValueError(f"{name} must be {usual} here, and the model has {options[name]}")
    scorer = within(state, "_scorer.") or within(state, "_base_model._scorer.")
    ratio, size = options["2D_aspect_ratio"], entity.shape[1] - 1
    height = round(math.sqrt(size / ratio))
    layers = {name: within(scorer, f"{name}.") for name in ("convolution", "projection", "bn1", "bn2")}
    channels, _, kernel, _ = to_array(layers["convolution"]["weight"]).shape
    norms = {"input_norm": Norm.none(1), "output_norm": Norm.of(layers["bn1"]), "hidden_norm": Norm.of(layers["bn2"])}
    return Tables(
        options={
            "embedding_size": size,
            "embedding_height": height,
            "embedding_width": size // height,
            "output_channels": channels,
            "kernel_height": kernel,
            "kernel_width": kernel,
        },
        entity=np.concatenate([entity[:, 1:], entity[:, :1]], axis=1),
        relation=relation[:, 1:],
        network=conve_network(layers["convolution"], layers["projection"], norms),
        **given,
    )
