"""Triples from files of any format and from frames: what is read, and what is said of wrong ones."""

from __future__ import annotations

import bz2
import gzip
import importlib
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

import bess_jax as bj
from bess_jax._optional import MissingExtraError
from bess_jax.data.formats.sources import is_triples_file, read_triples
from bess_jax.data.formats.vocabulary import Vocabulary

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstd.compress,
}
NAMES = ("head", "relation", "tail")
Rows = list[tuple[str, ...]]

ROWS: Rows = [(f"e{i % 9}", f"r{i % 2}", f"e{(i * 5 + 1) % 8}") for i in [*range(24), *range(6)]]
"""Some triples, of which 24 are different."""


def write(file: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    file.write_bytes(PACK.get(file.suffix, bytes)(content))
    return file


def read(file: Path, columns: Sequence[str | int] | None = None) -> Rows:
    """Triples by name."""
    vocabulary = Vocabulary()
    triples = read_triples(file, vocabulary, columns)
    assert triples.dtype == np.int32
    entities, relations = [*vocabulary.entities], [*vocabulary.relations]
    assert [*vocabulary.entities.values()] == [*range(len(entities))]
    return [(entities[h], relations[r], entities[t]) for h, r, t in triples]


def refused(read_it: Callable[[], object]) -> str:
    """What is said, without the folder."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the message is what is looked at
        read_it()
    if isinstance(error.value, bj.DataError):
        return str(error.value).removeprefix(f"{error.value.file.parent}/")
    return str(error.value)


def table(rows: Rows, delimiter: str) -> str:
    return "".join(delimiter.join(row) + "\n" for row in rows)


def rdf(rows: Rows) -> str:
    return "".join(" ".join(f"<x:{name}>" for name in row) + " .\n" for row in rows)


def frame(rows: Rows) -> dict[str, list[str]]:
    names = [*NAMES, "more", "other"][: len(rows[0])]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def of_frame(make: Callable[[Any], Any]) -> Callable[[Path, Any, Any], bj.KGDataset]:
    def dataset(folder: Path, rows: Any, columns: Any) -> bj.KGDataset:
        data = rows if isinstance(rows, dict) else frame(rows) if rows else {name: [] for name in NAMES}
        return bj.KGDataset.from_dataframe(make(data), *(columns or NAMES))

    return dataset


def of_file(name: str, save: Callable[[Path, Any], object]) -> Callable[[Path, Any, Any], bj.KGDataset]:
    def dataset(folder: Path, rows: Any, columns: Any) -> bj.KGDataset:
        file = folder / name
        write(file, rows) if isinstance(rows, bytes) else save(file, rows)
        return bj.KGDataset.from_file(file, columns)

    return dataset


def save_parquet(file: Path, rows: Any) -> None:
    data = rows if isinstance(rows, dict) else frame(rows) if rows else {name: [] for name in NAMES}
    parquet.write_table(pa.table(data), file)


IMPORTERS: dict[str, Callable[[Path, Any, Any], bj.KGDataset]] = {
    "TSV": of_file("a.tsv", lambda file, rows: write(file, table(rows, "\t"))),
    "CSV": of_file("a.csv", lambda file, rows: write(file, table(rows, ","))),
    "parquet": of_file("a.parquet", save_parquet),
    "NumPy": of_file("a.npy", lambda file, rows: np.save(file, np.array(rows or np.empty((0, 3), dtype=str)))),
    "pandas": of_frame(pd.DataFrame),
    "polars": of_frame(pl.DataFrame),
    "N-Triples": of_file("a.nt", lambda file, rows: write(file, rdf(rows))),
    "Turtle": of_file("a.ttl", lambda file, rows: write(file, rdf(rows))),
}
"""Each makes a graph of rows, of the bytes of a file or of columns by name."""


@pytest.mark.parametrize("importer", IMPORTERS)
def test_importers_agree(importer: str, tmp_path: Path) -> None:
    with pytest.warns(bj.DataWarning, match="6 of 30 triples"):
        dataset = IMPORTERS[importer](tmp_path, ROWS, None)
    prefix = "x:" if importer in ("N-Triples", "Turtle") else ""
    assert dataset.entity_dict is not None
    assert dataset.relation_dict is not None
    assert dataset.entity_dict[:6] == tuple(f"{prefix}e{i}" for i in (0, 1, 6, 2, 3, 4))
    assert dataset.relation_dict == (f"{prefix}r0", f"{prefix}r1")
    assert dataset.original_triple_ids is not None
    for split, triples in dataset.triples.items():
        named = [
            tuple(
                names[i].removeprefix(prefix)
                for names, i in zip((dataset.entity_dict, dataset.relation_dict, dataset.entity_dict), row, strict=True)
            )
            for row in triples.tolist()
        ]
        assert named == [ROWS[i] for i in dataset.original_triple_ids[split]]


Case = tuple[Any, Any, str]
"""What is read, `columns`, and the start of what is said: after "warns: " where it is read all the same."""

WITH_HEADER = ([NAMES, *ROWS], None)
FOUR = ([(*row, "0.5") for row in ROWS], None)
RAGGED = [*ROWS[:2], (*ROWS[2], "x")]
QUOTED = ([('"a', "r0", "e1"), *ROWS], None)
LATIN = (frame(ROWS) | {"head": [b"\xe9", *(b"a" for _ in ROWS[1:])]}, None)
OPEN = (b'<x:a> <x:r> "b .\n' + rdf(ROWS).encode(), None)
MIXED = ("<x:é> <x:r> <x:b> .\n".encode() + b"<x:\xe9> <x:r> <x:c> .\n", None)
MISNAMED = ("haed", "relation", "tail")
ROW_0 = "row 0 looks like a header, but is read as a triple, since the columns have names already"
UNCLEAR = "and it is not clear which are head, relation and tail"
NOT_THERE = "has no column 'haed' (did you mean 'head'?): it has 3 columns: 'head', 'relation', 'tail'"

WRONG: dict[str, dict[str, Case]] = {
    "header": {
        "TSV": (*WITH_HEADER, "warns: a.tsv, line 1: taken for a header, not for a triple: head, relation, tail"),
        "CSV": (*WITH_HEADER, "warns: a.csv, line 1: taken for a header, not for a triple: head, relation, tail"),
        "parquet": (*WITH_HEADER, f"warns: a.parquet: {ROW_0}"),
        "NumPy": (*WITH_HEADER, f"warns: a.npy: {ROW_0}"),
        "pandas": (*WITH_HEADER, f"warns: df: {ROW_0}"),
        "polars": (*WITH_HEADER, f"warns: df: {ROW_0}"),
        "N-Triples": (b"head relation tail\n", None, "a.nt, line 1: not N-Triples: 'Parser error"),
        "Turtle": (b"head relation tail\n", None, "a.ttl, line 1: not Turtle: 'Parser error"),
    },
    "extra column": {
        "TSV": (RAGGED, None, "a.tsv, line 3: expected 3 non-empty columns separated by tabs, got 'e2\\tr0\\te3\\tx'"),
        "CSV": (RAGGED, None, "a.csv, line 3: expected 3 non-empty columns separated by commas, got 'e2,r0,e3,x'"),
        "parquet": ({x: ["x"] for x in "abcd"}, None, f"a.parquet: has 4 columns: 'a', 'b', 'c', 'd', {UNCLEAR}"),
        "NumPy": (*FOUR, f"a.npy: has 4 columns: '0', '1', '2', '3', {UNCLEAR}"),
        "pandas": (*FOUR, "reads"),
        "polars": (*FOUR, "reads"),
        "N-Triples": (rdf(RAGGED).encode(), None, "a.nt, line 3: not N-Triples: 'Parser error"),
        "Turtle": (rdf(RAGGED).encode(), None, "a.ttl, line 3: not Turtle: 'Parser error"),
    },
    "open quote": {
        "TSV": (*QUOTED, "warns: a.tsv: 1 names with a quote at the start, which belongs to the name"),
        "CSV": (*QUOTED, "a.csv, line 1: expected 3 columns or more, separated by commas, semicolons, tabs, bars, got"),
        "parquet": (*QUOTED, "reads"),
        "NumPy": (*QUOTED, "reads"),
        "pandas": (*QUOTED, "reads"),
        "polars": (*QUOTED, "reads"),
        "N-Triples": (*OPEN, "a.nt, line 1: not N-Triples: 'Parser error"),
        "Turtle": (*OPEN, "a.ttl, line 1: not Turtle: 'Parser error"),
    },
    "encodings": {
        "TSV": ("é\tr\tb\n".encode() + b"\xe9\tr\tc\n", None, "a.tsv, line 2: not UTF-8 (invalid continuation byte)"),
        "CSV": ("é,r,b\n".encode() + b"\xe9,r,c\n", None, "a.csv, line 2: not UTF-8 (invalid continuation byte)"),
        "parquet": (*LATIN, "a.parquet: damaged, or not parquet: 'Invalid UTF8 payload'"),
        "NumPy": ([(b"\xe9", b"r", b"b")], None, "a.npy: row 0, counted from 0, has bytes that are not UTF-8"),
        "pandas": (*LATIN, "df: row 0, counted from 0, has b'\\xe9', not a string or a whole number, in column 'head'"),
        "polars": (*LATIN, "df: row 0, counted from 0, has b'\\xe9', not a string or a whole number, in column 'head'"),
        "N-Triples": (*MIXED, "a.nt, line 2: not N-Triples: 'Parser error"),
        "Turtle": (*MIXED, "a.ttl, line 2: not Turtle: 'Parser error"),
    },
    "empty": {
        "TSV": ([], None, "a.tsv: holds no triple"),
        "CSV": ([], None, "a.csv: holds no triple"),
        "parquet": ([], None, "a.parquet: holds no triple"),
        "NumPy": ([], None, "a.npy: holds no triple"),
        "pandas": ([], None, "df holds no triple"),
        "polars": ([], None, "df holds no triple"),
        "N-Triples": ([], None, "a.nt: holds no triple"),
        "Turtle": ([], None, "a.ttl: holds no triple"),
    },
    "column names": {
        "TSV": (WITH_HEADER[0], MISNAMED, f"a.tsv, line 1: {NOT_THERE}"),
        "CSV": (WITH_HEADER[0], MISNAMED, f"a.csv, line 1: {NOT_THERE}"),
        "parquet": (ROWS, MISNAMED, f"a.parquet: {NOT_THERE}"),
        "NumPy": (ROWS, NAMES, "a.npy: its columns have no names, but numbers from 0 to 2: give three of them"),
        "pandas": (ROWS, MISNAMED, f"df {NOT_THERE}"),
        "polars": (ROWS, MISNAMED, f"df {NOT_THERE}"),
        "N-Triples": (ROWS, NAMES, "a.nt: has no columns to choose, since RDF tells subject, predicate and object"),
        "Turtle": (ROWS, NAMES, "a.ttl: has no columns to choose, since RDF tells subject, predicate and object"),
    },
    "duplicates": dict.fromkeys(
        IMPORTERS, (ROWS, None, "warns: 6 of 30 triples are left out, since they repeat an earlier one")
    ),
}


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_inputs(wrong: str, importer: str, tmp_path: Path) -> None:
    """Fifty-six cases; docs/data.md has the same table."""
    content, columns, expected = WRONG[wrong][importer]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if expected == "reads" or expected.startswith("warns: "):
            dataset = IMPORTERS[importer](tmp_path, content, columns)
            assert sum(map(len, dataset.triples.values())) in (24, 25)
            said = [str(warning.message).removeprefix(f"{tmp_path}/") for warning in caught]
            wanted = expected.removeprefix("warns: ") if expected != "reads" else "6 of 30"
            assert any(text.startswith(wanted) for text in said) or expected == "reads", said
            assert len(said) == 1 + (expected != "reads" and wrong != "duplicates")
        else:
            said = [refused(lambda: IMPORTERS[importer](tmp_path, content, columns))]
            assert said[0].startswith(expected)
    assert all("\n" not in text and len(text) < 500 for text in said)


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.csv", "A.CSV", "a.nt", "a.ttl"])
def test_packed_files(name: str, packed: str, tmp_path: Path) -> None:
    is_rdf = name in ("a.nt", "a.ttl")
    text = rdf(ROWS) if is_rdf else table(ROWS, "," if name.lower() == "a.csv" else "\t")
    assert is_triples_file(name + packed)
    found = read(write(tmp_path / (name + packed), text))
    assert [tuple(x.removeprefix("x:") for x in row) for row in found] == ROWS
    damaged = tmp_path / f"damaged{name}{packed}"
    if packed:
        damaged.write_bytes((tmp_path / (name + packed)).read_bytes()[:-9])
        assert "cannot be read: " in refused(lambda: read(damaged))
        damaged.write_text(text)
        assert "cannot be read: " in refused(lambda: read(damaged))


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".zst"])
def test_packed_files_of_several_streams(packed: str, tmp_path: Path) -> None:
    """As `pbzip2` and `cat` make them: all are read, or what is damaged is told."""
    one, other = (PACK[packed](text) for text in (b"a,r,b\n", b"c,r,d\n"))
    file = tmp_path / f"a.csv{packed}"
    file.write_bytes(one + other)
    assert read(file) == [("a", "r", "b"), ("c", "r", "d")]
    for damaged in (one + bytes([other[0] ^ 1]) + other[1:], one + b"c,r,d\n"):
        file.write_bytes(damaged)
        assert "cannot be read: " in refused(lambda: read(file))


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.npy.gz", "a.xlsx", "a", "a.gz", ".csv.zip", "a.tsv.gz.gz"])
def test_other_endings(name: str, tmp_path: Path) -> None:
    assert not is_triples_file(name)
    assert "of a format that its name does not tell" in refused(lambda: read(write(tmp_path / name, "")))


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("a.parquet", "pyarrow.parquet", "tables"),
        ("a.nt", "pyoxigraph", "rdf"),
        ("a.tsv.zst", zstd.__name__, "zst"),
    ],
)
def test_what_is_not_installed(
    name: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(MissingExtraError, match=rf"{name} needs the package {module}: .*bess_jax\[{extra}\]"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ('"a, 1",r,"say ""b"""\n', None, [("a, 1", "r", 'say "b"')]),
        ('a, "r 1", b \r\n', None, [("a", "r 1", "b")]),
        ('5" pipe,r,b\n', None, [('5" pipe', "r", "b")]),
        ("\ufeffa;r;b,c\n\n;;\nd;r;e\n", None, [("a", "r", "b,c"), ("d", "r", "e")]),
        ("a\tr\tb\nc\tr\td", None, [("a", "r", "b"), ("c", "r", "d")]),
        ("a|r|b\n", None, [("a", "r", "b")]),
        ("1|2|3,r,4|5\n", None, [("1|2|3", "r", "4|5")]),
        ("w,x,y,z\nb,1,a,r\n", ("y", "z", "w"), [("a", "r", "b")]),
        ("w;x;y,y;z\nb,;,1;a;r\n", ("y,y", "z", "w"), [("a", "r", "b,")]),
        ("b,1,a,r\nc,,a,r\n", (2, 3, 0), [("a", "r", "b"), ("a", "r", "c")]),
        ("b,1,a,r\n", ("2", "3", "0"), [("a", "r", "b")]),
    ],
)
def test_rules_for_csv(content: str, columns: Sequence[str | int] | None, expected: Rows, tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", content), columns) == expected


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("a,b;r;b,c\n", None, "a.csv: columns may be separated by commas or by semicolons"),
        ('a,r,b\n"c\nc",r,d\n"e,r,f\n', None, "a.csv, line 4: a quote that opens here is never closed"),
        ('a,r,b\n"c,r,d\n', None, "a.csv, line 2: a quote that opens here is never closed"),
        ("a r b\n", None, "a.csv, line 1: expected 3 columns or more, separated by commas, semicolons, tabs, bars"),
        ("\n\na,b\n", None, "a.csv, line 3: expected 3 columns or more"),
        ("a,r,b\n\nc,r\n", None, "a.csv, line 3: expected 3 non-empty columns separated by commas, got 'c,r'"),
        ("a,r,b\nc,,d\n", None, "a.csv, line 2: expected 3 non-empty columns separated by commas, got 'c,,d'"),
        ('a,r,"b\nc"\nc,r\n', None, "a.csv, line 3: expected 3 non-empty"),
        ("a,1,r,b\nc,,r,\n", (0, 2, 3), "a.csv, line 2: expected 4 columns separated by commas, with values in 0, 2"),
        ('a,r,b\na,r,"b" x\n', None, "a.csv, line 2: a quote closes within a value"),
        ("a,r,b\nb,r,c\rc,r,d\n", None, "a.csv, line 2: a carriage return in a value without quotes"),
        (f'a,r,b\na,r,"{"b" * 140_000}"\n', None, "a.csv, line 2: a value of more than 131,072 characters"),
        ("a,r,b\n", (0, 1, 3), "a.csv, line 1: has no column 3, counted from 0: it has 3 columns: 'a', 'r', 'b'"),
        ("x,x,y,z\na,r,b,c\n", ("x", "y", "z"), "a.csv, line 1: has 2 columns called 'x'"),
        ("a,r,b\n", (0, 1), "columns must be three different names or numbers"),
        ("a,r,b\n", ("a", "b", "b"), "columns must be three different names or numbers"),
        ("a,r,b\n", ("a", "r", 2), "columns must be three names or three numbers"),
    ],
)
def test_csv_that_is_refused(content: str, columns: Sequence[str | int] | None, expected: str, tmp_path: Path) -> None:
    assert refused(lambda: read(write(tmp_path / "a.csv", content), columns)).startswith(expected)


