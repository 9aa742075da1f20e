"""Triples in columns: parquet, NumPy, data frames."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bess_jax import _optional
from bess_jax._compat import TypeAlias, zip
from bess_jax._typing import Int32Array
from bess_jax.data.archive import DAMAGE
from bess_jax.data.files import DataError, DataWarning, open_file
from bess_jax.data.formats.cells import LONGEST, are_bare
from bess_jax.data.formats.header import by_number, find_column, find_columns, looks_like_header
from bess_jax.data.formats.vocabulary import BadNameError, Vocabulary, clean_names
from bess_jax.data.text import MARK, has_odd_space, shorten

Columns: TypeAlias = "Sequence[NDArray[Any]]"
"""Head, relation and tail: three arrays (n,)."""

_ROWS = 1 << 16
"""Rows that are turned into names at a time."""


def read_parquet(file: Path, vocabulary: Vocabulary, columns: Sequence[str | int] | None) -> Int32Array:
    """Triples (n, 3) int32 of a parquet file; numbers are names.

    Raises:
        DataError: if something is wrong with the file.
    """
    parquet = _optional.require("pyarrow.parquet", "tables", file.name)
    arrow = _optional.require("pyarrow", "tables", file.name)
    found = [np.empty((0, 3), dtype=np.int32)]
    with open_file(file) as stream:
        try:
            table = parquet.ParquetFile(stream)
            names = table.schema_arrow.names
            chosen = [names[place] for place in find_columns(names, columns, file)]
            for name in chosen:
                if names.count(name) > 1:
                    raise DataError(f"has {names.count(name)} columns called {shorten(name)}: rename all but one", file)
            start = 0
            for batch in table.iter_batches(_ROWS, columns=chosen):
                of_batch = [_strings(arrow, batch.column(name), name) for name in chosen]
                ids = _quickly(of_batch, vocabulary)
                if ids is None:
                    flat = [column.to_numpy(zero_copy_only=False) for column in of_batch]
                    ids = ids_of_columns(flat, chosen, vocabulary, start)
                found.append(ids)
                start += len(batch)
        except BadNameError as error:
            raise DataError(error.reason, file) from None
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"damaged, or not parquet: {shorten(str(error), 200)}", file) from None
    triples = np.concatenate(found)
    _doubt_header(triples, vocabulary, str(file))
    return triples


def read_numpy(file: Path, vocabulary: Vocabulary, columns: Sequence[str | int] | None) -> Int32Array:
    """Triples (n, 3) int32 of an `.npy` matrix, or of three arrays in an `.npz`; whole numbers are ids, and are kept.

    Raises:
        DataError: if something is wrong with the file.
    """
    with open_file(file) as stream:
        try:
            data = np.load(stream, allow_pickle=False)
            arrays = {"": data} if isinstance(data, np.ndarray) else {name: data[name] for name in data.files}
        except DAMAGE as error:
            raise DataError(f"damaged, or not a NumPy file of numbers or strings: {error}", file) from None
    if "" in arrays:
        names, of_columns = _of_matrix(arrays[""], columns, file)
    elif "sha256" in arrays and "n_entity" in arrays:
        raise DataError("a graph that KGDataset.save wrote, not triples: KGDataset.load reads it", file)
    else:
        names = [[*arrays][place] for place in find_columns([*arrays], columns, file)]
        of_columns = [np.asarray(arrays[name]) for name in names]  # of a damaged member, NumPy gives the bytes
        shapes = [array.shape for array in of_columns]
        if {len(shape) for shape in shapes} != {1} or len({*shapes}) != 1:
            raise DataError(f"its arrays {', '.join(names)} must have one axis of equal length, got {shapes}", file)
    if all(column.dtype.kind in "iu" for column in of_columns):
        try:
            return vocabulary.numbered(np.stack(of_columns, axis=1))
        except ValueError as error:
            raise DataError(str(error), file) from None
    try:
        triples = ids_of_columns(of_columns, names, vocabulary)
    except BadNameError as error:
        raise DataError(error.reason, file) from None
    _doubt_header(triples, vocabulary, str(file))
    return triples


def ids_of_frame(frame: Any, columns: Sequence[object], vocabulary: Vocabulary, what: str) -> Int32Array:
    """Ids (n, 3) int32 of three columns of a frame of pandas, polars or pyarrow.

    Raises:
        ValueError: if it is no frame, there is no such column, or something is no name.
    """
    if not (hasattr(frame, "__len__") and hasattr(frame, "columns")):
        hint = ": collect() makes one of it" if hasattr(frame, "collect") else ""
        raise ValueError(f"{what} must be a frame of pandas, polars or pyarrow, got {type(frame).__name__}{hint}")
    if len({*columns}) < len(columns):
        raise ValueError(f"columns must be three different ones, got {', '.join(map(shorten, columns))}")
    names = getattr(frame, "column_names", None)  # of pyarrow, whose `columns` are arrays
    names = [*(frame.columns if names is None else names)]
    try:
        places = [find_column(name, names) for name in columns]
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    return ids_of_arrays([np.asarray(frame[names[place]]) for place in places], columns, vocabulary, what)


def ids_of_arrays(arrays: Columns, names: Sequence[object], vocabulary: Vocabulary, what: str) -> Int32Array:
    """As `ids_of_columns`.

    Raises:
        ValueError: if something is no name, or there is no row.
    """
    try:
        triples = ids_of_columns(arrays, names, vocabulary)
    except BadNameError as error:
        raise ValueError(f"{what}: {error.reason}") from None
    if not len(triples):
        raise ValueError(f"{what} holds no triple")
    _doubt_header(triples, vocabulary, what)
    return triples


def ids_of_columns(columns: Columns, names: Sequence[object], vocabulary: Vocabulary, first_row: int = 0) -> Int32Array:
    """Ids (n, 3) int32 of three columns of names: strings, or whole numbers, which are names here.

    Args:
        columns: arrays (n,).
        names: of the columns, for messages.
        vocabulary: names and ids.
        first_row: number of the first row, for messages.

    Raises:
        BadNameError: if something is no name.
    """
    found = [np.empty((0, 3), dtype=np.int32)]
    for start in range(0, len(columns[0]), _ROWS):
        rows = []
        for column, name in zip(columns, names, strict=True):
            try:
                rows.append(clean_names(_texts(column[start : start + _ROWS])))
            except BadNameError as error:
                row = first_row + start + error.row
                reason = f"row {row:,}, counted from 0, has {error.reason} in column {shorten(name)}"
                raise BadNameError(row, reason) from None
        found.append(vocabulary.ids(*rows))
    return np.concatenate(found)


def _doubt_header(triples: Int32Array, vocabulary: Vocabulary, what: str) -> None:
    """Warns if the first row looks like a header, and no other one has its relation."""
    if not len(triples) or np.count_nonzero(triples[:, 1] == triples[0, 1]) > 1:
        return
    known = (vocabulary.entities, vocabulary.relations, vocabulary.entities)
    words = [next(itertools.islice(names, i, None)) for names, i in zip(known, triples[0].tolist(), strict=True)]
    if looks_like_header(words):
        warnings.warn(
            f"{what}: row 0 looks like a header, but is read as a triple, since the columns have names already: "
            f"{', '.join(words)}; remove the row if it is none",
            DataWarning,
            stacklevel=2,
        )


def _texts(values: NDArray[Any]) -> list[str]:
    """The strings that values are, or that stand for whole numbers."""
    kind = values.dtype.kind
    if kind in "iu":
        return [*map(str, values.tolist())]
    if kind == "S":
        try:
            return [value.decode() for value in values.tolist()]
        except UnicodeDecodeError:
            raise BadNameError(0, "bytes that are not UTF-8, here or below,") from None
    if kind not in "OUT":
        hint = " (whole numbers become such if one is missing)" if kind == "f" else ""
        raise BadNameError(0, f"a value of type {values.dtype}, not a string or a whole number{hint},")
    if kind == "U" and values.dtype.itemsize:
        codes = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if codes.max(initial=0) > sys.maxunicode:  # `tolist` raises SystemError
            raise BadNameError(0, "a character that is none, here or below,")
    texts: list[Any] = values.tolist()
    if {*map(type, texts)} <= {str}:
        return texts
    return [*_checked(texts)]


def _checked(values: list[Any]) -> Iterator[str]:
    """Strings as they are, whole numbers as strings."""
    for row, value in enumerate(values):
        if isinstance(value, str) or (isinstance(value, (int, np.integer)) and not isinstance(value, bool)):
            yield str(value)
        elif _is_missing(value):
            raise BadNameError(row, "no value")
        else:
            raise BadNameError(row, f"{shorten(value)}, not a string or a whole number,")


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, which is not equal to itself, or pandas' NA, which does not tell."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True
    except ValueError:  # an array, whose truth is not one value
        return False


def _of_matrix(
    data: NDArray[Any], columns: Sequence[str | int] | None, file: Path
) -> tuple[list[str], list[NDArray[Any]]]:
    """Numbers and arrays of the columns of a matrix."""
    if data.ndim != 2:
        raise DataError(f"expected a matrix with a row for each triple, got shape {data.shape}", file)
    numbers = [str(i) for i in range(data.shape[1])]
    if columns is not None and not by_number(columns):
        raise DataError(
            f"its columns have no names, but numbers from 0 to {len(numbers) - 1}: give three of them", file
        )
    places = find_columns(numbers, columns, file)
    return [numbers[place] for place in places], [data[:, place] for place in places]


def _strings(arrow: Any, column: Any, name: str) -> Any:
    """A column of parquet as an arrow of large strings, whole numbers as such."""
    kind, wanted = arrow.types, arrow.large_string()
    if kind.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind.is_integer(column.type) or kind.is_null(column.type):
        column = column.cast(arrow.string())
    texts = (arrow.string(), arrow.string_view(), arrow.binary(), arrow.large_binary(), arrow.binary_view(), wanted)
    if column.type in texts:
        column = column.cast(wanted)
        column.validate(full=True)  # parquet may call text what is not UTF-8
        return column
    if not len(column):
        return arrow.array([], wanted)
    raise BadNameError(0, f"{shorten(name)} is a column of type {column.type}; expected strings or whole numbers")


def _quickly(columns: Sequence[Any], vocabulary: Vocabulary) -> Int32Array | None:
    """Ids of three arrows of large strings that are all as they should be; None if they may not be."""
    parts, starts, ends, at = [], [], [], 0
    for column in columns:
        _, offsets, data = column.buffers()
        if column.null_count or data is None or not len(column):
            return None
        places = np.frombuffer(offsets, np.int64)[column.offset :][: len(column) + 1]
        parts.append(np.frombuffer(data, np.uint8)[places[0] : places[-1]])
        starts.append(places[:-1] - places[0] + at)
        ends.append(places[1:] - places[0] + at)
        at += len(parts[-1])
    raw = np.concatenate([*parts, np.zeros(LONGEST, np.uint8)])
    text = raw.tobytes()
    if not raw[:at].all() or not are_bare(raw, np.concatenate(starts), np.concatenate(ends)):
        return None
    if not text.isascii() and (MARK in (decoded := text.decode()) or has_odd_space(decoded)):
        return None
    return vocabulary.ids_of_cells(raw, starts, ends)
