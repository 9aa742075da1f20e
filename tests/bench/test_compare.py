"""Results against a baseline: what is slower, what is not comparable, and files that are no baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shared.records import fake_record

from bess_jax.bench import cli, kernel
from bess_jax.bench.__main__ import main
from bess_jax.bench.compare import changes, differences

pytestmark = pytest.mark.usefixtures("asked")


@pytest.fixture
def fake_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite `kernel` finds that dot takes 10 ms and L1 20 ms."""
    monkeypatch.setitem(cli.SUITES, kernel.KernelConfig, ("kernel", lambda config: fake_record(dot=10.0, L1=20.0)))


@pytest.mark.usefixtures("fake_kernel")
@pytest.mark.parametrize(
    ("before", "args", "code", "says"),
    [
        pytest.param({"dot": 10.0, "L1": 19.0}, [], 0, "1.05", id="as_fast"),
        pytest.param({"dot": 10.0, "L1": 15.0}, [], 3, "REGRESSION", id="slower"),
        pytest.param({"dot": 10.0, "L1": 15.0}, ["--tolerance", "0.5"], 0, "1.33", id="tolerated"),
        pytest.param({"dot": 100.0, "L1": 200.0}, [], 0, "0.10", id="faster"),
        pytest.param({"dot": 10.0}, [], 0, "new", id="new_measure"),
        pytest.param({"dot": 10.0, "L1": 20.0, "L2": 1.0}, [], 0, "gone", id="lost_measure"),
    ],
)
def test_baseline(
    before: dict[str, float],
    args: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "before.json"
    path.write_text(json.dumps(fake_record(**before)))
    assert main(["kernel", "--baseline", str(path), *args]) == code
    out = capsys.readouterr().out
    assert says in out
    assert ("REGRESSION" in out) == (code == 3)
    assert "not of the same" not in out


@pytest.mark.usefixtures("fake_kernel")
def test_baseline_of_another_machine_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "before.json"
    path.write_text(json.dumps(fake_record(dot=10.0, L1=15.0) | {"machine": {"cpu": "b", "n_core": 2}}))
    assert main(["kernel", "--json", "--baseline", str(path)]) == 3
    out, error = capsys.readouterr()
    assert json.loads(out)["measures"]["dot"]["ms"] == 10
    assert "not of the same machine" in error
    assert "cpu is 'a', was 'b'" in error
    assert "REGRESSION" in error


def test_differences_name_what_differs() -> None:
    now = fake_record() | {"config": {"n_query": 8, "n_key": (4,), "n_call": 3}}
    before = fake_record() | {"config": {"n_query": 9, "n_key": [4], "n_call": 5}, "versions": {"jax": "1"}}
    assert differences(now, before) == ["config: n_query is 8, was 9", "versions: jax is None, was '1'"]
    assert [change.ratio for change in changes(now, before, 0.25)] == [1.0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param("{", "--out or --json", id="not_json"),
        pytest.param("[" * 100_000, "--out or --json", id="nested"),
        pytest.param("[1]", "record of this command", id="other_json"),
        pytest.param(json.dumps(fake_record() | {"measures": []}), "record of this command", id="other_measures"),
        pytest.param(json.dumps(fake_record() | {"suite": "rank"}), "'rank'", id="other_suite"),
    ],
)
def test_bad_baseline(content: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "before.json"
    if content is not None:
        path.write_text(content)
    assert main(["kernel", "--baseline", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bess_jax.bench: baseline must be")
    assert says in line


@pytest.mark.usefixtures("fake_kernel")
def test_out_is_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "record.json"
    assert main(["kernel", "--out", str(path)]) == 0
    assert "pairs/s" in capsys.readouterr().out
    assert main(["kernel", "--baseline", str(path), "--tolerance", "0"]) == 0