def test_tsv_that_is_csv(tmp_path: Path) -> None:
    said = refused(lambda: read(write(tmp_path / "a.txt", "a,r,b\n")))
    assert said.endswith("separated by tabs, got 'a,r,b'; with commas, it must be called .csv")


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("source,target,type\na,b,r\n", None, [("a", "r", "b")]),  # in another order
        ("id,head,head_type,relation,tail,tail_type\n1,a,A,r,b,B\n", None, [("a", "r", "b")]),
        ("id,source,target,type\n1,a,b,r\n", (1, 3, 2), [("a", "r", "b")]),
        ("head,relation,tail\na,r,b\n", (2, 1, 0), [("b", "r", "a")]),  # the other way round
    ],
)
def test_headers(content: str, columns: Sequence[int] | None, expected: Rows, tmp_path: Path) -> None:
    said = "are read as head, relation, tail; --columns (source,type|head,relation|tail,relation)"
    with pytest.warns(bj.DataWarning, match=said):
        assert read(write(tmp_path / "a.csv", content), columns) == expected


def test_words_of_a_header_may_be_a_triple(tmp_path: Path) -> None:
    """Then the file is read again, and ids are in the order of all its lines."""
    rows: Rows = [("a", "r", "b")] * 50_000
    file = write(tmp_path / "a.tsv", table([("h", "r", "t"), *rows], "\t"))
    vocabulary = Vocabulary()
    vocabulary.ids(["z"], ["s"], ["a"])
    with pytest.warns(bj.DataWarning, match="line 1: looks like a header, but is read as a triple, since others have"):
        triples = read_triples(file, vocabulary)
    assert [*vocabulary.entities] == ["z", "a", "h", "t", "b"]
    assert [*vocabulary.relations] == ["s", "r"]
    assert (triples[0].tolist(), len(triples)) == ([2, 1, 3], 50_001)
    other: Rows = [("tail", "head", "rel"), ("a", "b", "rel"), ("c", "rel", "d")]
    with pytest.warns(bj.DataWarning, match="line 1: looks like a header, but is read as a triple"):
        assert read(write(file, table(other, "\t"))) == other


