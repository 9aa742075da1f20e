"""What is doubtful about a graph: it can be read, but is likely not what its owner wants to measure with."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import zip
from bess_jax._typing import Int32Array
from bess_jax.data.dataset import KGDataset
from bess_jax.data.keys import is_in, pair_keys, repeated, repeats, triple_keys
from bess_jax.data.relations import common_pairs

SHARE = 0.8
"""Part of a relation's pairs that another one must hold for the two to be told: Akrami et al. 2020."""

FEW = 10
"""A relation with fewer triples is told, and not compared with others."""

_N_EXAMPLE = 3

_LOOKED_AT = 1000
"""Triples among which different examples are looked for."""

_LONGEST_NAME = 60
"""Characters of a name in an example, at most."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something doubtful about a graph.

    Attributes:
        kind: what, in one word of those in docs/data.md.
        count: how many triples, entities, relations or pairs of relations.
        text: one line that tells it.
        examples: up to three of them, by name.
    """

    kind: str
    count: int
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}, such as {'; '.join(self.examples)}" if self.examples else self.text


def find_doubtful(dataset: KGDataset) -> tuple[Finding, ...]:
    """All that is doubtful about a graph.

    Triples are compared by a sort of all of them, once; what follows looks only at those whose two entities are joined
    by another triple too.
    """
    rejoined = _Rejoined.of(dataset)
    found = [
        _repeated(dataset, rejoined),
        _leaked(dataset, rejoined),
        _joined_in_train(dataset, rejoined),
        _same_pairs(dataset, rejoined),
        _unseen(dataset),
        _self_loops(dataset),
        _rare_relations(dataset),
        _near_names(dataset),
        _shared_labels(dataset),
    ]
    return tuple(itertools.chain.from_iterable(found))


class _Rejoined(NamedTuple):
    """The triples whose two entities are joined by another triple too: any split, relation and direction."""

    triples: Mapping[str, Int32Array]  # split -> (n, 3)
    keys: Mapping[str, NDArray[np.uint64]]  # split -> (n,) one number for each

    @classmethod
    def of(cls, dataset: KGDataset) -> _Rejoined:
        triples = dataset.all_triples()
        pair = np.sort(triples[:, ::2], axis=1)
        several = repeated(pair_keys(pair[:, 0], pair[:, 1], dataset.n_entity))
        del pair
        n_before = np.cumsum([0, *map(len, dataset.triples.values())])[:-1]
        cuts = np.searchsorted(np.flatnonzero(several), n_before[1:])
        triples = triples[several]
        keys = triple_keys(triples)
        return cls(
            dict(zip(dataset.triples, np.split(triples, cuts), strict=True)),
            dict(zip(dataset.triples, np.split(keys, cuts), strict=True)),
        )


def _repeated(dataset: KGDataset, rejoined: _Rejoined) -> Iterator[Finding]:
    for split, triples in rejoined.triples.items():
        again = triples[repeats(rejoined.keys[split])]
        of = f"of {len(dataset.triples[split]):,} triples of {split}"
        yield from _if_any("repeated", len(again), f"{{n}} {of} repeat an earlier one of it", _triples(dataset, again))


def _leaked(dataset: KGDataset, rejoined: _Rejoined) -> Iterator[Finding]:
    for earlier, later in itertools.combinations(rejoined.triples, 2):
        leaked = rejoined.triples[later][is_in(rejoined.keys[later], rejoined.keys[earlier])]
        of = f"of {len(dataset.triples[later]):,} triples of {later}"
        yield from _if_any("leaked", len(leaked), f"{{n}} {of} stand in {earlier} too", _triples(dataset, leaked))


