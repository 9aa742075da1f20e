"""Prediction of the relation as a further objective of training."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from bess_jax.scoring import BaseScoreFunction


def relation_loss(
    score_fn: BaseScoreFunction, variables: dict[str, Any], head: jax.Array, relation: jax.Array, tail: jax.Array
) -> jax.Array:
    """-log softmax over all relations of the score of (head, ., tail), at the triple's own one: (B,) float32.

    All rows of the relation table are candidates, those of inverse relations too where there are some: they are
    relations of the graph that is trained on. The scores (n_relation, B) are stored, what they are summed from is not:
    they are a matrix product where they are linear in the relation, else they are made for one relation after the
    other, and once more for the gradient.

    Args:
        score_fn: the score function, without network.
        variables: what its `apply` takes.
        head: (B, E) rows of the heads.
        relation: (B,) int32 relation ids.
        tail: (B, E) rows of the tails.

    Chen et al. 2021 (Relation Prediction as an Auxiliary Training Objective for Improving Multi-Relational Graph
    Representations, arXiv 2110.02834). BESS-KGE has no counterpart.
    """
    relations = variables["params"]["relation_embedding"]
    query = score_fn.apply(variables, head, tail, method="query_relation") if _knows_relations(score_fn) else None
    if query is not None:
        score = jnp.matmul(relations, query.T, precision=jax.lax.Precision.HIGHEST).astype(jnp.float32)
    else:
        score = _one_after_the_other(score_fn, variables, head, tail)
    is_own = jnp.arange(len(score), dtype=jnp.int32)[:, None] == relation[None]
    own = jnp.sum(jnp.where(is_own, score, 0), axis=0)  # the gradient of an indexed one is a slow scatter
    return jax.nn.logsumexp(score, axis=0) - own


def _one_after_the_other(
    score_fn: BaseScoreFunction, variables: dict[str, Any], head: jax.Array, tail: jax.Array
) -> jax.Array:
    """Scores (n_relation, B) float32 of all relations; many at a time take several times as long on a CPU."""

    @jax.checkpoint
    def one(row: jax.Array) -> jax.Array:
        score = cast("jax.Array", score_fn.apply(variables, head, row, tail, method="score_relation"))
        return score.astype(jnp.float32)

    scores: jax.Array = jax.lax.map(one, variables["params"]["relation_embedding"])
    return scores


def _knows_relations(score_fn: BaseScoreFunction) -> bool:
    """Whether its `query_relation` is of the same class as what it must agree with, or of a derived one."""
    classes = type(score_fn).__mro__

    def place(name: str) -> int:
        return next(number for number, kind in enumerate(classes) if name in vars(kind))

    return all(place("query_relation") <= place(name) for name in ("query_tail", "key_tail", "combiner"))
