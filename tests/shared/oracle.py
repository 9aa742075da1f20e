"""A dense float64 step on entity_global ids, without JAX: what the sharded step must agree with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax import Sharding
from bess_jax._compat import TypeAlias

Array = NDArray[Any]
Scorer: TypeAlias = "Callable[[Array, Array, Array], tuple[Array, tuple[Array, Array, Array]]]"

MASKED_SCORE = -50_000.0


# --- models: the score, and its gradient with respect to head, relation and tail; all broadcast over (..., E) ---------


def transe_1(h: Array, r: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    d = h + r - t
    g = -np.sign(d)
    return -np.abs(d).sum(-1), (g, g, -g)


def transe_2(h: Array, r: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    d = h + r - t
    length = np.sqrt((d * d).sum(-1))
    g = -d / np.where(length == 0, 1, length)[..., None]
    return -length, (g, g, -g)


def distmult(h: Array, r: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return (h * r * t).sum(-1), (r * t, h * t, h * r)


def complex_(h: Array, r: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    def pack(z: Array) -> Array:
        return np.concatenate([z.real, z.imag], axis=-1)

    H, R, T = (re + 1j * im for re, im in (np.split(x, 2, axis=-1) for x in (h, r, t)))
    gradients = (pack(R.conj() * T), pack(H.conj() * T), pack(H * R))
    return (H * R * T.conj()).real.sum(-1), gradients


SCORERS: dict[str, Scorer] = {"TransE1": transe_1, "TransE2": transe_2, "DistMult": distmult, "ComplEx": complex_}


# --- losses -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Loss:
    """Loss of each triple (B,), with its gradients; `adversarial` is the scale of the weights, None for 1/n."""

    kind: str  # "LogSigmoid", "MarginRanking" or "SampledSoftmax"
    margin: float = 1.0
    adversarial: float | None = None
    n_entity: int = 0
    scale: float = 1.0

    def weights(self, negative: Array) -> Array:
        """Weights of the negatives, constants for the gradient."""
        if self.adversarial is None:
            return np.full(negative.shape, 1 / negative.shape[-1])
        e = np.exp(self.adversarial * (negative - negative.max(-1, keepdims=True)))
        return np.asarray(e / e.sum(-1, keepdims=True))

    def __call__(self, positive: Array, negative: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Loss (B,) and its gradients with respect to positive (B,) and negative scores (B, n)."""
        if self.kind == "LogSigmoid":
            p, n = positive + self.margin, negative + self.margin
            loss = 0.5 * (np.logaddexp(0, -p) + (weights * np.logaddexp(0, n)).sum(-1))
            return self._scaled(loss, -0.5 * _sigmoid(-p), 0.5 * weights * _sigmoid(n))
        if self.kind == "MarginRanking":
            violation = negative - positive[:, None] + self.margin
            d = weights * (violation > 0)
            return self._scaled((weights * np.maximum(violation, 0)).sum(-1), -d.sum(-1), d)
        shifted = negative + np.log((self.n_entity - 1) / negative.shape[-1])
        everything = np.concatenate([positive[:, None], shifted], axis=1)
        total = np.logaddexp.reduce(everything, axis=1)
        share = np.exp(everything - total[:, None])
        return self._scaled(total - positive, share[:, 0] - 1, share[:, 1:])

    def _scaled(self, *arrays: Array) -> tuple[Array, ...]:
        return tuple(self.scale * x for x in arrays)


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


# --- one step ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the step depends on besides tables and batch."""

    model: str
    loss: Loss
    scheme: str  # "h", "t" or "ht"
    shared: bool
    flat: bool
    augment: bool = False
    local: bool = False


class Step(NamedTuple):
    loss: Array  # (S,)
    positive: Array  # (S, B)
    negative: Array  # (S, B, n)
    entity_grad: Array  # like the entity table, of the sum of the losses
    relation_grad: Array
    touched: Array  # entity_global ids in the batch, ascending


