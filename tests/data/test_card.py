"""A graph in numbers and what is doubtful about it, compared with loops over its triples."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bess_jax as bj
from bess_jax._compat import TypeAlias
from bess_jax.data import findings as findings_module
from bess_jax.data import relations as relations_module
from bess_jax.data.findings import FEW, SHARE
from bess_jax.data.keys import is_in, repeated, repeats
from bess_jax.data.relations import common_pairs

Triple: TypeAlias = "tuple[int, int, int]"


def graph(n_entity: int = 10, n_relation: int = 3, **triples: Sequence[Triple]) -> bj.KGDataset:
    return bj.KGDataset(
        n_entity=n_entity,
        n_relation_type=n_relation,
        triples={split: np.array(rows, np.int32) for split, rows in triples.items()},
    )


def found_in(dataset: bj.KGDataset) -> dict[str, list[bj.Finding]]:
    found: dict[str, list[bj.Finding]] = {}
    for finding in bj.describe(dataset).findings:
        found.setdefault(finding.kind, []).append(finding)
        assert 0 < len(finding.examples) <= 3
        assert "\n" not in str(finding)
    return found


def count_slowly(splits: Mapping[str, Sequence[Triple]]) -> Counter[str]:
    """Counts of the findings about triples, summed over their splits, by loops."""
    train, test = splits["train"], splits["test"]
    count: Counter[str] = Counter()
    for rows in splits.values():
        count["repeated"] += len(rows) - len(set(rows))
        count["self_loops"] += sum(h == t for h, _, t in rows)
    for earlier, later in itertools.combinations(splits.values(), 2):
        count["leaked"] += sum(row in earlier for row in later)
    for h, r, t in test:
        if (h, r, t) not in train and h != t:
            count["joined_same_way"] += any((h, t) == (a, b) for a, _, b in train)
            count["joined_reversed"] += any((t, h) == (a, b) for a, _, b in train)
    known, known_relations = {e for h, _, t in train for e in (h, t)}, {r for _, r, _ in train}
    for split in ("valid", "test"):
        count["unseen_entities"] += len({e for h, _, t in splits[split] for e in (h, t)} - known)
        count["unseen_relations"] += len({r for _, r, _ in splits[split]} - known_relations)
    count["rare_relations"] = sum(n < FEW for n in Counter(r for _, r, _ in train).values())
    pairs: dict[int, set[tuple[int, int]]] = {}
    for h, r, t in itertools.chain(*splits.values()):
        if h != t:
            pairs.setdefault(r, set()).add((h, t))

    def holds(r: int, s: int, reverse: bool) -> bool:
        common = sum(((t, h) if reverse else (h, t)) in pairs[s] for h, t in pairs[r])
        return len(pairs[r]) >= FEW and common >= SHARE * len(pairs[r])

    count["symmetric_relations"] = sum(holds(r, r, True) for r in pairs)
    for r, s in itertools.combinations(pairs, 2):
        count["inverse_relations"] += holds(r, s, True) or holds(s, r, True)
        count["alike_relations"] += holds(r, s, False) or holds(s, r, False)
    return +count


TRIPLES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=90)


@settings(max_examples=150, deadline=None)
@given(TRIPLES, TRIPLES, TRIPLES)
def test_counts_agree_with_loops(train: list[Triple], valid: list[Triple], test: list[Triple]) -> None:
    splits = {"train": train, "valid": valid, "test": test}
    found = found_in(graph(6, **splits))
    assert {kind: sum(of.count for of in findings) for kind, findings in found.items()} == count_slowly(splits)


def test_the_loops_find_relations() -> None:
    """The graphs above are random: here are relations of each kind, and what is told of them."""
    pairs = [(i, i + 1) for i in range(20)]
    rows = [(h, 0, t) for h, t in pairs] + [(t, 1, h) for h, t in pairs[:18]]
    rows += [(h, 2, t) for h, t in pairs[:16]] + [(t, 2, h) for h, t in pairs[:16]]
    splits = {"train": rows[::2], "valid": rows[1::4], "test": rows[3::4]}
    found = found_in(graph(21, 3, **splits))
    counts = {kind: sum(of.count for of in findings) for kind, findings in found.items()}
    assert counts == count_slowly(splits)
    assert counts["inverse_relations"] == 3
    assert found["symmetric_relations"][0].examples == ("2 (100%)",)
    assert {"0 in 1 (90%)", "1 in 0 (100%)"} & {*found["inverse_relations"][0].examples}
    assert "0 in 2 (80%)" in found["alike_relations"][0].examples


def test_few_pairs_tell_nothing_of_a_relation() -> None:
    rows = [(i, 0, i + 1) for i in range(FEW - 1)]
    assert "symmetric_relations" not in found_in(graph(20, 1, train=rows + [(t, r, h) for h, r, t in rows[: FEW // 2]]))
    both = [*rows, (FEW, 0, FEW + 1)]
    assert "symmetric_relations" in found_in(graph(20, 1, train=both + [(t, r, h) for h, r, t in both]))


def test_self_loops_are_no_pairs() -> None:
    """Six of ten pairs have a reverse; two loops, which are their own, do not count."""
    rows = [(h, 0, t) for i in (0, 2, 4) for h, t in ((i, i + 1), (i + 1, i))] + [(i, 0, i + 1) for i in (6, 8, 10, 12)]
    assert "symmetric_relations" not in found_in(graph(20, 1, train=rows + [(15, 0, 15), (16, 0, 16)] * 2))


def test_what_is_told() -> None:
    names = ("Ann", "ann", "Bob ", "Carl", "A nn", "Dora")
    dataset = bj.KGDataset(
        n_entity=6,
        n_relation_type=2,
        triples={
            "train": np.array([[0, 0, 1], [0, 0, 1], [3, 0, 3], [1, 0, 2]], np.int32),
            "test": np.array([[0, 0, 1], [1, 1, 0], [0, 1, 1], [5, 0, 4]], np.int32),
        },
        entity_dict=names,
        relation_dict=("knows", "likes"),
        entity_labels={"Ann": "A", "Carl": "A", "nobody": "A", "Dora": "D"},
    )
    told = {finding.kind: str(finding) for finding in bj.describe(dataset).findings}
    assert told == {
        "repeated": "1 of 4 triples of train repeat an earlier one of it, such as (Ann, knows, ann)",
        "leaked": "1 of 4 triples of test stand in train too, such as (Ann, knows, ann)",
        "joined_reversed": "1 of 4 triples of test have their two entities joined in train the other way round, such "
        "as (ann, likes, Ann)",
        "joined_same_way": "1 of 4 triples of test have their two entities joined in train the same way, by another "
        "relation, such as (Ann, likes, ann)",
        "unseen_entities": "2 entities of test are not in train, but in 1 of its 4 triples, such as A nn; Dora",
        "unseen_relations": "1 relations of test are not in train, but in 2 of its 4 triples, such as likes",
        "self_loops": "1 of 8 triples join an entity with itself: train 1, test 0, such as (Carl, knows, Carl)",
        "rare_relations": "1 of 2 relations have fewer than 10 triples in train, such as knows (4)",
        "near_names": "3 of 6 names of entities differ from another one only by case or white space, such as 'Ann' / "
        "'ann' / 'A nn'",
        "shared_labels": "2 of 6 entities share their label with another one, such as 'A' of 2",
    }


def test_documents_tell_what_each_finding_means() -> None:
    """Every kind that the source has."""
    source = Path(findings_module.__file__).read_text(encoding="utf-8")
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text.partition("## What is doubtful")[2], re.MULTILINE)
    kinds = set(re.findall(r'(?:_if_any|Finding)\("(\w+)"', source)) | {"joined_reversed", "joined_same_way"}
    kinds |= {f"{kind}_relations" for kind in ("symmetric", "inverse", "alike", "unseen")} | {"unseen_entities"}
    assert len(kinds) > 10
    assert set(re.findall("`([a-z_]+)`", "".join(rows))) == kinds


def test_long_names_are_cut_in_examples() -> None:
    dataset = bj.KGDataset(
        n_entity=1,
        n_relation_type=1,
        triples={"train": np.zeros((1, 3), np.int32)},
        entity_dict=["x" * 10_000],
        relation_dict=["r"],
    )
    assert all(len(str(finding)) < 300 for finding in bj.describe(dataset).findings)


def test_a_good_graph_has_no_finding() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, 500, 3000), rng.integers(0, 2, 3000), 500 + rng.integers(0, 500, 3000)], axis=1)
    rows = rows[np.unique(rows[:, 0] * 1000 + rows[:, 2], return_index=True)[1]]
    train, test = np.split(rng.permutation(rows), [2900])
    known = np.isin(test[:, 0], train[:, 0]) & np.isin(test[:, 2], train[:, 2])
    assert found_in(graph(1000, 2, train=train, test=test[known])) == {}


def test_relations_with_too_much_in_common_are_told_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(0, r, 1) for r in range(30)]
    monkeypatch.setattr(relations_module, "_MOST_COMPARED", 30 * 30 - 1)
    finding = next(of for of in bj.describe(graph(2, 30, train=rows)).findings if of.kind == "not_compared")
    assert "too many of them hold the same pairs" in finding.text
    monkeypatch.setattr(relations_module, "_MOST_COMPARED", 30 * 30)
    assert "not_compared" not in found_in(graph(2, 30, train=rows))


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
@pytest.mark.parametrize("reverse", [False, True])
def test_common_pairs_in_blocks(block: int, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations_module, "_BLOCK", block)
    triples = np.unique(np.random.default_rng(1).integers([7, 4, 7], size=(120, 3)), axis=0).astype(np.int32)
    triples = triples[triples[:, 0] != triples[:, 2]]
    expected: Counter[tuple[int, int]] = Counter()
    for (h, r, t), (a, s, b) in itertools.product(triples.tolist(), repeat=2):
        if (h, t) == ((b, a) if reverse else (a, b)) and (reverse or r != s):
            expected[r, s] += 1
    found = common_pairs(triples, reverse)
    assert found is not None
    assert {(r, s): n for r, s, n in zip(*(of.tolist() for of in found), strict=True)} == expected


@given(st.lists(st.integers(0, 20), max_size=40), st.lists(st.integers(0, 20), max_size=40))
@settings(deadline=None)
def test_keys(keys: list[int], others: list[int]) -> None:
    array: NDArray[np.uint64] = np.array(keys, np.uint64)
    assert repeated(array).tolist() == [keys.count(key) > 1 for key in keys]
    assert repeats(array).tolist() == [i for i, key in enumerate(keys) if key in keys[:i]]
    assert is_in(array, np.array(others, np.uint64)).tolist() == [key in others for key in keys]


def test_card_of_a_small_graph() -> None:
    """Entity 0 is the head of five triples and the tail of one; 9 others."""
    train = [(0, 0, i) for i in range(1, 6)] + [(6, 1, 0), (7, 1, 8)]
    card = bj.describe(graph(100, 3, train=train, valid=[(0, 0, 6)]))
    assert (card.n_entity, card.n_relation_type, dict(card.n_triple)) == (100, 3, {"train": 7, "valid": 1})
    out, into, both = (card.degrees[place] for place in ("out", "in", "all"))
    assert (out.max, out.entity, into.max) == (5, "0", 1)
    assert (both.max, both.median, both.percentile_99) == (6, 0.0, float(np.quantile([6, *[1] * 8, *[0] * 91], 0.99)))
    assert both.top_share == 6 / 14
    assert both.histogram == (91, 8, 0, 1)
    assert out.histogram == (97, 2, 0, 1)
    assert card.categories == {"1-1": 1, "1-N": 1, "unseen": 1}
    assert card.types == {}


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 8, 1023, 1024])
def test_histogram_has_powers_of_two(degree: int) -> None:
    histogram = bj.describe(graph(2, 1, train=[(0, 0, 1)] * degree)).degrees["out"].histogram
    assert [i for i, n in enumerate(histogram) if n] == [0, degree.bit_length()]


def test_card_with_types_labels_and_false_triples_as_json() -> None:
    dataset = bj.KGDataset(
        n_entity=4,
        n_relation_type=1,
        triples={"other": np.array([[0, 0, 1]], np.int32)},
        entity_dict=["a", "b", "c", "d"],
        relation_dict=["r"],
        entity_labels={"a": "A", "z": "Z"},
        relation_labels={"r": "R"},
        type_offsets={"x": 0, "y": 3},
        negatives={"other": np.array([[0, 0, 1], [0, 0, 2]], np.int32)},
    )
    card = bj.describe(dataset)
    assert card.types == {"x": 3, "y": 1}
    assert (card.n_entity_label, card.n_relation_label, card.n_negative) == (1, 1, {"other": 2})
    assert card.degrees["out"].entity == "A"
    assert card.findings == ()
    record = json.loads(json.dumps(card.record()))
    assert record["degrees"]["all"]["histogram"] == [2, 2]
    assert record["n_triple"] == {"other": 1}
