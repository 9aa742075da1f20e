"""Text files of any content: what is read from them by rule, and what is said of those that are refused."""

from __future__ import annotations

import collections
import gzip
import os
import re
import socket
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import bess_jax as bj
from bess_jax.data.formats.vocabulary import is_bare
from bess_jax.data.text import LONGEST_LINE, LONGEST_SETTING, MOST_SETTINGS, read_columns, read_toml, shorten

THIRD = (LONGEST_LINE - 2) // 3


def write(file: Path, content: str | bytes) -> Path:
    """A file of some content; compressed if it is named so."""
    content = content.encode() if isinstance(content, str) else content
    file.write_bytes(gzip.compress(content, 1) if file.suffix == ".gz" else content)
    return file


def refusal(read: Callable[[], object]) -> bj.DataError:
    with pytest.raises(bj.DataError) as error:
        read()
    assert len(str(error.value)) < len(str(error.value.file)) + 400
    return error.value


def names_in(file: Path, n_column: int = 3) -> list[list[str]]:
    return [columns for _, columns in read_columns(file, n_column)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeffa\tr\tb\n", [["a", "r", "b"]]),  # a byte-order mark
        ("a\tr\tb\n\ufeffc\tr\td\n", [["a", "r", "b"], ["c", "r", "d"]]),  # of a file that was appended
        (" a \tr\u00a0\t\u3000b\n", [["a", "r", "b"]]),
        ("a\tr\tb\r\nc\tr\td\r\n", [["a", "r", "b"], ["c", "r", "d"]]),
        ("\n \n\r\n\u00a0\n\t\t\na\tr\tb", [["a", "r", "b"]]),
        ("New York\tis\u00a0in\tthe  USA", [["New York", "is\u00a0in", "the  USA"]]),
        ("a\x1b[31m\tr\x07\tb\x7f\rc\n", [["a\x1b[31m", "r\x07", "b\x7f\rc"]]),  # control characters are data
        ("a\u2028b\tr\x0bs\tc\x85d\n", [["a\u2028b", "r\x0bs", "c\x85d"]]),  # none of these ends a line
        ("é\tr\te\u0301\n", [["é", "r", "e\u0301"]]),  # what looks equal need not be
        ("", []),
    ],
)
@pytest.mark.parametrize("name", ["triples.tsv", "triples.tsv.gz"])
def test_rules_for_names(tmp_path: Path, name: str, content: str, expected: list[list[str]]) -> None:
    assert names_in(write(tmp_path / name, content)) == expected


def test_white_space_is_what_python_strips() -> None:
    for code in range(0x3100):
        assert is_bare(chr(code)) == (code < 128 and (chr(code) in "\t\n" or not chr(code).isspace())), code


def test_numbers_of_lines_over_many_blocks(tmp_path: Path) -> None:
    """Lines of every length around the size of a block, with characters that are cut by its end."""
    lengths = [1, 65_534, 65_535, 65_536, 65_537, 10, 131_071, 7]
    lines = [f"{'é' * length}\tr\tb" for length in lengths for _ in range(2)]
    found = list(read_columns(write(tmp_path / "a.tsv", "\n\n".join(lines)), 3))
    assert [(number, "\t".join(columns)) for number, columns in found] == [
        (2 * i + 1, line) for i, line in enumerate(lines)
    ]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"a\tr\tb\n\na\tr\n", 3, "expected 3 non-empty columns separated by tabs, got 'a\\tr'"),
        (b"a\tr\t \n", 1, "expected 3"),
        (b"a\tr\tb\tc\n", 1, "expected 3"),
        (b"a r b\n", 1, "expected 3"),
        (b"a\tr\tb\n\t\ta\n", 2, "expected 3"),
        ("a\tr\t\ufeff\n".encode(), 1, "expected 3"),
        (b"a\tr\tb\na\tr\t" + b"b" * 200 + b"\tc\n", 2, "bbb'... (206 characters)"),
        (b"a\tr\tb\na\tr\t\0\n", 2, "a NUL, which is not text"),
        (b"a\tr\tb\n" * 100_000 + b"a\t\xff\tb\n", 100_001, "not UTF-8 (invalid start byte)"),
        ("a\tr\tb\n\n\n\ta\tr\té".encode()[:-1], 4, "not UTF-8 (unexpected end of data)"),
        (b"a\tr\t\xed\xa0\x80\n", 1, "not UTF-8"),  # a surrogate
        ("a\tr\tb\n".encode("utf-16"), 1, "looks like UTF-16"),
        ("a\tr\tb\n".encode("utf-16-be"), 1, "looks like UTF-16"),
        (b"\xfe\xff" + "a\tr\tb\n".encode("utf-16-be"), 1, "looks like UTF-16"),
        ("a\tr\tb\n".encode("utf-32"), 1, "looks like UTF-16 or UTF-32"),
        (gzip.compress(b"a\tr\tb\n", mtime=0), 1, "looks like gzip, whose name must end in .gz"),
        (b"a\tr\tb\n" + b"a" * (LONGEST_LINE + 1), 2, "longer than 1,048,576 characters"),
        (b"\0" * 1_000_000, 1, "a NUL"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, line: int, reason: str) -> None:
    for name in ("triples.tsv", "triples.tsv.gz"):
        file = write(tmp_path / name, content)
        error = refusal(partial(names_in, file))
        assert (error.file, error.line) == (file, line)
        assert reason in error.reason
        assert str(error) == f"{file}, line {line}: {error.reason}"


