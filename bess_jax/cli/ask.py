"""The commands that ask a trained model: evaluate, predict, similar, score."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from bess_jax._typing import Side
from bess_jax.ask.ranks import Metrics, Ranks, TieRule
from bess_jax.ask.similarity import Measure
from bess_jax.cli import show
from bess_jax.cli.output import print_json
from bess_jax.cli.progress import Verbosity, line, progress, reading
from bess_jax.predict.calibration import Calibration
from bess_jax.predict.names import make_query, name_ids, read_entities, triple_ids
from bess_jax.predict.predictor import Predictor
from bess_jax.predict.table import rows
from bess_jax.run.checkpoint import BEST
from bess_jax.run.hosts import Processes

N_SAMPLE, LEVEL, SEED = 1000, 0.95, 0
"""Of the intervals that `evaluate --confidence` gives."""

Run = tyro.conf.Positional[Path]
K = Annotated[int | None, tyro.conf.arg(aliases=["-k"])]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, and where it is asked."""

    run: Run
    """Run folder."""
    checkpoint: str = BEST
    """Checkpoint of the run: best, by validation, last, or a name."""
    dataset: str | None = None
    """Where the graph is, if its copy was removed from the run folder."""
    n_shard: int | None = None
    """Shards to cut the table into. Default: those of the run."""
    n_device: int | None = None
    """Devices to use, a divisor of n_shard. Default: as many as fit."""
    platform: Literal["cpu", "gpu", "tpu", "ipu"] | None = None
    """Kind of device. Default: that of the run, else JAX's choice."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = dataclasses.field(default_factory=Processes)
    verbosity: tyro.conf.OmitArgPrefixes[Verbosity] = dataclasses.field(default_factory=Verbosity)

    def load(self, console: Console) -> Predictor:
        """Reads it."""
        start = time.monotonic()
        with reading(self.verbosity.story(console)):
            predictor = Predictor.load(
                self.run, self.n_device, self.platform, self.n_shard, self.checkpoint, self.dataset
            )
        details, score_fn = self.verbosity.details(console), predictor.ranker.score_fn
        line(
            details,
            f"model: {type(score_fn).__name__}, {predictor.checkpoint}, read in {time.monotonic() - start:.1f} s",
        )
        line(details, f"devices: {show.devices(predictor.ranker.placement)}")
        return predictor


@dataclasses.dataclass(frozen=True)
class Evaluate(Trained):
    """Rank a split with a trained model: exact metrics over all entities, other known answers left out."""

    split: Literal["train", "valid", "test"] = "test"
    """Split to rank."""
    sides: tuple[Side, ...] = ("head", "tail")
    """What to rank: head, tail, relation."""
    ties: TieRule = "average"
    """Place of an answer among others with the same score: at the mean of their places, before or behind them."""
    tolerance: float = 0.0
    """Scores that differ by at most this much tie."""
    raw: bool = False
    """Leave no other known answers out."""
    by_type: bool = False
    """Rank among the entities of the answer's type, where the graph has types."""
    candidates: Path | None = None
    """Rank among the entities in this file, one a line."""
    listed: bool = False
    """Rank among the candidates that the graph lists for each triple, leaving nothing out (OGB's protocol)."""
    per: Literal["relation", "category"] | None = None
    """Also show each relation, or the categories 1-1, 1-N, N-1 and N-N."""
    macro: bool = False
    """Also show the mean over relations."""
    confidence: bool = False
    """Also show 95% intervals, by bootstrap over the triples."""
    classification: bool = False
    """Also tell the triples of the split from false ones, by thresholds found on the validation split: from those that
    the graph gives, else from corrupted ones."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def __call__(self, console: Console) -> int:
        """Evaluates."""
        predictor = self.load(console)
        predictor = dataclasses.replace(
            predictor, ranker=dataclasses.replace(predictor.ranker, tolerance=self.tolerance)
        )
        found = self._document(predictor, self._rank(console, predictor))
        if self.json:
            print_json(found)
        else:
            self._show(console, predictor, found)
        return 0

    def _rank(self, console: Console, predictor: Predictor) -> Ranks:
        n = len(predictor.dataset.triples[self.split])
        candidates = None if self.candidates is None else read_entities(predictor.dataset, self.candidates)
        story = self.verbosity.story(console)
        with progress(story, f"ranking {n:,} {self.split} triples", n * len(self.sides)) as advance:
            return predictor.ranks(
                self.split, self.sides, () if self.raw else None, candidates, self.by_type, advance, self.listed
            )

    @property
    def _is_filtered(self) -> bool:
        return not (self.raw or self.listed)

    @property
    def _among(self) -> str:
        """Who competes with the answer."""
        if self.listed:
            return "listed candidates"
        if self.candidates is not None:
            return "given candidates"
        return "its type" if self.by_type else "all"

    def _document(self, predictor: Predictor, ranks: Ranks) -> dict[str, Any]:
        dataset = predictor.dataset
        found: dict[str, Any] = {
            "run": str(self.run),
            "split": self.split,
            "n_triple": len(ranks.triples),
            "filtered": self._is_filtered,
            "among": self._among,
            "ties": self.ties,
            "tolerance": self.tolerance,
            "metrics": ranks.metrics(ties=self.ties),
        }
        if self.macro:
            found["macro"] = ranks.macro(ties=self.ties)
        if self.confidence:
            intervals = ranks.bootstrap(SEED, N_SAMPLE, LEVEL, ties=self.ties)
            found["confidence"] = {"level": LEVEL, "n_sample": N_SAMPLE, "seed": SEED, "intervals": intervals}
        if self.per == "category":
            found["by_category"] = ranks.by_category(dataset.triples["train"], ties=self.ties)
        if self.per == "relation":
            found["by_relation"] = [
                {"id": i, "relation": dataset.relation_label(i), "metrics": metrics}
                for i, metrics in ranks.by_relation(ties=self.ties).items()
            ]
        if self.classification:
            found["classification"] = predictor.classifier.accuracy(self.split)
        return found

    def _show(self, console: Console, predictor: Predictor, found: Mapping[str, Any]) -> None:
        title = f"{self.split}, {'filtered' if self._is_filtered else 'raw'}"
        title += "" if self._among == "all" else f", among {self._among}"
        show.metrics(console, title, found["metrics"], show.WITH_INDEX)
        if "confidence" in found:
            show.intervals(console, f"{title}, {LEVEL:.0%} intervals", found["confidence"]["intervals"])
        if "macro" in found:
            show.metrics(console, f"{title}, mean over relations", found["macro"], show.WITH_INDEX)
        groups: dict[str, Metrics] = found.get("by_category", {})
        groups |= {of_one["relation"]: of_one["metrics"] for of_one in found.get("by_relation", [])}
        if groups:
            show.grouped_metrics(console, f"{title}, by {self.per}", self.per or "", groups)
        if "classification" in found:
            show.accuracy(console, found["classification"], by_relation=self.per == "relation")


@dataclasses.dataclass(frozen=True)
class Predict(Trained):
    """Show the best answers to (head, relation, ?), (?, relation, tail) or (head, ?, tail) by a trained model."""

    head: str | None = None
    """Head entity: name, label or number."""
    relation: str | None = None
    """Relation: name, label or number."""
    tail: str | None = None
    """Tail entity. The one of the three that is missing is asked for."""
    k: K = None
    """How many answers. Default: 10, or as many as there are."""
    new_only: bool = False
    """Leave out the triples of the graph."""
    candidates: Path | None = None
    """Only the entities in this file may answer, one a line."""
    type: str | None = None
    """Only entities of this type may answer."""
    queries: Path | None = None
    """Many queries: lines of head, relation and tail, separated by tabs, with ? for what is asked. Needs --out."""
    out: Path | None = None
    """File for their answers: .jsonl, .parquet, .csv or .tsv."""
    probability: Calibration | None = None
    """Also give probabilities, calibrated on the validation split: by a logistic curve, or by any rising one."""
    json: bool = False
    """Print one JSON document instead of a table."""

    def __call__(self, console: Console) -> int:
        """Predicts."""
        names = (self.head, self.relation, self.tail)
        if (self.queries is None) != (self.out is None):
            raise ValueError("give --queries and --out together: a file of queries, and one for their answers")
        if self.queries is not None and names != (None, None, None):
            raise ValueError("give either --queries, or two of --head, --relation and --tail")
        if self.queries is None and names.count(None) != 1:
            raise ValueError("give two of --head, --relation and --tail; the one that is missing is asked for")
        predictor = self.load(console)
        candidates = None if self.candidates is None else read_entities(predictor.dataset, self.candidates)
        options = (self.k, self.new_only, candidates, self.type, self.probability)
        if self.queries is not None and self.out is not None:
            with progress(self.verbosity.story(console), f"answering {self.queries.name}") as advance:
                n = predictor.write_answers(self.queries, self.out, *options, progress=advance)
            if self.json:
                print_json({"run": str(self.run), "n_query": n, "out": str(self.out)})
            else:
                line(console, f"answers to {n:,} queries: {self.out}")
            return 0
        table = predictor.answer(make_query(predictor.dataset, *names), *options)
        if self.json:
            found = table.by_query()[0]
            print_json({"run": str(self.run), "k": len(found["answers"]), **found})
        else:
            show.answers(console, table)
        return 0


@dataclasses.dataclass(frozen=True)
class Similar(Trained):
    """Show the entities or relations whose embeddings are most like those of a given one."""

    entity: str | None = None
    """Entity: name, label or number."""
    relation: str | None = None
    """Or relation."""
    k: K = None
    """How many. Default: 10, or as many as there are."""
    measure: Measure = "cosine"
    """Cosine or dot product, or Euclidean (l2) or Manhattan (l1) distance."""
    json: bool = False
    """Print one JSON document instead of a table."""

    def __call__(self, console: Console) -> int:
        """Finds them."""
        if (self.entity is None) == (self.relation is None):
            raise ValueError("give one of --entity and --relation")
        columns = self.load(console).similar(self.entity, self.relation, self.k, self.measure).columns
        if self.json:
            of = {"entity": columns["of"][0]} if self.relation is None else {"relation": columns["of"][0]}
            shown = {name: values for name, values in columns.items() if name not in ("query", "of")}
            print_json({"run": str(self.run), **of, "measure": self.measure, "neighbours": rows(shown)})
        else:
            show.neighbours(console, columns, self.measure)
        return 0


@dataclasses.dataclass(frozen=True)
class Score(Trained):
    """Score triples with a trained model."""

    head: str | None = None
    """Head entity: name, label or number."""
    relation: str | None = None
    """Relation."""
    tail: str | None = None
    """Tail entity."""
    triples: Path | None = None
    """Or many: lines of head, relation and tail, separated by tabs."""
    probability: Calibration | None = None
    """Also give probabilities, calibrated on the validation split: by a logistic curve, or by any rising one."""
    classify: bool = False
    """Also tell whether they are true, by thresholds found on the validation split."""
    json: bool = False
    """Print one JSON document instead of a table."""

    def __call__(self, console: Console) -> int:
        """Scores."""
        names = (self.head, self.relation, self.tail)
        if (self.triples is None and None in names) or (self.triples is not None and names != (None, None, None)):
            raise ValueError("give either --head, --relation and --tail, or --triples")
        predictor = self.load(console)
        if self.triples is not None:
            ids = triple_ids(predictor.dataset, self.triples)
        else:
            kinds: tuple[Literal["entity", "relation"], ...] = ("entity", "relation", "entity")
            given = zip(kinds, names, strict=True)
            ids = np.stack([name_ids(predictor.dataset, kind, name or "") for kind, name in given], axis=1)
        story = self.verbosity.story(console)
        with contextlib.nullcontext() if self.triples is None else progress(story, f"scoring {len(ids):,} triples"):
            columns = predictor.score(ids, self.probability).columns
        if self.classify:
            classes = predictor.classify(ids).columns
            columns |= {"threshold": classes["threshold"], "true": classes["true"]}
        if self.json:
            print_json({"run": str(self.run), "triples": rows(columns)})
        else:
            show.scored(console, columns)
        return 0