@pytest.mark.parametrize("first", [("Kopf", "Beziehung", "Ende"), ("0", "1", "2")])
def test_first_rows_that_may_be_headers(first: tuple[str, ...], tmp_path: Path) -> None:
    """Such as those of other languages, and what pandas writes of columns without names."""
    for rows in ([first, *ROWS], [first, *ROWS, (*first[:2], "e1")], [first, ("a", "r", "b")]):
        file = write(tmp_path / "a.csv", table(rows, ","))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read(file) == rows
        told = [
            f"{file}, line 1: read as a triple, but nothing of it stands in another one" in str(w.message)
            for w in caught
        ]
        assert told == ([True] if rows == [first, *ROWS] else [])
    named = read(
        write(tmp_path / "a.csv", table([("Kopf", "Beziehung", "Ende"), *ROWS], ",")), ("Kopf", "Beziehung", "Ende")
    )
    assert named == ROWS


def test_headers_that_are_repeated(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", table([NAMES, *ROWS, NAMES, *ROWS, NAMES], ","))
    with pytest.warns(
        bj.DataWarning, match="2 rows are the header once more, and read as a triple: head, relation, ta"
    ):
        assert len(read(file, NAMES)) == 62
    with pytest.warns(bj.DataWarning, match="line 1: looks like a header, but is read as a triple, since others have"):
        assert len(read(file)) == 63


def test_delimiters_within_values(tmp_path: Path) -> None:
    rows: Rows = [(f"Doe, {h}", r, f"{t}, Jr", "2020") for h, r, t in ROWS]
    file = write(tmp_path / "a.csv", table(rows, ";"))
    with pytest.warns(bj.DataWarning, match="as separated by commas, since these make three, though semicolons stand"):
        assert read(file)[0] == ("Doe", "e0;r0;e1", "Jr;2020")
    assert read(file, (0, 1, 3)) == [(row[0], row[1], row[3]) for row in rows]


@pytest.mark.parametrize("columns", [(0, 1, -1), (0.0, 1, 2), (True, 2, 3), (None, 1, 2), ("0", "00", "1"), 5, "abc"])
def test_columns_that_are_none(columns: Any, tmp_path: Path) -> None:
    assert "columns must be three" in refused(lambda: read(write(tmp_path / "a.csv", "a,r,b,c\n"), columns))


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_many_blocks(name: str, quote: str, tmp_path: Path) -> None:
    """Rows of which some span the ends of blocks; every line of the file has its number."""
    delimiter = "\t" if name == "a.tsv" else ","
    end = "\n" if quote and name == "a.csv" else ""
    rows: Rows = [(f"{'é' * (i % 70)}a{end}{i}", f"r {i % 3}", f"b{i % 1000}") for i in range(9_000)]
    quoted = [tuple(f"{quote}{x}{quote}" for x in row) for row in rows]
    file = write(tmp_path / name, table(quoted, delimiter))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read(file) == (rows if name == "a.csv" else quoted)
    assert [str(warning.message).removeprefix(f"{file}: ")[:12] for warning in caught] == {
        ("a.tsv", '"'): ["27,000 names"],
        ("a.csv", '"'): ["9,000 names "],
    }.get((name, quote), [])
    file.write_text(table(quoted, delimiter) + "a\n")
    assert f"{name}, line {len(rows) * (2 if end else 1) + 1}: expected 3" in refused(lambda: read(file))


def test_memory_of_an_open_quote(tmp_path: Path) -> None:
    """The file is not read to its end; 10 MB take a few."""
    file = write(tmp_path / "a.csv", "a,r,b\n" + '"c,r,d\n' + "e,r,f\n" * 1_500_000)
    tracemalloc.start()
    try:
        assert "a.csv, line 2: a value of more than 131,072 characters" in refused(lambda: read(file))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_labels_and_literals_of_rdf(tmp_path: Path) -> None:
    label = "<http://www.w3.org/2000/01/rdf-schema#label>"
    lines = [
        "<x:a> <x:r> <x:b> .",
        f'<x:a> {label} "Anna"@de .',
        f'<x:a> {label} "Anne"@en-GB .',
        f'<x:b> {label} " Ben "@fr .',
        f'<x:b> {label} "Benno"@de .',
        f'<x:r> {label} "knows" .',
        f'<x:r> {label} "kennt"@en .',
        '<x:a> <x:age> "5" .',
        "_:z <x:r> <x:a> .",
    ]
    file = write(tmp_path / "a.nt", "\ufeff" + "\n".join(lines))
    vocabulary = Vocabulary()
    with pytest.warns(bj.DataWarning, match=r"a\.nt: 1 left out .* a literal, .* '<x:a> <x:age> \"5\"'$"):
        assert read_triples(file, vocabulary).tolist() == [[0, 0, 1], [2, 0, 0]]
    attributes = vocabulary.attributes()
    assert attributes["entity_dict"] == ("x:a", "x:b", "_:z")
    assert attributes["entity_labels"] == {"x:a": "Anne", "x:b": "Ben"}
    assert attributes["relation_labels"] == {"x:r": "knows"}


def test_names_of_rdf_follow_the_rules_for_all(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.nt", "<x:\u3000> <x:a\ufeffb> <x:c> .")) == [("x:", "x:ab", "x:c")]
    label = '<x:a> <http://www.w3.org/2000/01/rdf-schema#label> "a\\u0000" .\n'
    assert refused(lambda: read(write(tmp_path / "a.nt", label))).startswith("a.nt: a NUL, which is not text")


def test_blank_nodes_of_turtle_have_the_same_names_each_time(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ttl", "@prefix e: <x:> . e:a e:r [ e:r e:b ], _:q . _:q e:r e:a .")
    assert sorted(read(file)) == sorted(
        [("_:b1", "x:r", "x:b"), ("x:a", "x:r", "_:b1"), ("x:a", "x:r", "_:b2"), ("_:b2", "x:r", "x:a")]
    )


def test_ids_of_numpy_are_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[3, 1, 0], [5, 0, 3]]))
    np.savez(tmp_path / "a.npz", weight=[1.0], tail=[0, 3], relation=[1, 0], head=np.array([3, 5], np.uint8))
    np.savez(tmp_path / "b.npz", a=["x", "y"], b=[0, 1], c=["z", "x"])
    for name in ("a.npy", "a.npz"):
        vocabulary = Vocabulary()
        assert read_triples(tmp_path / name, vocabulary).tolist() == [[3, 1, 0], [5, 0, 3]]
        assert [*vocabulary.entities] == ["0", "1", "2", "3", "4", "5"]
        assert vocabulary.attributes()["n_relation_type"] == 2
    assert read(tmp_path / "b.npz", ("c", "b", "a")) == [("z", "0", "x"), ("x", "1", "y")]
    read_triples(tmp_path / "b.npz", vocabulary := Vocabulary())
    assert "holds ids, but the triples before it have names" in refused(
        lambda: read_triples(tmp_path / "a.npy", vocabulary)
    )


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, -1, 2]]), "ids must be from 0 to 2,147,483,647, got -1 to 2"),
        (np.array([[0, 1, 2**31]]), "ids must be from 0 to 2,147,483,647, got 0 to 2147483648"),
        (np.array([[0, 1, 101], [0, 1, 2]]), None),
        (np.array([[0, 1, 101]]), "holds ids up to 101 in 1 triples, so that nearly all ids are of nothing"),
        (np.array([[0, 101, 1]]), "holds ids up to 101 in 1 triples"),
        (np.full(3, 0x110000, np.uint32).view("U1")[None], "row 0, counted from 0, has a character that is none"),
        (np.array([[0.5, 1, 2]]), "row 0, counted from 0, has a value of type float64, not a string or a whole number"),
        (np.array([["a", "r", " "]]), "row 0, counted from 0, has an empty name in column '2'"),
        (np.array(["a", "r", "b"]), "expected a matrix with a row for each triple, got shape (3,)"),
        (np.array([[None, "r", "b"]], dtype=object), "damaged, or not a NumPy file of numbers or strings"),
    ],
)
def test_numpy_that_is_refused(array: Any, expected: str | None, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    if expected is None:
        assert len(read(tmp_path / "a.npy")) == len(array)
        return
    assert refused(lambda: read(tmp_path / "a.npy")).startswith(f"a.npy: {expected}")


def test_archives_that_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", head=[1, 2], relation=[0], tail=[1, 2])
    assert "must have one axis of equal length, got [(2,), (1,), (2,)]" in refused(lambda: read(tmp_path / "a.npz"))
    bj.KGDataset(2, 1, {"train": np.array([[0, 0, 1]], np.int32)}).save(tmp_path / "a.npz")
    assert "a graph that KGDataset.save wrote, not triples" in refused(lambda: read(tmp_path / "a.npz"))


def test_columns_of_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    columns = {
        "weight": [0.5, 1.0],
        "type": pa.array(["r", "s"]).dictionary_encode(),
        "source": pa.array([1, 2]),
        "target": pa.array([" b", "ä"], pa.large_string()),
    }
    parquet.write_table(pa.table(columns), file)
    assert read(file) == [("1", "r", "b"), ("2", "s", "ä")]
    assert read(file, (3, 1, 2)) == [("b", "r", "1"), ("ä", "s", "2")]
    said = refused(lambda: read(file, ("source", "type", "weight")))
    assert said.startswith("a.parquet: 'weight' is a column of type double; expected strings")
    parquet.write_table(pa.table(columns | {"target": ["b", None]}), file)
    assert refused(lambda: read(file)) == "a.parquet: row 1, counted from 0, has no value in column 'target'"
    parquet.write_table(pa.table(frame([("a", "r", "b")] * 140_000 + [("a", "r", " ")])), file)
    assert "row 140,000, counted from 0, has an empty name in column 'tail'" in refused(lambda: read(file))
    parquet.write_table(pa.table(columns | {"target": ["b", "c\0"]}), file)
    assert "row 1, counted from 0, has a NUL" in refused(lambda: read(file))
    parquet.write_table(pa.table([["a"]] * 4, names=["h", "r", "t", "t"]), file)
    assert "has 2 columns called 't'" in refused(lambda: read(file, (0, 1, 3)))


MISSING = frame([("a", "r", "b"), ("c", "s", "d")])


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_frames(make: Callable[[Any], Any]) -> None:
    dataset = bj.KGDataset.from_dataframe({"train": make(frame(ROWS)), "test": make(MISSING)}, *NAMES)
    assert {split: len(triples) for split, triples in dataset.triples.items()} == {"train": 30, "test": 2}
    assert dataset.original_triple_ids is None
    assert dataset.find_entity("c") == 11
    said = refused(lambda: bj.KGDataset.from_dataframe(make(MISSING | {"tail": ["a", None]}), *NAMES))
    assert said == "df: row 1, counted from 0, has no value in column 'tail'"
    said = refused(lambda: bj.KGDataset.from_dataframe({"test": make(MISSING | {"tail": [0.5, 1.0]})}, *NAMES))
    assert said.startswith("df['test']: row 0, counted from 0, has a value of type float64")
    numbers = bj.KGDataset.from_dataframe({"train": make(MISSING | {"tail": [5, 6]})}, *NAMES)
    assert numbers.entity_dict == ("a", "5", "c", "6")


def test_frames_of_pandas() -> None:
    data = pd.DataFrame(ROWS)
    types = pd.Series({f"e{i}": "odd" if i % 2 else "even" for i in range(9)})
    with pytest.warns(bj.DataWarning, match="6 of 30"):
        dataset = bj.KGDataset.from_dataframe(data.astype("category"), 0, 1, 2, entity_types=types)
    assert dataset.type_offsets == {"even": 0, "odd": 5}
    assert dataset.entity_dict is not None
    assert [types[name] for name in dataset.entity_dict] == ["even"] * 5 + ["odd"] * 4
    with pytest.warns(bj.DataWarning, match="6 of 30"):
        again = bj.KGDataset.from_triples(ROWS)
    assert again.original_triple_ids is not None
    assert dataset.original_triple_ids is not None
    for split, rows in again.original_triple_ids.items():
        assert sorted(rows) == sorted(dataset.original_triple_ids[split])
        labels = [dataset.entity_label(h) for h in dataset.triples[split][:, 0]]
        assert labels == [ROWS[i][0] for i in dataset.original_triple_ids[split]]
    assert "has b'\\xe9'" in refused(lambda: bj.KGDataset.from_dataframe(pd.DataFrame(LATIN[0]), *NAMES))
    surrogate = pd.DataFrame({"head": ["a\udce9"], "relation": ["r"], "tail": ["b"]}, dtype=object)
    assert "not Unicode text (a surrogate): 'a\\udce9'" in refused(
        lambda: bj.KGDataset.from_dataframe(surrogate, *NAMES)
    )


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (pd.DataFrame({"a": ["x", None]}).astype("string"), "df: row 1, counted from 0, has no value in column 'a'"),
        (
            pd.DataFrame({"a": [1, None]}, dtype="Int64"),
            "df: row 0, counted from 0, has a value of type float64, not a",
        ),
        (pd.Series(["x"]), "df must be a frame of pandas, polars or pyarrow, got Series"),
        (ROWS, "df must be a frame of pandas, polars or pyarrow, got list"),
        ({"a": ["x"]}, "df['a'] must be a frame of pandas, polars or pyarrow, got list"),
        (pl.LazyFrame({"a": ["x"]}), "df must be a frame of pandas, polars or pyarrow, got LazyFrame: collect() makes"),
        ({}, "df holds no split: expected a frame, or split name -> frame"),
    ],
)
def test_frames_that_are_none(frame: Any, expected: str) -> None:
    if isinstance(frame, pd.DataFrame):
        frame = frame.assign(b="r", c="y")
    assert refused(lambda: bj.KGDataset.from_dataframe(frame, "a", "b", "c")).startswith(expected)


