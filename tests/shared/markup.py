"""Names that are full of markup."""

from __future__ import annotations

MARKUP = (
    *("<script>alert(1)</script>", "</script><b>", "\"'><img src=x onerror=alert(1)>"),
    *("&lt; & <!--", "<a href='//e.x'>", "%{x} {{ 1 }} $x$"),
)