def step(
    entity: Array,
    relation: Array,
    batch: dict[str, Array],
    sharding: Sharding,
    settings: Settings,
    frozen: list[Array] | None = None,
) -> Step:
    """One step on a batch without step axis; `entity` has S * M rows, padding included.

    `frozen`: weights of the negatives by shard, for finite differences.
    """
    slots, n_shard = sharding.shard_and_idx_to_entity, sharding.n_shard
    here = np.arange(n_shard)
    head = slots[here[:, None, None], batch["head"]].reshape(n_shard, -1)
    tail = np.swapaxes(slots[here[:, None, None], batch["tail"]], 0, 1).reshape(n_shard, -1)
    negative = slots[here[:, None, None, None], batch["negative"]]  # (S, S, sets, N)
    if not settings.local:
        negative = np.swapaxes(negative, 0, 1)  # shard that scores, shard that holds
    ids = batch["relation"].reshape(n_shard, -1)
    weight = batch.get("triple_weight", np.ones(head.shape)).astype(np.float64)
    score, scores = SCORERS[settings.model], []
    losses, entity_grad, relation_grad = [], np.zeros_like(entity), np.zeros_like(relation)
    for shard in range(n_shard):
        h, r, t = head[shard], ids[shard], tail[shard]
        sets = np.swapaxes(negative[shard], 0, 1).reshape(negative.shape[2], -1)  # (sets, S * N)
        corrupt, candidate, penalty = candidates(h, t, sets, n_shard, settings)
        positive, d_positive = score(entity[h], relation[r], entity[t])
        as_h = np.where(corrupt[:, None], candidate, h[:, None])
        as_t = np.where(corrupt[:, None], t[:, None], candidate)
        against, d_against = score(entity[as_h], relation[r][:, None], entity[as_t])
        against = against + penalty
        weights = settings.loss.weights(against) if frozen is None else frozen[shard]
        loss, by_positive, by_negative = settings.loss(positive, against, weights)
        losses.append((weight[shard] * loss).sum())
        scores.append((positive, against))
        by_positive = (weight[shard] * by_positive)[:, None]
        by_negative = (weight[shard][:, None] * by_negative)[..., None]
        r_n = np.broadcast_to(r[:, None], candidate.shape)
        for table, rows, d in (
            (entity_grad, (h, as_h), 0),
            (relation_grad, (r, r_n), 1),
            (entity_grad, (t, as_t), 2),
        ):
            np.add.at(table, rows[0], by_positive * d_positive[d])
            np.add.at(table, rows[1], by_negative * d_against[d])
    touched = np.unique(np.concatenate([x.ravel() for x in (head, tail, negative)]))
    return Step(np.array(losses), *map(np.stack, zip(*scores, strict=True)), entity_grad, relation_grad, touched)