def test_columns_of_frames() -> None:
    said = refused(lambda: bj.KGDataset.from_dataframe(pd.DataFrame(ROWS), 0, 1, 0))
    assert said == "columns must be three different ones, got 0, 1, 0"
    said = refused(lambda: bj.KGDataset.from_dataframe(pd.DataFrame(ROWS), "0", 1, 2))
    assert said == "df has no column '0' (did you mean 0?): it has 3 columns: 0, 1, 2"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([("a", "r", "b"), ("a", "r", float("nan"))], "data: row 1, counted from 0, has no value in column 'tail'"),
        ([("a", "r", "b"), ("a", 1.5, "b")], "data: row 1, counted from 0, has 1.5, not a string or a whole number"),
        ([("a", "r", True)], "data: row 0, counted from 0, has True, not a string or a whole number"),
        ([("a", "r", "b"), ("a", "r", "b\0")], "data: row 1, counted from 0, has a NUL"),
        ([("a", "r", "b"), ("a", "r")], "data must have rows of three, got rows of different lengths"),
        (np.array([[0, 0, 2**40]]), "data holds ids up to 1,099,511,627,776 in 1 triples, so that nearly all ids"),
        (np.array([[0, 10**6, 1]]), "data holds ids up to 1,000,000 in 1 triples, so that nearly all ids"),
    ],
)
def test_triples_in_memory_that_are_refused(data: Any, expected: str) -> None:
    assert refused(lambda: bj.KGDataset.from_triples(data)).startswith(expected)


