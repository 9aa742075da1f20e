"""Public graphs: small archives of the layout that each has, from a server on this machine."""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bess_jax as bj
from bess_jax.data.graphs import cache, ogb, public
from bess_jax.data.graphs.cache import Source, bring, digest_of_file
from bess_jax.data.graphs.layouts import unpack
from bess_jax.data.graphs.public import PUBLIC, Counts

SPLITS = {"train": "a\tr\tb\nb\tr\tc\nc\ts\ta\n", "valid": "a\ts\tc\n", "test": "b\ts\ta\na\tr\tc\n"}
COUNTS = Counts(3, 2, 3, 1, 2)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and counts what is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclasses.dataclass
class Server:
    folder: Path
    url: str
    asked: list[str]

    def source(self, name: str, content: bytes, like: Source, digest: bool = True) -> Source:
        """A file to download, called like another one."""
        (self.folder / name).write_bytes(content)
        found = f"sha256:{hashlib.sha256(content).hexdigest()}" if digest else ""
        return Source(f"{self.url}/{name}", like.name, found)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []
    kind = type("Counting", (Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=folder)) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
        monkeypatch.delenv(cache.OFFLINE, raising=False)
        yield Server(folder, f"http://127.0.0.1:{found.server_port}", asked)
        found.shutdown()
        thread.join()


def packed(files: dict[str, bytes], kind: str) -> bytes:
    """A `.zip` or a `.tar.gz` of files, with others beside them."""
    out = io.BytesIO()
    every = {"README": b"not wanted", **files, "../outside.txt": b"not wanted either"}
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in every.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as packing:
            for name, content in every.items():
                info = tarfile.TarInfo(f"./{name}" if name.startswith("train") else name)
                info.size = len(content)
                packing.addfile(info, io.BytesIO(content))
    return out.getvalue()


def use(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str, contents: list[bytes], counts: Counts, **changed: Any
) -> None:
    """Lets a public graph be one with these files."""
    graph = PUBLIC[name]
    sources = [
        server.source(f"{name}-{i}", content, like, bool(like.digest))
        for i, (content, like) in enumerate(zip(contents, graph.sources, strict=True))
    ]
    monkeypatch.setitem(PUBLIC, name, dataclasses.replace(graph, sources=sources, counts=counts, **changed))


def named(dataset: bj.KGDataset, triples: np.ndarray) -> list[list[str]]:
    names, relations = dataset.entity_dict or (), dataset.relation_dict or ()
    return [[names[h], relations[r], names[t]] for h, r, t in triples.tolist()]


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("fb15k-237", "{}.txt"),
        ("yago3-10", "{}.txt"),
        ("wikidata5m", "wikidata5m_transductive_{}.txt"),
    ],
)
def test_splits_in_an_archive(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, member: str
) -> None:
    files = {member.format(split): text.replace("\n", "\r\n").encode() for split, text in SPLITS.items()}
    use(monkeypatch, server, name, [packed(files, "tar")], COUNTS)
    dataset = bj.load_dataset(name.upper())
    for split, text in SPLITS.items():
        assert named(dataset, dataset.triples[split]) == lines(text)
    kept = sorted(os.listdir(tmp_path / "cache" / name))
    assert kept == sorted([PUBLIC[name].sources[0].name, "digests.json"])
    assert not list(tmp_path.rglob("outside.txt"))
    assert bj.load_dataset(name).digest() == dataset.digest()
    assert len(server.asked) == 1  # the second time it was there


