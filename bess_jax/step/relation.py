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
    it is made for one relation after the other, and once more for the gradient.

    Args:
        score_fn: the score function, without network.
        variables: what its `apply` takes.
        head: (B, E) rows of the heads.
        relation: (B,) int32 relation ids.
        tail: (B, E) rows of the tails.

    Chen et al. 2021 (Relation Prediction as an Auxiliary Training Objective for Improving Multi-Relational Graph
    Representations, arXiv 2110.02834). BESS-KGE has no counterpart.
    """

    @jax.checkpoint
    def one(row: jax.Array) -> jax.Array:
        score = cast("jax.Array", score_fn.apply(variables, head, row, tail, method="score_relation"))
        return score.astype(jnp.float32)

    table = variables["params"]["relation_embedding"]
    score = jax.lax.map(one, table)  # (n_relation, B); many at a time take several times as long on a CPU
    is_own = jnp.arange(len(table), dtype=jnp.int32)[:, None] == relation[None]
    own = jnp.sum(jnp.where(is_own, score, 0), axis=0)  # the gradient of an indexed one is a slow scatter
    return jax.nn.logsumexp(score, axis=0) - own