def _joined_in_train(dataset: KGDataset, rejoined: _Rejoined) -> Iterator[Finding]:
    """Test triples, but those that are in train, whose entities train joins: Toutanova and Chen 2015, section 3.

    They removed such triples, of either direction, from FB15k to make FB15k-237.
    """
    if not {"train", "test"} <= set(rejoined.triples):
        return
    head, _, tail = rejoined.triples["train"].T
    joined = pair_keys(head, tail, dataset.n_entity)
    asked = rejoined.triples["test"][~is_in(rejoined.keys["test"], rejoined.keys["train"])]
    of = f"of {len(dataset.triples['test']):,} triples of test have their two entities joined in train"
    for kind, how, first, second in (
        ("joined_reversed", "the other way round", 2, 0),
        ("joined_same_way", "the same way, by another relation", 0, 2),
    ):
        found = asked[is_in(pair_keys(asked[:, first], asked[:, second], dataset.n_entity), joined)]
        found = found[found[:, 0] != found[:, 2]]
        yield from _if_any(kind, len(found), f"{{n}} {of} {how}", _triples(dataset, found))


def _same_pairs(dataset: KGDataset, rejoined: _Rejoined) -> Iterator[Finding]:
    """Relations that hold, of the pairs of another one or their own, `SHARE` or more: counted over all splits.

    A split at random parts a triple from its inverse, so that train alone would show less. Inverse relations: Dettmers
    et al. 2018, section 4.1, and Toutanova and Chen 2015; the share, and relations that are equal but for their names:
    Akrami et al. 2020, "Realistic re-evaluation of knowledge graph completion methods", section 4.
    """
    triples, keys = (np.concatenate([*of.values()]) for of in (rejoined.triples, rejoined.keys))
    again = repeats(keys)
    n_pair = sum(_count_pairs(triples, dataset.n_relation_type) for triples in dataset.triples.values())
    n_pair = n_pair - _count_pairs(triples[again], dataset.n_relation_type)
    triples = np.delete(triples, again, axis=0)
    triples = triples[triples[:, 0] != triples[:, 2]]
    for kind, reverse in (("symmetric", True), ("inverse", True), ("alike", False)):
        common = common_pairs(triples, reverse)
        if common is None:
            text = "relations were not compared: too many of them hold the same pairs of entities"
            yield Finding("not_compared", dataset.n_relation_type, text)
            return
        one, other, n = common
        enough = (n_pair[one] >= FEW) & (n >= SHARE * n_pair[one]) & ((one == other) == (kind == "symmetric"))
        one, other, share = one[enough], other[enough], n[enough] / n_pair[one[enough]]
        twice = is_in(pair_keys(one, other, len(n_pair)), pair_keys(other, one, len(n_pair))) & (one > other)
        one, other, share = one[~twice], other[~twice], share[~twice]
        best = np.argsort(-share * n_pair[one], kind="stable")[:_N_EXAMPLE].tolist()
        names = [[_relation(dataset, of[i]) for i in best] for of in (one, other)]
        if kind == "symmetric":
            of_all = f"of {len(n_pair):,} relations are symmetric"
            text = f"{{n}} {of_all}: {SHARE:.0%} or more of their pairs stand the other way round too"
            examples = [f"{r} ({share[i]:.0%})" for i, r in zip(best, names[0], strict=True)]
        else:
            stand = "the other way round in the other" if reverse else "in the other"
            n_all = len(n_pair) * (len(n_pair) - 1) // 2
            text = f"{{n}} of {n_all:,} pairs of relations are {kind}: {SHARE:.0%} or more of one stand {stand}"
            examples = [f"{r} in {s} ({share[i]:.0%})" for i, r, s in zip(best, *names, strict=True)]
        yield from _if_any(f"{kind}_relations", len(one), text, examples)


def _count_pairs(triples: Int32Array, n_relation: int) -> NDArray[np.intp]:
    """Number of triples (n_relation,) of each relation, self-loops left out."""
    return np.bincount(triples[triples[:, 0] != triples[:, 2], 1], minlength=n_relation)


def _unseen(dataset: KGDataset) -> Iterator[Finding]:
    if "train" not in dataset.triples:
        return
    for many, columns, n, name in (
        ("entities", [0, 2], dataset.n_entity, _entity),
        ("relations", [1], dataset.n_relation_type, _relation),
    ):
        seen = np.zeros(n, dtype=bool)
        seen[dataset.triples["train"][:, columns]] = True
        for split in (split for split in dataset.triples if split != "train"):
            triples = dataset.triples[split]
            is_new = ~seen[triples[:, columns]]
            new = np.unique(triples[:, columns][is_new])
            n_triple = np.count_nonzero(is_new.any(axis=1))
            text = f"{{n}} {many} of {split} are not in train, but in {n_triple:,} of its {len(triples):,} triples"
            yield from _if_any(f"unseen_{many}", len(new), text, [name(dataset, i) for i in new[:_N_EXAMPLE]])


