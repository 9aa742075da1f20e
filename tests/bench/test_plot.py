"""Figures of results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from shared.records import fake_record

from bess_jax.bench import cli, kernel
from bess_jax.bench.__main__ import main
from bess_jax.bench.timing import Measure

pytestmark = pytest.mark.usefixtures("asked")


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(Measure("dot", [0.1, 0.2], 10, "pairs", 1.0, 5.0, "matmul"), id="percentage"),
        pytest.param(Measure("sample", [0.1, 0.2], 10, "positives"), id="rate"),
        pytest.param(Measure("2 shards", [0.1, 0.2], 10, "positives", point=("n_shard", 2)), id="curve"),
    ],
)
def test_figure(measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = fake_record() | {"measures": {measure.name: measure.record({"matmul": {"rate": 100.0}})}}
    monkeypatch.setitem(cli.SUITES, kernel.KernelConfig, ("kernel", lambda config: record))
    for name, start in (("figure.png", b"\x89PNG"), ("figure.svg", b"<?xml")):
        assert main(["kernel", "--plot", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)


def test_figure_needs_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["kernel", "--plot", str(tmp_path / "figure.png")]) == 2
    assert "pip install 'bess_jax[plot]'" in capsys.readouterr().err
