"""The command `config`: settings shown, checked and compared."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from bess_jax.cli.main import main
from bess_jax.run.config import TrainConfig, read_settings
from bess_jax.run.folder import RunFolder
from bess_jax.run.settings import GROUPS, sentences


def printed(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> str:
    assert main(["config", *map(str, args)]) == code
    return capsys.readouterr().out


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    config = TrainConfig(model="TripleRE", model_options={"u": 0.5}, learning_rate=1e-7, start_from='a "b"')
    RunFolder(folder).write_config(config)
    return folder


def test_what_is_shown_is_a_file_of_settings(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shown.toml"
    for source, expected in ((), TrainConfig()), ((run,), RunFolder.open(run).config()):
        text = printed(capsys, "show", *source)
        file.write_text(text)
        assert TrainConfig(**read_settings(file)) == expected
        assert [*tomllib.loads(text)] == [*GROUPS]
        comments = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
        assert all(sentence in comments for sentence in sentences().values())
        assert max(map(len, text.splitlines())) <= 100


def test_changed_settings_and_options(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show", run, "--changed", "--learning-rate", 0.5, "--loss", "margin")
    assert tomllib.loads(text) == {
        "model": {"model": "TripleRE", "model_options": {"u": 0.5}, "start_from": 'a "b"'},
        "loss": {"loss": "margin"},
        "optimizer": {"learning_rate": 0.5},
    }
    found = json.loads(printed(capsys, "show", "--json", "--augment-negative", "false"))
    assert found["negatives"]["augment_negative"] is False
    assert found["data"]["columns"] is None
    assert [*found] == [*GROUPS]
    assert printed(capsys, "show", "--changed") == "\n"


def test_every_setting_has_a_sentence() -> None:
    assert [*sentences()] == [field.name for kind in GROUPS.values() for field in dataclasses.fields(kind)]
    assert all(text.endswith(".") for text in sentences().values())


def test_all_that_is_wrong_with_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, worse = (tmp_path / name for name in ("good.toml", "bad.toml", "worse.toml"))
    good.write_text("[optimizer]\nlearning_rate = 0.1\n")
    bad.write_text(
        'lerning_rate = 1\n[loss]\nn_epoch = 3\nloss = "hinge"\n[run]\nn_epoch = 1.5\n[model]\nembedding_size = 0\n'
    )
    worse.write_text("[")
    assert printed(capsys, "validate", good, run) == f"{good}: right\n{run}: right\n"
    lines = printed(capsys, "validate", good, bad, worse, tmp_path / "none", code=2).splitlines()
    assert lines[:6] == [
        f"{good}: right",
        f"{bad}: unknown setting 'lerning_rate'; did you mean 'learning_rate'?",
        f"{bad}: n_epoch stands under [loss], but belongs to [run]",
        f"{bad}: loss must be one of 'softmax', 'logsigmoid', 'margin', 'cross_entropy', 'bce', got 'hinge'",
        f"{bad}: n_epoch must be of type int, got 1.5",
        f"{bad}: embedding_size must be >= 1, got 0",
    ]
    assert lines[6].startswith(f"{worse}: not a TOML file")
    assert lines[7] == f"{tmp_path / 'none'}: cannot be read: No such file or directory"
    found = json.loads(printed(capsys, "validate", "--json", good, bad, code=2))["files"]
    assert [len(one["problems"]) for one in found] == [0, 5]


def test_what_would_do_nothing_is_wrong_in_a_file_but_not_in_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("margin = 2.0\nbatch_size = 3\n")
    assert "batch_size must be a positive multiple" in printed(capsys, "validate", file, code=2)
    file.write_text("margin = 2.0\n")
    assert "margin=2.0 needs loss='logsigmoid' or 'margin'" in printed(capsys, "validate", file, code=2)
    (run / "config.toml").write_text("margin = 2.0\n")
    assert printed(capsys, "validate", run) == f"{run}: right\n"


def test_differences(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "diff", run).splitlines() == [
        'model: "ComplEx" -> "TripleRE"',
        "model_options: {} -> {u = 0.5}",
        r'start_from: (not set) -> "a \"b\""',
        "learning_rate: 0.2 -> 1e-07",
    ]
    file = tmp_path / "settings.toml"
    file.write_text('model = "TripleRE"\nmodel_options = {u = 0.25}\nstart_from = \'a "b"\'\nlearning_rate = 1e-7\n')
    assert printed(capsys, "diff", run, file) == "model_options: {u = 0.5} -> {u = 0.25}\n"
    assert printed(capsys, "diff", run, run) == "no setting differs\n"
    assert json.loads(printed(capsys, "diff", run, file, "--json")) == {
        "a": str(run),
        "b": str(file),
        "differing": [{"setting": "model_options", "a": {"u": 0.5}, "b": {"u": 0.25}}],
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "give a command: show, validate, diff"),
        ("shw", "there is no command 'shw'; did you mean 'show'?"),
        ("validate", "give the files to check"),
        ("diff", "missing PATH"),
        ("diff none", "none: cannot be read: No such file"),
        ("show none", "none: cannot be read: No such file"),
        ("show --loss hinge", "loss must be one of"),
        ("show --batch-size 3", "batch_size must be a positive multiple of 16"),
    ],
)
def test_what_is_not_understood(
    args: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["config", *args.split()]) == 2
    assert message in capsys.readouterr().err


def test_help_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    """Groups have their names, each default stands once, and no sentence is about the inside."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for group in GROUPS:
        assert f" {group} options " in text
    for absent in ("None", "settings.data", "jax.", "`", "bess_jax."):
        assert absent not in text.replace("python -m bess_jax", ""), absent
    assert text.count("Default: runs/DATASET-MODEL-TIME.") == 1
    options = [part for part in text.split(" --")[1:] if "Default:" in part]
    assert options
    assert not any("(default:" in part for part in options)
