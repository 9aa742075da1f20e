"""Graphs that ship with the package."""

from __future__ import annotations

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
    if Path(name).suffix == ".npz" and not Path(name).is_dir():
        return KGDataset.load(name)
    return KGDataset.from_folder(name)
