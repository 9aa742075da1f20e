"""The suites of the measuring command, and its ceilings. Nothing here depends on how fast it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import pytest
from shared.records import fake_record

from bess_jax.bench import ceilings, cli
from bess_jax.bench.__main__ import main
from bess_jax.bench.ceilings import Ceilings
from bess_jax.bench.timing import Measure, in_turns

pytestmark = pytest.mark.usefixtures("asked")

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


def run(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


def kernel_work(found: dict[str, Any]) -> None:
    """Pairs and operations are counted."""
    work = {name: line["work"] for name, line in found.items()}
    assert work["dot 8x4x4"] == work["L2 8x4x4"] == 2 * 8 * 4 * 4
    assert work["dot 8x4x4 +gradient"] == 6 * 8 * 4 * 4
    for name, flop in (("L1", 2 + 1), ("affine1", 3 + 1), ("affine2", 5 + 1)):
        assert work[f"{name} 8x4x4"] == flop * 8 * 4 * 4
    for name in ("L1", "modulus", "affine1", "affine2", "box"):
        assert work[f"{name} 8x4x4 +gradient"] >= 3 * work[f"{name} 8x4x4"] > 0


def ranking_work(found: dict[str, Any]) -> None:
    """One pass over all entities is counted."""
    lines = found.values()
    assert [line["work"] for line in lines] == [2 * 20 * 90 * 8, 3 * 20 * 90 * 4]  # ComplEx has two halves
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
    measure = Measure("x", [0.5, 0.1, 0.2], 10, "queries", work=30.0, ceiling="matmul")
    record = measure.record({"matmul": {"rate": 600.0}})
    assert (record["ms"], record["ms_min"], record["ms_max"]) == (200, 100, 500)
    assert (record["rate"], record["unit"]) == (50, "queries/s")
    assert (record["floor_ms"], record["percent"]) == (pytest.approx(50), pytest.approx(25))
    assert "percent" not in Measure("x", [0.5], 10, "queries").record({})


def test_ceiling_is_the_best_shape() -> None:
    probes = Ceilings(jax.devices()[:2], matmul_shapes=((8, 8, 8), (8, 8, 16)))  # the first is there already
    assert len(probes.jobs) == 3 + 1
    seconds: dict[Any, list[float]] = {name: [4.0, 1.0, 1.0] for name in probes.jobs}
    seconds["matmul", 1] = [0.5, 0.5, 9.0]
    rates = probes.rates(seconds)
    flop = 2 * 2 * 2 * 16 * 8 * 8  # an addition and a multiplication, both products, two devices
    assert rates["matmul"] == {"rate": flop / 0.5, "unit": "FLOP/s", "shape": "(16, 8) x (8, 8)"}
    assert rates["memory"]["rate"] == ceilings.MEMORY_PASSES * 3 * 4 * 2**10


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
def test_devices_asked_for(args: list[str], n_device: int, monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    for config, (name, _) in cli.SUITES.items():
        monkeypatch.setitem(cli.SUITES, config, (name, lambda config: fake_record()))
    assert main(args) == 0
    assert asked == [n_device]


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
