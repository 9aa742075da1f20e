"""Knowledge-graph embeddings in JAX, sharded with BESS (Balanced Entity Sampling and Sharing).

The public names stand in `__init__.pyi`, in the order of the story. A name is imported when it is first used:
graphs and samplers do not wait for JAX, Flax and Optax.
"""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys
from typing import Any

__version__ = "0.1.0"

_FOLDER = pathlib.Path(__file__).parent
_STUB = ast.parse((_FOLDER / "__init__.pyi").read_text(encoding="utf-8"))
_MODULE_OF = {
    alias.name: node.module
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom) and node.module not in ("bess_jax", "typing")
    for alias in node.names
    if alias.name != "*"
}
"""Public name -> where it is defined."""

_OF_THE_REFERENCE = ("bess_jax.init", "bess_jax.reference")
"""Modules whose names, known to users of BESS-KGE, are found here too."""

_BEYOND_THE_CORE = tuple(f"bess_jax.{folder}." for folder in ("run", "predict", "report", "tune", "cli"))
"""Where Python 3.8 and JAX 0.3.16, which the IPU has, do not do."""

__all__ = ["__version__", "init", "reference", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    value = _find(name)
    globals()[name] = value
    return value


def _find(name: str) -> Any:
    if sys.version_info < (3, 11) and _MODULE_OF.get(name, "").startswith(_BEYOND_THE_CORE):
        raise ImportError(f"bess_jax.{name} needs Python >= 3.11: under the IPU's JAX there is the core, docs/ipu.md")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if not name.startswith("_"):
        if (_FOLDER / name).is_dir() or (_FOLDER / f"{name}.py").is_file():
            return importlib.import_module(f"bess_jax.{name}")
        for module in map(importlib.import_module, _OF_THE_REFERENCE):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'bess_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
