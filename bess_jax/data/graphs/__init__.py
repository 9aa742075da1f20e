"""Graphs by name: those that ship with the package, and public ones, which are downloaded.

`public` has the table of the latter, `layouts` and `ogb` read what their archives hold, `cache` brings and keeps them.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bess_jax.data.archive import DAMAGE
from bess_jax.data.dataset import KGDataset
from bess_jax.data.files import DataWarning, open_file
from bess_jax.data.formats.sources import is_triples_file
from bess_jax.data.graphs.public import PUBLIC, load_public

SHIPPED = ("wn18rr", "umls", "nations")
"""Names of the shipped graphs; each is a folder beside this file, with its licence."""


def is_named(name: str | Path) -> bool:
    """Whether a graph is meant by its name, and not by where it is."""
    return str(name).lower() in (*SHIPPED, *PUBLIC)


def load_dataset(
    name: str | Path,
    columns: Sequence[str | int] | None = None,
    split: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 1234,
) -> KGDataset:
    """A graph by name, from a folder, from a file of triples, or from an `.npz` that `KGDataset.save` wrote.

    Args:
        name: a shipped or public graph, in upper or lower case (docs/data.md lists them), or where the graph is.
        columns: where head, relation and tail stand in the tables of a file or folder, by name or number.
        split: parts of train, valid and test, where they have to be drawn.
        seed: of the draw.

    Raises:
        ValueError: if `name` is none of them.
        DataError: (a ValueError) if something is wrong with a file.
        OSError: if a public graph cannot be downloaded.
        MissingExtraError: if a package is not installed that a download or a format needs.
    """
    path, known = Path(name), str(name).lower()
    if is_named(name) and os.path.lexists(name):
        text = f"{name} is taken for the graph of that name, not for what is here: to have that, write ./{name}"
        warnings.warn(text, DataWarning, stacklevel=2)
    if known in SHIPPED:
        return KGDataset.from_folder(Path(__file__).parent / known)
    if known in PUBLIC:
        return load_public(known, split, seed)
    if os.path.isdir(name):  # also where no file can have such a name
        return KGDataset.from_folder(path, columns, split, seed)
    if path.suffix == ".npz" and _is_saved(path):
        return KGDataset.load(path)
    if is_triples_file(path):
        return KGDataset.from_file(path, columns, split, seed)
    raise ValueError(
        f"dataset {str(name)!r} is neither a shipped graph nor a folder or file of triples, nor an .npz file that "
        f"KGDataset.save wrote; known names: {', '.join((*SHIPPED, *PUBLIC))}"
    )


def _is_saved(file: Path) -> bool:
    """Whether an `.npz` looks like one that `KGDataset.save` wrote, or cannot be looked at."""
    try:
        with open_file(file) as stream, zipfile.ZipFile(stream) as archive:
            return "triples.keys.ends.npy" in archive.namelist()
    except DAMAGE:
        return True
