"""A few queries that tell how good a model is: one that it answers, one nearly, and one it does not."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from bess_jax._typing import Side
from bess_jax.ask.ranks import Ranks

Kind: TypeAlias = Literal["right", "near", "wrong"]

NEAR = 10
"""Rank up to which the held-out answer is near."""


class Example(NamedTuple):
    """A query whose answer was held out.

    Attributes:
        kind: "right": the answer ranks first; "near": up to `NEAR`; "wrong": behind that.
        side: what is asked for.
        triple: ids of `entity_global` head, relation and `entity_global` tail, the answer among them.
        rank: of the answer, as ranked: other known answers left out where they were.
        n_candidate: how many were ranked.
    """

    kind: Kind
    side: Side
    triple: tuple[int, int, int]
    rank: float
    n_candidate: int

    @property
    def place(self) -> str:
        """The rank among how many, for people to read: shared places are halves."""
        rank = f"{self.rank:,.0f}" if self.rank.is_integer() else f"{self.rank:,.1f}"
        return f"{rank} of {self.n_candidate:,}"


def telling_examples(ranks: Ranks, seed: int = 0, side: Side = "tail") -> list[Example]:
    """One query of each kind, where there is one, drawn from all of that kind.

    Args:
        ranks: of the triples to draw from.
        seed: the same seed draws the same queries.
        side: what is asked for.

    Raises:
        ValueError: if that side was not ranked.
    """
    rank = ranks.rank(side)
    kinds: dict[Kind, np.ndarray] = {"right": rank == 1, "near": (rank > 1) & (rank <= NEAR), "wrong": rank > NEAR}
    rng = np.random.default_rng(seed)
    examples = []
    for kind, is_kind in kinds.items():
        if is_kind.any():
            i = int(rng.choice(np.flatnonzero(is_kind)))
            head, relation, tail = ranks.triples[i].tolist()
            n_candidate = int(ranks.sides[side].n_candidate[i])
            examples.append(Example(kind, side, (head, relation, tail), float(rank[i]), n_candidate))
    return examples
