"""The suite `step` and its command line, at sizes that take no time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import jax
import pytest
from shared.records import SMALL_CEILINGS

from bess_jax.bench import BenchConfig, measure
from bess_jax.bench.__main__ import main
from bess_jax.bench.step import flop_of_model, make_parts

L1 = (2 + 1) + (4 + 2)
"""Operations of a component of |q - k|: itself, an addition; its gradients, two additions."""

TINY = BenchConfig(
    n_entity=90,
    n_relation=3,
    n_triple=400,
    embedding_size=4,
    n_shard=2,
    n_device=1,
    batch_size=16,
    n_negative=6,
    steps_per_call=2,
    n_call=3,
    n_warmup=1,
)


def tiny(**changes: Any) -> BenchConfig:
    return dataclasses.replace(TINY, **changes)


def flags(config: BenchConfig) -> list[str]:
    options = (("--" + f.name.replace("_", "-"), getattr(config, f.name)) for f in dataclasses.fields(config))
    return [text for name, value in options if type(value) in (int, float, str) for text in (name, str(value))]


@jax.numpy_dtype_promotion("standard")  # optax.adam needs it
def test_record_of_a_tiny_step() -> None:
    record = measure(tiny(optimizer="adam", n_device=2))
    assert 0 < record["step_ms_min"] <= record["step_ms"] <= record["step_ms_max"]
    assert record["compile_s"] > 0
    assert record["host_ms"] > 0
    assert record["scored_per_step"] == 16 * (1 + 6)
    assert record["positives_per_s"] == pytest.approx(16 / record["step_ms"] * 1e3)
    assert record["scored_per_s"] == pytest.approx(112 / record["step_ms"] * 1e3)
    assert record["table_bytes"] == 2 * 45 * 8 * 4  # shards, rows, two halves of 4 components, float32
    # Two moments of the table and of the relations (a copy on each shard), and two step counts on each shard.
    assert record["opt_state_bytes"] == 2 * (2880 + 2 * 3 * 8 * 4) + 2 * 2 * 4
    assert record["peak_rss_bytes"] > 2**20
    assert (record["n_device"], record["mapping"]) == (2, "pmap")
    # 4 triples of each of 2 x 2 shard pairs; a shard lists 8 heads, 8 tails and 3 negatives for each of 2 shards.
    assert record["shapes"]["head"] == (2, 2, 2, 4)
    assert record["shapes"]["entity_rows"] == (2, 2, 8 + 8 + 2 * 3)
    assert record["shapes"]["entity"] == (2, 45, 8)
    assert record["suite"] == "step"
    assert set(record["ceilings"]) == {"matmul", "memory"}
    line = record["measures"]["step"]
    assert (line["ms"], line["ms_min"], line["ms_max"]) == tuple(
        record[name] for name in ("step_ms", "step_ms_min", "step_ms_max")
    )
    assert (line["ceiling"], line["work"]) == ("matmul", 2 * 3 * 16 * 6 * 8)  # 2 FLOP, 3 products, pairs, width
    needed = line["work"] / record["ceilings"]["matmul"]["rate"]  # seconds at the ceiling
    assert line["percent"] == pytest.approx(100 * needed / (line["ms"] / 1e3))
    assert json.loads(json.dumps(record))["config"]["n_negative"] == 6


@pytest.mark.parametrize(
    ("changes", "per_positive"),
    [
        pytest.param({}, 1 + 6, id="shared"),
        pytest.param({"shared_negative": False, "n_negative": 4}, 1 + 4, id="own"),
        pytest.param({"augment_negative": True}, 1 + 6 + 8, id="augmented"),
        pytest.param({"augment_negative": True, "corruption_scheme": "ht"}, 1 + 6 + 4, id="augmented_ht"),
    ],
)
def test_scored_triples_are_the_scores_computed(changes: dict[str, Any], per_positive: int) -> None:
    config = tiny(**changes)
    assert config.scored_per_step == 16 * per_positive
    sampler, model, _ = make_parts(config)
    batch = {name: array[0][:, None] for name, array in sampler.batch(0, 0).items()}  # the first step
    params = jax.eval_shape(model.init, jax.random.PRNGKey(0))

    def scores(params: Any, batch: Any) -> Any:
        return model.score_batch(params, *(batch[name] for name in ("head", "relation", "tail", "negative")))

    positive, negative = jax.eval_shape(jax.vmap(scores, axis_name="shard"), params, batch)
    assert positive.size + negative.size == config.scored_per_step


def test_transe_with_own_negatives_and_a_dense_update() -> None:
    record = measure(
        tiny(model="TransE", loss="margin", shared_negative=False, update="dense", optimizer="sgd", n_call=1)
    )
    assert record["opt_state_bytes"] == 0
    line = record["measures"]["step"]
    assert line["work"] == 16 * 6 * L1 * 4  # pairs, operations, width
    assert record["shapes"]["negative"] == (2, 2, 2, 8, 3)
    assert "entity_rows" not in record["shapes"]


@pytest.mark.parametrize(
    ("model", "norm", "expected"),
    [
        ("DistMult", 1, 6 * 4),
        ("ComplEx", 1, 6 * 2 * 4),
        ("TransE", 1, L1 * 4),
        ("TransE", 2, 6 * 4),
        ("RotatE", 2, 6 * 2 * 4),  # both halves
        ("PairRE", 2, 4 * ((3 + 1) + (7 + 3))),  # c + w k and its square; w, k, c
        ("ConvE", 1, 6 * (16 + 1)),  # a bias
    ],
)
def test_operations_of_a_score(model: str, norm: Any, expected: int) -> None:
    size = 16 if model == "ConvE" else 4
    bess = make_parts(tiny(model=model, scoring_norm=norm, embedding_size=size))[1]
    assert flop_of_model(bess.score_fn, gradient=True) == expected


def test_any_model_is_measured() -> None:
    """Also one with a network, which has a state of its own."""
    line = measure(tiny(model="ConvE", embedding_size=16, n_call=1, n_warmup=0))["measures"]["step"]
    assert line["work"] == 6 * 16 * 6 * 17
    with pytest.raises(ValueError, match=r"model must be one of BoxE, .* got 'Nope'"):
        measure(tiny(model="Nope"))


@pytest.mark.long
def test_command_prints_one_line_of_json() -> None:
    code = f"""
