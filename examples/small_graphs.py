"""Small graphs with something to learn, for the examples: each relation leads from a group of entities to another."""

from collections.abc import Mapping, Sequence

import numpy as np

import bess_jax as bj


def grouped_graph(
    types: Mapping[str, int],
    relations: Sequence[tuple[str, str, str]],
    n_triple: int,
    n_group: int = 20,
    n_candidate: int = 0,
    seed: int = 0,
) -> bj.KGDataset:
    """A graph whose entities, ordered by type, belong to groups; nine in ten triples follow the groups.

    Args:
        types: number of entities of each type.
        relations: name, type of the heads and type of the tails of each relation.
        n_triple: triples drawn; 5% each go to "valid" and "test", and repeated ones are dropped.
        n_group: groups in each type. Relation r leads from group g to one other group.
        n_candidate: heads and tails, of the right type, that each triple of "valid" and "test" is ranked against.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    offsets = dict(zip(types, np.cumsum([0, *types.values()]).tolist(), strict=False))
    names = [f"{name}_{i}" for name, size in types.items() for i in range(size)]
    group = rng.integers(n_group, size=len(names))
    triples = []
    for r, (_, head_type, tail_type) in enumerate(relations):
        n, leads_to = n_triple // len(relations), rng.permutation(n_group)
        head = offsets[head_type] + rng.integers(types[head_type], size=n)
        tails = offsets[tail_type] + np.arange(types[tail_type])
        scores = rng.random((n, len(tails))) + (group[tails] == leads_to[group[head]][:, None])
        follows = rng.random(n) < 0.9
        tail = np.where(follows, tails[scores.argmax(axis=1)], rng.choice(tails, n))
        triples.append(np.stack([head, np.full(n, r), tail], axis=1))
    every = rng.permutation(np.unique(np.concatenate(triples), axis=0)).astype(np.int32)
    cut = len(every) // 20
    split = {"train": every[2 * cut :], "valid": every[:cut], "test": every[cut : 2 * cut]}

    def candidates(side: int) -> dict[str, np.ndarray] | None:
        """Entities of the type that the relation has on this side, other than the answer."""
        if not n_candidate:
            return None
        first, size = (np.array([table[row[side]] for row in relations]) for table in (offsets, types))
        found = {}
        for part in ("valid", "test"):
            _, r, _ = split[part].T
            answer = split[part][:, 2 * (side - 1)]
            start, n = first[r][:, None], size[r][:, None]
            shift = 1 + rng.integers(n - 1, size=(len(r), n_candidate))
            found[part] = (start + (answer[:, None] - start + shift) % n).astype(np.int32)
        return found

    return bj.KGDataset(
        n_entity=len(names),
        n_relation_type=len(relations),
        triples=split,
        entity_dict=names,
        relation_dict=[name for name, _, _ in relations],
        type_offsets=offsets,
        neg_heads=candidates(1),
        neg_tails=candidates(2),
    )