@pytest.mark.parametrize("size", ["s", "m", "l"])
def test_codex(server: Server, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """Plain files, and for the two smaller ones negatives of two splits."""
    files = [text.encode() for text in SPLITS.values()]
    if size != "l":
        files += [b"a\ts\ta\n", b"c\tr\ta\nc\tr\tc\n"]
    use(monkeypatch, server, f"codex-{size}", files, COUNTS)
    dataset = bj.load_dataset(f"CoDEx-{size.upper()}")
    assert named(dataset, dataset.triples["test"]) == lines(SPLITS["test"])
    negatives = {split: named(dataset, triples) for split, triples in (dataset.negatives or {}).items()}
    expected = {"valid": [["a", "s", "a"]], "test": [["c", "r", "a"], ["c", "r", "c"]]}
    assert negatives == ({} if size == "l" else expected)


def test_openbiolink(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Six columns (quality, TP or TN and source behind the triple), no header, and types of nodes."""
    stems = {"train": "train_sample", "valid": "val_sample", "test": "test_sample"}
    files = {
        f"HQ_DIR/train_test_data/{stems[split]}.csv": text.replace("\n", "\t900\t1\tsource\n").encode()
        for split, text in SPLITS.items()
    }
    files["HQ_DIR/train_test_data/train_val_nodes.csv"] = b"a\tGENE\nb\tDIS\nc\tGENE\nc\tGENE\nx\tDRUG\n"
    use(monkeypatch, server, "openbiolink", [packed(files, "zip")], Counts(None, 2, 3))
    dataset = bj.load_dataset("openbiolink")
    assert dataset.type_offsets == {"DIS": 0, "GENE": 1}
    assert dataset.entity_dict == ("b", "a", "c")
    assert named(dataset, dataset.triples["train"]) == lines(SPLITS["train"])
    with zipfile.ZipFile(server.folder / "openbiolink-0") as archive:
        archive.extractall(tmp_path / "as_besskge_does")
    assert bj.KGDataset.build_openbiolink(tmp_path / "as_besskge_does").digest() == dataset.digest()


def test_yago_from_the_folder_of_besskge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, text in SPLITS.items():
        (tmp_path / f"{split}.txt").write_text(text)
    monkeypatch.setitem(PUBLIC, "yago3-10", dataclasses.replace(PUBLIC["yago3-10"], counts=COUNTS))
    dataset = bj.KGDataset.build_yago310(tmp_path)
    assert named(dataset, dataset.triples["valid"]) == lines(SPLITS["valid"])


def test_hetionet(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"Gene::{i}", "GiG", f"Gene::{(i + k) % 9}") for i in range(9) for k in (1, 2, 3)]
    pairs += [(f"Gene::{i}", "GpBP", f"Biological Process::GO:{i % 2}") for i in range(9)]
    edges = "source\tmetaedge\ttarget\n" + "".join("\t".join(row) + "\n" for row in pairs)
    nodes = [("Biological Process::GO:0", 'the "first" one', "Biological Process")]
    nodes += [("Biological Process::GO:1", "another", "Biological Process")]
    nodes += [(f"Gene::{i}", f"GENE{i}", "Gene") for i in range(10)]
    table = "id\tname\tkind\n" + "".join("\t".join(row) + "\n" for row in nodes)
    use(monkeypatch, server, "hetionet", [gzip.compress(edges.encode()), table.encode()], Counts(11, 2, triples=36))
    with pytest.warns(bj.DataWarning, match="of the 36 triples of train, 5 for valid and 5 for test are drawn"):
        dataset = bj.load_dataset("hetionet")
    assert dataset.type_offsets == {"Biological Process": 0, "Gene": 2}
    assert sorted(named(dataset, dataset.all_triples())) == sorted(map(list, pairs))
    assert dataset.find_entity('the "first" one') == (dataset.entity_dict or ()).index("Biological Process::GO:0")
    with pytest.warns(bj.DataWarning, match="9 for valid"):
        assert len(bj.load_dataset("hetionet", split=(0.5, 0.25, 0.25), seed=3).triples["valid"]) == 9


WHAT = ("index", "id", "type", "name", "source")


def test_primekg(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted names with commas; two nodes of one name are two entities; a repeated line counts in what is published."""
    head = ["relation", "display_relation", *(f"{end}_{what}" for end in "xy" for what in WHAT)]
    nodes = {i: (f"id{i}", "drug" if i % 2 else "gene/protein", f"name, {i % 9}", "source") for i in range(10)}
    rows = []
    for i in range(10):
        for k in (1, 2, 3):
            rows.append([f"r{k % 2}", "shown", i, *nodes[i], (i + k) % 10, *nodes[(i + k) % 10]])
    out = io.StringIO()
    csv.writer(out).writerows([head, *rows, rows[0]])
    use(monkeypatch, server, "primekg", [out.getvalue().encode()], Counts(10, 2, triples=31))
    with pytest.warns(bj.DataWarning) as warned:
        dataset = bj.load_dataset("primekg")
    assert any("drawn" in str(warning.message) for warning in warned)
    assert dataset.type_offsets == {"drug": 0, "gene/protein": 5}
    expected = [[str(row[2]), row[0], str(row[7])] for row in rows]
    assert sorted(named(dataset, dataset.all_triples())) == sorted(expected)
    assert dataset.entity_label((dataset.entity_dict or ()).index("4")) == "name, 4"
    use(monkeypatch, server, "primekg", [out.getvalue().encode()], Counts(10, 2, triples=32))
    with pytest.warns(bj.DataWarning), pytest.raises(bj.DataError, match=r"kg.csv: .* triples 31 in place of 32"):
        bj.load_dataset("primekg")


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_wikikg90mv2(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays, read part by part; no answers to the test queries."""
    rng = np.random.default_rng(0)
    train = rng.integers([50, 4, 50], size=(101, 3))
    valid = rng.integers([50, 4, 50], size=(7, 3))
    files = {
        "wikikg90m-v2/processed/train_hrt.npy": npy(train),
        "wikikg90m-v2/processed/val_hr.npy": npy(valid[:, :2]),
        "wikikg90m-v2/processed/val_t.npy": npy(valid[:, 2].astype(np.int32)),
        "wikikg90m-v2/processed/entity_feat.npy": npy(rng.normal(size=(50, 3))),
    }
    monkeypatch.setattr(ogb, "_ROWS", 10)
    read = functools.partial(lambda cache, folder: ogb.wikikg90mv2(cache / "wikikg90m-v2.zip", 50, 4))
    use(monkeypatch, server, "wikikg90mv2", [packed(files, "zip")], Counts(50, 4, 101, 7), read=read)
    dataset = bj.load_dataset("wikikg90mv2")
    np.testing.assert_array_equal(dataset.triples["train"], train)
    np.testing.assert_array_equal(dataset.triples["valid"], valid)
    assert dataset.triples["train"].dtype == np.int32
    files["wikikg90m-v2/processed/train_hrt.npy"] = npy(train)[:-8]
    use(monkeypatch, server, "wikikg90mv2", [packed(files, "zip")], Counts(50, 4, 101, 7), read=read)
    (Path(os.environ[cache.FOLDER]) / "wikikg90mv2" / "wikikg90m-v2.zip").unlink()
    with pytest.raises(bj.DataError, match=r"wikikg90m-v2.zip: damaged.*ends 8 bytes too early"):
        bj.load_dataset("wikikg90mv2")


@pytest.mark.parametrize(
    "array", [np.ones((3, 2)), np.array([[-1]]), np.array([2**31]), np.asfortranarray(np.ones((3, 2), int))]
)
def test_arrays_that_are_no_ids(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected i"):
        ogb.read_int32(io.BytesIO(npy(array)))


def pt(content: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(content, out)
    return bytes(out.getvalue())


def mapping(header: str, names: list[str]) -> bytes:
    """Ids in another order than that of the lines."""
    rows = [f"{i},{name}" for i, name in enumerate(names)]
    return gzip.compress("\n".join([header, *reversed(rows), ""]).encode())


@pytest.mark.torch
def test_ogbl_biokg(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ids count within a type; candidates have the type of what they replace."""
    sizes = {"disease": 3, "drug": 4, "function": 2, "protein": 5, "sideeffect": 1}
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    files = {
        f"biokg/mapping/{kind}_entidx2name.csv.gz": mapping("ent idx,ent name", [f"{kind[:2]}{i}" for i in range(n)])
        for kind, n in sizes.items()
    }
    files["biokg/mapping/relidx2relname.csv.gz"] = mapping("rel idx,rel name", ["treats", "binds"])
    rng = np.random.default_rng(0)
    expected, listed = {}, {}
    for split, n in {"train": 20, "valid": 4, "test": 6}.items():
        kinds = {side: rng.choice(list(sizes), size=n).tolist() for side in ("head", "tail")}
        ids = {side: np.array([rng.integers(sizes[kind]) for kind in kinds[side]]) for side in kinds}
        relation = rng.integers(2, size=n)
        start = {side: np.array([first[kind] for kind in kinds[side]]) for side in kinds}
        parts = {"head": ids["head"], "relation": relation, "tail": ids["tail"]}
        parts |= {"head_type": kinds["head"], "tail_type": kinds["tail"]}
        if split != "train":
            for side in kinds:
                negative = np.array([rng.integers(sizes[kind], size=7) for kind in kinds[side]])
                parts[f"{side}_neg"], listed[split, side] = negative, negative + start[side][:, None]
        expected[split] = np.stack([ids["head"] + start["head"], relation, ids["tail"] + start["tail"]], axis=1)
        files[f"biokg/split/random/{split}.pt"] = pt(parts)
    use(monkeypatch, server, "ogbl-biokg", [packed(files, "zip")], Counts(15, 2, 20, 4, 6))
    dataset = bj.load_dataset("ogbl-biokg")
    assert dataset.type_offsets == first
    assert list(dataset.entity_dict or ())[3:5] == ["drug:dr0", "drug:dr1"]
    assert list(dataset.relation_dict or ()) == ["treats", "binds"]
    for split in expected:
        np.testing.assert_array_equal(dataset.triples[split], expected[split])
    for split in ("valid", "test"):
        np.testing.assert_array_equal((dataset.neg_heads or {})[split], listed[split, "head"])
        np.testing.assert_array_equal((dataset.neg_tails or {})[split], listed[split, "tail"])
    with zipfile.ZipFile(server.folder / "ogbl-biokg-0") as archive:
        archive.extractall(tmp_path / "root")
    (tmp_path / "root" / "biokg").rename(tmp_path / "root" / "ogbl_biokg")
    assert bj.KGDataset.build_ogbl_biokg(tmp_path / "root").digest() == dataset.digest()


@pytest.mark.torch
def test_ogbl_wikikg2(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {
        "wikikg-v2/mapping/nodeidx2entityid.csv.gz": mapping("node idx,entity id", [f"Q{i}" for i in range(30)]),
        "wikikg-v2/mapping/reltype2relid.csv.gz": mapping("reltype,rel id", ["P1", "P2", "P3"]),
    }
    expected = {}
    for split, n in {"train": 50, "valid": 5, "test": 6}.items():
        parts = {
            "head": rng.integers(30, size=n),
            "relation": rng.integers(3, size=n),
            "tail": rng.integers(30, size=n),
        }
        expected[split] = parts | {f"{side}_neg": rng.integers(30, size=(n, 9)) for side in ("head", "tail")}
        files[f"wikikg-v2/split/time/{split}.pt"] = pt(parts if split == "train" else expected[split])
    use(monkeypatch, server, "ogbl-wikikg2", [packed(files, "zip")], Counts(30, 3, 50, 5, 6))
    dataset = bj.load_dataset("ogbl-wikikg2")
    assert (dataset.entity_dict or ())[7] == "Q7"
    for split, parts in expected.items():
        for column, side in enumerate(("head", "relation", "tail")):
            np.testing.assert_array_equal(dataset.triples[split][:, column], parts[side])
    np.testing.assert_array_equal((dataset.neg_tails or {})["test"], expected["test"]["tail_neg"])
    assert list(dataset.neg_heads or {}) == ["valid", "test"]


class Anything:
    """Something that is no array."""


@pytest.mark.torch
def test_nothing_in_a_split_is_executed(tmp_path: Path) -> None:
    file = tmp_path / "train.pt"
    file.write_bytes(pt({"head": Anything()}))
    with pytest.raises(bj.DataError, match="holds more than arrays, or is damaged"):
        ogb.read_split(file)
    file.write_bytes(b"not an archive")
    with pytest.raises(bj.DataError, match="damaged"):
        ogb.read_split(file)


def test_ids_without_names_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "names.csv.gz"
    file.write_bytes(gzip.compress(b"i,n\n0,a\n2,b\n"))
    with pytest.raises(bj.DataError, match="its i are not 0 to 1"):
        ogb.read_mapping(file, "i", "n")
    with pytest.raises(bj.DataError, match="of another layout"):
        ogb.read_mapping(file, "idx", "n")


# --- the cache --------------------------------------------------------------------------------------------------------


def test_digests(server: Server, tmp_path: Path) -> None:
    """A known one is compared with what is downloaded or put there; an unknown one with that of the first file."""
    folder, like = tmp_path / "files", Source("", "file")
    source = server.source("file", b"content", like)
    assert bring(source, folder).read_bytes() == b"content"
    (server.folder / "file").write_bytes(b"another")
    assert bring(source, folder).read_bytes() == b"content"
    (folder / "file").write_bytes(b"damaged")
    with pytest.raises(bj.DataError, match=rf"file: is another file .* {source.digest}, got sha256:.*; remove"):
        bring(source, folder)
    (folder / "file").unlink()
    with pytest.raises(bj.DataError, match="is another file"):
        bring(source, folder)
    assert os.listdir(folder) == ["digests.json"]  # what was downloaded is not kept
    noted = dataclasses.replace(source, name="noted", digest="")
    assert bring(noted, folder).read_bytes() == b"another"
    (server.folder / "file").write_bytes(b"a third one")
    (folder / "noted").unlink()
    with pytest.raises(bj.DataError, match=r"and digests.json beside it, if what it has noted is wrong"):
        bring(noted, folder)


def test_digests_are_those_of_the_tools(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello\n")
    assert digest_of_file(tmp_path / "f", "git") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert digest_of_file(tmp_path / "f", "md5") == "b1946ac92492d2347c6235b4d2611184"  # md5sum


def test_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = server.source("file", b"content", Source("", "file"))
    monkeypatch.setenv(cache.OFFLINE, "1")
    with pytest.raises(bj.DataError, match=r"files/file: is not there, and BESS_JAX_OFFLINE .* what is at http"):
        bring(source, tmp_path / "files")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file").write_bytes(b"content")
    assert bring(source, tmp_path / "files").read_bytes() == b"content"
    assert server.asked == []
    with pytest.raises(bj.DataError, match=r"FB15k-237\.tar\.gz: is not there"):
        bj.load_dataset("FB15k-237")


def test_a_download_that_fails_leaves_nothing(server: Server, tmp_path: Path) -> None:
    for url in (f"{server.url}/absent", "http://127.0.0.1:9/refused"):
        with pytest.raises(OSError, match=r"cannot be downloaded .*; if you have the file, put it at .*files/file"):
            bring(Source(url, "file"), tmp_path / "files")
    assert os.listdir(tmp_path / "files") == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"g.{kind}"
    whole = packed({"train.txt": np.random.default_rng(0).bytes(50_000)}, kind.split(".")[0])
    archive.write_bytes(whole)
    with pytest.raises(bj.DataError, match=r"has no file valid\.txt"):
        unpack(archive, {"train.txt": "a", "valid.txt": "b"}, tmp_path)
    flipped = bytearray(whole)
    flipped[25_000] ^= 1  # of bytes that cannot be packed: only a checksum tells
    for content in (whole[:20_000], b"", b"no archive", bytes(flipped)):
        archive.write_bytes(content)
        with pytest.raises(bj.DataError, match="damaged, or of another layout"):
            unpack(archive, {"train.txt": "a"}, tmp_path)


def test_a_link_in_an_archive_is_no_file(tmp_path: Path) -> None:
    archive = tmp_path / "g.tar"
    with tarfile.open(archive, "w") as packing:
        link = tarfile.TarInfo("train.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        packing.addfile(link)
    with pytest.raises(bj.DataError, match=r"has no file train\.txt"):
        unpack(archive, {"train.txt": "a"}, tmp_path)


def test_counts_are_compared(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{split}.txt": text.encode() for split, text in SPLITS.items()}
    use(monkeypatch, server, "fb15k-237", [packed(files, "tar")], dataclasses.replace(COUNTS, test=7))
    with pytest.warns(bj.DataWarning, match="other numbers than those published: test 2 in place of 7; its digest is"):
        bj.load_dataset("fb15k-237")
    monkeypatch.setattr(public.Public, "has_digest", False)
    with pytest.raises(bj.DataError, match="test 2 in place of 7; remove it"):
        bj.load_dataset("fb15k-237")


def test_the_table() -> None:
    names = "fb15k-237 codex-s codex-m codex-l yago3-10 ogbl-biokg ogbl-wikikg2 wikikg90mv2 wikidata5m openbiolink"
    assert {*names.split(), "hetionet", "primekg"} == {*PUBLIC}
    for graph in PUBLIC.values():
        for source in graph.sources:
            algorithm, _, digits = source.digest.partition(":")
            assert len(digits) == {"sha256": 64, "md5": 32, "git": 40, "": 0}[algorithm]
            assert source.url.startswith("http")


@pytest.mark.parametrize(
    ("name", "n_entity", "n_relation", "sizes"),
    [("umls", 135, 46, [5216, 652, 661]), ("Nations", 14, 55, [1592, 199, 201])],
)
def test_small_graphs_ship(name: str, n_entity: int, n_relation: int, sizes: list[int]) -> None:
    dataset = bj.load_dataset(name)
    assert (dataset.n_entity, dataset.n_relation_type) == (n_entity, n_relation)
    assert [len(triples) for triples in dataset.triples.values()] == sizes


def test_the_table_in_the_documents() -> None:
    text = (Path(bj.__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [re.split(r"\s*\|\s*", line) for line in text.splitlines() if line.startswith("| `")]
    shown = {row[1].strip("`"): row[2:] for row in rows if row[1].strip("`") in PUBLIC}
    assert list(shown) == list(PUBLIC)
    for name, (n_entity, n_relation, triples, *_, digest, _) in shown.items():
        counts = PUBLIC[name].counts
        assert n_entity == ("-" if counts.n_entity is None else f"{counts.n_entity:,}")
        assert n_relation == f"{counts.n_relation:,}"
        sizes = " / ".join("-" if n is None else f"{n:,}" for n in (counts.train, counts.valid, counts.test))
        assert triples == (f"{counts.triples:,}, drawn" if counts.triples else sizes)
        kinds = {source.digest.partition(":")[0] for source in PUBLIC[name].sources}
        assert kinds == {{"SHA-256": "sha256", "git": "git", "MD5": "md5", "not published": ""}[digest]}
