"""Embeddings to files, in forms that other programs read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from bess_jax import _checks
from bess_jax._optional import require
from bess_jax.data.files import DataWarning, replace_file
from bess_jax.predict.embeddings import EmbeddingTable
from bess_jax.predict.table import on_one_line

Format: TypeAlias = Literal["npz", "safetensors", "parquet", "csv", "tsv", "word2vec", "projector"]
Progress: TypeAlias = Callable[[int], None]
"""Called with the number of rows done since the last time."""

_OF_ENDING: Mapping[str, Format] = {
    ".npz": "npz",
    ".safetensors": "safetensors",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "word2vec",
    ".vec": "word2vec",
    ".w2v": "word2vec",
    "": "projector",
}
_HOLD_BOTH = ("npz", "safetensors", "projector")
_NUMBER = "%.9g"  # digits that give every float32 back
_MOST_TEXT = 2**32
"""Bytes of the names in an `.npz`, which all take the place of the longest, at most."""


def format_of(out: Path, format: Format | None = None) -> Format:
    """The format of a file by its ending, unless it is given; without an ending, a folder for TensorBoard's projector.

    Raises:
        ValueError: if there is no such format, or the ending is that of none.
    """
    if format is not None:
        _checks.one_of("format", format, get_args(Format))
        return format
    if out.suffix not in _OF_ENDING:
        endings = ", ".join(filter(None, _OF_ENDING))
        raise ValueError(f"out must end with one of {endings}, or give a format, got {out}")
    return _OF_ENDING[out.suffix]


def holds_both(format: Format) -> bool:
    """Whether a file of this format holds entities and relations."""
    return format in _HOLD_BOTH


def check_export(out: Path, format: Format, n_table: int) -> None:
    """Checks where embeddings are to be written, before any are read.

    Raises:
        ValueError: if it is not a file (for the projector: nothing that is there) in an existing folder, or the format
            holds one table and there are two.
        MissingExtraError: for parquet without pyarrow.
    """
    if n_table > 1 and format not in _HOLD_BOTH:
        raise ValueError(f"a file of format {format} holds one table: export either entities or relations to {out}")
    if not out.parent.is_dir() or (format != "projector" and out.exists() and not out.is_file()):
        raise ValueError(f"out must be a file in an existing folder, got {out}")
    if format == "projector" and out.exists():
        raise ValueError(f"out must be a folder that is not there yet, got {out}: remove it, or give another")
    if format == "parquet":
        require("pyarrow.parquet", "tables", "writing parquet")


def export(
    tables: EmbeddingTable | Sequence[EmbeddingTable],
    out: str | Path,
    format: Format | None = None,
    progress: Progress = lambda n_done: None,
) -> None:
    """Writes embeddings, with names and labels, to a file, all of it or nothing; one of that name is replaced.

    docs/export.md tells what each format holds. Rows are read some at a time.

    Args:
        tables: of entities, of relations, or both; parquet, CSV, TSV and word2vec hold one.
        out: the file; for the projector a folder that is not there yet.
        format: "npz", "safetensors", "parquet", "csv", "tsv", "word2vec" or "projector"; default: by the ending of
            `out`, .txt, .vec and .w2v being word2vec, and none the projector.
        progress: called with the number of rows done since the last time.

    Raises:
        ValueError: if there is no such format or place, or names cannot be told apart in it.
        OSError: if it cannot be written; what was there before is then untouched.
        MissingExtraError: for parquet without pyarrow.
    """
    out, every = Path(out), [tables] if isinstance(tables, EmbeddingTable) else list(tables)
    kind = format_of(out, format)
    check_export(out, kind, len(every))
    if not every or len({table.what for table in every}) < len(every):
        whats = ", ".join(table.what for table in every)
        raise ValueError(f"tables must be one of entities, one of relations, or both, got {whats or 'none'}")
    if kind == "projector":
        with _replace_folder(out) as folder:
            _projector(every, folder, progress)
        return
    write = {
        "npz": _npz,
        "safetensors": _safetensors,
        "parquet": _parquet,
        "csv": _csv,
        "tsv": _tsv,
        "word2vec": _word2vec,
    }[kind]
    with replace_file(out) as stream:
        write(every, stream, progress)


@contextlib.contextmanager
def _replace_folder(out: Path) -> Iterator[Path]:
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _npz(tables: Sequence[EmbeddingTable], stream: BinaryIO, progress: Progress) -> None:
    """Members WHAT (n, E), WHAT_name, WHAT_label and, where there are types, WHAT_type, as `numpy.load` reads them."""
    with zipfile.ZipFile(stream, "w") as archive:
        for table in tables:
            _member(archive, table.what, np.dtype("<f4"), (len(table), table.width), _numbers(table, progress))
            for name, texts in _texts(table).items():
                longest = max(map(len, texts), default=1)
                dtype = np.dtype(f"<U{longest}")
                if dtype.itemsize * len(table) > _MOST_TEXT:
                    raise ValueError(
                        f"an .npz gives each {name} the place of the longest, and one has {longest:,} characters: "
                        f"{dtype.itemsize * len(table):,} bytes; export to .safetensors or .parquet"
                    )
                parts = (np.array(texts[rows], dtype) for rows, _ in _slices(table))
                _member(archive, name, dtype, (len(table),), parts)


def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[NDArray[Any]]
) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part).view(np.uint8).data)


def _safetensors(tables: Sequence[EmbeddingTable], stream: BinaryIO, progress: Progress) -> None:
    """Tensors WHAT (n, E), and of names WHAT_name.text, UTF-8, and WHAT_name.ends, where each ends; labels likewise.

    The format is a JSON header and the bytes of the tensors (github.com/huggingface/safetensors); its library takes
    whole tensors alone.
    """
    header: dict[str, Any] = {}
    contents: list[Iterable[NDArray[Any]]] = []
    size = 0

    def add(name: str, dtype: str, shape: tuple[int, ...], n_byte: int, content: Iterable[NDArray[Any]]) -> None:
        nonlocal size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (size, size + n_byte)}
        contents.append(content)
        size += n_byte

    texts = {name: column for table in tables for name, column in _texts(table).items()}
    ends = {name: np.cumsum([len(text.encode()) for text in column], dtype="<i8") for name, column in texts.items()}
    for name, array in ends.items():  # the widest numbers first, so that all are aligned
        add(f"{name}.ends", "I64", array.shape, array.nbytes, [array])
    for table in tables:
        shape = len(table), table.width
        add(table.what, "F32", shape, 4 * shape[0] * shape[1], _numbers(table, progress))
    for name, column in texts.items():
        n_byte = int(ends[name][-1])
        add(f"{name}.text", "U8", (n_byte,), n_byte, (np.frombuffer(text.encode(), np.uint8) for text in column))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for content in contents:
        for part in content:
            stream.write(np.ascontiguousarray(part).view(np.uint8).data)


def _parquet(tables: Sequence[EmbeddingTable], stream: BinaryIO, progress: Progress) -> None:
    """Columns id, name, label, type where there are types, and embedding, lists of E float32."""
    pa, parquet = (require(module, "tables", "writing parquet") for module in ("pyarrow", "pyarrow.parquet"))
    (table,) = tables
    columns = {name: pa.int32() if name == "id" else pa.string() for name in table.described(slice(0))}
    schema = pa.schema([*columns.items(), ("embedding", pa.list_(pa.float32(), table.width))])
    with parquet.ParquetWriter(stream, schema, use_dictionary=["type"]) as file:
        for rows, numbers in table.blocks():
            lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), table.width)
            described = [pa.array(column, columns[name]) for name, column in table.described(rows).items()]
            file.write_table(pa.table([*described, lists], schema=schema))
            progress(len(numbers))


def _texts(table: EmbeddingTable) -> dict[str, Sequence[str]]:
    """Names, where there are any, labels and types, by what they are called in files of arrays."""
    columns = {"name": table.names, "label": table.labels, "type": table.types}
    return {f"{table.what}_{name}": texts for name, texts in columns.items() if texts is not None}


def _numbers(table: EmbeddingTable, progress: Progress) -> Iterator[NDArray[np.float32]]:
    for _, numbers in table.blocks():
        yield numbers.astype("<f4", copy=False)
        progress(len(numbers))


def _slices(table: EmbeddingTable) -> Iterator[tuple[slice, int]]:
    size = 65_536
    for start in range(0, len(table), size):
        yield slice(start, start + size), start


# --- text -------------------------------------------------------------------------------------------------------------


def _csv(tables: Sequence[EmbeddingTable], stream: BinaryIO, progress: Progress) -> None:
    """A header, then a line for each row: id, name, label, type where there are types, E numbers; text in quotes."""
    with _text(stream) as text:
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="")
        _delimited(tables[0], text, writer, ",", progress)


def _tsv(tables: Sequence[EmbeddingTable], stream: BinaryIO, progress: Progress) -> None:
    """As CSV, but separated by tabs and without quotes."""
    (table,) = tables
    _tell_escaped(table)
    with _text(stream) as text:
        writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="")
        _delimited(table, text, writer, "\t", progress)


def _delimited(table: EmbeddingTable, text: io.TextIOWrapper, writer: Any, by: str, progress: Progress) -> None:
    writer.writerow([*table.described(slice(0)), *table.components])
    line = f"{by}{_NUMBER}" * table.width
    for rows, numbers in table.blocks():
        described = table.described(rows)
        if by == "\t":
            described = {name: list(map(on_one_line, map(str, column))) for name, column in described.items()}
        for names, row in zip(zip(*described.values(), strict=True), numbers, strict=True):
            text.write("\n")
            writer.writerow(names)
            text.write(line % tuple(row.tolist()))
        progress(len(numbers))
    text.write("\n")


def _word2vec(tables: Sequence[EmbeddingTable], stream: BinaryIO, progress: Progress) -> None:
    """A line with n and E, then a line for each row: its name, with _ for white space, and E numbers."""
    (table,) = tables
    words = _words(table)
    line = f" {_NUMBER}" * table.width + "\n"
    with _text(stream) as text:
        text.write(f"{len(table)} {table.width}\n")
        for rows, numbers in table.blocks():
            for word, row in zip(words[rows], numbers, strict=True):
                text.write(word + line % tuple(row.tolist()))
            progress(len(numbers))


def _words(table: EmbeddingTable) -> list[str]:
    """Names as words.

    Raises:
        ValueError: if two become the same.
    """
    names = table.described()["name"]
    words = [re.sub(r"[\s\x00-\x1f\x7f]", "_", name) for name in names]
    changed = [(name, word) for name, word in zip(names, words, strict=True) if name != word]
    if changed:
        twice = {word for word, n in Counter(words).items() if n > 1}
        clash = [name for name, word in zip(names, words, strict=True) if word in twice]
        if clash:
            raise ValueError(
                f"word2vec text has no white space in names, and {clash[0]!r} and {clash[1]!r} would be one name; "
                "export to another format"
            )
        shown = ", ".join(f"{name!r} is {word!r}" for name, word in changed[:3])
        _warn(f"{len(changed):,} names have white space, for which word2vec text has _: {shown}")
    return words


def _projector(tables: Sequence[EmbeddingTable], folder: Path, progress: Progress) -> None:
    """WHAT_tensors.tsv, WHAT_metadata.tsv (name, label, type where there are types) and projector_config.pbtxt."""
    config = []
    for table in tables:
        _tell_escaped(table)
        line = "\t".join([_NUMBER] * table.width) + "\n"
        tensors, metadata = f"{table.what}_tensors.tsv", f"{table.what}_metadata.tsv"
        with (folder / tensors).open("w") as numbers, (folder / metadata).open("w", encoding="utf-8") as names:
            names.write("\t".join(list(table.described(slice(0)))[1:]) + "\n")
            for rows, block in table.blocks():
                numbers.writelines(line % tuple(row.tolist()) for row in block)
                _, *columns = table.described(rows).values()
                names.writelines("\t".join(map(on_one_line, row)) + "\n" for row in zip(*columns, strict=True))
                progress(len(block))
        config.append(
            f'embeddings {{\n  tensor_name: "{table.what}"\n  tensor_shape: {len(table)}\n'
            f'  tensor_shape: {table.width}\n  tensor_path: "{tensors}"\n  metadata_path: "{metadata}"\n}}\n'
        )
    (folder / "projector_config.pbtxt").write_text("".join(config))


@contextlib.contextmanager
def _text(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    yield text
    text.detach()  # which flushes, and leaves the stream open


def _tell_escaped(table: EmbeddingTable) -> None:
    """Warns of names and labels that do not stand in a line as they are."""
    described = [column for name, column in table.described().items() if name != "id"]
    escaped = (text for column in described for text in column if on_one_line(text) != text)
    shown = list(islice(escaped, 3))
    if shown:
        n = len(shown) + sum(1 for _ in escaped)
        examples = ", ".join(f"{text!r} is {on_one_line(text)}" for text in shown)
        _warn(
            f"{n:,} names or labels have tabs or line breaks, which are written as escapes ({examples}); CSV keeps them"
        )


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=4)
