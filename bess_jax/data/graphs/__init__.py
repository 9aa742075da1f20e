"""Graphs that ship with the package."""

from __future__ import annotations

from pathlib import Path

from bess_jax.data.dataset import KGDataset

SHIPPED = ("wn18rr",)
"""Names of the shipped graphs; each is a folder beside this file, with its licence."""


def load_dataset(name: str | Path) -> KGDataset:
    """A shipped graph by name, or any folder that `KGDataset.from_folder` reads.

    Raises:
        ValueError: if `name` is neither.
    """
    return KGDataset.from_folder(Path(__file__).parent / name if str(name) in SHIPPED else name)
