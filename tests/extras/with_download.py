"""A file of a public graph, from a server on this machine."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from pathlib import Path

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.data.graphs.cache import Source, bring, cache_folder

try:
    assert cache_folder("fb15k-237").parts[-2:] == ("data", "fb15k-237")
except MissingExtraError as error:
    sys.exit(str(error))
Path("served").mkdir()
Path("served", "graph.tsv").write_text("a\tr\tb\n" * 3)
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="served")
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/graph.tsv"
    file = bring(Source(url, "graph.tsv"), Path("cache"))
    server.shutdown()
assert file.read_bytes() == Path("served", "graph.tsv").read_bytes()
assert bj.load_dataset("nations").n_entity == 14
