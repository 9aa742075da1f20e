"""Libraries that only some functions need: imported when those are called."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """A library that is installed with an extra of this package is not there."""


def require(module: str, extra: str, what: str) -> Any:
    """Imports a module that `what` needs.

    Args:
        module: dotted name.
        extra: the extra of this package that installs it.
        what: what needs it, for the message.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what} needs the package {error.name}: pip install 'bess_jax[{extra}]'") from error
