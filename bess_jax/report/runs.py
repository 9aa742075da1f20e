"""The page of one or several runs, in the order of the questions that a reader has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bess_jax._optional import require
from bess_jax.ask.ranks import Metrics, Ranks
from bess_jax.data.files import replace_file
from bess_jax.report import figures, tables
from bess_jax.report.content import Asked, Content, command, names_of
from bess_jax.report.figures import Figure
from bess_jax.report.page import Number, Section, fill
from bess_jax.report.reliability import Reliability
from bess_jax.run.metric import Metric

T = TypeVar("T")


def check() -> None:
    """Checks that a page can be written.

    Raises:
        MissingExtraError: without jinja2 or plotly.
    """
    for module in ("jinja2", "plotly"):
        require(module, "report", "a report")


def write(runs: Sequence[Content], split: str, out: Path) -> None:
    """Writes the page, all of it or nothing.

    Raises:
        OSError: if it cannot be written.
        MissingExtraError: without jinja2 or plotly.
    """
    page = render(runs, split)
    with replace_file(out) as stream:
        stream.write(page.encode("utf-8", "backslashreplace"))  # paths may be no Unicode


def render(runs: Sequence[Content], split: str) -> str:
    """The page of one or several runs whose `split` was ranked.

    Raises:
        MissingExtraError: without jinja2 or plotly.
    """
    return fill(title(runs), about(runs, split), headline(runs), list(sections(runs, split)))


def title(runs: Sequence[Content]) -> str:
    """What the page is called."""
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    config = runs[0].config
    return f"{config.model.rpartition(':')[2]} on {Path(config.dataset).name}"


def about(runs: Sequence[Content], split: str) -> list[str]:
    """Sentences that say what the numbers mean, or why there are none."""
    found = []
    if len({tuple(run.graph.items()) for run in runs}) > 1:
        found.append("These runs are of different graphs, so their metrics do not compare.")
    why = [(name, run.ranks) for name, run in zip(names_of(runs), runs, strict=True) if isinstance(run.ranks, str)]
    found += [reason if len(runs) == 1 else f"{name}: {reason}" for name, reason in why]
    if any(run.metrics is not None for run in runs):
        found.append(
            f"Every triple of the {split} split was asked for its head and for its tail among all entities, other "
            "known answers left out. The rank is the place of the held-out answer: MRR is the mean of 1 / rank, "
            "Hits@k the share of ranks up to k; both are 1 at best."
        )
    return found


def headline(runs: Sequence[Content]) -> list[Number]:
    """The metrics of one run, with their intervals; none of several, which a table compares."""
    run, asked = runs[0], runs[0].asked
    if len(runs) > 1 or isinstance(asked, str) or run.metrics is None:
        return []
    values, intervals = run.metrics["both"], asked.intervals["both"]
    return [
        Number(label, f"{values[name]:.3f}", "95% interval {:.3f} to {:.3f}".format(*intervals[name]))
        for name, label in tables.METRICS.items()
        if name != "mean_rank"
    ]


def sections(runs: Sequence[Content], split: str) -> Iterator[Section]:
    """All of the page but its headline."""
    names = names_of(runs)
    yield _results(names, runs, split)
    yield _course(names, runs)
    times = tables.times(names, runs)
    nothing = f"{'This run has' if len(runs) == 1 else 'These runs have'} not recorded how long each part took."
    yield Section("Where the time went", [nothing] if times is None else [], [] if times is None else [times])
    ranked = [(name, run.ranks) for name, run in zip(names, runs, strict=True) if isinstance(run.ranks, Ranks)]
    if ranked:
        yield Section("Ranks", figures=[figures.rank_histogram(*_unzipped(ranked))])
        yield from _groups(names, runs)
        yield _reliability(names, runs)
    yield from _maps(names, runs)
    yield from _predictions(names, runs, split)
    yield _settings(names, runs)


def _results(names: Sequence[str], runs: Sequence[Content], split: str) -> Section:
    shown = [tables.facts(names, runs)]
    if len(runs) > 1:
        shown = [tables.metrics_of_runs(names, runs, split), *shown]
    elif runs[0].metrics is not None:
        shown = [tables.metrics(runs[0].metrics, split), *shown]
    return Section("Result", tables=shown)


def _course(names: Sequence[str], runs: Sequence[Content]) -> Section:
    """Loss, validation, learning rate and speed over the epochs, as far as they were recorded."""
    metrics = {run.config.metric for run in runs}
    metric = Metric.parse(metrics.pop() if len(metrics) == 1 else "mrr")

    def over_epochs(heading: str, name: str, format: str, from_zero: bool) -> Figure | None:
        return figures.curves(heading, names, [run.history.of_epochs(name) for run in runs], format, from_zero)

    valid = [run.history.of_split("valid", metric.side, metric.name) for run in runs]
    every = {
        "loss": over_epochs("Loss", "loss", ",.4f", from_zero=False),
        "validation": figures.curves(f"Validation {str(metric).replace('mrr', 'MRR')}", names, valid),
        "learning rate": over_epochs("Learning rate", "learning_rate", ",.4g", from_zero=True),
        "speed": over_epochs("Positives per second", "positives_per_second", ",.0f", from_zero=True),
    }
    missing = ", ".join(name for name, figure in every.items() if figure is None)
    shown = [figure for figure in every.values() if figure is not None]
    legend = figures.legend(names) if shown else []
    return Section("Training", [f"Not recorded: {missing}."] if missing else [], figures=shown, legend=legend)


def _groups(names: Sequence[str], runs: Sequence[Content]) -> Iterator[Section]:
    """Categories and relations: runs of one graph in one table."""
    of_graph: dict[Any, list[tuple[str, Content]]] = {}
    for name, run in zip(names, runs, strict=True):
        if isinstance(run.ranks, Ranks):
            of_graph.setdefault(tuple(run.graph.items()), []).append((name, run))
    for group in of_graph.values():
        its_names, its_runs = _unzipped(group)
        where = f" of {', '.join(its_names)}" if len(of_graph) > 1 else ""
        categories = [asked.categories for _, asked in _asked(its_names, its_runs)]
        told = "1-N: a head has many tails, a tail one head; counted in the train split."
        yield Section(f"Categories of relations{where}", [told], [tables.categories(its_names, categories)])
        yield _relations(f"Relations{where}", its_names, its_runs)


def _relations(heading: str, names: Sequence[str], runs: Sequence[Content]) -> Section:
    of_runs = [_of_relations(run) for run in runs]
    labels = {relation: runs[0].dataset.relation_label(relation) for relation in of_runs[0]}
    told = [tables.extremes(of_runs[0], labels)] if len(runs) == 1 else []
    if len(labels) > tables.N_RELATION:
        told.append(
            f"Of {len(labels):,} relations with triples in this split, the {tables.N_RELATION} with the most are shown."
        )
    return Section(heading, [s for s in told if s], [tables.relations(names, of_runs, labels)])


def _of_relations(run: Content) -> Mapping[int, Metrics]:
    return run.ranks.by_relation() if isinstance(run.ranks, Ranks) else {}


def _reliability(names: Sequence[str], runs: Sequence[Content]) -> Section:
    known, why = [], []
    for name, asked in _asked(names, runs):
        if isinstance(asked.reliability, Reliability):
            known.append((name, asked.reliability))
        elif asked.reliability:
            why.append(asked.reliability if len(runs) == 1 else f"{name}: {asked.reliability}")
    heading = "Probabilities"
    if not known:
        return Section(heading, why)
    of = known[0][1]
    false = "that the graph gives" if of.negatives == "given" else "with a head or tail drawn at random"
    told = (
        "Scores become probabilities by a logistic curve, fitted to the validation split and as many false triples. "
        f"Here they meet {of.n - of.n_false:,} true triples and {of.n_false:,} false ones, {false}: on the dotted "
        "line, as many are true as the probability says. "
    )
    errors = ", ".join(
        f"{found.error:.3f}" if len(known) == 1 else f"{name} {found.error:.3f}" for name, found in known
    )
    shown = [name for name, _ in known] if len(runs) > 1 else ["this model"]
    return Section(
        heading,
        [f"{told}Mean distance from it: {errors}.", *why],
        [],
        [figures.reliabilities(shown, [of for _, of in known])],
    )


def _maps(names: Sequence[str], runs: Sequence[Content]) -> Iterator[Section]:
    sentences, made = [], []
    for name, asked in _asked(names, runs):
        if isinstance(asked.map, str):
            sentences.append(asked.map if len(runs) == 1 else f"{name}: {asked.map}")
        else:
            made.append(figures.entity_map(asked.map, "Entities" if len(runs) == 1 else name))
            n, n_all = len(asked.map.label), asked.map.n_entity
            if n < n_all:
                sentences.append(f"{n:,} of {n_all:,} entities, drawn at random.")
    if made:
        first = "What lies close together looks alike to the model, as far as two directions of many tell."
        sentences = [f"{first} Point at it to read it.", *dict.fromkeys(sentences)]
    if made or sentences:
        yield Section("Map of the entities", sentences, figures=made)


def _predictions(names: Sequence[str], runs: Sequence[Content], split: str) -> Iterator[Section]:
    for name, asked in _asked(names, runs):
        if asked.predictions:
            told = (
                "One that is right, one that is near and one that is wrong, as far as there are such. Known: in "
                f"another split; held out: in {split}; new: nowhere in the graph. The rank leaves known answers out."
            )
            heading = "Predictions" if len(runs) == 1 else f"Predictions of {name}"
            yield Section(heading, [told], [tables.prediction(found) for found in asked.predictions])


def _settings(names: Sequence[str], runs: Sequence[Content]) -> Section:
    shown = [tables.settings_between(names, runs)] if len(runs) > 1 else [tables.settings(runs[0])]
    sentences = [] if shown[0].rows else ["All settings are the same." if len(runs) > 1 else "All are the defaults."]
    return Section(
        "Settings", sentences, [table for table in shown if table.rows], code=[command(r.config) for r in runs]
    )


def _asked(names: Sequence[str], runs: Sequence[Content]) -> list[tuple[str, Asked]]:
    """The runs whose models could be asked."""
    return [(name, run.asked) for name, run in zip(names, runs, strict=True) if isinstance(run.asked, Asked)]


def _unzipped(pairs: Sequence[tuple[str, T]]) -> tuple[list[str], list[T]]:
    return [name for name, _ in pairs], [value for _, value in pairs]
