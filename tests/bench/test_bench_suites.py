"""The suites of the measuring command, its ceilings, baselines and figures. Nothing here depends on how fast it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from bess_jax.bench import ceilings, cli, kernel
from bess_jax.bench.__main__ import main
from bess_jax.bench.ceilings import Ceilings, pair_work
from bess_jax.bench.compare import changes, differences
from bess_jax.bench.timing import Measure, in_turns

TINY_GRAPH = ["--n-entity", "90", "--n-triple", "400", "--n-shard", "2", "--n-call", "2", "--n-warmup", "0"]
TINY_MODEL = ["--n-relation", "3", "--embedding-size", "4", "--n-device", "2"]
TINY = {
    "kernel": ["--n-query", "8", "--n-key", "4", "--embedding-size", "4", "--n-call", "2", "--n-warmup", "0"],
    "sampler": [*TINY_GRAPH, "--batch-size", "8", "16", "--n-negative", "6", "--steps-per-call", "2"],
    "collective": ["--n-shard", "2", "--n-row", "3", "5", "--width", "4", "--n-call", "2", "--n-warmup", "0"],
    "rank": [*TINY_GRAPH, *TINY_MODEL, "--n-query", "20", "--chunk", "8"],
    "topk": [*TINY_GRAPH, *TINY_MODEL, "--n-query", "20", "--chunk", "8", "--k", "3"],
    "scaling": [
        *(*TINY_GRAPH, "--n-relation", "3", "--embedding-size", "4", "--batch-size", "16", "--n-negative", "4"),
        *("--steps-per-call", "2", "--entities", "90", "120", "--shards", "1", "2", "--batches", "16"),
    ],
}
N_MEASURE = {"kernel": 14, "sampler": 6, "collective": 2, "rank": 2, "topk": 2, "scaling": 5}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small ceilings; `main` runs with the devices of this process, and the list tells what it asked for."""
    for name, value in (
        ("MATMUL_SHAPES", ((8, 8, 8), (16, 8, 8))),
        ("MATMUL_FLOP", 2**12),
        ("L1_SHAPES", ((8, 8),)),
        ("L1_COMPONENTS", 2**12),
        ("MEMORY_FLOATS", 2**10),
    ):
        monkeypatch.setattr(ceilings, name, value)
    asked: list[int] = []
    monkeypatch.setattr(cli, "request_devices", asked.append)
    return asked


def run(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


def kernel_work(found: dict[str, Any]) -> None:
    """Pairs and passes are counted."""
    work = {name: (line["ceiling"], line["work"]) for name, line in found.items()}
    assert work["dot 8x4x4"] == work["L2 8x4x4"] == ("matmul", 2 * 8 * 4 * 4)
    assert work["dot 8x4x4 +gradient"] == ("matmul", 3 * 2 * 8 * 4 * 4)
    for name in ("L1", "modulus", "affine1", "affine2", "box"):
        assert work[f"{name} 8x4x4"] == ("l1", 8 * 4 * 4)
        assert work[f"{name} 8x4x4 +gradient"] == ("l1", 3 * 8 * 4 * 4)


def ranking_work(found: dict[str, Any]) -> None:
    """One pass over all entities is counted."""
    lines = found.values()
    assert [line["work"] for line in lines] == [2 * 20 * 90 * 8, 20 * 90 * 4]  # ComplEx has two halves
    assert [line["rate"] * line["ms"] for line in lines] == [pytest.approx(20e3)] * 2


def exchange_work(found: dict[str, Any]) -> None:
    """What leaves a shard is counted."""
    line = found["exchange 3 rows of 4"]
    assert line["rate"] * line["ms"] == pytest.approx(1e3 * 2 * 1 * 3 * 4 * 4)
    assert line["work"] == 2 * (2 * 1 * 3 * 4 * 4)  # read and written


def scaling_points(found: dict[str, Any]) -> None:
    """One thing is varied at a time."""
    points = [(line["varied"], line["value"]) for line in found.values()]
    assert points == [("n_entity", 90), ("n_entity", 120), ("n_shard", 1), ("n_shard", 2), ("batch_size", 16)]


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "kernel": kernel_work,
    "collective": exchange_work,
    "rank": ranking_work,
    "topk": ranking_work,
    "scaling": scaling_points,
}


