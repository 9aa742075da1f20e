"""The processes of a run, as one of them sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Team(NamedTuple):
    """The processes of a run, as one of them sees them; alone by default."""

    process: int = 0  # number of this one
    n_process: int = 1
    barrier: Callable[[str], None] = lambda name: None  # waits until all have called it with the same name
    agree: Callable[[int], int] = lambda flags: flags  # the flags that any of them gives, called by all after each call
    share: Callable[[str], str] = lambda text: text  # what the first one gives

    @property
    def is_first(self) -> bool:
        """Whether this process writes what there is once."""
        return self.process == 0


ALONE = Team()
