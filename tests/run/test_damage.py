"""Damaged run folders: refused by name, or as good as before. Never something else without a word."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from shared.commands import train

import bess_jax as bj
from bess_jax.cli.main import main
from bess_jax.data.files import DataError
from bess_jax.run.checkpoint import BEST, LAST
from bess_jax.run.config import FREE, TrainConfig
from bess_jax.run.folder import RunFolder

HARMLESS = {"lock", "metrics.jsonl", "metrics.csv", "calibration.json"}
"""What may be damaged without harm to a run."""


def read(run: Path) -> dict[str, object]:
    """All that evaluating, predicting and resuming read."""
    folder = RunFolder.open(run)
    config, graph = folder.config(), folder.graph()
    settings = {name: value for name, value in vars(config).items() if name not in FREE}
    found: dict[str, object] = {"settings": settings, "graph": graph.digest()}
    for which in (BEST, LAST, *map(str, folder.checkpoints.points())):
        checkpoint = folder.checkpoint(which, config, graph.digest())
        found[which] = checkpoint.path.name
        for name, entry in checkpoint.entries.items() if which not in (BEST, LAST) else ():
            for shard in range(checkpoint.about.settings["n_shard"] if entry.per_shard else 1):
                found[f"{which} {name} {shard}"] = checkpoint.array(name, shard).tobytes()
    return found


def is_refused(run: Path, expected: dict[str, object]) -> bool:
    """Whether what is read is refused, by a file of the run; False if it is as it was."""
    try:
        found = read(run)
    except DataError as error:
        assert run in (error.file, *error.file.parents)  # noqa: PT017
        return True
    assert found == expected
    return False


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    shutil.copytree(run, path)
    bj.Predictor.load(path).classify("test")  # leaves calibrations
    return path


def test_flipped_bits(copy: Path) -> None:
    """In every file, at places that are drawn, those of small files most densely."""
    expected, rng = read(copy), np.random.default_rng(0)
    refused = {}
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        content = file.read_bytes()
        places = rng.integers(max(len(content), 1), size=24) if content else []
        refused[file.name] = 0
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            refused[file.name] += is_refused(copy, expected)
        file.write_bytes(content)
    for name, n in refused.items():
        assert (n == 0) == (name in HARMLESS), f"{name}: {n}"
    assert sum(refused.values()) > 200


def test_cut_and_missing_files(copy: Path) -> None:
    expected = read(copy)
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        content = file.read_bytes()
        matters = file.name not in HARMLESS
        for size in (0, len(content) // 3, max(len(content) - 2, 0)):
            file.write_bytes(content[:size])
            if file.name == "config.toml":  # what is cut off may be a default
                is_refused(copy, expected)
            else:
                assert is_refused(copy, expected) == matters, file
        file.unlink()
        assert is_refused(copy, expected) == matters, file
        file.write_bytes(content)


def test_swapped_files(copy: Path) -> None:
    """With any other array of the run: of another shard, name or checkpoint."""
    expected = read(copy)
    arrays = sorted((copy / "checkpoints").rglob("*.npy"))
    n_refused = 0
    for file in arrays:
        content = file.read_bytes()
        for other in arrays:
            if other.read_bytes() != content:
                file.write_bytes(other.read_bytes())
                assert is_refused(copy, expected)
                n_refused += 1
                file.write_bytes(content)
    assert n_refused > 100


EDITS: dict[str, tuple[str, str]] = {
    "seed": ("seed = 0", "seed = 1"),
    "model": ('model = "ComplEx"', 'model = "DistMult"'),
    "embedding_size": ("embedding_size = 16", "embedding_size = 32"),
    "learning_rate": ("learning_rate = 0.2", "learning_rate = 0.1"),
    "loss": ('loss = "softmax"', 'loss = "margin"'),
    "batch_size": ("batch_size = 64", "batch_size = 128"),
    "n_negative": ("n_negative = 16", "n_negative = 32"),
    "optimizer": ('optimizer = "adagrad"', 'optimizer = "sgd"'),
    "update": ('update = "row_sparse"', 'update = "dense"'),
    "inverse_relations": ("inverse_relations = true", "inverse_relations = false"),
    "regularization": ("regularization = 0.01", "regularization = 0.02"),
    "steps_per_call": ("steps_per_call = 16", "steps_per_call = 8"),
    "corruption": ('corruption = "t"', 'corruption = "h"'),
    "margin": ("margin = 6.0", "margin = 7.0"),
    "init_scale": ("init_scale = 0.001", "init_scale = 0.01"),
}


def test_every_setting_is_bound_or_free() -> None:
    """A setting that is new must be thought of."""
    others = "scoring_norm share_negatives augment_negative adversarial_scale regularization_power start_from"
    newer = (
        "accumulate answers answers_per_query duplicate_batch entity_dropout entity_initializer frequency_weights "
        "label_smoothing local_negatives loss_scale model_options negatives offset optimizer_options order recipe "
        "regularizer relation_dropout relation_initializer relation_regularization relation_weight schedule "
        "schedule_options scheme stochastic_rounding table_dtype unit_entities warmup weight_smoothing"
    )
    assert set(vars(TrainConfig())) == {*FREE, *EDITS, *others.split(), *newer.split()}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("command", ["evaluate", "train --resume"])
def test_edited_settings(name: str, command: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or cut ones, unless the default says the same."""
    file, (before, after) = copy / "config.toml", EDITS[name]
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    assert main([*command.split(), str(copy)]) == 2
    assert f"config.toml: {name} is " in capsys.readouterr().err
    file.write_text(text.replace(before, ""))
    is_default = before in tomli_w.dumps(TrainConfig().to_dict())
    assert is_refused(copy, read_of(copy, text)) != is_default


def read_of(run: Path, config: str) -> dict[str, object]:
    """`read` with these settings."""
    file = run / "config.toml"
    text = file.read_text()
    file.write_text(config)
    found = read(run)
    file.write_text(text)
    return found


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "another head": lambda lines: [*lines[:-1], lines[0].split(b"\t")[0] + b"\t" + lines[-1].split(b"\t", 1)[1]],
    "one less": lambda lines: lines[:-1],
    "another order": lambda lines: lines[::-1],
}


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_changed_triples(change: str, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run does not go on with them; it can go on with its own copy, and be asked."""
    graph, run = tmp_path / "graph", tmp_path / "run"
    shutil.copytree(nations, graph)
    assert train(graph, run, "--n-epoch", "1", "--mapping", "vmap") == 0
    before, file = read(run), graph / "train.txt.gz"
    file.write_bytes(gzip.compress(b"".join(CHANGES[change](gzip.decompress(file.read_bytes()).splitlines(True)))))
    assert main(["train", "--resume", str(run), "--n-epoch", "2"]) == 2
    message = capsys.readouterr().err
    assert "has changed since the run began" in message
    assert "triples/train" in message
    assert main(["evaluate", str(run)]) == 0
    assert read(run) == before
    own = re.findall(r"--dataset (\S+)", message)[0]
    file.write_bytes(b"")
    assert main(["train", "--resume", str(run), "--n-epoch", "2"]) == 2
    assert f"train.txt.gz: holds no triple; to go on with what it was: --dataset {own}" in (capsys.readouterr().err)
    assert main(["train", "--resume", str(run), "--n-epoch", "2", "--dataset", own]) == 0
    shutil.rmtree(graph)
    assert main(["train", "--resume", str(run), "--n-epoch", "3"]) == 0
    assert main(["evaluate", str(run)]) == 0