@pytest.mark.parametrize("suite", TINY)
def test_record_of_a_suite(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(capsys, suite, *TINY[suite])
    assert record["suite"] == suite
    assert {"machine", "versions", "config", "ceilings"} <= record.keys()
    assert len(record["measures"]) == N_MEASURE[suite]
    CHECKS.get(suite, lambda found: None)(record["measures"])
    for line in record["measures"].values():
        assert 0 <= line["ms_min"] <= line["ms"] <= line["ms_max"]
        assert (suite in ("sampler", "scaling")) == ("percent" not in line)
        assert (suite == "sampler") == (line["compile_s"] is None)


def test_percentage_of_fake_times() -> None:
    measure = Measure("x", [0.5, 0.1, 0.2], 10, "queries", work=30.0, ceiling="l1")
    record = measure.record({"l1": {"rate": 600.0}})
    assert (record["ms"], record["ms_min"], record["ms_max"]) == (200, 100, 500)
    assert (record["rate"], record["unit"]) == (50, "queries/s")
    assert record["percent"] == pytest.approx(25)
    assert "percent" not in Measure("x", [0.5], 10, "queries").record({})


def test_work_of_pairs() -> None:
    assert pair_work("matmul", 10, 4, 3) == 2 * pair_work("l1", 10, 4, 3) == 240


def test_ceiling_is_the_best_shape() -> None:
    probes = Ceilings(jax.devices()[:2], matmul_shapes=((8, 8, 8), (8, 8, 16)))  # the first is there already
    assert len(probes.jobs) == 3 + 1 + 1
    seconds: dict[Any, list[float]] = {name: [4.0, 1.0, 1.0] for name in probes.jobs}
    seconds["matmul", 1] = [0.5, 0.5, 9.0]
    rates = probes.rates(seconds)
    flop = 2 * 2 * 2 * 16 * 8 * 8  # an addition and a multiplication, both products, two devices
    assert rates["matmul"] == {"rate": flop / 0.5, "unit": "FLOP/s", "shape": "(16, 8) x (8, 8)"}
    assert rates["memory"]["rate"] == ceilings.MEMORY_PASSES * 3 * 4 * 2**10
    assert rates["l1"]["unit"] == "components/s"


def test_calls_take_turns() -> None:
    done = []

    def job(name: str) -> float:
        done.append(name)
        return float(len(done))

    times = in_turns({name: lambda name=name: job(name) for name in "ab"}, n_call=2, n_warmup=1)  # type: ignore[misc]
    assert "".join(done) == "ababab"
    assert times == {"a": [3, 5], "b": [4, 6]}


@pytest.mark.parametrize(
    ("args", "n_device"),
    [
        pytest.param(["collective", "--n-shard", "8"], 8, id="as_many_as_shards"),
        pytest.param(["collective", "--n-shard", "8", "--n-device", "2"], 2, id="as_told"),
        pytest.param(["scaling", "--shards", "1", "16"], 16, id="most_shards"),
        pytest.param([], 4, id="step_is_the_default"),
        pytest.param(["--model", "TransE", "--n-shard", "2"], 2, id="options_of_step"),
    ],
)
def test_devices_asked_for(args: list[str], n_device: int, monkeypatch: pytest.MonkeyPatch, small: list[int]) -> None:
    for config, (name, _) in cli.SUITES.items():
        monkeypatch.setitem(cli.SUITES, config, (name, lambda config: fake_record()))
    assert main(args) == 0
    assert small == [n_device]


def fake_record(**ms: float) -> dict[str, Any]:
    lines = {name: Measure(name, [value / 1e3], 1, "pairs").record({}) for name, value in (ms or {"dot": 10.0}).items()}
    machine = {"cpu": "a", "n_core": 2}
    return {
        **{"suite": "kernel", "machine": machine, "config": {"n_query": 8}, "versions": {}},
        **{"ceilings": {}, "measures": lines},
    }


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
        pytest.param("[1]", "record of this command", id="other_json"),
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


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["kernel", "--plot", "figure.pdf"], "plot must be a file that ends in .png or .svg"),
        (["kernel", "--out", "no/such/folder/x.json"], "out must be a file in an existing folder"),
        (["kernel", "--tolerance", "-1"], "tolerance must be >= 0"),
        (["kernel", "--n-key", "0"], "n_key must be >= 1"),
        (["sampler", "--batch-size", "1000"], "batch_size must be a positive multiple of 16"),
        (["collective", "--n-shard", "1"], "n_shard must be >= 2"),
        (["rank", "--n-query", "3"], "n_query must be a positive multiple of 2"),
        (["topk", "--k", "0"], "k must be between 1 and n_entity"),
        (["scaling", "--shards", "3"], "n_shard = 3: batch_size must be a positive multiple of 9"),
        (["scaling", "--entities", "--shards", "--batches"], "one of entities, shards and batches"),
    ],
)
def test_bad_value_is_named(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    out, error = capsys.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    assert says in line
