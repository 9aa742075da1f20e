"""Random changes of files: the content depends on the state of the generator alone."""

from __future__ import annotations

import gzip
import io
import random
import zipfile

from bess_jax.data.text import LONGEST_LINE

TOKENS = [
    *(b"\0", b"\r", b"\n", b"\t", b" ", b"\r\n", b"\n\n", b"\t\t", b"\x0b", b"\x1b[31m", b"\x7f", b"?", b"#", b'"'),
    *(b"\xff", b"\xfe", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xff\xfe", b"PK"),
    *(text.encode() for text in ("\ufeff", "\u00a0", "\u2028", "\u3000", "\u0085", "é", "e\u0301", "漢", "😀")),
    *(b"head\trelation\ttail\n", b"a\tr\tb\n", b"1", b"-1", b"2147483648", b"9" * 30, b"9" * 5000, b"a" * 300),
]
"""What is inserted into files of any kind."""

TOML = [
    *(b"[", b"[[", b"]", b"{", b"}", b"=", b".", b",", b'"""', b"'", b"\\u0000", b"\\U00110000", b"0x", b"1e999"),
    *(b"\nseed = ", b"\nmargin = inf\n", b"1979-05-27T07:32:00", b"25:61:00", b"true", b"-0", b"_", b"nan"),
    *(b"[" * 2000, b"{a=" * 1000, b"seed" + b".a" * 1900 + b"=1\n", b"seed = 0x" + b"f" * 4000, b"\n#" + b"x" * 5000),
    *(b"\nmodel = 'a:B'\n", b"\nsave_every = '1e9s'\n", b"\nn_shard = 0\n", b"\nlearning_rate = -1\n"),
]
NPY = [
    *(b"'<i8'", b"'|O'", b"'<U9'", b"'<M8[s]'", b"True", b"(", b")", b"(99999999999,)", b"(-1,)", b"\x93NUMPY\x01\0"),
    *(b"(" * 900, b"9" * 30, b"[('a', '<i4')]", b"'<f8'", b"'>i4'", b"{}", b"\\", b"\n"),
]
RDF = [
    *(b"<", b">", b"_:", b'"', b'"@en', b'"^^', b".", b";", b",", b"[", b"]", b"(", b"\\u0000", b"\\uD800", b"<<"),
    *(b"@prefix e: <y:> .\n", b"@base <z:> .\n", b"<rel>", b'"""', b"[" * 3000, b"(" * 3000, b"<" + b"x" * 5000, b"#"),
    *(b'<http://x/a> <http://www.w3.org/2000/01/rdf-schema#label> "a" .\n', b"<x:\xe3\x80\x80>", b"_:\xef\xbb\xbf"),
]
JSON = [
    *(b"[", b"]", b"{", b"}", b"null", b"NaN", b"1e999", b"[" * 100_000, b'"epoch": 1', b'"split": []', b",", b":"),
    *(b'{"epoch": 1, "split": []}\n', b'{"epoch": {}}\n', b'{"epoch": "1"}\n', b"[1]\n", b'"\\ud800"'),
]


def changed_file(rng: random.Random, suffix: str, good: bytes, tokens: list[bytes]) -> bytes:
    """The content of a file: of packed ones, what is in them is changed too, and packed again with right checksums."""
    if suffix == ".gz" and rng.random() < 0.6:
        return gzip.compress(_changed(rng, gzip.decompress(good), tokens), 1)
    if suffix == ".npz" and rng.random() < 0.5:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(out, "w") as copy:
            names = archive.namelist()
            target = rng.choice(names)
            for name in names:
                content = archive.read(name)
                copy.writestr(name, _changed(rng, content, tokens) if name == target else content)
        return out.getvalue()
    return _changed(rng, good, tokens)


def _changed(rng: random.Random, content: bytes, tokens: list[bytes]) -> bytes:
    """A content with a few changes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choices(_CHANGES, _WEIGHTS)[0](rng, data, tokens)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    """Somewhere in it, its ends included."""
    return rng.choice((0, len(data), rng.randint(0, len(data)), rng.randint(0, len(data))))


def _piece(rng: random.Random, data: bytearray) -> slice:
    """A short or long part of it."""
    start = rng.randint(0, len(data))
    return slice(start, start + rng.choice((1, 2, 4, 16, 64, len(data))))


def _flip(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """One bit."""
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _put(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """One byte."""
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 9, 10, 13, 32, 127, 128, 255, rng.randrange(256)))


def _insert(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """A token."""
    at = _place(rng, data)
    data[at:at] = rng.choice(rng.choice((TOKENS, tokens or TOKENS)))


def _drop(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """A part."""
    del data[_piece(rng, data)]


def _double(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """A part, somewhere else, and more than once."""
    if len(data) < 100_000:
        at = _place(rng, data)
        data[at:at] = data[_piece(rng, data)] * rng.choice((1, 1, 2, 50))


def _cut(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """All that follows."""
    del data[rng.randint(0, len(data)) :]


def _lengthen(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """A line of about the length that is allowed, or more."""
    unit = rng.choice((b"a", b" ", b"\t", b"\n", "é".encode(), "漢".encode(), "😀".encode(), b"ab\tc\td\n"))
    at = _place(rng, data)
    data[at:at] = unit * (rng.choice((LONGEST_LINE, LONGEST_LINE - 9, LONGEST_LINE // 3, 1 << 16)) + rng.randint(-3, 3))


def _encode(rng: random.Random, data: bytearray, tokens: list[bytes]) -> None:
    """In another way."""
    text = bytes(data).decode("utf-8", "replace")
    data[:] = text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7")), "replace")


_CHANGES = (_flip, _put, _insert, _drop, _double, _cut, _lengthen, _encode)
_WEIGHTS = (20, 10, 40, 10, 10, 8, 1, 1)
