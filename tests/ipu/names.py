"""Prints the public names of the libraries that the core uses, of those versions that it runs with, a module a line."""

from __future__ import annotations

import importlib
import textwrap
from types import ModuleType

MODULES = (
    *("chex", "flax", "flax.core", "flax.linen", "flax.linen.initializers", "flax.traverse_util"),
    *("jax", "jax.dtypes", "jax.lax", "jax.nn", "jax.numpy", "jax.numpy.linalg", "jax.random", "jax.scipy.special"),
    *("jax.tree_util", "numpy", "numpy.lib", "numpy.lib.format", "numpy.linalg", "numpy.random", "numpy.typing"),
    "optax",
)


def names_of(module: ModuleType) -> list[str]:
    """What a module offers, modules in it too."""
    return sorted(name for name in dir(module) if not name.startswith("_"))


def main() -> None:
    """One paragraph for each module that these versions have."""
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        print(f"{name}:")
        print(textwrap.fill(" ".join(names_of(module)), 118, initial_indent="  ", subsequent_indent="  "))


if __name__ == "__main__":
    main()
