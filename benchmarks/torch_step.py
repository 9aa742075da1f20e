"""The training step of the comparison in plain PyTorch: what a short port to `torch` does without any library.

Entities and relations are tables with sparse gradients. Each triple is two queries, its tail and (by an inverse
relation) its head; the queries of a direction share one set of random negatives, so that scores are one matrix product
(DistMult, ComplEx), one `torch.cdist` (TransE) or one broadcast sum of moduli (RotatE). Formulas: Bordes et al. 2013,
Yang et al. 2015, Trouillon et al. 2016, Sun et al. 2019; losses: `bess_jax.step.loss`. Used by `peers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn.functional import embedding, logsigmoid, softplus

MARGIN = 9.0


def train(
    model: str,
    triples: torch.Tensor,
    n_entity: int,
    n_relation: int,
    width: int,
    batch: int,
    n_negative: int,
    lr: float,
) -> Iterator[int]:
    """Trains for ever; yields the number of triples after each step.

    Args:
        model: TransE-L1, TransE-L2, RotatE, DistMult or ComplEx.
        triples: (n, 3) int64 head, relation, tail.
        n_entity: number of entities.
        n_relation: number of relations.
        width: real numbers in a row.
        batch: triples of a step.
        n_negative: negatives of each side.
        lr: step size of Adagrad.
    """
    entity = torch.nn.Parameter(_initial(model, n_entity, width))
    relation = torch.nn.Parameter(_initial(model, 2 * n_relation, width // 2 if model == "RotatE" else width))
    optimizer = torch.optim.Adagrad([entity, relation], lr=lr)
    distance = model.startswith("TransE") or model == "RotatE"
    while True:
        for part in triples[torch.randperm(len(triples))].split(batch):
            head, rel, tail = part.unbind(1)
            negatives = torch.randint(n_entity, (2 * n_negative,))
            sizes = [len(part), len(part), n_negative, n_negative]
            rows = embedding(torch.cat([head, tail, negatives]), entity, sparse=True)
            heads, tails, other_tails, other_heads = rows.split(sizes)
            forward, inverse = embedding(torch.cat([rel, rel + n_relation]), relation, sparse=True).chunk(2)
            loss = torch.zeros(())
            for source, r, target, others in (
                (heads, forward, tails, other_tails),
                (tails, inverse, heads, other_heads),
            ):
                query = _query(model, source, r)
                positive, negative = _aligned(model, query, target), _all_pairs(model, query, others)
                loss = loss + (_log_sigmoid_loss if distance else _softmax_loss)(positive, negative, n_entity)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(part)


def _initial(model: str, n_row: int, width: int) -> torch.Tensor:
    if model in ("DistMult", "ComplEx"):
        return 1e-3 * torch.randn(n_row, width)
    return (2 * torch.rand(n_row, width) - 1) * 6 / math.sqrt(width)


def _query(model: str, source: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """The point that the right entities are to be near, (B, width)."""
    if model.startswith("TransE"):
        return source + r
    if model == "DistMult":
        return source * r
    x, y = source.chunk(2, dim=1)
    a, b = (r.cos(), r.sin()) if model == "RotatE" else r.chunk(2, dim=1)
    return torch.cat([x * a - y * b, x * b + y * a], dim=1)


def _aligned(model: str, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Score of each query and its own key, (B,)."""
    if model in ("DistMult", "ComplEx"):
        return (query * key).sum(1)
    if model == "RotatE":
        return -_moduli(query, key).sum(1)
    return -torch.linalg.vector_norm(query - key, ord=int(model[-1]), dim=1)


def _all_pairs(model: str, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Score of each query and every key, (B, n)."""
    if model in ("DistMult", "ComplEx"):
        return query @ key.T
    if model == "RotatE":
        return -_moduli(query[:, None], key).sum(2)
    return -torch.cdist(query, key, p=float(model[-1]))


def _moduli(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Moduli of the complex difference; `hypot` of halves took half the time of a root of squares."""
    (x, y), (u, v) = query.chunk(2, dim=-1), key.chunk(2, dim=-1)
    return torch.hypot(x - u, y - v)


def _log_sigmoid_loss(positive: torch.Tensor, negative: torch.Tensor, n_entity: int) -> torch.Tensor:
    """With self-adversarial weights (Sun et al. 2019, eq. 5 and 6)."""
    weights = negative.detach().softmax(1)
    return -0.5 * (logsigmoid(positive + MARGIN) + (weights * logsigmoid(-negative - MARGIN)).sum(1)).sum()


def _softmax_loss(positive: torch.Tensor, negative: torch.Tensor, n_entity: int) -> torch.Tensor:
    """The negatives stand for all other entities (Jean et al. 2015)."""
    shift = math.log((n_entity - 1) / negative.shape[1])
    return softplus(negative.logsumexp(1) + shift - positive).sum()