def _self_loops(dataset: KGDataset) -> Iterator[Finding]:
    loops = {split: triples[triples[:, 0] == triples[:, 2]] for split, triples in dataset.triples.items()}
    counts = ", ".join(f"{split} {len(of_split):,}" for split, of_split in loops.items())
    examples = _triples(dataset, np.concatenate([*loops.values()]))
    n, n_all = sum(map(len, loops.values())), sum(map(len, dataset.triples.values()))
    yield from _if_any("self_loops", n, f"{{n}} of {n_all:,} triples join an entity with itself: {counts}", examples)


def _rare_relations(dataset: KGDataset) -> Iterator[Finding]:
    if "train" not in dataset.triples:
        return
    count = np.bincount(dataset.triples["train"][:, 1], minlength=dataset.n_relation_type)
    rare = np.flatnonzero((count > 0) & (count < FEW))
    rare = rare[np.argsort(count[rare], kind="stable")]
    text = f"{{n}} of {dataset.n_relation_type:,} relations have fewer than {FEW} triples in train"
    examples = [f"{_relation(dataset, i)} ({count[i]})" for i in rare[:_N_EXAMPLE]]
    yield from _if_any("rare_relations", len(rare), text, examples)


def _near_names(dataset: KGDataset) -> Iterator[Finding]:
    for many, names in (("entities", dataset.entity_dict), ("relations", dataset.relation_dict)):
        groups = _groups(names or (), lambda name: "".join(name.split()).casefold())
        text = f"{{n}} of {len(names or ()):,} names of {many} differ from another one only by case or white space"
        examples = [" / ".join(map(_quoted, group)) for group in groups[:_N_EXAMPLE]]
        yield from _if_any("near_names", sum(map(len, groups)), text, examples)


def _shared_labels(dataset: KGDataset) -> Iterator[Finding]:
    for many, names, labels in (
        ("entities", dataset.entity_dict, dataset.entity_labels),
        ("relations", dataset.relation_dict, dataset.relation_labels),
    ):
        labelled = [name for name in names or () if name in labels] if labels else []
        groups = _groups(labelled, labels.__getitem__)
        text = f"{{n}} of {len(names or ()):,} {many} share their label with another one"
        examples = [f"{_quoted(labels[group[0]])} of {len(group)}" for group in groups[:_N_EXAMPLE]]
        yield from _if_any("shared_labels", sum(map(len, groups)), text, examples)


def _groups(names: Sequence[str], key: Callable[[str], str]) -> list[list[str]]:
    """Names with equal keys, where several have it; the largest groups first.

    Compared by their hashes first: eight bytes for a name, where a dictionary of keys would take a hundred.
    """
    hashes = np.fromiter((hash(key(name)) for name in names), dtype=np.int64, count=len(names))
    by_key = defaultdict(list)
    for i in np.flatnonzero(repeated(hashes)).tolist():
        by_key[key(names[i])].append(names[i])
    return sorted((group for group in by_key.values() if len(group) > 1), key=len, reverse=True)


def _if_any(kind: str, count: int, text: str, examples: Sequence[str]) -> Iterator[Finding]:
    if count:
        yield Finding(kind, count, text.replace("{n}", f"{count:,}"), tuple(examples))


def _triples(dataset: KGDataset, triples: Int32Array) -> list[str]:
    different = [*dict.fromkeys(map(tuple, triples[:_LOOKED_AT].tolist()))][:_N_EXAMPLE]
    return [f"({_entity(dataset, h)}, {_relation(dataset, r)}, {_entity(dataset, t)})" for h, r, t in different]


def _entity(dataset: KGDataset, index: int) -> str:
    return str(index) if dataset.entity_dict is None else _cut(dataset.entity_dict[index])


def _relation(dataset: KGDataset, index: int) -> str:
    return str(index) if dataset.relation_dict is None else _cut(dataset.relation_dict[index])


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."


def _quoted(name: str) -> str:
    return repr(_cut(name))
