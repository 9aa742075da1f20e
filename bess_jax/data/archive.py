"""Arrays in one file, a graph as such, and the digests of its parts.

The file is NumPy's `.npz`, not compressed; each member carries a CRC-32, and one is the SHA-256 of all others. Strings
are one buffer of UTF-8 and the place where each of them ends, so that a name may hold any character. What is None has
no member.
"""

from __future__ import annotations

import hashlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bess_jax._compat import TypeAlias, zip
from bess_jax.data.files import DataError, open_file, replace_file

if TYPE_CHECKING:
    from bess_jax.data.dataset import KGDataset

Arrays: TypeAlias = "dict[str, NDArray[Any]]"
"""Members of a file by name."""

_SEAL = "sha256"
"""Member that seals the others: a directory of members that lost one would look right."""

_GRAPH = "a graph that KGDataset.save wrote"

DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    SystemError,  # of the tokenizer of Python 3.13, on a NUL in the header of an array
    TypeError,
    ValueError,
)
"""What `zipfile` and NumPy raise where a file is not as they expect."""


def save_arrays(arrays: Arrays, file: Path) -> None:
    """Writes arrays, all of them or nothing.

    Raises:
        OSError: if the file cannot be written.
    """
    members = {**arrays, _SEAL: np.frombuffer(hash_arrays(arrays), dtype=np.uint8)}
    with replace_file(file) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in members.items():  # as `np.savez`, which NumPy 1 cannot keep from pickling
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_arrays(file: Path, what: str) -> Arrays:
    """Reads what `save_arrays` wrote.

    Args:
        file: the file.
        what: what it should be, for messages.

    Raises:
        DataError: if the file cannot be read, is damaged, or is another one.
    """
    arrays = _read_members(file, what)
    seal = arrays.pop(_SEAL, None)
    if seal is None or not all(array.dtype.kind in "biuf" for array in arrays.values()):
        raise DataError(f"not {what}: members are numbers, and one is {_SEAL!r}", file)
    if seal.tobytes() != hash_arrays(arrays):
        raise DataError("damaged: its members are not those that were written, by their SHA-256", file)
    return arrays


def save_graph(dataset: KGDataset, file: Path) -> None:
    """Writes a graph, all of it or nothing.

    Raises:
        ValueError: if a name cannot be written as UTF-8 (a surrogate).
        OSError: if the file cannot be written.
    """
    members = _by_split("triples", dataset.triples)
    members.update(_by_split("original_triple_ids", dataset.original_triple_ids, "<i8"))
    for part in _parts(dataset).values():
        members.update(part)
    save_arrays(members, file)


def load_graph(file: Path) -> dict[str, Any]:
    """Attributes of the graph in a file that `save_graph` wrote.

    Raises:
        DataError: if the file cannot be read, is damaged, or is another one.
    """
    members = load_arrays(file, _GRAPH)
    try:
        return _attributes(members)
    except KeyError as error:
        raise DataError(f"not {_GRAPH}: it has no member {error}", file) from None
    except ValueError as error:
        raise DataError(f"not {_GRAPH}: {error}", file) from None


def digest_of(dataset: KGDataset) -> dict[str, str]:
    """Part of a graph -> SHA-256 of it, hexadecimal."""
    parts = {name: part for name, part in _parts(dataset).items() if part}
    parts.update({f"triples/{split}": {"triples": _int32(ids)} for split, ids in dataset.triples.items()})
    return {name: hash_arrays(part).hex() for name, part in parts.items()}


def _parts(dataset: KGDataset) -> dict[str, Arrays]:
    """The members of each part but the triples."""
    types: Arrays = {}
    if dataset.type_offsets is not None:
        types = _strings("type_offsets.keys", dataset.type_offsets)
        types["type_offsets.values"] = np.array([*dataset.type_offsets.values()], dtype="<i8")
    return {
        "entities": {
            **_count("n_entity", dataset.n_entity),
            **_strings("entity_dict", dataset.entity_dict),
        },
        "relations": {
            **_count("n_relation_type", dataset.n_relation_type),
            **_strings("relation_dict", dataset.relation_dict),
        },
        "labels": {
            **_pairs("entity_labels", dataset.entity_labels),
            **_pairs("relation_labels", dataset.relation_labels),
        },
        "types": types,
        "candidates": {
            **_by_split("neg_heads", dataset.neg_heads),
            **_by_split("neg_tails", dataset.neg_tails),
        },
        "negatives": _by_split("negatives", dataset.negatives),
    }


