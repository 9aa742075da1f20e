"""The page docs/results.md and its figures, of what `reproduce.py` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"

_SOURCES = {
    "Chen et al. 2021": "https://github.com/facebookresearch/ssl-relation-prediction",
    "Zhang et al. 2020": "https://arxiv.org/abs/2011.05816",
    "LibKGE": "https://github.com/uma-pi1/kge",
    "Sun et al. 2019": "https://arxiv.org/abs/1902.10197",
    "Chao et al. 2021": "https://arxiv.org/abs/2011.03798",
    "Abboud et al. 2020": "https://github.com/ralphabb/BoxE",
    "CoDEx": "https://github.com/tsafavi/codex",
}

PUBLISHED: dict[str, dict[str, tuple[float, str]]] = {
    "fb15k-237": {
        "ComplEx": (0.388, "Chen et al. 2021"),
        "DistMult": (0.343, "LibKGE"),
        "RotatE": (0.338, "Sun et al. 2019"),
        "TransE": (0.313, "LibKGE"),
        "ConvE": (0.339, "LibKGE"),
        "PairRE": (0.351, "Chao et al. 2021"),
        "BoxE": (0.337, "Abboud et al. 2020"),
    },
    "wn18rr": {
        "ComplEx": (0.491, "Zhang et al. 2020"),
        "DistMult": (0.452, "LibKGE"),
        "RotatE": (0.478, "LibKGE"),
        "TransE": (0.228, "LibKGE"),
        "ConvE": (0.442, "LibKGE"),
        "BoxE": (0.451, "Abboud et al. 2020"),
    },
    "codex-s": {"ComplEx": (0.473, "Chen et al. 2021"), "TransE": (0.354, "CoDEx"), "ConvE": (0.444, "CoDEx")},
    "codex-m": {"ComplEx": (0.352, "Chen et al. 2021"), "TransE": (0.303, "CoDEx"), "ConvE": (0.318, "CoDEx")},
}
"""Graph -> model -> the best filtered MRR of the test split that was published of a table of embeddings, and who."""

_NEAR = 0.98
"""Part of a published figure that is near enough."""

_SHORT = ("MRR", "±", "Hits@1", "Hits@3", "Hits@10")

_HEAD = """# Results

What the [recipes](recipes.md) give. Written by benchmarks/reproduce.py, which runs the commands below and nothing else;
settings were found on the validation split, or taken over from another model or graph, as the second line of each
recipe says. Each run ranks its test split once. Some recipes were measured before with other settings: which to keep
was told by validation, or by the time where that made little difference.

