"""Shapes of what enters a shard in a step."""

from __future__ import annotations

import chex
import jax

from bess_jax.data.negative_sampler import ShardedNegativeSampler

_LAYOUT = {
    "head": "1SP",
    "relation": "1SP",
    "tail": "1SP",
    "negative": "1SLN",
    "triple_mask": "1SP",
    "triple_weight": "1B",
    "negative_mask": "1LSN",
    "answer_share": "1B",
}
"""Shapes in axis letters."""

_OF_ANSWERS = ("tail", "triple_weight", "answer_share")
"""What has one more axis, K, where the answers of a query are grouped."""


def check_layout(sampler: ShardedNegativeSampler, head: jax.Array, **others: jax.Array | None) -> None:
    """Checks what enters a shard.

    Args:
        sampler: tells the number of shards, and the lists of negatives.
        head: as `BessKGE.forward` takes it.
        **others: the other arguments of it; those that are None are left out.

    Raises:
        ValueError: unless all arrays that are given have the shapes of `BessKGE.forward`.
    """
    n_shard, size = sampler.sharding.n_shard, (head.shape or (0,))[-1]
    if sampler.corruption_scheme == "ht" and size % 2:
        raise ValueError(f"head must hold an even number of triples per partition for corruption 'ht', got {size}")
    given = {name: array for name, array in {"head": head, **others}.items() if array is not None}
    n_answer = given["tail"].shape[-1] if is_grouped(given["tail"]) else 0
    n_list, n_negative = sampler.n_list(n_shard * size), (given["negative"].shape or (0,))[-1]
    sizes = chex.Dimensions(S=n_shard, P=size, B=n_shard * size, L=n_list, N=n_negative, K=n_answer)
    for name, array in given.items():
        if name == "triple_weight" and array.size == 1:
            continue
        letters = _LAYOUT[name] + ("K" if n_answer and name in _OF_ANSWERS else "")
        try:
            chex.assert_shape(array, sizes[letters])
        except AssertionError:
            wanted = f"({', '.join(letters)}) = {sizes[letters]}"
            raise ValueError(f"{name} must have shape {wanted}, got {array.shape}") from None


def is_grouped(tail: jax.Array) -> bool:
    """Whether tails (1, S, P, K) are K answers of each query."""
    return tail.ndim == 4
