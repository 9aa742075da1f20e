"""The page: what stands on it, and that it asks for nothing and takes no name for markup."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

import bess_jax as bj
from bess_jax.ask.ranks import Ranks
from bess_jax.report import page, tables
from bess_jax.report.content import Asked, Content, ask
from bess_jax.report.embedding_map import N_GROUP, OTHER
from bess_jax.report.history import History
from bess_jax.report.runs import render

VOID = {"meta", "br", "hr", "img", "input", "link"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "script", "body", "main", "section", "footer", "noscript"),
    *("h1", "h2", "h3", "p", "dl", "dt", "dd", "strong", "small", "div", "span", "ul", "li", "figure", "pre", "code"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}
"""Elements of the template, and what plotly adds to them."""


class Read(HTMLParser):
    """Elements, texts and scripts of a page, whose elements are all closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)


def shown(*runs: Content) -> Read:
    """The page of some runs, without the 4.8 MB that draw its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "plotly_script", lambda: "")
        return Read(render(runs, "test"))


def test_a_page_tells_all_of_a_run(content: Content) -> None:
    read = shown(content)
    assert [read.count[tag] for tag in ("h1", "figure", "script")] == [1, 7, 1 + 7]
    assert read.count["table"] == read.count["caption"] == 2 + 1 + 2 + len(content.asked.predictions) + 1
    named = [value for tag, name, value in read.attributes if (tag, name) == ("div", "aria-label") and value]
    assert len(named) == read.count["table"] + read.count["figure"]
    metrics = content.metrics["both"]
    for text in (
        f"MRR {metrics['mrr']:.3f} 95% interval",
        "2 of 2",
        "training 2.0 s",
        "compiling 8.0 s",
        "python -m bess_jax train --dataset '<b>graph' --embedding-size 4 --n-epoch 2",
    ):
        assert text in read.text, text


def test_names_are_texts(content: Content) -> None:
    """Those of entities, relations, graph and folder, in tables, sentences, figures and what screens read aloud."""
    read = shown(content, dataclasses.replace(content, path=content.path / "<i>other</i>"))
    assert set(read.count) <= ALLOWED
    handlers = [name for _, name, _ in read.attributes if name.startswith("on")]
    assert handlers == []
    names = content.dataset.relation_dict
    assert names is not None
    assert all(name in read.text for name in names)
    figures = [script for script in read.scripts if "Plotly.newPlot" in script]
    assert len(figures) == 8
    assert not any("<" in script for script in figures)


def test_labels_in_figures_are_escaped_for_plotly(content: Content) -> None:
    (script,) = [script for script in shown(content).scripts if "second direction" in script]
    found = set(re.findall(r'"hovertext":(\[.*?\])', script))
    labels = [label for part in found for label in json.loads(part)]
    assert len(labels) == content.dataset.n_entity
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 0" in labels
    assert not any("<" in label for label in labels)


def test_it_asks_for_nothing(content: Content) -> None:
    read = shown(content)
    assert [name for _, name, _ in read.attributes if name in ("src", "href", "srcset", "data", "action")] == []
    policies = [value for tag, name, value in read.attributes if (tag, name) == ("meta", "content")]
    assert any(policy.startswith("default-src 'none';") for policy in policies if policy)
    assert re.findall(r"@import|url\(|@font-face", "".join(read.styles)) == []


def test_the_script_of_plotly_is_in_it(content: Content) -> None:
    read = Read(render([content], "test"))
    assert "plotly.js v" in read.scripts[0][:500]
    assert sum(map(len, read.scripts)) > 3e6


def test_runs_side_by_side(content: Content, asked: Asked) -> None:
    config = dataclasses.replace(content.config, learning_rate=0.5, model="TransE")
    other = dataclasses.replace(content, path=content.path.with_name("other"), config=config)
    read = shown(content, other)
    assert "2 runs side by side" in read.text
    assert "of different graphs" not in read.text
    assert "learning_rate 0.2 0.5" in read.text
    assert "n_epoch 2" not in read.text.partition("Settings in which the runs differ")[2].partition("python")[0]
    assert read.count["figure"] == 4 + 1 + 1 + 2
    triples = content.dataset.triples
    smaller = {**triples, "train": triples["train"][1:]}
    elsewhere = dataclasses.replace(other, dataset=dataclasses.replace(content.dataset, triples=smaller))
    read = shown(content, elsewhere)
    assert "These runs are of different graphs" in read.text
    assert "Relations of other" in read.text


def test_what_is_missing_is_told(content: Content, predictor: bj.Predictor) -> None:
    bare = dataclasses.replace(content, history=History.of([]), asked="This run has no checkpoint.")
    read = shown(bare)
    assert read.count["figure"] == 0
    for text in (
        "This run has no checkpoint.",
        "Not recorded: loss, validation, learning rate, speed.",
        "This run has not recorded how long each part took.",
        "0 of 2",
    ):
        assert text in read.text, text
    assert "nan" not in read.text.lower().split()
    read = shown(content, bare)
    assert read.count["figure"] == 4 + 1 + 1 + 1
    unvalidated = dataclasses.replace(content, history=History.of(r for r in content.history.epochs))
    assert "Not recorded: validation." in shown(unvalidated).text


def test_a_graph_without_the_split_names_or_a_validation_split(content: Content, predictor: bj.Predictor) -> None:
    dataset = predictor.dataset
    names = {"entity_dict": None, "relation_dict": None, "entity_labels": {}}
    triples = {split: dataset.triples[split] for split in ("train", "test")}
    unnamed = dataclasses.replace(dataset, triples=triples, **names)
    asked = ask(dataclasses.replace(predictor, dataset=unnamed), "test")
    read = shown(dataclasses.replace(content, dataset=unnamed, asked=asked))
    assert "fitted to the validation split, and this graph has none" in read.text
    assert read.count["figure"] == 6
    untested = dataclasses.replace(dataset, triples={"train": dataset.triples["train"]})
    asked = ask(dataclasses.replace(predictor, dataset=untested), "test")
    read = shown(dataclasses.replace(content, dataset=untested, asked=asked))
    assert "This graph has no split 'test' to rank; it has train." in read.text
    assert read.count["figure"] == 4 + 1  # curves, and the map


def test_many_relations_and_groups(content: Content, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "N_RELATION", 2)
    read = shown(content)
    assert "Of 4 relations with triples in this split, the 2 with the most are shown." in read.text
    table = read.text.partition("Relations: metrics")[2].partition("Probabilities")[0]
    assert len(re.findall(r" r\d \d+ ", table)) == 2
    assert isinstance(asked.ranks, Ranks)
    n = [metrics["both"]["n"] for metrics in asked.ranks.by_relation().values()]
    counts = [int(count.replace(",", "")) for count in re.findall(r" r\d ([\d,]+) ", table)]
    assert counts == sorted(n, reverse=True)[:2]


def test_predictions_have_the_answer_and_what_the_graph_says(asked: Asked, predictor: bj.Predictor) -> None:
    dataset = predictor.dataset
    held = {split: set(map(tuple, triples.tolist())) for split, triples in dataset.triples.items()}
    assert [found.example.kind for found in asked.predictions] == ["right", "near", "wrong"]
    for found in asked.predictions:
        assert [answer.is_asked for answer in found.answers].count(True) == 1
        head, relation, tail = found.example.triple
        for answer in found.answers:
            triple = head, relation, dataset.find_entity(answer.label)
            splits = [split for split in held if triple in held[split]]
            assert answer.mark == ("new" if not splits else "held out" if splits == ["test"] else "known")
            assert answer.is_asked == (triple[2] == tail)


def test_groups_of_the_map(asked: Asked, predictor: bj.Predictor) -> None:
    found, dataset = asked.map, predictor.dataset
    assert not isinstance(found, str)
    assert found.grouped_by == "most frequent relation"
    train = dataset.triples["train"]
    for entity, group in enumerate(found.group):
        stands = np.bincount(train[train[:, 0] == entity, 1], minlength=4)
        stands += np.bincount(train[train[:, 2] == entity, 1], minlength=4)
        assert group == (dataset.relation_label(int(stands.argmax())) if stands.any() else OTHER)
    assert set(found.groups) == set(found.group)
    assert len(found.groups) <= N_GROUP + 1
