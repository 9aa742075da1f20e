"""A model to ask."""

from __future__ import annotations

import pytest
from shared.trained import Trained


@pytest.fixture(scope="session")
def world() -> Trained:
    return Trained.create()
