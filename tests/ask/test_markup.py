"""What notebooks show of results, which may be named like markup."""

from __future__ import annotations

import re
from html import unescape

import numpy as np

import bess_jax as bj
from bess_jax.ask import markup
from bess_jax.ask.ranks import SideRanks


def cells(text: str) -> list[str]:
    return [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text)]


def test_texts_are_shown_as_they_are() -> None:
    texts = ["<b>", "\"&'", "</td><script>"]
    text = markup.table("<i>", texts, [texts])
    assert cells(text) == texts * 2
    assert "<caption>&lt;i&gt;</caption>" in text
    assert set(re.findall(r"<(\w+)", text)) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "<thead>" not in markup.table("", ["", ""], [["a", "b"]])


def test_ranks() -> None:
    n = np.array([0, 3])
    side = SideRanks(n, np.zeros(2, np.int64), np.array([9, 9]), np.zeros(2, np.float32))
    text = bj.Ranks(np.zeros((2, 3), np.int32), {"head": side, "tail": side})._repr_html_()
    assert cells(text)[:4] == ["", "mrr", "hits@1", "hits@3"]
    assert [cells(text)[i : i + 4] for i in (8, 16, 24)] == [
        [name, "0.6250", "0.5000", "0.5000"] for name in ("head", "tail", "both")
    ]
    assert "Ranks of 2 triples" in text
