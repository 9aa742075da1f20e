"""Graphs of the Open Graph Benchmark, in arrays of ids (Hu et al. 2020, arXiv 2005.00687; 2021, arXiv 2103.09430)."""

from __future__ import annotations

import codecs
import csv
import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bess_jax._compat import zip
from bess_jax._optional import require
from bess_jax._typing import Int32Array
from bess_jax.data.files import DataError, open_file
from bess_jax.data.graphs.layouts import telling
from bess_jax.data.split import SPLIT_NAMES

_NAMES = "_entidx2name.csv.gz"
_ROWS = 1 << 20
"""Rows of a large array that are read at a time."""


def biokg(root: Path) -> dict[str, Any]:
    """Attributes of ogbl-biokg, whose folder OGB calls `ogbl_biokg`; BESS-KGE: `build_ogbl_biokg`.

    Entities stand by type, in alphabetical order, and within a type in the order of OGB's ids.
    """
    kinds = sorted(file.name[: -len(_NAMES)] for file in (root / "mapping").glob(f"*{_NAMES}"))
    names = {kind: read_mapping(root / "mapping" / f"{kind}{_NAMES}", "ent idx", "ent name") for kind in kinds}
    sizes = np.array([len(of_kind) for of_kind in names.values()], dtype=np.int64)
    offsets = dict(zip(kinds, (np.cumsum(sizes) - sizes).tolist(), strict=True))
    triples, neg_heads, neg_tails = {}, {}, {}
    for split in SPLIT_NAMES:
        file = root / "split" / "random" / f"{split}.pt"
        parts = read_split(file)
        with telling(file):
            first = {
                side: np.array([offsets[kind] for kind in parts[f"{side}_type"]], dtype=np.int64)
                for side in ("head", "tail")
            }
            columns = [parts["head"] + first["head"], parts["relation"], parts["tail"] + first["tail"]]
            triples[split] = np.stack(columns, axis=1).astype(np.int32)
            if split != "train":
                neg_heads[split] = (parts["head_neg"] + first["head"][:, None]).astype(np.int32)
                neg_tails[split] = (parts["tail_neg"] + first["tail"][:, None]).astype(np.int32)
    relations = read_mapping(root / "mapping" / "relidx2relname.csv.gz", "rel idx", "rel name")
    return {
        "n_entity": int(sizes.sum()),
        "n_relation_type": len(relations),
        "entity_dict": [f"{kind}:{name}" for kind, of_kind in names.items() for name in of_kind],
        "relation_dict": relations,
        "type_offsets": offsets,
        "triples": triples,
        "neg_heads": neg_heads,
        "neg_tails": neg_tails,
    }


def wikikg2(root: Path) -> dict[str, Any]:
    """Attributes of ogbl-wikikg2, whose folder OGB calls `ogbl_wikikg2`; BESS-KGE: `build_ogbl_wikikg2`."""
    entities = read_mapping(root / "mapping" / "nodeidx2entityid.csv.gz", "node idx", "entity id")
    relations = read_mapping(root / "mapping" / "reltype2relid.csv.gz", "reltype", "rel id")
    triples, neg_heads, neg_tails = {}, {}, {}
    for split in SPLIT_NAMES:
        file = root / "split" / "time" / f"{split}.pt"
        parts = read_split(file)
        with telling(file):
            triples[split] = np.stack([parts[side] for side in ("head", "relation", "tail")], axis=1).astype(np.int32)
            if split != "train":
                neg_heads[split], neg_tails[split] = (
                    parts[f"{side}_neg"].astype(np.int32) for side in ("head", "tail")
                )
    return {
        "n_entity": len(entities),
        "n_relation_type": len(relations),
        "entity_dict": entities,
        "relation_dict": relations,
        "triples": triples,
        "neg_heads": neg_heads,
        "neg_tails": neg_tails,
    }


def wikikg90mv2(archive: Path, n_entity: int, n_relation: int) -> dict[str, Any]:
    """Attributes of WikiKG90Mv2, read out of its archive without unpacking it; entities have no names.

    Training triples are `train_hrt.npy`, those of validation `val_hr.npy` and `val_t.npy`; the answers to the test
    queries are not published, so that there is no test split. OGB: `WikiKG90Mv2Dataset`.
    """
    folder = "wikikg90m-v2/processed"
    with telling(archive), open_file(archive) as stream, zipfile.ZipFile(stream) as opened:

        def array(name: str) -> Int32Array:
            with opened.open(f"{folder}/{name}.npy") as member:
                return read_int32(member)

        valid = np.column_stack([array("val_hr"), array("val_t")])
        triples = {"train": array("train_hrt"), "valid": valid}
    return {"n_entity": n_entity, "n_relation_type": n_relation, "triples": triples}


def read_int32(stream: Any) -> Int32Array:
    """A large array of integers in the format of NumPy's `.npy`, part by part, as int32.

    Raises:
        ValueError: if it is no such array, is cut, or holds larger numbers.
    """
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if is_fortran or dtype.kind not in "iu":
        raise ValueError(f"expected integers in the order of C, got {dtype}, {'Fortran' if is_fortran else 'C'}")
    out = np.empty(shape, dtype=np.int32)
    width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    for first in range(0, shape[0], _ROWS):
        n = min(_ROWS, shape[0] - first)
        part = np.frombuffer(_read_all(stream, n * width), dtype=dtype).reshape(n, *shape[1:])
        if part.size and (part.min() < 0 or part.max() > np.iinfo(np.int32).max):
            raise ValueError(f"expected ids of int32, got {part.min()} to {part.max()}")
        out[first : first + n] = part
    return out


def _read_all(stream: BinaryIO, n: int) -> bytes:
    """`n` bytes: a stream of a packed member may give fewer at a time."""
    parts = []
    while n and (part := stream.read(n)):
        parts.append(part)
        n -= len(part)
    if n:
        raise ValueError(f"ends {n:,} bytes too early")
    return b"".join(parts)


def read_mapping(file: Path, index: str, name: str) -> list[str]:
    """Names in the order of their ids, of a packed CSV file with a column of either.

    Raises:
        DataError: if the file cannot be read, or ids are not 0, 1, ... in any order.
    """
    with telling(file), open_file(file) as raw, gzip.open(raw, "rt", encoding="utf-8", newline="") as stream:
        found = {int(row[index]): row[name] for row in csv.DictReader(stream)}
        if sorted(found) != list(range(len(found))):
            raise DataError(f"its {index} are not 0 to {len(found) - 1:,}", file)
        return [found[i] for i in range(len(found))]


def read_split(file: Path) -> Mapping[str, Any]:
    """The dictionary of arrays and lists in a file that `torch.save` wrote; nothing in it is executed.

    Raises:
        DataError: if the file is damaged or holds anything else.
        MissingExtraError: without PyTorch.
    """
    torch = require("torch", "torch", "a split of OGB")
    with telling(file), open_file(file) as stream, torch.serialization.safe_globals(_plain_numpy()):
        try:
            parts: Mapping[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
        except torch.serialization.pickle.UnpicklingError as error:
            raise DataError(f"holds more than arrays, or is damaged: {str(error).splitlines()[0]}", file) from None
        return {name: np.asarray(value) if hasattr(value, "__array__") else value for name, value in parts.items()}


def _plain_numpy() -> list[Any]:
    """What arrays of numbers are made of, under the names of old and new NumPy."""
    make = np.empty(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("i4", "i8", "f4", "f8")]
    names = [(make, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*names, np.ndarray, np.dtype, *kinds, codecs.encode]
