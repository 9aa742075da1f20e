"""Everything that reads a file, with a good one for each."""

from __future__ import annotations

import dataclasses
import functools
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from fuzz.changes import JSON, NPY, RDF, TOML
from pyarrow import parquet

from bess_jax._typing import Int32Array
from bess_jax.data.dataset import KGDataset
from bess_jax.data.formats.sources import read_triples
from bess_jax.data.formats.vocabulary import Vocabulary
from bess_jax.data.sharding import Sharding
from bess_jax.predict.names import read_entities, read_queries, triple_ids
from bess_jax.run.about import About, Point
from bess_jax.run.checkpoint import Checkpoint, Checkpoints, Part
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder
from bess_jax.run.log import RunLog
from bess_jax.run.start import _read_arrays


@dataclasses.dataclass(frozen=True)
class Importer:
    """Something that reads a file.

    Attributes:
        name: of the importer.
        file: the file, whose content is good.
        read: reads the file; checks what it finds, or gives something that must be as it was.
        tokens: what is inserted, besides `TOKENS`.
        is_text: whether `read_columns` reads it.
        exact: whether `read` must give the same as for the good file.
    """

    name: str
    file: Path
    read: Callable[[], object]
    tokens: list[bytes] = dataclasses.field(default_factory=list)
    is_text: bool = False
    exact: bool = False


def importers(folder: Path) -> list[Importer]:
    """All of them; their files are made in an empty folder."""
    graph = make_graph(folder / "graph", "tsv")
    dataset = KGDataset.from_folder(graph)
    packed = make_graph(folder / "packed", "txt.gz")
    beside = make_graph(folder / "beside", "tsv")
    for name, text in BESIDE.items():
        write(beside / f"{name}.tsv", text.encode())
    plain = folder / "plain"
    plain.mkdir()
    files = {
        name: plain / name for name in ("queries.tsv", "candidates.txt", "triples.tsv.gz", "graph.npz", "shards.npz")
    }
    write(files["queries.tsv"], b"Anna\tr\t?\n?\tknows\tb\n\nc\t?\t2\n")
    write(files["candidates.txt"], b"a\nBen\n3\n\xe6\xbc\xa2\n")
    write(files["triples.tsv.gz"], gzip.compress(b"a\tr\tb\nBen\tknows\t2\n", 1))
    dataset.save(files["graph.npz"])
    Sharding.create(dataset.n_entity, 2, 0, np.array([0, 2], np.int32)).save(files["shards.npz"])
    run, checkpoint, log, tables = make_run(folder / "run", dataset)
    return [
        *sources(folder / "sources"),
        Importer("train", graph / "train.tsv", lambda: check_graph(KGDataset.from_folder(graph)), is_text=True),
        Importer("labels", graph / "labels.tsv", lambda: check_graph(KGDataset.from_folder(graph)), is_text=True),
        *(
            Importer(name, beside / f"{name}.tsv", lambda: check_graph(KGDataset.from_folder(beside)), is_text=True)
            for name in BESIDE
        ),
        Importer("train.gz", packed / "train.txt.gz", lambda: check_graph(KGDataset.from_folder(packed)), is_text=True),
        Importer(
            "queries",
            files["queries.tsv"],
            lambda: check_ids(dataset, read_queries(dataset, files["queries.tsv"]).triples),
            is_text=True,
        ),
        Importer(
            "candidates",
            files["candidates.txt"],
            lambda: check_ids(dataset, read_entities(dataset, files["candidates.txt"])),
            is_text=True,
        ),
        Importer(
            "triples.gz",
            files["triples.tsv.gz"],
            lambda: check_ids(dataset, triple_ids(dataset, files["triples.tsv.gz"])),
            is_text=True,
        ),
        Importer("graph.npz", files["graph.npz"], lambda: KGDataset.load(files["graph.npz"]).digest(), NPY, exact=True),
        Importer(
            "sharding.npz",
            files["shards.npz"],
            lambda: {k: np.asarray(v).tolist() for k, v in vars(Sharding.load(files["shards.npz"])).items()},
            NPY,
            exact=True,
        ),
        Importer("settings", run.path / "config.toml", run.config, TOML),
        Importer("metrics", log, lambda: RunLog(log, 2), JSON),
        Importer("tables.npz", tables, lambda: _read_arrays(tables), NPY),
        Importer("list", checkpoint / "about.json", lambda: read_checkpoint(checkpoint), JSON, exact=True),
        Importer("array", checkpoint / "table.1.npy", lambda: read_checkpoint(checkpoint), NPY, exact=True),
    ]


BESIDE = {
    "types": "a\tperson\nb\tperson\nc\tthing\nd\tthing\nNew York\tcity\n漢\tthing\n",
    "test_negatives": "a\tr\tb\n漢\tis in\tc\n",
    "train_head_candidates": "a\tb\nNew York\t漢\nb\tc\nd\ta\n",
    "valid_tail_candidates": "a\tb\tc\n",
}
"""Files beside the splits."""


