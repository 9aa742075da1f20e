"""Graphs that ship with the package."""

from __future__ import annotations

import os
from pathlib import Path

from bess_jax.data.dataset import KGDataset

SHIPPED = ("wn18rr",)
"""Names of the shipped graphs; each is a folder beside this file, with its licence."""


def load_dataset(name: str | Path) -> KGDataset:
    """A shipped graph by name, a folder that `KGDataset.from_folder` reads, or an `.npz` that `KGDataset.save` wrote.

    Raises:
        ValueError: if `name` is none of them.
        DataError: (a ValueError) if something is wrong with a file.
    """
    if str(name) in SHIPPED:
        return KGDataset.from_folder(Path(__file__).parent / name)
    if Path(name).suffix == ".npz" and not os.path.isdir(name):
        return KGDataset.load(name)
    if not os.path.isdir(name):
        raise ValueError(
            f"dataset {str(name)!r} is neither a shipped graph nor a folder with train, valid and test, nor an .npz "
            "file that KGDataset.save wrote"
        )
    return KGDataset.from_folder(name)
