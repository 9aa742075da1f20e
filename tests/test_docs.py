"""What the documents say exists, and their examples are right."""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shared.blocks import ROOT, blocks
from shared.formulas import normal
from shared.tolerance import FLOAT32

import bess_jax as bj
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment

DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def text_of(document: Path) -> str:
    """A document; of tables whose first cells are names of the past, or of another package, the other cells."""
    text = document.read_text(encoding="utf-8")
    has_others = document.name in ("changelog.md", "migration.md")
    return re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE) if has_others else text


def missing(document: Path, text: str) -> list[str]:
    """Paths, links and names of the package in `text` that do not exist."""
    files = re.findall(r"(?<![\w/.-])((?:[\w.-]+/)+\w+\.pyi?|(?<=`)\w+\.pyi?(?=`))\b", text)
    wrong = [file for file in files if not ((ROOT / file).is_file() or (ROOT / "bess_jax" / file).is_file())]
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link and not (document.parent / link).exists():
            wrong.append(link)
    for name in re.findall(r"\bbess_jax\.[\w.]*\w|\bbj\.[\w.]*\w", text):
        if not exists(name.replace("bj.", "bess_jax.", 1)):
            wrong.append(name)
    for kind, member in re.findall(r"`([A-Z]\w+)\.(\w+)", text):
        if kind in dir(bj) and not has(getattr(bj, kind), member):
            wrong.append(f"{kind}.{member}")
    return wrong


def has(kind: type, member: str) -> bool:
    """Whether a class has a method or a field of that name."""
    return hasattr(kind, member) or any(member in vars(base).get("__annotations__", {}) for base in kind.__mro__)


def exists(name: str) -> bool:
    """Whether `bess_jax.a.b` is a module or a name."""
    found: Any = bj
    for i, part in enumerate(name.split(".")[1:], 2):
        try:
            found = getattr(found, part, None) or import_module(".".join(name.split(".")[:i]))
        except ImportError:
            return False
    return True


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_what_is_named_exists(document: Path) -> None:
    assert missing(document, text_of(document)) == []


def test_what_is_missing_is_found() -> None:
    text = "`step/best.py`, `step/bess.py`, [a](other.md), [b](design.md), `bess_jax.Complex`, bj.step.bess.Params"
    text += "\n`Ranker.topk(k)`, `Ranker.top_k(k)`, `Sharding.n_shard`"
    wrong = ["step/best.py", "other.md", "bess_jax.Complex", "Ranker.topk"]
    assert missing(ROOT / "docs" / "design.md", text) == wrong


def cells(document: str, section: str) -> list[list[str]]:
    """Rows of the first table of a section, without backticks."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8").split(f"\n## {section}\n")[1]
    table = re.findall(r"^\|.*\|$", text.split("\n## ")[0], flags=re.MULTILINE)
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in table[2:]]


def test_stops_of_head_exist() -> None:
    stops = cells("design.md", "Follow `head`")
    assert len(stops) > 15
    for _, file, function, *_ in stops:
        module = import_module("bess_jax." + file.removesuffix(".py").replace("/", "."))
        assert callable(attrgetter(function)(module)), (file, function)


def test_ids_of_head() -> None:
    """The numbers that `head` goes by on its way through the host."""
    run = Experiment.create(TrainConfig())
    dataset, sharding, sampler = run.dataset, run.sharding, run.sampler
    head, relation, tail = dataset.find_entity("dog.n.01"), "_hypernym", dataset.find_entity("canine.n.02")
    assert [head, dataset.find_relation(relation), tail] in dataset.triples["train"].tolist()
    assert dataset.entity_dict is not None
    assert (dataset.entity_dict[head], head) == ("02084071", 27)
    assert (sharding.entity_to_shard[head], sharding.entity_to_idx[head], sharding.entity_to_shard[tail]) == (3, 8, 0)
    batch, given = sampler.batch(0, 5), run.host_batch(0, 5)
    assert batch["head"][2, 3, 0, 2] == 8
    assert batch["tail"][2, 0, 3, 2] == sharding.entity_to_idx[tail]
    assert given["head"][3, 2, 0, 2] == 0
    assert given["entity_rows"][3, 2, 0] == 8


def test_example_of_a_model() -> None:
    """The score function in the document gives what the formula beside it gives."""
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    space: dict[str, Any] = {}
    for block in blocks("contributing.md", text):
        if block.language == "python":
            exec(block.text, space)
    sharding = bj.Sharding.create(10, 1, 0)
    make = partial(space["SimplE"], sharding=sharding, n_relation_type=3, embedding_size=4)
    model, own = make(negative_sample_sharing=True), make(negative_sample_sharing=False)
    params = {"params": {"relation_embedding": normal(0, 3, model.relation_width)}}
    head, tail, candidate = normal(1, 2, 8), normal(2, 2, 8), normal(3, 2, 5, 8)
    relation = np.array([2, 0])
    rows = params["params"]["relation_embedding"][relation]

    @jax.jit
    def scores() -> Any:
        triples = model.apply(params, head, relation, tail, method="score_triple")
        tails = [m.apply(params, head, relation, candidate, method="score_tails") for m in (model, own)]
        return triples, tails, model.apply(params, candidate, relation, tail, method="score_heads")

    triples, (shared_tails, own_tails), heads = scores()
    formula = partial(space["simple"], model)
    every = candidate.reshape(1, 10, 8)
    np.testing.assert_allclose(triples, formula(head, rows, tail), **FLOAT32)
    np.testing.assert_allclose(shared_tails, formula(head[:, None], rows[:, None], every), **FLOAT32)
    np.testing.assert_allclose(own_tails, formula(head[:, None], rows[:, None], candidate), **FLOAT32)
    np.testing.assert_allclose(heads, formula(every, rows[:, None], tail[:, None]), **FLOAT32)
