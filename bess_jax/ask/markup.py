"""Results as notebooks show them: tables in HTML, whose texts are shown as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML, nothing in it being markup; the first cell of a row is its name.

    Args:
        caption: what it is about.
        head: names of the columns; none of them named: no line for them.
        rows: their cells.
    """
    lines = [f"<caption>{escape(caption)}</caption>"]
    if any(head):
        lines.append("<thead>" + _row("".join(f'<th scope="col">{escape(name)}</th>' for name in head)) + "</thead>")
    lines.append("<tbody>")
    for name, *cells in rows:
        lines.append(_row(f'<th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(c)}</td>" for c in cells)))
    return "\n".join(["<table>", *lines, "</tbody>", "</table>"])


def _row(cells: str) -> str:
    return f"<tr>{cells}</tr>"
