"""The command `audit`: what the programs of a run consist of, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest
from shared.shell import Shell

from bess_jax.cli.main import main
from bess_jax.run.config import TrainConfig
from bess_jax.run.experiment import Experiment
from bess_jax.run.folder import RunFolder
from bess_jax.run.rehearsal import PROGRAMS, Rehearsal, rehearse

SMALL = [
    *("--dataset", "umls", "--n-shard", "2", "--batch-size", "16", "--n-negative", "4"),
    *("--embedding-size", "8", "--steps-per-call", "2"),
]
"""Options whose programs compile fast, and whose batches touch few rows."""

GREEN = "all-gather,dense-gradient,slow-scatter,table-copy"


NOT_AUGMENTED = ("--augment-negative", "false")


def audit(*options: str, code: int = 0) -> None:
    assert main(["audit", *SMALL, *options]) == code


@pytest.fixture(scope="module")
def small() -> Experiment:
    config = TrainConfig(dataset="umls", n_shard=2, batch_size=16, n_negative=4, embedding_size=8, steps_per_call=2)
    return Experiment.create(config, placement=Rehearsal.create(2))


def test_what_is_lowered_is_what_a_run_calls(small: Experiment) -> None:
    """The first call of training on real arrays has the shapes, the types and the program of the rehearsed one."""
    real = Experiment.create(small.config, small.dataset)
    assert type(real.placement) is not Rehearsal
    state, batch = real.init(), real._device_batch(0)
    call = rehearse(small, "step")
    same = jax.tree_util.tree_map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), call.args, (state, batch))
    assert all(jax.tree_util.tree_leaves(same))
    text = real.step.lower(state, batch).as_text()  # type: ignore[attr-defined]
    assert call.lower().as_text() == text
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") == len(jax.tree_util.tree_leaves(state))


def test_every_program_is_found(small: Experiment) -> None:
    shapes = {name: len(jax.tree_util.tree_leaves(rehearse(small, name).args)) for name in PROGRAMS}
    assert min(shapes.values()) >= 2
    with pytest.raises(TypeError, match="the experiment must be on a Rehearsal, got a Placement"):
        rehearse(Experiment.create(small.config, small.dataset), "step")


def test_forbidden_is_what_dense_updates_have(capsys: pytest.CaptureFixture[str]) -> None:
    audit("--program", "step", "--forbid", GREEN)
    assert capsys.readouterr().err == ""
    audit("--program", "step", "--forbid", GREEN, "--update", "dense", code=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("forbidden: step: dense-gradient: ") for line in lines)


def test_json_has_bytes_of_the_formula(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a step of both schemes; 2 shards, 4 positives of a pair of shards, 2 negatives of a shard for each."""
    width, passes, number = 16, 2, 4
    for scheme, exchanged, gathered, more in (
        ("embedding_moving", (4 + 2) * width, 0, ("--backend", "ipu")),
        ("embedding_moving", (4 + 2) * width * 1.5, 0, ("--backend", "ipu", "--accumulate", "2")),
        ("embedding_moving", (4 + 2) * width / 2, 0, ("--backend", "ipu", "--table-dtype", "float16")),
        ("score_moving", 4 * width + 8 * 2 * 2, 8 * width + 8 / passes, ()),
    ):
        with jax.numpy_dtype_promotion("standard"):  # optax adds float32 to float16
            audit("--program", "step", "--json", "--scheme", scheme, *NOT_AUGMENTED, *more)
        found = json.loads(capsys.readouterr().out)
        step = found["programs"]["step"]
        assert found["backend"] == (more[1] if more else "cpu")
        assert (found["n_shard"], found["n_device"], step["n_step"]) == (2, 2, 2)
        expected = {"exchanged": passes * number * exchanged, "gathered": passes * number * gathered}
        assert step["formula"] == expected, scheme
        assert step["moved_bytes_per_step"] == sum(expected.values()), scheme
        assert step["n_donated"] >= 4


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["embedding_moving", "score_moving"])
def test_formula_of_several_shards_on_a_device(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A device gathers for all its shards at once."""
    audit("--program", "step", "--json", "--n-shard", "4", "--n-device", "2", "--scheme", scheme, *NOT_AUGMENTED)
    found = json.loads(capsys.readouterr().out)
    step = found["programs"]["step"]
    assert (found["n_shard"], found["n_device"]) == (4, 2)
    assert step["moved_bytes_per_step"] == sum(step["formula"].values()) > 0


def test_an_ipu(capsys: pytest.CaptureFixture[str]) -> None:
    """The ring, the verdicts, and the memory, which is told before anything is lowered."""
    forbidden = "all-gather,dense-gradient,all-to-all,unsupported,slow"
    options = ("--backend", "ipu", "--program", "step,top-k", "--forbid", forbidden)
    audit(*options, "--json")
    found = json.loads(capsys.readouterr().out)
    step, top_k = found["programs"].values()
    assert step["operations"]["collective-permute"] > 0
    assert {one["status"] for one in step["verdicts"]} == {"native", "restricted"}
    (otherwise,) = [one for one in top_k["verdicts"] if one["lowered_otherwise"]]
    assert (otherwise["opcode"], otherwise["status"]) == ("topk", "unsupported")
    assert found["ipu_memory"]["in all"] < found["ipu_memory"]["50% of an IPU"]
    audit("--backend", "ipu", "--program", "score", "--forbid", "slow", "--n-shard", "1")
    out = capsys.readouterr().out
    assert "a step on one IPU" in out
    assert "restricted" in out
    audit("--backend", "ipu", "--usable", "0.00001", code=2)
    assert "must fit into 0% of an IPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--program", "stp"], "there is no program 'stp'; did you mean 'step'?"),
        (["--program", ","], "program must name one or more of step, rank,"),
        (
            ["--program", "score", "--forbid", "slow"],
            "'slow' is what an IPU makes of an operation, got the backend None",
        ),
        (["--program", "score", "--forbid", "all-gathr"], "got 'all-gathr'; did you mean 'all-gather'?"),
        (["--backend", "gpu"], "Expected one of"),
        (
            ["--backend", "ipu", "--n-shard", "3", "--batch-size", "18", "--n-negative", "3"],
            "n_shard must be a power of two on IPUs, got 3",
        ),
        (["--backend", "ipu", "--mapping", "shard_map"], "mapping must be 'pmap' on IPUs, got 'shard_map'"),
        (["--dataset", "codex-s"], "codex-s is not downloaded yet: python -m bess_jax data codex-s"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BESS_JAX_DATA", str(tmp_path))
    audit(*options, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_compiler_that_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for backend, package in (("cuda", f"jax-cuda12-plugin=={jax.__version__}"), ("tpu", "libtpu")):
        audit("--backend", backend, code=2)
        assert package in capsys.readouterr().err


def test_settings_and_graph_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = tmp_path / "run", tmp_path / "more.toml"
    run.mkdir()
    RunFolder(run).write_config(TrainConfig(dataset="umls", n_shard=2, model="DistMult", embedding_size=8))
    file.write_text("model = 'TransE'\nregularization = 0\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(["audit", "--run", str(run), "--program", "score"]) == 0
    assert "DistMult on umls" in capsys.readouterr().out
    assert main(["audit", "--run", str(run), "--config", str(file), "--program", "score"]) == 0
    assert "TransE on umls" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_the_shell_of_documents_reads_it(tmp_path: Path) -> None:
    shell: Any = Shell(tmp_path)
    shell.run(["python", "-m", "bess_jax", "audit", "--backend", "cuda"])
    with pytest.raises(ValueError, match="unknown option --shards"):
        shell.run(["python", "-m", "bess_jax", "audit", "--backend", "tpu", "--shards", "3"])