def test_damaged_gzip(tmp_path: Path) -> None:
    good = gzip.compress("".join(f"{i}\tr\t{i * i}\n" for i in range(50_000)).encode())
    file = tmp_path / "triples.tsv.gz"
    for content in (good[:-9], good[:50], good[:3], good + b"more", b"plain text", good[:-5] + b"xxxxx"):
        file.write_bytes(content)
        error = refusal(lambda: names_in(file))
        assert (error.file, error.reason[:15]) == (file, "cannot be read:")
        assert error.line is not None
    for i in range(10, len(good), len(good) // 50):
        file.write_bytes(good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1 :])
        refusal(lambda: names_in(file))  # what was unpacked may be no text


@pytest.mark.parametrize(
    ("character", "bytes_of_longest"),
    [("a", LONGEST_LINE), ("é", LONGEST_LINE), ("漢", 2 * LONGEST_LINE), ("😀", 4 * LONGEST_LINE)],
)
def test_memory_for_longest_lines(tmp_path: Path, character: str, bytes_of_longest: int) -> None:
    """At most three times the longest allowed line, which has 1, 2 or 4 bytes per character in Python."""
    line = "\t".join([character * THIRD] * 3) + "\n"
    content = line * 3 + "a\tr\tb\n" * 100_000 + f"{character}\n" * 100_000 + character * (LONGEST_LINE + 1)
    for name, n_column in (("a.tsv", 3), ("a.tsv.gz", 3), ("a.tsv", 1)):
        file = write(tmp_path / name, content)
        tracemalloc.start()
        try:
            error = refusal(partial(collections.deque, read_columns(file, n_column), 0))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert error.line == (100_004 if n_column == 3 else 1)
        assert peak < 3 * bytes_of_longest


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_a_line_of_100_megabytes_is_not_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with gzip.open(file, "wb", 1) if name.endswith(".gz") else file.open("wb") as stream:
        for _ in range(100):
            stream.write(b"a" * 1_000_000)
    tracemalloc.start()
    start = time.process_time()
    try:
        error = refusal(lambda: names_in(file))
        assert tracemalloc.get_traced_memory()[1] < 3 * LONGEST_LINE
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 1
    assert error.line == 1


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \n"])
def test_blank_lines_take_no_time(tmp_path: Path, blank: bytes) -> None:
    """10 MB; 100 MB take ten times as long."""
    file = write(tmp_path / "a.tsv", blank * (10_000_000 // len(blank)) + b"a\tr\tb\n")
    start = time.process_time()
    assert list(read_columns(file, 3)) == [(10_000_000 // len(blank) + 1, ["a", "r", "b"])]
    assert time.process_time() - start < 3


def test_what_is_no_file(tmp_path: Path) -> None:
    """Nothing waits, neither for a pipe nor for a device."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(tmp_path / "socket"))  # absolute, its path may be too long
        for name, reason in (
            ("folder", "expected a file, got a folder"),
            ("pipe", "expected a file, got a pipe"),
            ("socket", "expected a file, got a socket"),
            ("/dev/zero", "expected a file, got a device"),
            ("loop", "cannot be read: Too many levels of symbolic links"),
            ("nowhere", "cannot be read: No such file or directory"),
            ("absent", "cannot be read: No such file or directory"),
            ("n" * 300, "cannot be read: File name too long"),
            ("n\0", "cannot be read: "),  # and what Python's version says
        ):
            readers: tuple[Callable[[Path], object], ...] = (names_in, read_toml, bj.KGDataset.load)
            for read in readers:
                error = refusal(partial(read, tmp_path / name))
                assert (error.file, error.line) == (tmp_path / name, None)
                assert error.reason == reason or (reason in error.reason and "null" in error.reason)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root reads any file, the refusal is made up."""
    file = write(tmp_path / "a.tsv", "a\tr\tb\n")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert str(refusal(lambda: names_in(file))) == f"{file}: cannot be read: Permission denied"
    monkeypatch.setattr("os.listdir", refuse)
    assert str(refusal(lambda: bj.load_dataset(tmp_path))) == f"{tmp_path}: cannot be read: Permission denied"


def graph(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    given = {"train": "a\tr\tb\nb\tr\tc\n", "valid": "a\tr\tc\n", "test": "c\ts\ta\n", **files}
    for name, text in given.items():
        write(folder / f"{name}.tsv", text)
    return folder


def test_one_entity_has_one_name(tmp_path: Path) -> None:
    dataset = bj.load_dataset(
        graph(
            tmp_path / "g",
            train="\ufeffa\tr\tb\r\nb \tr\u00a0\tc\r\n",
            valid=" a\tr\tc\n",
            labels="\ufeffa\t Anna \n",
        )
    )
    assert dataset.entity_dict == ("a", "b", "c")
    assert dataset.relation_dict == ("r", "s")
    assert dataset.entity_label(0) == "Anna"


OTHER = dict.fromkeys(("train", "valid", "test"), "a\tq\tb\n")


@pytest.mark.parametrize(
    "header",
    [
        "head\trelation\ttail",
        "Subject\tPredicate\tObject",
        "h\tr\tt",
        "source\trelation\ttarget",
        "#head_id\tRelation Name\ttail-id",
        "head_entity\trel\ttail_entity",
        "src\tedge_type\tdst",
        "node1\tlink\tnode2",
        "FROM\tproperty\tTO",
        ":START_ID\t:TYPE\t:END_ID",
    ],
)
@pytest.mark.parametrize("splits", [("train",), ("valid", "test"), ("train", "valid", "test")])
def test_a_header_is_left_out(tmp_path: Path, header: str, splits: tuple[str, ...]) -> None:
    folder = graph(tmp_path / "g", **{**OTHER, **dict.fromkeys(splits, f"\n{header}\na\tq\tb\n")})
    with pytest.warns(bj.DataWarning) as told:
        dataset = bj.load_dataset(folder)
    assert [str(warning.message).partition(":")[0] for warning in told] == [
        f"{folder / split}.tsv, line 2" for split in splits
    ]
    assert (dataset.entity_dict, dataset.relation_dict) == (("a", "b"), ("q",))
    assert all(len(triples) == 1 for triples in dataset.triples.values())


@pytest.mark.parametrize(
    "train",
    [
        "h\tr\tt\na\tr\tb\n",  # another line has the relation
        "a\tq\tb\nhead\trelation\ttail\n",  # not the first line
        "head\tis part of\tbody\na\tr\tb\n",
        "tail\trelation\ttail\na\tr\tb\n",
    ],
)
@pytest.mark.filterwarnings("ignore:.*, line 1. looks like a header, but is read as a triple")
def test_a_triple_is_no_header(tmp_path: Path, train: str) -> None:
    assert len(bj.load_dataset(graph(tmp_path / "g", train=train)).triples["train"]) == 2


@pytest.mark.parametrize("stem", ["train", "labels"])
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".tsv.gz"])
def test_two_files_for_one_are_refused(tmp_path: Path, stem: str, suffix: str) -> None:
    folder = graph(tmp_path / "g", labels="a\tAnna\n")
    write(folder / f"{stem}{suffix}", "a\tr\tb\n")
    error = refusal(lambda: bj.load_dataset(folder))
    assert error.file == folder
    assert f"{stem}{suffix}" in error.reason
    assert f"{stem}.tsv" in error.reason


def test_pipes_and_folders_in_place_of_splits(tmp_path: Path) -> None:
    folder = graph(tmp_path / "g")
    (folder / "valid.tsv").unlink()
    os.mkfifo(folder / "valid.tsv")
    assert "got a pipe" in refusal(lambda: bj.load_dataset(folder)).reason
    (folder / "valid.tsv").unlink()
    (folder / "valid.tsv").symlink_to("valid.tsv")
    assert "symbolic links" in refusal(lambda: bj.load_dataset(folder)).reason
    (folder / "valid.tsv").unlink()
    (folder / "valid.tsv.gz").mkdir()
    assert "got a folder" in refusal(lambda: bj.load_dataset(folder)).reason


@pytest.mark.parametrize("name", ["no such graph", "", "a\0b", "n" * 5000])
def test_no_such_graph(name: str) -> None:
    with pytest.raises(ValueError, match=r"neither a shipped graph nor a folder|has no file for train|has no train"):
        bj.load_dataset(name)


@pytest.mark.parametrize("n", [2**31, 2**70])
def test_more_ids_than_int32_holds(n: int) -> None:
    with pytest.raises(ValueError, match=r"n_entity must be at most 2,147,483,647, since ids are int32"):
        bj.KGDataset(n_entity=n, n_relation_type=1, triples={})


def test_unknown_names_of_any_length(tmp_path: Path) -> None:
    dataset = bj.load_dataset(graph(tmp_path / "g"))
    start = time.process_time()
    for name in ("a" * LONGEST_LINE, "9" * LONGEST_LINE, "9" * 5000):
        with pytest.raises(ValueError, match=r"no entity is named or labelled '(a|9)*'\.\.\. \([\d,]+ characters\)$"):
            dataset.find_entity(name)
    with pytest.raises(ValueError, match="out of range"):
        dataset.find_entity(str(2**62))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"seed = 1\nloss = 'h\xe9'\n", 2, "not UTF-8 (invalid continuation byte)"),
        ("seed = 1\n".encode("utf-16"), 1, "looks like UTF-16"),
        (b"seed = 1\nmodel =\n", 2, "not a TOML file (Invalid value (at line 2, column 8))"),
        (b"seed = 1\nseed = 2\n", None, "not a TOML file (Cannot overwrite a value"),
        (b"seed = 1\n\0", 2, "a NUL"),
        (b"a = " + b"[" * 3000, None, "nested too deep"),
        (b"a = " + b"{a=" * 1300, None, "nested too deep"),
        (b"seed = 1" + b"0" * LONGEST_SETTING, 1, "longer than 4,096 characters"),
        (b"seed = 1\n# " + b"-" * (LONGEST_SETTING - 1) + b"\n", 2, "longer than 4,096 characters"),
        (b"# some words\n" * (MOST_SETTINGS // 10), None, "longer than 65,536 characters"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, content: bytes, line: int | None, reason: str) -> None:
    error = refusal(lambda: read_toml(write(tmp_path / "settings.toml", content)))
    assert error.file == tmp_path / "settings.toml"
    assert reason in error.reason
    assert line is None or error.line == line


def test_settings_take_no_time(tmp_path: Path) -> None:
    """`tomllib` needs the square of the number of parts of a key."""
    lines = [f"a{i}" + ".a" * 2_000 + "=1" for i in range(16)]
    start = time.process_time()
    assert len(read_toml(write(tmp_path / "settings.toml", "\ufeff" + "\r\n".join(lines)))) == 16
    assert time.process_time() - start < 20


def test_shortened() -> None:
    assert shorten("a\n") == r"'a\n'"
    assert shorten("b" * 1000) == f"'{'b' * 80}'... (1,000 characters)"
    assert re.fullmatch(r"\d+", shorten(10**100))
