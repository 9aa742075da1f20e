"""Options of commands and settings of runs that tell how a graph is read."""

from __future__ import annotations


def parse_columns(text: str | None) -> tuple[str, str, str] | None:
    """Reads what the option `columns` may be: three columns, or None.

    Raises:
        ValueError: if it is something else.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 3 or "" in names:
        raise ValueError(f"columns must be three of a file, as in head,relation,tail or 0,1,2, got {text!r}")
    head, relation, tail = names
    return head, relation, tail


def parse_split(text: str) -> tuple[float, float, float]:
    """Reads what the option `split` may be: the parts of train, valid and test.

    Raises:
        ValueError: if it is something else.
    """
    try:
        train, valid, test = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"split must be three parts, as in 0.8,0.1,0.1, got {text!r}") from None
    if not (min(train, valid, test) >= 0 and abs(train + valid + test - 1) < 1e-6):
        raise ValueError(f"split must be three parts of at least 0 that add up to 1, got {text!r}")
    return train, valid, test
