"""A short run of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.importers import importers
from fuzz.run import fuzz


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Reading `.npy`", "ignore:Data type alias")  # of NumPy, about headers
@pytest.mark.filterwarnings("ignore::bess_jax.data.files.DataWarning")
def test_damaged_files_are_refused_or_harmless(tmp_path: Path) -> None:
    counted, read = tmp_path / "counted", tmp_path / "read"
    for folder in (counted, read):
        folder.mkdir()
    counts = fuzz(read, range(100 * len(importers(counted))))
    for name, count in counts.items():
        assert count.read > 0 or name == "list", name  # of which nearly every change is one that its checksum tells
        assert count.refused > 50 or name == "metrics", name  # of which lines that are no records are left alone
        assert count.refused + count.read == 100, name
