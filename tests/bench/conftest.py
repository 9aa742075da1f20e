"""Ceilings that take no time to measure."""

from __future__ import annotations

import pytest
from shared.records import SMALL_CEILINGS

from bess_jax.bench import ceilings, cli


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL_CEILINGS.items():
        monkeypatch.setattr(ceilings, name, value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the command run with the devices of this process; the list tells how many it asked for."""
    numbers: list[int] = []
    monkeypatch.setattr(cli, "request_devices", numbers.append)
    return numbers
