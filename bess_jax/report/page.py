"""A page with tables and figures: one HTML file that asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from importlib.resources import files
from typing import NamedTuple

from bess_jax._optional import require
from bess_jax.predict.table import on_one_line
from bess_jax.report.figures import Figure, plotly_script
from bess_jax.report.tables import Table


class Section(NamedTuple):
    """A part of a page: sentences, then tables, figures and lines for a shell."""

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    code: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = ()  # names and colours that the figures share


class Number(NamedTuple):
    """A number of the headline."""

    name: str
    value: str
    note: str


def fill(title: str, about: Sequence[str], numbers: Sequence[Number], sections: Sequence[Section]) -> str:
    """A page: a headline with numbers, what they mean, and sections. Texts are shown as they are, on one line each.

    Raises:
        MissingExtraError: without jinja2 or plotly.
    """
    jinja2 = require("jinja2", "report", "a report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["line"] = on_one_line
    template = environment.from_string(files("bess_jax.report").joinpath("page.html").read_text(encoding="utf-8"))
    page: str = template.render(
        title=title,
        about=about,
        numbers=numbers,
        sections=sections,
        script=plotly_script(),
        version=metadata.version("bess_jax"),
    )
    return page