def _attributes(members: Arrays) -> dict[str, Any]:
    """What `_parts` and `_by_split` were given."""
    types = _read_strings("type_offsets.keys", members)
    return {
        "n_entity": int(_take(members, "n_entity", "<i8", 0)),
        "n_relation_type": int(_take(members, "n_relation_type", "<i8", 0)),
        "triples": _read_by_split("triples", members) or {},
        "entity_dict": _read_strings("entity_dict", members),
        "relation_dict": _read_strings("relation_dict", members),
        "entity_labels": _read_pairs("entity_labels", members),
        "relation_labels": _read_pairs("relation_labels", members),
        "type_offsets": None
        if types is None
        else dict(zip(types, _take(members, "type_offsets.values", "<i8", 1).tolist(), strict=True)),
        "neg_heads": _read_by_split("neg_heads", members),
        "neg_tails": _read_by_split("neg_tails", members),
        "negatives": _read_by_split("negatives", members),
        "original_triple_ids": _read_by_split("original_triple_ids", members, "<i8", 1),
    }


def _take(members: Arrays, name: str, dtype: str, n_axis: int) -> NDArray[Any]:
    array = members[name]
    if array.dtype.str != dtype or array.ndim != n_axis:
        raise ValueError(f"its member {name!r} is {array.dtype.str} of {array.ndim} axes, not {dtype} of {n_axis}")
    return array


def _count(name: str, value: int) -> Arrays:
    return {name: np.array(value, dtype="<i8")}


def _int32(ids: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(ids, dtype="<i4")


def _strings(name: str, strings: Iterable[str] | None) -> Arrays:
    if strings is None:
        return {}
    try:
        encoded = [text.encode() for text in strings]
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds {error.object!r}, which is not Unicode text: it has a surrogate") from None
    ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
    return {
        f"{name}.text": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        f"{name}.ends": ends.astype("<i8"),
    }


def _read_strings(name: str, members: Arrays) -> tuple[str, ...] | None:
    if f"{name}.ends" not in members:
        return None
    text, ends = _take(members, f"{name}.text", "|u1", 1).tobytes(), _take(members, f"{name}.ends", "<i8", 1).tolist()
    return tuple(text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False))


def _pairs(name: str, pairs: Mapping[str, str]) -> Arrays:
    return {**_strings(f"{name}.keys", pairs), **_strings(f"{name}.values", pairs.values())}


def _read_pairs(name: str, members: Arrays) -> dict[str, str]:
    keys, values = _read_strings(f"{name}.keys", members), _read_strings(f"{name}.values", members)
    return dict(zip(keys or (), values or (), strict=True))


def _by_split(name: str, arrays: Mapping[str, NDArray[Any]] | None, dtype: str = "<i4") -> Arrays:
    if arrays is None:
        return {}
    of_splits = enumerate(arrays.values())
    members = {f"{name}.{i}": np.ascontiguousarray(array, dtype=dtype) for i, array in of_splits}
    return {**_strings(f"{name}.keys", arrays), **members}


def _read_by_split(name: str, members: Arrays, dtype: str = "<i4", n_axis: int = 2) -> dict[str, NDArray[Any]] | None:
    splits = _read_strings(f"{name}.keys", members)
    if splits is None:
        return None
    native = np.dtype(dtype).newbyteorder("=")
    return {
        split: _take(members, f"{name}.{i}", dtype, n_axis).astype(native, copy=False) for i, split in enumerate(splits)
    }


def _read_members(file: Path, what: str) -> Arrays:
    """The arrays of an `.npz`. Only what has the right checksum is interpreted."""
    members: Arrays = {}
    name = ""
    with open_file(file) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                for info in archive.infolist():
                    name = info.filename
                    _check_stored(info)
                    with archive.open(info) as member:
                        while member.read(1 << 20):
                            pass  # the last read compares the checksum
                        member.seek(0)
                        members[name[: -len(".npy")]] = np.lib.format.read_array(member, allow_pickle=False)
        except DAMAGE as error:
            where = f"member {name!r}: " if name else ""
            raise DataError(f"{where}damaged, or not {what} ({error})", file) from None
    return members


def _check_stored(info: zipfile.ZipInfo) -> None:
    """Raises ValueError if a member is compressed, as none is that `save_arrays` writes: it could be of any size."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("compressed")


def hash_arrays(members: Arrays) -> bytes:
    """SHA-256 of arrays, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in members.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