def sources(folder: Path) -> list[Importer]:
    """Files of triples in the other formats."""
    folder.mkdir()
    csv = b'head;relation;tail;weight\n"a";r;b;1\nb;r;"c;""d""";2\n"c;""d""";s;"New\nYork";\n'
    nt = '<http://x/a> <http://x/r> <http://x/b> .\n_:b <http://x/s> <http://x/é> .\n<http://x/a> <http://x/n> "5" .\n'
    turtle = "@prefix e: <http://x/> .\ne:a e:r e:b , [ e:s e:é ] ; a e:T .\n"
    for name, content in (
        ("a.csv", csv),
        ("a.csv.gz", gzip.compress(csv, 1)),
        ("a.nt", nt.encode()),
        ("a.ttl", turtle.encode()),
    ):
        write(folder / name, content)
    rows = [("a", "r", "b"), ("b", "r", "c"), ("New York", "is in", "漢")]
    parquet.write_table(
        pa.table([[*column] for column in zip(*rows, strict=True)], names=["h", "r", "t"]), folder / "a.parquet"
    )
    np.save(folder / "a.npy", np.array(rows))
    np.savez(folder / "a.npz", h=np.arange(4), r=np.zeros(4, np.int64), t=np.arange(4) // 2)
    known = [("a.csv", [b";", b'""', b'";"', b'"\n']), ("a.csv.gz", [b";", b'""']), ("a.nt", RDF), ("a.ttl", RDF)]
    known += [("a.parquet", [b"PAR1", b"\x15\x04"]), ("a.npy", NPY), ("a.npz", NPY)]
    return [
        Importer(name, folder / name, functools.partial(check_triples, folder / name), tokens) for name, tokens in known
    ]


def check_triples(file: Path) -> None:
    """Raises AssertionError on a name that no file may give, or an id that is none."""
    vocabulary = Vocabulary()
    triples = read_triples(file, vocabulary)
    for names in (vocabulary.entities, vocabulary.relations, vocabulary.entity_labels):
        for name in names:
            if not name or name != name.strip() or any(x in name for x in "\0\ufeff") or not name.encode():
                raise AssertionError(f"the name {name!r}")
    if triples.dtype != np.int32 or not 0 <= triples[:, ::2].min() <= triples[:, ::2].max() < len(vocabulary.entities):
        raise AssertionError(f"the ids {triples}")


def make_graph(folder: Path, suffix: str) -> Path:
    """A small graph in text files."""
    folder.mkdir()
    files = {
        "train": "a\tr\tb\nb\tr\tc\nNew York\tis in\t漢\nc\tr\td\n",
        "valid": "a\tr\tc\n",
        "test": "c\ts\ta\n",
        "labels": "a\tAnna\nb\tBen\nc\tCésar\n",
        "relation_labels": "s\tknows\n",
    }
    for name, text in files.items():
        content = text.encode()
        write(folder / f"{name}.{suffix}", gzip.compress(content, 1) if suffix.endswith("gz") else content)
    return folder


def make_run(folder: Path, dataset: KGDataset) -> tuple[RunFolder, Path, Path, Path]:
    """A run folder with a checkpoint, and its files: checkpoint, metrics, tables to start from."""
    run = RunFolder(folder)
    folder.mkdir()
    run.write_config(TrainConfig(n_device=2, loss="margin"))
    table = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    about = About(Point(3, 0, 10), TrainConfig().to_dict(), dataset.digest(), 0.5)
    run.checkpoints.write(about, {"table": Part(table, True), "n": Part(np.array([[3], [3]]), False)}, (0, 1))
    log, tables = folder / "metrics.jsonl", folder / "tables.npz"
    write(log, b'{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "split": "valid", "mrr": 0.5}\n')
    np.savez_compressed(tables, entity=table[0], relation=table[1])
    return run, Checkpoints(folder / "checkpoints").folder / "epoch-3", log, tables


def read_checkpoint(folder: Path) -> object:
    """All that is in a checkpoint."""
    found = Checkpoint.open(folder)
    return found.about, {
        (name, shard): found.array(name, shard).tolist()
        for name, entry in found.entries.items()
        for shard in range(2 if entry.per_shard else 1)
    }


def check_graph(dataset: KGDataset) -> None:
    """Raises AssertionError on a name that no file gives."""
    for names in (
        dataset.entity_dict or (),
        dataset.relation_dict or (),
        dataset.entity_labels,
        dataset.relation_labels,
    ):
        for name in names:
            if not name or name != name.strip() or any(x in name for x in "\t\n\0\ufeff"):
                raise AssertionError(f"the name {name!r}")
    for part in ({"all": dataset.all_triples()}, dataset.negatives, dataset.neg_heads, dataset.neg_tails):
        for ids in (part or {}).values():
            check_ids(dataset, ids)
    offsets = [*(dataset.type_offsets or {}).values()]
    if offsets != sorted(offsets) or (offsets and not 0 == offsets[0] <= offsets[-1] < dataset.n_entity):
        raise AssertionError(f"the offsets of types {offsets}")


def check_ids(dataset: KGDataset, ids: Int32Array) -> None:
    """Raises AssertionError on an id that is none."""
    if ids.dtype != np.int32 or (ids.size and not 0 <= ids.min() <= ids.max() < dataset.n_entity):
        raise AssertionError(f"the ids {ids}")


def write(file: Path, content: bytes) -> None:
    """Makes a new file, also where the old one is mapped into memory."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)