def test_triples_in_memory() -> None:
    ids = np.array([(i % 7, i % 2, i % 5) for i in range(60)])
    names = [f"n{i}" for i in range(8)]
    assert bj.KGDataset.from_triples(ids.astype(np.uint64)).n_entity == 7
    dataset = bj.KGDataset.from_triples(ids, entity_dict=names, type_offsets={"a": 0, "b": 4})
    assert (dataset.n_entity, dataset.n_relation_type) == (8, 2)
    assert dataset.original_triple_ids is not None
    for split, rows in dataset.original_triple_ids.items():
        np.testing.assert_array_equal(dataset.triples[split], ids[rows])
    assert "data must have shape (n_triple, 3)" in refused(lambda: bj.KGDataset.from_triples(ids[:, :2]))
    assert "entity_dict is for data of ids" in refused(lambda: bj.KGDataset.from_triples(ROWS, entity_dict=names))
    for wrong, got in (
        ({name: i for i, name in enumerate(names)}, "dict"),
        ([*range(8)], "int"),
        ([None] * 8, "NoneType"),
    ):
        said = refused(lambda: bj.KGDataset.from_triples(ids, entity_dict=wrong))  # noqa: B023
        assert said.startswith("entity_dict must be a sequence of strings")
        assert said.endswith(f"got {got}")
    assert "data[6, 0] is 6" in refused(lambda: bj.KGDataset.from_triples(ids, entity_dict=names[:6]))
    assert "data[0, 2] is 4294967297" in refused(
        lambda: bj.KGDataset.from_triples(np.array([[0, 0, 2**32 + 1]] * 9), entity_dict=names)
    )


def test_types_of_a_file(tmp_path: Path) -> None:
    types = {f"e{i}": "odd" if i % 2 else "even" for i in range(9)}
    with pytest.warns(bj.DataWarning, match="6 of 30"):
        dataset = bj.KGDataset.from_file(write(tmp_path / "a.csv", table(ROWS, ",")), entity_types=types)
    assert dataset.type_offsets == {"even": 0, "odd": 5}
