"""Shardings and partitioned triple sets against the reference, array by array."""

from __future__ import annotations

import numpy as np
import pytest
from shared.golden import close, golden, golden_cases, make_sharding
from shared.tolerance import EXACT

import bess_jax as bj

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", golden_cases("sharding", kind="create"))
def test_sharding(case: str) -> None:
    file = golden("sharding")
    sharding = make_sharding(file.cases[case])
    assert sharding.max_entity_per_shard == file.cases[case]["max_entity_per_shard"]
    names = file.below(case)
    assert len(names) >= 4
    for name in names:
        close(getattr(sharding, name), file[f"{case}/{name}"], EXACT)


@pytest.mark.parametrize("case", golden_cases("partition"))
def test_partition(case: str) -> None:
    file = golden("partition")
    cfg = file.cases[case]
    data = cfg["dataset"]
    sharding = make_sharding(cfg["sharding"])
    offsets = cfg["sharding"]["type_offsets"]
    by_number = None if offsets is None else {f"type{i}": offset for i, offset in enumerate(offsets)}
    names = cfg.get("type_offsets_by_name") or by_number
    given = file.below(data) & {"neg_heads", "neg_tails"}
    dataset = bj.KGDataset(
        n_entity=cfg["n_entity"],
        n_relation_type=cfg["n_relation_type"],
        triples={"train": file[f"{data}/triples"]},
        type_offsets=names,
        **{name: {"train": file[f"{data}/{name}"]} for name in given},
    )
    if cfg["kind"] == "from_dataset":
        ours = bj.PartitionedTripleSet.create_from_dataset(
            dataset, "train", sharding, cfg["partition_mode"], cfg["add_inverse_triples"]
        )
    else:
        ours = bj.PartitionedTripleSet.create_from_queries(
            dataset,
            sharding,
            file[f"{case}/in_queries"],
            cfg["query_mode"],
            ground_truth=file[f"{case}/in_ground_truth"] if cfg["has_ground_truth"] else None,
            negative=file[f"{case}/in_negative"] if cfg["has_negative"] else None,
            negative_type=cfg["negative_type"],
            as_reference=True,
        )
    assert ours.partition_mode == cfg["partition_mode"]
    assert (ours.dummy or "none") == (cfg["dummy"] or "none")
    # The reference's order within a partition depends on its machine: go back to the order of the input.
    back, theirs_back = np.argsort(ours.triple_sort_idx), np.argsort(file[f"{case}/triple_sort_idx"])
    for name in file.below(case) - {"in_queries", "in_ground_truth", "in_negative", "triple_sort_idx"}:
        actual, expected = getattr(ours, name), file[f"{case}/{name}"]
        if len(expected) == len(back) and name in ("triples", "types", "neg_heads", "neg_tails"):
            actual, expected = actual[back], expected[theirs_back]
        close(actual, expected, EXACT)
    partition = np.repeat(np.arange(ours.triple_counts.size), ours.triple_counts.ravel())
    theirs = np.repeat(np.arange(ours.triple_counts.size), file[f"{case}/triple_counts"].ravel())
    close(partition[back], theirs[theirs_back], EXACT)
