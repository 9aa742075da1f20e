"""Models of PyKEEN (checked against 1.11.1): what their representations are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax.predict.tables import Tables
from bess_jax.predict.tensors import Norm, conve_network, names_by_id, to_array, to_halves

Arrays = Sequence[NDArray[Any]]


class _Found(NamedTuple):
    """A model in the form of a score function."""

    options: dict[str, Any]
    entity: NDArray[np.float32]
    relation: NDArray[np.float32]
    network: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (nobody writes to it)


def from_pykeen(model: Any, triples_factory: Any = None) -> Tables:
    """The tables of a trained PyKEEN model whose score function is one of this package.

    These are `ERModel`s with the interactions TransE, DistMult, ComplEx, RotatE, PairRE, TripleRE, BoxE and ConvE. Rows
    are what the model's representations give in evaluation, so that normalizers are applied already; scores are those
    of `score_hrt`, without the sigmoid of `predict_hrt`. docs/export.md tells the conventions of each.

    Args:
        model: the model, as `pipeline(...).model` or `torch.load` gives it.
        triples_factory: what it was trained on, `pipeline(...).training`: gives the names. Without it rows are told by
            their ids, which PyKEEN gives in alphabetical order of the names.

    Raises:
        ValueError: if the model has no counterpart here; tells what differs.

    PyKEEN: `pykeen.nn.modules`, `pykeen.inverse.DefaultRelationInverter`.
    """
    interaction = getattr(model, "interaction", None)
    kind = type(interaction).__name__.removesuffix("Interaction")
    if kind not in _KINDS:
        raise ValueError(
            f"PyKEEN's {type(model).__name__} with interaction {type(interaction).__name__} has no counterpart here; "
            f"there are {', '.join(_KINDS)}"
        )
    was_training = model.training
    model.eval()  # no dropout
    try:
        entity, relation = (
            [to_array(representation(indices=None)) for representation in representations]
            for representations in (model.entity_representations, model.relation_representations)
        )
        found = _KINDS[kind](interaction, entity, relation)
    finally:
        model.train(was_training)
    rows, has_inverse = found.relation, bool(model.use_inverse_triples)
    if has_inverse:  # PyKEEN: relation 2 r, and its inverse after it
        inverter = type(getattr(model, "relation_inverter", None)).__name__
        if inverter != "DefaultRelationInverter":
            raise ValueError(f"the inverse relations of {inverter} are not known here, only DefaultRelationInverter's")
        rows = np.concatenate([rows[0::2], rows[1::2]])
    names: dict[str, Any] = {}
    if triples_factory is not None:
        names["entities"] = names_by_id(triples_factory.entity_to_id)
        names["relations"] = names_by_id(triples_factory.relation_to_id)
    return Tables(
        model=kind,
        options=found.options,
        entity=found.entity,
        relation=rows,
        inverse_relations=has_inverse,
        network=found.network,
        **names,
    )


def _norm(interaction: Any) -> dict[str, Any]:
    """The norm of an interaction, if it is one that score functions have."""
    p, power = interaction.p, interaction.power_norm
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2 here, and the interaction has p={p}")
    if power and p != 1:
        raise ValueError("power_norm=True: the interaction takes the square of the 2-norm, which no score function has")
    return {"scoring_norm": int(p)}


def _trans_e(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    return _Found({"embedding_size": entity[0].shape[1], **_norm(interaction)}, entity[0], relation[0])


def _dist_mult(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    return _Found({"embedding_size": entity[0].shape[1]}, entity[0], relation[0])


def _complex(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    _check_complex(entity, relation)
    return _Found({"embedding_size": entity[0].shape[1]}, to_halves(entity[0]), to_halves(relation[0]))


def _rotate(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    """Relations are complex numbers of modulus 1, whose angles are the rows here; the norm is always the 2-norm."""
    _check_complex(entity, relation)
    apart = float(np.max(np.abs(np.abs(relation[0]) - 1)))
    if apart > 1e-4:
        raise ValueError(
            f"RotatE's relations must have modulus 1, but one differs from it by {apart:.3g}: without PyKEEN's "
            "relation_constrainer complex_normalize they are no rotations"
        )
    options = {"embedding_size": entity[0].shape[1], "scoring_norm": 2}
    return _Found(options, to_halves(entity[0]), np.angle(relation[0]).astype(np.float32))


def _pair_re(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    """The normalizer of the entities, where there is one, is applied already."""
    options = {"embedding_size": entity[0].shape[1], "normalize_entities": False, **_norm(interaction)}
    return _Found(options, entity[0], np.concatenate(relation, axis=1))  # r_h, r_t


def _triple_re(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    found = _pair_re(interaction, entity, relation)  # r_h, r_m, r_t
    return found._replace(options={**found.options, "u": float(interaction.u or 0)})


def _box_e(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    head_centre, head_width, head_size, tail_centre, tail_width, tail_size = relation
    options = {
        "embedding_size": entity[0].shape[1],
        "apply_tanh": bool(interaction.tanh_map),
        "eps": float(np.finfo(np.float32).eps),
        **_norm(interaction),
    }
    parts = (head_centre, tail_centre, head_width, tail_width, head_size, tail_size)
    return _Found(options, np.concatenate(entity, axis=1), np.concatenate(parts, axis=1))  # position, bump


def _conv_e(interaction: Any, entity: Arrays, relation: Arrays) -> _Found:
    shape = interaction.shape_info
    layers = [*interaction.hr2d, *interaction.hr1d]
    (convolution,) = (layer for layer in layers if type(layer).__name__ == "Conv2d")
    (linear,) = (layer for layer in layers if type(layer).__name__ == "Linear")
    norms = [Norm.of(layer.state_dict(), layer.eps) for layer in layers if hasattr(layer, "running_mean")]
    options = {
        "embedding_size": shape.embedding_dim,
        "embedding_height": shape.image_height,
        "embedding_width": shape.image_width,
        "input_channels": shape.input_channels,
        "output_channels": shape.output_channels,
        "kernel_height": shape.kernel_height,
        "kernel_width": shape.kernel_width,
        "batch_normalization": bool(norms),
    }
    embedding, bias = entity
    network = conve_network(
        convolution.state_dict(),
        linear.state_dict(),
        dict(zip(("input_norm", "output_norm", "hidden_norm"), norms, strict=True)) if norms else {},
    )
    return _Found(options, np.concatenate([embedding, bias.reshape(-1, 1)], axis=1), relation[0], network)


def _check_complex(entity: Arrays, relation: Arrays) -> None:
    if not (np.iscomplexobj(entity[0]) and np.iscomplexobj(relation[0])):
        raise ValueError(
            f"rows must be complex numbers, got {entity[0].dtype} and {relation[0].dtype}: make the representations "
            "with dtype=torch.cfloat, as PyKEEN 1.11 does"
        )


_KINDS: Mapping[str, Callable[[Any, Arrays, Arrays], _Found]] = {
    "TransE": _trans_e,
    "DistMult": _dist_mult,
    "ComplEx": _complex,
    "RotatE": _rotate,
    "PairRE": _pair_re,
    "TripleRE": _triple_re,
    "BoxE": _box_e,
    "ConvE": _conv_e,
}
