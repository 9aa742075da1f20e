"""Seconds and memory that reading triples with names takes, for each format, and for PyKEEN's `TriplesFactory`.

    python benchmarks/read_triples.py [--n-triple 2000000] [--formats tsv csv parquet] [--pykeen PYTHON]

Makes files of random triples, some entities being far more frequent than others, and reads each in a process of its
own: by `read_triples`, which gives ids by first appearance, and, in the interpreter given by `--pykeen`, by
`TriplesFactory.from_path`. Imports are not timed. Prints one JSON line for each case, with the seconds of each round,
those of its threads together, and the highest resident memory.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

OURS = """
from pathlib import Path
from bess_jax.data.formats.sources import read_triples
from bess_jax.data.formats.vocabulary import Vocabulary
if FILE.endswith("parquet"):
    import pyarrow.parquet
if ".nt" in FILE or ".ttl" in FILE:
    import pyoxigraph
def read():
    vocabulary = Vocabulary()
    return len(read_triples(Path(FILE), vocabulary)), len(vocabulary.entities)
"""
PYKEEN = """
from pykeen.triples import TriplesFactory
def read():
    factory = TriplesFactory.from_path(FILE)
    return factory.num_triples, factory.num_entities
"""
TIMED = """
import json, resource, time
start, cpu_start = time.perf_counter(), time.process_time()
n_triple, n_entity = read()
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"n_triple": n_triple, "n_entity": n_entity, "seconds": seconds, "cpu": cpu, "peak_gb": peak / 1e9}))
"""
PACK: dict[str, Callable[..., object]] = {".gz": gzip.open, ".bz2": bz2.open}


def lines(n_triple: int, form: str) -> Iterator[str]:
    """The text of the triples, in parts."""
    rng = np.random.default_rng(0)
    n_entity = max(n_triple * 5 // 32, 10)
    row = "<http://example.org/e{}> <http://example.org/r{}> <http://example.org/e{}> .\n"
    row = {"tsv": "e{:07}\tr{}\te{:07}\n", "csv": '"e{:07}",r{},e{:07}\n'}.get(form.split(".")[0], row)
    for start in range(0, n_triple, 100_000):
        n = min(100_000, n_triple - start)
        h, t = ((n_entity * rng.random(n) ** 2).astype(int).tolist() for _ in "ht")
        yield "".join(map(row.format, h, rng.integers(0, 500, n).tolist(), t))


def make(file: Path, n_triple: int) -> None:
    """Writes the triples in the format that the ending tells."""
    if file.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema([(name, pa.string()) for name in ("head", "relation", "tail")])
        with parquet.ParquetWriter(file, schema) as writer:
            for text in lines(n_triple, "tsv"):
                values = text.replace("\n", "\t").split("\t")[:-1]
                writer.write_table(pa.table([values[i::3] for i in range(3)], schema=schema))
        return
    with PACK.get(file.suffix, open)(file, "wt", encoding="utf-8") as stream:
        for text in lines(n_triple, file.name.partition(".")[2]):
            stream.write(text)


def timed(python: str, code: str, file: Path) -> dict[str, float]:
    """What `TIMED` prints."""
    whole = f"FILE = {str(file)!r}\n{code}\n{TIMED}"
    done = subprocess.run([python, "-c", whole], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-triple", type=int, default=2_000_000)
    parser.add_argument("--formats", nargs="+", default=["tsv", "tsv.gz", "csv", "parquet", "nt"])
    parser.add_argument(
        "--pykeen", metavar="PYTHON", help="interpreter of an environment with PyKEEN; it reads the tsv"
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder) / f"triples.{form}" for form in args.formats}
        for file in files.values():
            make(file, args.n_triple)
        cases = [("bess_jax", form, sys.executable, OURS) for form in files]
        if args.pykeen:
            cases.append(("pykeen", "tsv", args.pykeen, PYKEEN))
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for who, form, python, code in cases:
                found.setdefault((who, form), []).append(timed(python, code, files[form]))
    for (who, form), rounds in found.items():
        print(
            json.dumps(
                {
                    "library": who,
                    "format": form,
                    "n_triple": rounds[0]["n_triple"],
                    "n_entity": rounds[0]["n_entity"],
                    "seconds": [round(one["seconds"], 2) for one in rounds],
                    "cpu_seconds": [round(one["cpu"], 2) for one in rounds],
                    "peak_gb": round(max(one["peak_gb"] for one in rounds), 2),
                }
            )
        )


if __name__ == "__main__":
    main()