MRR and Hits are those of the test split: filtered, of heads and tails, ties counted at the mean of their ranks. They
are means over the seeds; ± is half of the range. Minutes are those of the whole command: reading, compiling, training,
validations and test; of a run that was cut off and resumed, those of all its parts. *98% after* are the minutes,
without start and reading, until the validation MRR first was within 2% of its best. Positives are training triples,
with the inverse ones a recipe trains on, times epochs. The load is that of the machine when a run began, over the
minute before: a run that follows another one finds what that has left, 2 to 3 on two cores; where it was more,
something else was running, and minutes may be too many. Minutes compare on one machine only: *on* is its number below.
"""

Results = Mapping[str, Mapping[str, Any]]


def write(found: Results, docs: Path = DOCS) -> None:
    """Writes the page and a figure for each graph."""
    (docs / "results.md").write_text(page(found), encoding="utf-8")
    for graph in _graphs(found):
        _figure(graph, _of(found, graph), docs / "figures" / f"results-{graph}.svg")


def page(found: Results) -> str:
    """The page in Markdown."""
    places = list(dict.fromkeys(_place(row) for row in found.values()))
    lines = [_HEAD, *(f"{number}. {place}" for number, place in enumerate(places, 1))]
    for graph in _graphs(found):
        rows = _of(found, graph)
        lines += ["", f"## {graph}", ""]
        lines += _table(
            ["recipe", *_SHORT, "published", "parameters", "positives", "minutes", "98% after"],
            (_numbers(name, row) for name, row in rows.items()),
        )
        lines += ["", f"![MRR against minutes](figures/results-{graph}.svg)", ""]
        lines += _table(
            ["command", "seeds", "load", "on", "commit"],
            (
                [
                    f"`{row['command']}`",
                    _words(row["seeds"]),
                    _words(row["load"]),
                    str(places.index(_place(row)) + 1),
                    row["commit"],
                ]
                for row in rows.values()
            ),
        )
    lines += ["", "## The fastest way to a published figure", ""]
    lines += ["The recipe of the fewest minutes whose mean MRR is at least 98% of the figure.", ""]
    lines += _table(["graph", "model", "published", "recipe", "MRR", "minutes"], _routes(found))
    return "\n".join(lines) + "\n"


def _graphs(found: Results) -> list[str]:
    return sorted({row["graph"] for row in found.values()})


def _of(found: Results, graph: str) -> dict[str, Mapping[str, Any]]:
    """The rows of a graph, the best one first."""
    rows = {name: row for name, row in found.items() if row["graph"] == graph}
    return dict(sorted(rows.items(), key=lambda item: -fmean(item[1]["mrr"])))


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['machine']}; {row['versions']}"


def _numbers(name: str, row: Mapping[str, Any]) -> list[str]:
    """The cells of a recipe."""
    mrr, known = row["mrr"], PUBLISHED.get(row["graph"], {}).get(row["model"])
    resumed = "" if max(row["starts"]) == 1 else " (resumed)"
    return [
        name,
        f"{fmean(mrr):.4f}",
        f"{(max(mrr) - min(mrr)) / 2:.4f}" if len(mrr) > 1 else "",
        *(f"{fmean(row[key]):.3f}" for key in ("hits@1", "hits@3", "hits@10")),
        "" if known is None else f"{known[0]:.3f} ([{known[1]}]({_SOURCES[known[1]]}))",
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['positives'] / 1e6:.2f} M",
        f"{fmean(row['minutes']):.1f}{resumed}",
        f"{fmean(row['minutes_to_98']):.1f}",
    ]


def _routes(found: Results) -> Iterator[list[str]]:
    """For each published figure of a graph that was measured: the fastest recipe that comes near enough."""
    for graph in _graphs(found):
        for model, (figure, _) in PUBLISHED.get(graph, {}).items():
            rows = [(name, row) for name, row in _of(found, graph).items() if row["model"] == model]
            near = [
                (fmean(row["minutes"]), name, fmean(row["mrr"]))
                for name, row in rows
                if fmean(row["mrr"]) >= _NEAR * figure
            ]
            if near:
                minutes, name, mrr = min(near)
                yield [graph, model, f"{figure:.3f}", name, f"{mrr:.4f}", f"{minutes:.1f}"]
            elif rows:
                yield [
                    graph,
                    model,
                    f"{figure:.3f}",
                    "none yet",
                    f"{max(fmean(row['mrr']) for _, row in rows):.4f}",
                    "",
                ]


def _table(titles: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    left = {"recipe", "command", "seeds", "load", "commit", "graph", "model"}
    sides = ["---" if title in left else "---:" for title in titles]
    return [f"| {' | '.join(cells)} |" for cells in (titles, sides, *rows)]


def _words(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _figure(graph: str, rows: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """A point for each recipe, with the range of its seeds, and a line at the figure published of its model."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    minutes = {name: fmean(row["minutes"]) for name, row in rows.items()}
    for place, (name, row) in enumerate(rows.items()):
        mrr, colour = row["mrr"], f"C{place % 10}"
        ends = [[fmean(mrr) - min(mrr)], [max(mrr) - fmean(mrr)]]
        axes.errorbar([minutes[name]], [fmean(mrr)], yerr=ends, marker="o", color=colour, capsize=3)
        short = name.removeprefix(f"{graph}-").removesuffix(f":{graph}")
        axes.annotate(short, (minutes[name], fmean(mrr)), (7, -3), textcoords="offset points", fontsize="small")
        if known := PUBLISHED.get(graph, {}).get(row["model"]):
            width = (minutes[name] / 1.15, minutes[name] * 1.15)
            axes.plot(width, (known[0], known[0]), color=colour, linewidth=1, linestyle=":")
    axes.plot([], [], color="gray", linewidth=1, linestyle=":", label="published of the model")
    axes.set_xscale("log")
    axes.set_xmargin(0.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("minutes of the whole command")
    axes.set_ylabel("MRR, test, filtered")
    axes.set_title(graph, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    file.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "bess_jax"}):
        figure.savefig(file, metadata={"Date": None})
