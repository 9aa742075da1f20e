"""A trained model to ask: labels in, labels out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bess_jax._typing import Int32Array, Side
from bess_jax.ask import markup
from bess_jax.ask.known import COLUMNS, Answers, Candidates, KnownAnswers
from bess_jax.ask.ranker import Progress, Ranker
from bess_jax.ask.ranks import Ranks
from bess_jax.ask.similarity import Measure, Neighbours
from bess_jax.data.dataset import KGDataset
from bess_jax.data.names import near_spellings
from bess_jax.predict.calibration import Calibration
from bess_jax.predict.classifier import Classifier
from bess_jax.predict.embeddings import EmbeddingTable, entity_table, relation_table
from bess_jax.predict.load import load_model
from bess_jax.predict.names import (
    Name,
    Names,
    Query,
    Triples,
    candidate_lists,
    make_query,
    name_ids,
    read_queries,
    triple_ids,
)
from bess_jax.predict.table import AnswerTable, Columns, Table, answer_table, label_columns, neighbour_table, splits_of
from bess_jax.predict.writer import answer_writer, check_target
from bess_jax.run.checkpoint import BEST
from bess_jax.run.folder import RunFolder
from bess_jax.run.loop import Run
from bess_jax.step.bess import Params

_K = 10
"""Answers to a query, where nothing else is asked for."""

_HELD = 2**18
"""Answers that `Predictor.write_answers` holds at a time."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """Asks a trained model by names, labels or numbers, and answers by labels.

    `top_k`, `score`, `classify` and `similar` give tables: `columns`, `records()` and, with pandas, `frame()`.

    Entities and relations are given by name, by label or by number (as text, or as int), and triples of them as the
    name of a split, a `Path` of a file with three columns separated by tabs, ids (n, 3), or rows or a frame of names.

    Attributes:
        dataset: the graph.
        ranker: the engine, with the score function and its placement.
        params: parameters on the devices.
        folder: the run folder, where calibrations are kept, or None.
        checkpoint: label of the checkpoint that the parameters are of, or "".
    """

    dataset: KGDataset
    ranker: Ranker
    params: Params
    folder: Path | None = None
    checkpoint: str = ""

    def __repr__(self) -> str:
        folder = None if self.folder is None else str(self.folder)
        return f"Predictor({self.dataset!r}, {self.ranker!r}, folder={folder!r}, checkpoint={self.checkpoint!r})"

    def _repr_html_(self) -> str:
        of_all = {"graph": self.dataset, "model": self.ranker, "folder": self.folder, "checkpoint": self.checkpoint}
        return markup.table("Predictor", ("", ""), ([name, str(of)] for name, of in of_all.items() if of))

    @classmethod
    def load(
        cls,
        run: str | Path | RunFolder | Run,
        n_device: int | None = None,
        platform: str | None = None,
        n_shard: int | None = None,
        checkpoint: str = BEST,
        dataset: str | Path | None = None,
    ) -> Predictor:
        """Reads the model of a run folder.

        Args:
            run: the run folder, or a run that `fit` has returned.
            n_device: devices to use, a divisor of the number of shards; default: as many as fit.
            platform: "cpu", "gpu", "tpu" or "ipu"; default: that of the run's settings, else JAX's own.
            n_shard: S, shards to cut the table into; default: as many as in the run's settings.
            checkpoint: "best" by validation, "last", or the name of one.
            dataset: the graph, as `load_dataset` takes it; default: the copy in the run folder.

        Raises:
            DataError: if there is no such run or checkpoint, something in it is damaged, or the graph is another one.
            ValueError: if devices are missing.
        """
        folder = run.folder if isinstance(run, Run) else run
        path = folder.path if isinstance(folder, RunFolder) else Path(folder)
        return cls(**vars(load_model(path, n_device, platform, n_shard, checkpoint, dataset)))

    def ranks(
        self,
        triples: Triples = "test",
        sides: Sequence[Side] = ("head", "tail"),
        filter: Iterable[str] | None = None,
        candidates: Iterable[Name] | None = None,
        by_type: bool = False,
        progress: Progress = lambda n_done: None,
        listed: bool = False,
    ) -> Ranks:
        """Exact ranks of the answers that triples hold.

        Args:
            triples: see the class.
            sides: what to rank, of "head", "relation" and "tail".
            filter: splits whose triples are left out of each other's ranks; default: all; (): none, raw ranks.
            candidates: entities that compete with the answer; default: all.
            by_type: only the entities of the answer's type compete.
            progress: called with the number of queries done.
            listed: only `neg_heads` and `neg_tails` of each triple compete, and nothing is left out: OGB's protocol.

        Raises:
            ValueError: on an unknown name, split or side, an empty list of candidates, or two of `candidates`,
                `by_type` and `listed`; if `listed`, with `filter`, or if the graph lists none for a side.
            NonFiniteScoreError: if the score of a triple is NaN or infinite.
        """
        if (candidates is not None) + by_type + listed > 1:
            raise ValueError("give one of candidates, by_type and listed, got several")
        ids, n_entity = triple_ids(self.dataset, triples), self.dataset.n_entity
        if listed:
            lists = candidate_lists(self.dataset, triples, sides, filter)
            return self.ranker.ranks_among(self.params, ids, lists, progress)
        left_out = [triple_ids(self.dataset, split) for split in (self.dataset.triples if filter is None else filter)]
        known = KnownAnswers(np.concatenate(left_out), self.dataset.n_relation_type) if left_out else None
        given = None if candidates is None else self.dataset.find_entities(candidates)
        among: dict[Side, Candidates] = {}
        for side in (side for side in sides if side != "relation"):
            if given is not None:
                among[side] = Candidates.listed(given, n_entity, len(ids))
            elif by_type:
                offsets, answer = self._type_offsets, ids[:, COLUMNS[side]]
                among[side] = Candidates.of_types(offsets, n_entity, np.searchsorted(offsets, answer, side="right") - 1)
        return self.ranker.ranks(self.params, ids, known, progress, sides, among)

    def top_k(
        self,
        head: Names | None = None,
        relation: Names | None = None,
        tail: Names | None = None,
        k: int | None = None,
        new_only: bool = False,
        candidates: Iterable[Name] | None = None,
        type: str | None = None,
        probability: Calibration | None = None,
    ) -> AnswerTable:
        """The best answers to (head, relation, ?), (?, relation, tail) or (head, ?, tail).

        Lists ask several queries; what is given once stands for all of them. A query for which fewer than `k` answers
        are left has fewer rows, none if none is left.

        Args:
            head: one or several.
            relation: one or several.
            tail: one or several. Exactly one of the three is missing: the requested one.
            k: how many answers to each query; default: 10, or as many as there are.
            new_only: leave out the triples of all splits.
            candidates: entities that may answer; default: all.
            type: the entity type that may answer; default: all.
            probability: add calibrated probabilities of the triples, see `Classifier`.

        Raises:
            ValueError: unless exactly one of the three is missing; on an unknown name or type; if `k` is not between 1
                and the number of entities or relations; on an empty list of candidates, with both `candidates` and
                `type`, or with one of them where relations are requested.
            NonFiniteScoreError: if scores are NaN or infinite.
            MissingExtraError: without scikit-learn, where a calibration has to be fitted.
        """
        query = make_query(self.dataset, head, relation, tail)
        return self.answer(query, k, new_only, candidates, type, probability)

    def answer(
        self,
        query: Query,
        k: int | None = None,
        new_only: bool = False,
        candidates: Iterable[Name] | None = None,
        type: str | None = None,
        probability: Calibration | None = None,
        progress: Progress = lambda n_done: None,
    ) -> AnswerTable:
        """The best answers to queries of any sides, as `names.make_query` and `names.read_queries` give them.

        Args:
            query: the queries.
            k: as in `top_k`, as are those that follow.
            new_only: see there.
            candidates: see there.
            type: see there.
            probability: see there.
            progress: called with the number of queries done since the last time.

        Raises:
            ValueError: as `top_k`.
            NonFiniteScoreError: as `top_k`.
            MissingExtraError: as `top_k`.
        """
        k_of = self._k_of(query, k)
        listed = None if candidates is None else self.dataset.find_entities(candidates)
        size = len(query.triples), max(k_of.values(), default=0)
        found = Answers(np.full(size, -1, np.int32), np.full(size, -np.inf, np.float32))
        for side in query.sides:
            rows = np.flatnonzero(query.asked == COLUMNS[side])
            known, among = self._known if new_only else None, self._among(side, len(rows), listed, type)
            part = self.ranker.top_k(self.params, side, query.triples[rows], k_of[side], known, among, progress)
            found.id[rows, : k_of[side]], found.score[rows, : k_of[side]] = part
        calibrated = None if probability is None else partial(self.classifier.probabilities, kind=probability)
        return answer_table(self.dataset, query, found, calibrated)

    def write_answers(
        self,
        queries: str | Path | Iterable[Iterable[Name | None]],
        out: str | Path,
        k: int | None = None,
        new_only: bool = False,
        candidates: Iterable[Name] | None = None,
        type: str | None = None,
        probability: Calibration | None = None,
        progress: Callable[[int, int], None] = lambda n_done, n_all: None,
    ) -> int:
        """Writes the answers to many queries to a file, see `writer.answer_writer`, and returns how many there were.

        Holds the ids of all queries, and the answers to a part of them at a time.

        Args:
            queries: rows (head, relation, tail) with None or "?" for what is asked, or a file of them, tab-separated.
            out: the file, `.jsonl`, `.parquet`, `.csv` or `.tsv`; replaced when all answers are there.
            k: as in `top_k`, as are those that follow.
            new_only: see there.
            candidates: see there.
            type: see there.
            probability: see there.
            progress: called with the number of queries done since the last time, and of all.

        Raises:
            ValueError: on a malformed query, named by file and line, or a target that is no such file; and as `top_k`.
            OSError: if the target cannot be written.
            NonFiniteScoreError: as `top_k`.
            MissingExtraError: for parquet without pyarrow; and as `top_k`.
        """
        out = Path(out)
        check_target(out)
        every = read_queries(self.dataset, queries)
        most = max(self._k_of(every, k).values(), default=1)
        n, size = len(every.triples), self.ranker.whole_chunks(_HELD // most)
        listed = None if candidates is None else self.dataset.find_entities(candidates)
        writer: Any = contextlib.nullcontext(lambda table, first: None)  # in processes that leave it to the first one
        if self.ranker.placement.is_first:
            writer = answer_writer(out, probability is not None)
        with writer as write:
            for first in range(0, n, size):
                query = every.rows(slice(first, first + size))
                table = self.answer(query, k, new_only, listed, type, probability, lambda n_done: progress(n_done, n))
                write(table, first)
        return n

    def score(self, triples: Triples, probability: Calibration | None = None) -> Table:
        """Scores of triples.

        Args:
            triples: see the class.
            probability: add calibrated probabilities, see `Classifier`.

        Returns:
            Columns head, relation and tail as labels, score, probability if it was requested, and the splits that hold
            the triple, joined by commas; a row for each triple.

        Raises:
            ValueError: on an unknown name or kind of calibration.
            NonFiniteScoreError: if a score is NaN or infinite.
            MissingExtraError: without scikit-learn, where a calibration has to be fitted.
        """
        ids = triple_ids(self.dataset, triples)
        score = self.classifier.scores(ids)
        columns: Columns = {**label_columns(self.dataset, ids), "score": score}
        if probability is not None:
            columns["probability"] = self.classifier.calibration(probability)(score)
        return Table({**columns, "splits": splits_of(self.dataset, ids)})

    def classify(self, triples: Triples) -> Table:
        """Which triples the model takes for true, see `Classifier.classify`; `classifier.accuracy` tells how often.

        Args:
            triples: see the class.

        Raises:
            ValueError: on an unknown name.
            NonFiniteScoreError: if a score is NaN or infinite.
        """
        return self.classifier.classify(triple_ids(self.dataset, triples))

    @cached_property
    def classifier(self) -> Classifier:
        """Calibrated probabilities and triple classification."""
        return Classifier(
            dataset=self.dataset, ranker=self.ranker, params=self.params, folder=self.folder, checkpoint=self.checkpoint
        )

    def similar(
        self,
        entity: Names | None = None,
        relation: Names | None = None,
        k: int | None = None,
        measure: Measure = "cosine",
    ) -> Table:
        """The entities or relations with the most similar rows of embeddings, nearest first, see `Similarity`.

        Args:
            entity: one or several.
            relation: one or several. Exactly one of the two is given.
            k: how many neighbours of each; default: 10, or as many as there are.
            measure: "cosine" or "dot", which fall, or "l2" or "l1", distances, which rise.

        Returns:
            Columns query, place, of (whose neighbour), label, id, name, and the measure by its name.

        Raises:
            ValueError: unless exactly one is given; on an unknown name or measure; if `k` is not between 1 and the
                number of others.
            NonFiniteScoreError: if rows are not finite.
        """
        what: Literal["entity", "relation"] = "entity" if relation is None else "relation"
        names = entity if relation is None else relation
        if names is None or not (entity is None or relation is None):
            raise ValueError(f"give one of entity and relation, got {'none' if names is None else 'both'}")
        ids = name_ids(self.dataset, what, names)
        if (what, measure) not in self._neighbours:
            make = Neighbours.of_entities if what == "entity" else Neighbours.of_relations
            self._neighbours[what, measure] = make(self.ranker, self.params, measure)
        of = self._neighbours[what, measure]
        found = of.nearest(ids, min(_K, of.n - 1) if k is None else k)
        return neighbour_table(self.dataset, what, ids, found, measure)

    def entity_table(self) -> EmbeddingTable:
        """The embeddings of all entities, in the order of their ids, with names; see `EmbeddingTable`.

        With devices of several processes all must call it, and each has the whole table.
        """
        return entity_table(self.dataset, self.ranker, self.params)

    def relation_table(self) -> EmbeddingTable:
        """The embeddings of all relations, and of inverse ones after them, NAME_inverse."""
        return relation_table(self.dataset, self.ranker, self.params)

    @cached_property
    def _neighbours(self) -> dict[tuple[str, str], Neighbours]:
        return {}

    def _among(self, side: Side, n_query: int, listed: Int32Array | None, type: str | None) -> Candidates | None:
        """Who may answer."""
        if listed is None and type is None:
            return None
        if listed is not None and type is not None:
            raise ValueError("give one of candidates and type, got both")
        if side == "relation":
            raise ValueError("candidates and type are entities: leave them out where relations are requested")
        if listed is not None:
            return Candidates.listed(listed, self.dataset.n_entity, n_query)
        offsets, names = self._type_offsets, list(self.dataset.type_offsets or ())
        if type not in names:
            near = near_spellings(str(type), names)
            hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
            raise ValueError(f"no entity type is named {type!r}{hint}")
        return Candidates.of_types(offsets, self.dataset.n_entity, np.full(n_query, names.index(type)))

    def _k_of(self, query: Query, k: int | None) -> dict[Side, int]:
        """How many answers to give for each side."""
        k_of = {side: min(_K, self.ranker.n_answer(side)) if k is None else k for side in query.sides}
        for side, number in k_of.items():
            self.ranker.check_k(side, number)
        return k_of

    @property
    def _type_offsets(self) -> NDArray[np.int64]:
        if self.dataset.type_offsets is None:
            raise ValueError("the graph has no entity types: KGDataset.type_offsets is None")
        return np.fromiter(self.dataset.type_offsets.values(), dtype=np.int64)

    @cached_property
    def _known(self) -> KnownAnswers:
        return KnownAnswers(self.dataset.all_triples(), self.dataset.n_relation_type)
