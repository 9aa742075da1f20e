"""Score functions of BESS-KGE: their tables, and the sharding that orders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from bess_jax import _checks
from bess_jax.predict.tables import Tables
from bess_jax.predict.tensors import Norm, conve_network, to_array, within
from bess_jax.run.models import BUILT_IN, find_model, options_of

_Layers: TypeAlias = list[dict[str, Any]]
_RENAMED = {"normalize_entities": "normalize", "embedding_height": "emb_h", "embedding_width": "emb_w", "u": "rel_u"}
"""Argument of a score function -> the attribute that BESS-KGE keeps it as, where that has another name."""


def from_besskge(
    score_fn: Any,
    sharding: Any = None,
    model: str | None = None,
    inverse_relations: bool = False,
    entities: Sequence[str] | None = None,
    relations: Sequence[str] | None = None,
    **options: Any,
) -> Tables:
    """The tables of a score function of BESS-KGE, any of its ten.

    RotatE and BoxE become those of the reference (`as_reference`), so that scores are equal.

    Args:
        score_fn: the score function, or the BESS module that holds it; or a state, `module.state_dict()`, for which
            `sharding`, `model` and options are given too.
        sharding: sharding of the entities, BESS-KGE's or ours: the place of each row. Default: the score function's.
        model: "TransE" and so on. Default: the name of the class.
        inverse_relations: whether it was made with inverse relations, which it does not tell.
        entities: name of each entity by its global id: `entity_dict` of the data set.
        relations: the same of relations.
        options: arguments of the score function, as scoring_norm=1. Default: those of the score function.

    Raises:
        ValueError: if something has to be given, or does not fit.

    BESS-KGE: `besskge.scoring`, `Sharding`, `initialize_entity_embedding`.
    """
    module = getattr(score_fn, "score_fn", score_fn)  # a BESS module holds one
    if isinstance(module, Mapping):
        state = within(module, "score_fn.") or dict(module)
    elif not hasattr(module, "state_dict"):
        raise ValueError(
            "score_fn must be a score function of BESS-KGE, a module that holds one, or a state, got "
            f"{type(module).__name__}"
        )
    else:
        state, sharding = module.state_dict(), sharding if sharding is not None else module.sharding
        model = model or type(module).__name__
    if model is None or sharding is None:
        raise ValueError("a state does not tell its score function and sharding: give model and sharding")
    _checks.one_of("model", model, tuple(BUILT_IN))
    for table in ("entity_embedding", "relation_embedding"):
        if table not in state:
            raise ValueError(f"score_fn must be a score function or its state, with {table}, got {', '.join(state)}")
    sharded, relation = to_array(state["entity_embedding"]), to_array(state["relation_embedding"])
    shard, place = np.asarray(sharding.entity_to_shard), np.asarray(sharding.entity_to_idx)
    expected = np.shape(sharding.shard_and_idx_to_entity)
    if sharded.shape[:2] != expected:
        raise ValueError(f"sharding must be that of the table, {sharded.shape[:2]} shards and rows, got {expected}")
    layers = _layers(state)
    found = _options(model, module, state, layers) | options
    required = ("embedding_size", "scoring_norm", "embedding_height", "embedding_width")
    missing = [name for name in options_of(find_model(model), **dict.fromkeys(required)) if name not in found]
    if missing:
        raise ValueError(f"a state does not tell all of its score function: give {', '.join(missing)}")
    return Tables(
        model=model,
        options=found,
        entity=sharded[shard, place],
        relation=relation,
        inverse_relations=inverse_relations,
        entities=entities,
        relations=relations,
        network=_network(layers) if layers else {},
    )


def _options(model: str, module: Any, state: Mapping[str, Any], layers: _Layers) -> dict[str, Any]:
    """Arguments of the score function, as far as its attributes and its state tell them."""
    kind = find_model(model)
    found: dict[str, Any] = options_of(kind, as_reference=True)
    known = ("embedding_size", "scoring_norm", "apply_tanh", "dist_func_per_dim", "eps", "offset", *_RENAMED)
    for name in options_of(kind, **dict.fromkeys(known)):
        attribute = _RENAMED.get(name, name)
        value = state.get(attribute, getattr(module, attribute, None))
        if value is not None:
            found[name] = to_array(value).item() if attribute in state else value
    if layers:
        output, channels, height, width = to_array(_weighted(layers, 4)["weight"]).shape
        found |= {"output_channels": output, "input_channels": channels, "kernel_height": height, "kernel_width": width}
        found["batch_normalization"] = bool(_norms(layers))
    return found


def _layers(state: Mapping[str, Any]) -> _Layers:
    """The layers of ConvE in the order of the network, if there are any."""
    places = {tuple(key.split(".")[:2]) for key in state if key.startswith(("conv_layers.", "fc_layers."))}
    order = sorted(places, key=lambda place: (place[0], int(place[1])))
    return [within(state, f"{group}.{number}.") for group, number in order]


def _weighted(layers: _Layers, n_axis: int) -> Mapping[str, Any]:
    """The layer whose weight has so many axes: 4 for the convolution, 2 for the linear map."""
    return next(layer for layer in layers if layer["weight"].ndim == n_axis)


def _norms(layers: _Layers) -> list[Norm]:
    return [Norm.of(layer) for layer in layers if "running_mean" in layer]


def _network(layers: _Layers) -> dict[str, dict[str, Any]]:
    norms = _norms(layers)
    names = ("input_norm", "output_norm", "hidden_norm")
    of_name = dict(zip(names, norms, strict=True)) if norms else {}
    return conve_network(_weighted(layers, 4), _weighted(layers, 2), of_name)
