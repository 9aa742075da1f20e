"""Public graphs: where they are, what they are called there, and how many of what they have."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataError, DataWarning
from bess_jax.data.formats.folder import read_folder
from bess_jax.data.graphs import layouts, ogb
from bess_jax.data.graphs.cache import Source, bring, cache_folder
from bess_jax.data.graphs.layouts import Members, unpack
from bess_jax.data.split import SPLIT, SPLIT_NAMES
from bess_jax.data.text import read_lines

_CONVE = "https://github.com/TimDettmers/ConvE/raw/f3c0eb286025410fa5b4c04696c918264163d0ca"
_CODEX = "https://github.com/tsafavi/codex/raw/3132e426c2a6b643b70bad679905a3a6270be440/data/triples"
_HETIONET = "https://github.com/hetio/hetionet/raw/8a6cc0c5604d0e2908786e4de38af67b8e46ee4a/hetnet/tsv"
_SPLITS = {f"{split}.txt": f"{split}.txt" for split in SPLIT_NAMES}


@dataclasses.dataclass(frozen=True)
class Counts:
    """Published numbers; None where none is published, and for splits that are drawn."""

    n_entity: int | None
    n_relation: int
    train: int | None = None
    valid: int | None = None
    test: int | None = None
    triples: int | None = None  # that the splits are drawn from


@dataclasses.dataclass(frozen=True)
class Public:
    """A public graph.

    Attributes:
        licence: of the data, in a few words.
        counts: what is published of it.
        sources: files to download.
        members: members of the first one, an archive -> names of the files they become; none: it is read as it is.
        copied: name of a file in the cache -> name that it is read by.
        lay_out: makes what else `read_folder` reads, of the cache and of a folder with the files above.
        columns: of head, relation and tail.
        read: in place of all that: attributes, of the cache and a folder with the members.
        unpacked_as: what other libraries call the top folder of the archive, once unpacked; default: as it is.
    """

    licence: str
    counts: Counts
    sources: Sequence[Source]
    members: Members = dataclasses.field(default_factory=dict)
    copied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lay_out: Callable[[Path, Path], None] = lambda cache, folder: None
    columns: Sequence[str | int] | None = None
    read: Callable[[Path, Path], dict[str, Any]] | None = None
    unpacked_as: str | None = None

    @property
    def has_digest(self) -> bool:
        """Whether the digests of all its files are known."""
        return all(source.digest for source in self.sources)


def _codex(size: str, digests: Mapping[str, str], counts: Counts) -> Public:
    sources = [Source(f"{_CODEX}/codex-{size}/{name}.txt", f"{name}.txt", digest) for name, digest in digests.items()]
    copied = {source.name: source.name for source in sources}
    return Public("MIT; Wikidata: CC0", counts, sources, copied=copied)


def _ogb(name: str, split: str, mappings: Sequence[str]) -> Members:
    """Members of an archive of OGB -> names without folders."""
    found = {f"{name}/split/{split}/{part}.pt": f"split/{split}/{part}.pt" for part in SPLIT_NAMES}
    found.update({f"{name}/mapping/{part}.csv.gz": f"mapping/{part}.csv.gz" for part in mappings})
    return found


_KINDS = ("disease", "drug", "function", "protein", "sideeffect")
_N_WIKIKG90M = 91_230_610, 1_387

PUBLIC: Mapping[str, Public] = {
    "fb15k-237": Public(
        "unknown; Freebase: CC BY 2.5",
        Counts(14_541, 237, 272_115, 17_535, 20_466),
        [
            Source(
                f"{_CONVE}/FB15k-237.tar.gz",
                "FB15k-237.tar.gz",
                "sha256:311df7930f842a02979eaa7a802484a6afe62303c07f915f1e6edbc30cbe05e8",
            )
        ],
        _SPLITS,
    ),
    "codex-s": _codex(
        "s",
        {
            "train": "sha256:64f93b7f314f3936a6f65739721429db3f6a7c8f5a1e1104ec3bb544f7434f59",
            "valid": "sha256:3831c0e57daef03c3a18cdd1a72e370b496f696c5218883d35c7d2ab8a6a772c",
            "test": "sha256:27127fcb34688c4778e88a39ef3c9b540807da846021e9d9685660ac1838aca1",
            "valid_negatives": "sha256:c1d84860d6ee786419f1f118d0e9479c6614283b3e267afc158734389036901f",
            "test_negatives": "sha256:d3fb32c41f3be26d09484ace571965806f1ade0ca712551b0de684c283cdbb22",
        },
        Counts(2_034, 42, 32_888, 1_827, 1_828),
    ),
    "codex-m": _codex(
        "m",
        {
            "train": "sha256:d99c3437ab51690391a26d96976adf6e5494dba7ef6902e77000551bfa566556",
            "valid": "sha256:11c323096367354940846b9ed940c5dabddc1d20a70474222babe7e7fd28b28d",
            "test": "sha256:0575ce05e4ce915e395bb4f708e8df9547989dd4c8c71407cbfd78c19daffcf7",
            "valid_negatives": "sha256:454a4f66ae85495e6e7df0a9f591ed3b8b6efbbcca515414cb641a28625cbcb2",
            "test_negatives": "sha256:7caaf71f7a85fbd915dce8199f5b1e1744ead58e0675549fcb01c60599944648",
        },
        Counts(17_050, 51, 185_584, 10_310, 10_311),
    ),
    "codex-l": _codex(
        "l",
        {
            "train": "git:be8735738ba4728430922c630f25bf01bcc9eaac",
            "valid": "git:3e5cec60786324253038169b05ecec82dc1358a8",
            "test": "git:1303c431701b3f0d2e116467c7fb7b0f210ce869",
        },
        Counts(77_951, 69, 551_193, 30_622, 30_622),
    ),
    "yago3-10": Public(
        "CC BY 3.0",
        Counts(123_182, 37, 1_079_040, 5_000, 5_000),
        [Source(f"{_CONVE}/YAGO3-10.tar.gz", "YAGO3-10.tar.gz", "git:be63d16955e1951cb6539710204af43cb38da7d9")],
        _SPLITS,
    ),
    "ogbl-biokg": Public(
        "CC0",
        Counts(93_773, 51, 4_762_678, 162_886, 162_870),
        [Source("https://snap.stanford.edu/ogb/data/linkproppred/biokg.zip", "biokg.zip")],
        _ogb("biokg", "random", [*(f"{kind}_entidx2name" for kind in _KINDS), "relidx2relname"]),
        read=lambda cache, folder: ogb.biokg(folder),
        unpacked_as="ogbl_biokg",
    ),
    "ogbl-wikikg2": Public(
        "CC0",
        Counts(2_500_604, 535, 16_109_182, 429_456, 598_543),
        [Source("https://snap.stanford.edu/ogb/data/linkproppred/wikikg-v2.zip", "wikikg-v2.zip")],
        _ogb("wikikg-v2", "time", ["nodeidx2entityid", "reltype2relid"]),
        read=lambda cache, folder: ogb.wikikg2(folder),
        unpacked_as="ogbl_wikikg2",
    ),
    "wikikg90mv2": Public(
        "CC0",
        Counts(*_N_WIKIKG90M, 601_062_811, 15_000),
        [
            Source(
                "https://dgl-data.s3-accelerate.amazonaws.com/dataset/OGB-LSC/wikikg90m-v2.zip",
                "wikikg90m-v2.zip",
                "md5:bfd6257134b7eb59e2edc0a4af21faa8",
            )
        ],
        read=lambda cache, folder: ogb.wikikg90mv2(cache / "wikikg90m-v2.zip", *_N_WIKIKG90M),
    ),
    "wikidata5m": Public(
        "CC0",
        Counts(4_594_485, 822, 20_614_279, 5_163, 5_133),
        [
            Source(
                "https://huggingface.co/datasets/intfloat/wikidata5m/resolve/6b2b09672129e280c0c9da97ab58154e9d535e6b/"
                "wikidata5m_transductive.tar.gz",
                "wikidata5m_transductive.tar.gz",
                "sha256:383160990b41c0905fc03f4a8afbb9b12be1ca3591e026bde6cdc94a59542597",
            )
        ],
        {f"wikidata5m_transductive_{name}": name for name in _SPLITS},
    ),
    "openbiolink": Public(
        "of its sources, non-commercial for some",
        Counts(None, 28, 4_192_002),
        [Source("https://zenodo.org/record/3834052/files/HQ_DIR.zip", "HQ_DIR.zip")],
        {
            "HQ_DIR/train_test_data/train_sample.csv": "train.tsv",
            "HQ_DIR/train_test_data/val_sample.csv": "valid.tsv",
            "HQ_DIR/train_test_data/test_sample.csv": "test.tsv",
            "HQ_DIR/train_test_data/train_val_nodes.csv": "nodes.tsv",
        },
        lay_out=lambda cache, folder: layouts.openbiolink(folder),
        columns=(0, 1, 2),
    ),
    "hetionet": Public(
        "CC0, other licences for some of its sources",
        Counts(45_158, 24, triples=2_250_197),
        [
            Source(
                f"{_HETIONET}/hetionet-v1.0-edges.sif.gz",
                "hetionet-v1.0-edges.sif.gz",
                "sha256:611f0411ac666be4e0270e54bbca67407e14720bfc3099311f0f5eec25c5a947",
            ),
            Source(
                f"{_HETIONET}/hetionet-v1.0-nodes.tsv",
                "hetionet-v1.0-nodes.tsv",
                "sha256:3ad9eb86c031df8bc7d5efefa6edc93562182eb9a6a71e5129d3f18b9d42c50e",
            ),
        ],
        copied={"hetionet-v1.0-edges.sif.gz": "train.tsv.gz", "hetionet-v1.0-nodes.tsv": "nodes.tsv"},
        lay_out=lambda cache, folder: layouts.hetionet(folder),
        columns=("source", "metaedge", "target"),
    ),
    "primekg": Public(
        "CC BY 4.0 for what is new in it; of its sources",
        Counts(129_375, 30, triples=8_100_498),
        [Source("https://dataverse.harvard.edu/api/access/datafile/6180620", "kg.csv")],
        lay_out=lambda cache, folder: layouts.primekg(cache / "kg.csv", folder),
    ),
}
"""Name -> graph; where the files and the numbers come from is in docs/data.md."""


def load_public(name: str, split: Sequence[float] = SPLIT, seed: int = 1234, root: Path | None = None) -> KGDataset:
    """A public graph, downloaded where it is not there.

    Args:
        name: one of `PUBLIC`.
        split: parts of train, valid and test, where the graph has no splits.
        seed: of the draw.
        root: where its archive is or will be, or what another library has unpacked of it; default: the cache.

    Raises:
        DataError: if a file is damaged, another one than it should be, or missing where nothing is downloaded.
        OSError: if a file cannot be downloaded or written.
        MissingExtraError: if a package is not installed that it takes.
    """
    graph = PUBLIC[name]
    cache = cache_folder(name) if root is None else root
    parts = _unpacked(graph, cache)
    files = [] if parts else [bring(source, cache) for source in graph.sources]
    beside = cache if os.access(cache, os.W_OK) else None  # None: where the system puts such things
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=beside) as temporary:
        folder, n_drawn = Path(temporary), 0
        for part in graph.members.values():
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if graph.members and files:
            unpack(files[0], graph.members, folder)
        for part, file in {**parts, **{part: cache / source for source, part in graph.copied.items()}}.items():
            (folder / part).symlink_to(file.resolve())
        if graph.read is not None:
            attributes = graph.read(cache, folder)
        else:
            graph.lay_out(cache, folder)
            attributes = read_folder(folder, graph.columns, split, seed)
            n_drawn = _n_row(folder, graph.columns) if graph.counts.triples else 0
    dataset = KGDataset(**attributes)
    _compare(dataset, n_drawn, graph, files[0] if files else cache)
    return dataset


def is_downloaded(name: str) -> bool:
    """Whether the files of one of `PUBLIC` are in the cache."""
    graph, cache = PUBLIC[name], cache_folder(name)
    return bool(_unpacked(graph, cache)) or all((cache / source.name).exists() for source in graph.sources)


def _unpacked(graph: Public, root: Path) -> dict[str, Path]:
    """Names of the files that members become -> the members, where all are there; else nothing."""
    found = {}
    for member, part in graph.members.items():
        top, _, rest = member.partition("/")
        found[part] = root / (graph.unpacked_as or top) / rest
    return found if all(file.is_file() for file in found.values()) else {}


def _n_row(folder: Path, columns: Sequence[str | int] | None) -> int:
    """Lines of the one file of triples in a folder, without a header that names `columns`."""
    file = next(folder.glob("train.*"))
    n_header = int(columns is not None and isinstance(columns[0], str))
    return sum(sum(map(bool, lines)) for _, lines in read_lines(file)) - n_header


def _compare(dataset: KGDataset, n_drawn: int, graph: Public, file: Path) -> None:
    """Compares a graph with what is published of it.

    Raises:
        DataError: if they differ; a DataWarning, if the file is the very one whose digest is published.
    """
    wanted = {name: n for name, n in dataclasses.asdict(graph.counts).items() if n is not None}
    found = {
        "n_entity": dataset.n_entity,
        "n_relation": dataset.n_relation_type,
        "triples": n_drawn,  # which repeats some of those in the splits
        **{split: len(triples) for split, triples in dataset.triples.items()},
    }
    wrong = [f"{name} {found.get(name, 0):,} in place of {n:,}" for name, n in wanted.items() if found.get(name) != n]
    if not wrong:
        return
    reason = f"other numbers than those published: {', '.join(wrong)}"
    if not graph.has_digest:
        raise DataError(f"{reason}; remove it to download it again", file)
    warnings.warn(f"{file}: {reason}; its digest is right", DataWarning, stacklevel=3)