import sys
from bess_jax.bench import ceilings
from bess_jax.bench.__main__ import main
vars(ceilings).update({SMALL_CEILINGS})
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "--json", *flags(tiny(n_device=2, mapping="shard_map"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert record["config"]["embedding_size"] == 4
    assert (record["n_device"], record["mapping"]) == (2, "shard_map")


@pytest.mark.usefixtures("asked")
def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(TINY)) == 0
    out = capsys.readouterr().out
    assert "% matmul" in out
    assert "opt_state_bytes" in out


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_device": 0}, "n_device"),
        ({"batch_size": 15}, "batch_size"),
        ({"n_negative": 5}, "n_negative"),
        ({"n_shard": 0}, "n_shard"),
        ({"n_device": 3}, "n_device"),
        ({"n_device": 2, "mapping": "vmap"}, "devices"),
        ({"embedding_size": 0}, "embedding_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"corruption_scheme": "ht", "batch_size": 12}, "batch_size"),
    ],
)
def test_bad_value_is_one_line_that_names_the_field(
    changes: dict[str, Any], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tiny(**changes))) == 2
    out, error = capsys.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    assert field in line


def test_augmentation_needs_shared_negatives() -> None:
    with pytest.raises(ValueError, match="shared_negative"):
        measure(tiny(augment_negative=True, shared_negative=False))


def test_unknown_value_of_a_choice() -> None:
    with pytest.raises(ValueError, match="optimizer must be one of"):
        measure(tiny(optimizer="lbfgs"))


def test_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "bess_jax.bench.cli", raising=False)
    monkeypatch.delattr("bess_jax.bench.cli", raising=False)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("tyro: pip install 'bess_jax[cli]'")


@pytest.mark.usefixtures("asked")
def test_loss_that_is_not_finite_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(tiny(learning_rate=1e30, optimizer="sgd"))) == 1
    assert "not finite" in capsys.readouterr().err
