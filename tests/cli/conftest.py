"""A finished run, for the tests of all commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared.commands import train


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    """Not to be written to."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert train(nations, path, "--n-epoch", "20", "--eval-every", "10") == 0
    return path