def candidates(h: Array, t: Array, sets: Array, n_shard: int, settings: Settings) -> tuple[Array, Array, Array]:
    """For every triple of a shard: is its head replaced (B,), by which ids (B, n), and the penalties (B, n)."""
    place = np.arange(len(h)) % (len(h) // n_shard)
    first_half = place < len(h) // n_shard // 2
    corrupt = {"h": np.full(len(h), True), "t": np.full(len(h), False), "ht": first_half}[settings.scheme]
    ids: Array | None = None
    for number, side in enumerate(settings.scheme):
        rows = np.flatnonzero(corrupt == (side == "h"))
        own = (h if side == "h" else t)[rows]
        drawn = sets[[number]] if settings.flat else sets[rows]  # (1 or rows, S * N)
        if settings.flat:
            drawn = np.concatenate([own[None], drawn], axis=1) if settings.augment else drawn
            own_column = np.arange(len(rows))
        else:
            drawn = np.concatenate([own[:, None], drawn], axis=1) if settings.augment else drawn
            own_column = np.arange(len(rows)) * drawn.shape[1]
        if settings.shared or settings.flat:
            drawn = np.broadcast_to(drawn.reshape(1, -1), (len(rows), drawn.size))
        if ids is None:
            ids, penalty = np.empty((len(h), drawn.shape[1]), np.int64), np.zeros((len(h), drawn.shape[1]))
        ids[rows] = drawn
        if settings.augment:
            penalty[rows, own_column] = MASKED_SCORE
    assert ids is not None
    return corrupt, ids, penalty


# --- updates ----------------------------------------------------------------------------------------------------------


class Sgd:
    """table -= lr * gradient."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def update(self, table: Array, grad: Array, rows: Array | None = None) -> None:
        """Changes `table` in place: all rows, or only `rows`."""
        at = slice(None) if rows is None else rows
        table[at] -= self.lr * grad[at]


class Adam:
    """Adam as in optax: bias correction by the number of updates of the run, eps outside the root."""

    def __init__(self, lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> None:
        self.lr, self.b1, self.b2, self.eps = lr, b1, b2, eps
        self.count, self.mu, self.nu = 0, np.zeros(()), np.zeros(())

    def update(self, table: Array, grad: Array, rows: Array | None = None) -> None:
        """Changes `table` in place: all rows, or only `rows`, whose moments alone change then."""
        if self.count == 0:
            self.mu, self.nu = np.zeros_like(table), np.zeros_like(table)
        self.count += 1
        at = slice(None) if rows is None else rows
        self.mu[at] = self.b1 * self.mu[at] + (1 - self.b1) * grad[at]
        self.nu[at] = self.b2 * self.nu[at] + (1 - self.b2) * grad[at] ** 2
        mean, square = self.mu[at] / (1 - self.b1**self.count), self.nu[at] / (1 - self.b2**self.count)
        table[at] -= self.lr * mean / (np.sqrt(square) + self.eps)


class Adagrad:
    """Adagrad as in optax: sums of squares from `start`, eps inside the root."""

    def __init__(self, lr: float, start: float = 0.1, eps: float = 1e-7) -> None:
        self.lr, self.start, self.eps = lr, start, eps
        self.total: Array | None = None

    def update(self, table: Array, grad: Array, rows: Array | None = None) -> None:
        """Changes `table` in place: all rows, or only `rows`."""
        if self.total is None:
            self.total = np.full_like(table, self.start)
        at = slice(None) if rows is None else rows
        self.total[at] += grad[at] ** 2
        table[at] -= self.lr * grad[at] / np.sqrt(self.total[at] + self.eps)


class RowAdagrad:
    """Adagrad with the mean square of each row, eps outside the root."""

    def __init__(self, lr: float, start: float = 0.0, eps: float = 1e-10) -> None:
        self.lr, self.start, self.eps = lr, start, eps
        self.total: Array | None = None

    def update(self, table: Array, grad: Array, rows: Array | None = None) -> None:
        """Changes `table` in place: all rows, or only `rows`."""
        if self.total is None:
            self.total = np.full((len(table), 1), self.start)
        at = slice(None) if rows is None else rows
        self.total[at] += np.mean(grad[at] ** 2, axis=1, keepdims=True)
        table[at] -= self.lr * grad[at] / (np.sqrt(self.total[at]) + self.eps)


class Run(NamedTuple):
    steps: list[Step]
    entity: Array
    relation: Array


def train(
    entity: Array,
    relation: Array,
    batch: dict[str, Array],
    sharding: Sharding,
    settings: Settings,
    make_update: Callable[[], Sgd | Adam | Adagrad | RowAdagrad],
    sparse: bool,
) -> Run:
    """All steps of a host batch (T, S, ...): results of each, and the tables at the end."""
    entity, relation = entity.astype(np.float64), relation.astype(np.float64)
    steps, of_entity, of_relation = [], make_update(), make_update()
    for t in range(len(batch["head"])):
        one = step(entity, relation, {k: v[t] for k, v in batch.items()}, sharding, settings)
        of_entity.update(entity, one.entity_grad, one.touched if sparse else None)
        of_relation.update(relation, one.relation_grad)
        steps.append(one)
    return Run(steps, entity, relation)
