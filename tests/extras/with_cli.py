"""The commands, from a graph to answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tiny

Path("graph").mkdir()
dataset = tiny.dataset()
for split, triples in dataset.triples.items():
    lines = [f"e{h}\t{dataset.relation_dict[r]}\te{t}\n" for h, r, t in triples.tolist()]
    Path("graph", f"{split}.tsv").write_text("".join(lines))


def bess_jax(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "bess_jax", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


options = ["--n-shard", "1", "--batch-size", "16", "--n-negative", "4", "--embedding-size", "4", "--n-epoch", "2"]
bess_jax("train", "--dataset", "graph", *options, "--run", "run")
bess_jax("train", "--resume", "run", "--n-epoch", "3")
bess_jax("evaluate", "run", "--json")
bess_jax("train", "--recipe", "list")
bess_jax("config", "show", "--recipe", "small")
bess_jax("predict", "run", "--head", "e1", "--relation", "likes", "-k", "3")
bess_jax("similar", "run", "--entity", "e1", "-k", "3")
bess_jax("score", "run", "--head", "e1", "--relation", "likes", "--tail", "e2")
