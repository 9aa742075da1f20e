"""The formula of every score function, in float64, and what tests of score functions share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pytest
from shared.oracle import Array

import bess_jax as bj
from bess_jax import scoring

N_RELATION, B, N = 3, 3, 2  # relation types, triples, candidates of each
KINDS = {
    name: kind
    for name, kind in vars(scoring).items()
    if isinstance(kind, type) and issubclass(kind, scoring.BaseScoreFunction) and kind is not scoring.BaseScoreFunction
}


# --- formulas, on rows (..., E), (..., R), (..., E) that broadcast ----------------------------------------------------


def length(x: Array, p: int) -> Array:
    return np.sum(np.abs(x) ** p, axis=-1) ** (1 / p)


def unit(m: Any, x: Array) -> Array:
    return x / np.maximum(length(x, 2), 1e-12)[..., None] if m.normalize_entities else x


def complex_(x: Array) -> Array:
    real, imaginary = np.split(x, 2, axis=-1)
    return real + 1j * imaginary


def transe(m: Any, h: Array, r: Array, t: Array) -> Array:
    return -length(h + r - t, m.scoring_norm)


def rotate(m: Any, h: Array, r: Array, t: Array) -> Array:
    return -length(complex_(h) * np.exp(1j * r) - complex_(t), m.scoring_norm)


def pairre(m: Any, h: Array, r: Array, t: Array) -> Array:
    r_h, r_t = np.split(r, 2, axis=-1)
    return -length(unit(m, h) * r_h - unit(m, t) * r_t, m.scoring_norm)


def triplere(m: Any, h: Array, r: Array, t: Array) -> Array:
    r_h, r_m, r_t = np.split(r, 3, axis=-1)
    return -length(unit(m, h) * (r_h + m.u) - unit(m, t) * (r_t + m.u) + r_m, m.scoring_norm)


def interht(m: Any, h: Array, r: Array, t: Array) -> Array:
    (h, ha), (t, ta) = ([unit(m, part) for part in np.split(x, 2, axis=-1)] for x in (h, t))
    return -length(h * (ta + m.offset) + r - t * (ha + m.offset), m.scoring_norm)


def trans(m: Any, h: Array, r: Array, t: Array) -> Array:
    (h, ht), (t, tt) = ([unit(m, part) for part in np.split(x, 2, axis=-1)] for x in (h, t))
    r, bar, hat = np.split(r, 3, axis=-1)
    return -length(h * (tt + m.offset + bar) - t * (ht + m.offset - hat) + r, m.scoring_norm)


def distmult(m: Any, h: Array, r: Array, t: Array) -> Array:
    return np.sum(h * r * t, axis=-1)


def complex_score(m: Any, h: Array, r: Array, t: Array) -> Array:
    return np.sum(complex_(h) * complex_(r) * complex_(t).conj(), axis=-1).real


def boxe(m: Any, h: Array, r: Array, t: Array) -> Array:
    D = m.embedding_size
    (h, h_bump), (t, t_bump) = (np.split(x, 2, axis=-1) for x in (h, t))
    total: Any = 0
    for side, point in enumerate((h + t_bump, t + h_bump)):
        centre, width = (r[..., (2 * part + side) * D :][..., :D] for part in range(2))
        size = r[..., 4 * D + side, None]
        mean = np.exp(np.mean(np.log(np.maximum(np.abs(width), m.eps)), axis=-1, keepdims=True))
        width = np.abs(width) / np.maximum(mean, m.eps) * np.where(size > 0, 1 + size, np.exp(size))
        low, high = centre - width / 2, centre + width / 2
        if m.apply_tanh:
            low, point = np.tanh(low), np.tanh(point)
            high = np.tanh(low + width if m.as_reference else high)
        x, width = np.abs(point - (low + high) / 2), high - low
        inside = x <= width / 2
        if not m.dist_func_per_dim:
            inside = inside.all(axis=-1, keepdims=True)
        outer = x * (1 + width) - width / 2 * (1 + width - 1 / (1 + width))
        total = total - length(np.where(inside, x / (1 + width), outer), m.scoring_norm)
    return np.asarray(total)


def conve(m: Any, h: Array, r: Array, t: Array, network: dict[str, Any]) -> Array:
    """In inference, by the definition of a convolution."""
    weights, statistics = network["params"], network.get("batch_stats", {})

    def normal(x: Array, layer: str, trailing: int) -> Array:
        if not statistics:
            return x
        mean, var, scale, bias = (
            source[layer][name].reshape(-1, *[1] * trailing)
            for source, names in ((statistics, ("mean", "var")), (weights, ("scale", "bias")))
            for name in names
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    C, (H, W) = m.input_channels, m.picture
    lead = np.broadcast_shapes(h.shape[:-1], r.shape[:-1])
    pictures = [np.broadcast_to(x, (*lead, C * H * W)).reshape(*lead, C, H, W) for x in (h[..., :-1], r)]
    x = normal(np.concatenate(pictures, axis=-2), "input_norm", 2)
    kernel = weights["convolution"]["kernel"]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(-2, -1))
    x = np.einsum("...cijhw,hwco->...oij", windows, kernel) + weights["convolution"]["bias"][:, None, None]
    x = np.maximum(normal(x, "output_norm", 2), 0).reshape(*lead, -1)
    x = x @ weights["linear"]["kernel"] + weights["linear"]["bias"]
    x = np.maximum(normal(x, "hidden_norm", 0), 0)
    return np.sum(x * t[..., :-1], axis=-1) + t[..., -1]


FORMULAS: dict[str, Callable[..., Array]] = {
    "TransE": transe,
    "RotatE": rotate,
    "PairRE": pairre,
    "TripleRE": triplere,
    "InterHT": interht,
    "TranS": trans,
    "DistMult": distmult,
    "ComplEx": complex_score,
    "BoxE": boxe,
    "ConvE": conve,
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "TransE": [{"scoring_norm": 1}, {"scoring_norm": 2}],
    "RotatE": [{"scoring_norm": 1}, {"scoring_norm": 2}],
    "PairRE": [{"scoring_norm": 1}, {"scoring_norm": 2, "normalize_entities": False}],
    "TripleRE": [{"scoring_norm": 1, "normalize_entities": False}, {"scoring_norm": 2, "u": 0.5}],
    "InterHT": [{"scoring_norm": 1, "offset": 0.7}, {"scoring_norm": 2, "normalize_entities": False}],
    "TranS": [{"scoring_norm": 1, "normalize_entities": False}, {"scoring_norm": 2, "offset": 0.7}],
    "DistMult": [{}],
    "ComplEx": [{}],
    "BoxE": [
        {"scoring_norm": 1},
        {"scoring_norm": 2, "apply_tanh": False, "dist_func_per_dim": False},
        {"scoring_norm": 2, "dist_func_per_dim": False, "as_reference": True},
    ],
    "ConvE": [
        {"kernel_height": 2, "kernel_width": 2, "output_channels": 2},
        {"input_channels": 2, "kernel_height": 2, "kernel_width": 1, "batch_normalization": False},
    ],
}
CASES = [
    pytest.param(name, arguments, id="-".join([name, *map(str, arguments.values())]))
    for name in FORMULAS
    for arguments in VARIANTS[name]
]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A score function with random rows and weights."""

    name: str
    arguments: dict[str, Any]
    sharding: bj.Sharding = dataclasses.field(default_factory=lambda: bj.Sharding.create(10, 1, 0))

    def make(self, shared: bool = True, **more: Any) -> Any:
        arguments = {"inverse_relations": True, "embedding_size": 6, **self.arguments, **more}
        return KINDS[self.name](
            negative_sample_sharing=shared, sharding=self.sharding, n_relation_type=N_RELATION, **arguments
        )

    @cached_property
    def model(self) -> Any:
        return self.make()

    @cached_property
    def network(self) -> dict[str, Any]:
        """Collections of the weights and statistics of a network, random; else {"params": {}}."""
        params, state = jax.eval_shape(
            lambda key: (self.model.init_params(key), self.model.init_state()), jax.random.key(0)
        )
        table = params.pop("relation_embedding")
        assert table.shape == (2 * N_RELATION, self.model.relation_width)
        collections = {"params": params, "batch_stats": state}
        leaves, tree = jax.tree_util.tree_flatten(collections)
        random = [np.abs(normal(i, *leaf.shape)) / 2 + 0.1 for i, leaf in enumerate(leaves)]
        filled: dict[str, Any] = jax.tree_util.tree_unflatten(tree, random)
        return filled if filled["batch_stats"] else {"params": filled["params"]}

    @cached_property
    def table(self) -> Array:
        return normal(10, 2 * N_RELATION, self.model.relation_width)

    def variables(self, table: Any, network: dict[str, Any]) -> dict[str, Any]:
        return {**network, "params": {"relation_embedding": table, **network["params"]}}

    def formula(self, h: Array, r: Array, t: Array) -> Array:
        more = (jax.tree_util.tree_map(np.float64, self.network),) if self.model.has_network else ()
        return FORMULAS[self.name](self.model, *(np.asarray(x, np.float64) for x in (h, r, t)), *more)

    def scorer(self, h: Array, r: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        """Scores, and their derivatives by head, relation and tail, by central differences; rows broadcast."""
        rows = [np.asarray(x, np.float64) for x in (h, r, t)]
        step, gradients = 1e-6, []
        for i, row in enumerate(rows):
            slopes = []
            for e in step * np.eye(row.shape[-1]):
                up, down = ([*rows[:i], row + x, *rows[i + 1 :]] for x in (e, -e))
                slopes.append((self.formula(*up) - self.formula(*down)) / (2 * step))
            gradients.append(np.stack(slopes, axis=-1))
        return self.formula(*rows), (gradients[0], gradients[1], gradients[2])


class Negatives(bj.ShardedNegativeSampler):
    """Stands for a sampler of given negatives."""

    def __init__(self, sharding: bj.Sharding, scheme: Any, flat: bool) -> None:
        super().__init__(sharding=sharding, corruption_scheme=scheme, flat_negative_format=flat, local_sampling=False)

    def sample(self, *_: Any) -> Any:
        raise AssertionError("negatives are given")


def random_batch(sharding: bj.Sharding, sets: int, size: int) -> dict[str, Array]:
    """A batch without step axis, P = `size`."""
    rng, S = np.random.default_rng(5), sharding.n_shard
    count = sharding.shard_counts
    return {
        "head": rng.integers(count[:, None, None], size=(S, S, size)).astype(np.int32),
        "relation": rng.integers(2 * N_RELATION, size=(S, S, size)).astype(np.int32),
        "tail": rng.integers(count[:, None, None], size=(S, S, size)).astype(np.int32),
        "negative": rng.integers(count[:, None, None, None], size=(S, S, sets, 2)).astype(np.int32),
    }
