"""Settings of `train`: from which place they are taken, and which are refused before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shared.commands import SMALL, train

from bess_jax.cli.main import main, read_command
from bess_jax.cli.train import Train
from bess_jax.run.config import TrainConfig
from bess_jax.run.folder import RunFolder


def settings(*args: object) -> TrainConfig:
    """What `train` would do."""
    command = read_command(["train", *map(str, args)])
    assert isinstance(command, Train)
    return command.settings.checked()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(
        'n_epoch = 7\nlearning_rate = 1e-7\nmargin = 3\naugment_negative = false\nloss = "margin"\nn_device = 2\n'
        'model = "DistMult"\nscoring_norm = 2\n'
    )
    return path


def test_values_of_a_file_arrive_as_they_are(file: Path) -> None:
    config = settings("--config", file)
    expected = TrainConfig(
        n_epoch=7,
        learning_rate=1e-7,
        margin=3.0,
        augment_negative=False,
        loss="margin",
        n_device=2,
        model="DistMult",
        scoring_norm=2,
    )
    assert config == expected
    for name, value in vars(expected).items():
        assert type(getattr(config, name)) is type(value), name


def test_command_line_before_config_before_resume_before_defaults(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    RunFolder(run).write_config(TrainConfig(n_epoch=5, n_shard=8, seed=3, loss="logsigmoid"))
    given = settings("--resume", run, "--config", file, "--n-epoch", 9, "--augment-negative", "True")
    assert (given.n_epoch, given.augment_negative) == (9, True)  # the file has others
    assert (given.loss, given.n_device) == ("margin", 2)  # the run has others
    assert (given.n_shard, given.seed) == (8, 3)
    assert given.batch_size == TrainConfig().batch_size
    assert settings(f"--resume={run}").n_epoch == 5
    assert settings("--n-device", "None", "--config", file).n_device is None


def test_settings_are_checked_together(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file may hold what only fits with the rest of the command line."""
    file.write_text("share_negatives = false\n")
    assert not settings("--config", file, "--augment-negative", "False").share_negatives
    assert main(["train", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith("error: augment_negative=True needs share_negatives=True")


def test_names_with_spaces_and_leading_dashes(
    tmp_path: Path, nations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(nations, "--my [graph]")
    Path("-my settings.toml").write_text('dataset = "--my [graph]"\nn_epoch = 1\n')
    assert main(["train", "--config=-my settings.toml", *SMALL, "--run=-r 1"]) == 0
    assert "[graph]: 14 entities" in capsys.readouterr().out
    assert RunFolder.open(Path("-r 1")).config().dataset == str(tmp_path / "--my [graph]")
    assert main(["train", "--resume=-r 1", "--n-epoch", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "./-r 1"]) == 0
    assert "MRR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate = 1.0", "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
        ("n_epoch = 1.5", "n_epoch must be of type int, got 1.5"),
        ('augment_negative = "no"', "augment_negative must be of type bool, got 'no'"),
        (
            'loss = "hinge"',
            "loss must be one of 'softmax', 'logsigmoid', 'margin', ",
        ),
        ("n_epoch = ", "not a TOML file"),
        (None, "cannot be read: No such file"),
    ],
)
def test_bad_file(
    text: str | None, message: str, file: Path, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert train(nations, tmp_path / "none", "--config", str(file)) == 2
    assert f"error: {file}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--batch-size 3", "batch_size must be a positive multiple of 4 (n_shard^2, the shard pairs), got 3"),
        ("--corruption ht --batch-size 4", "batch_size must be a positive multiple of 8 (2 n_shard^2), got 4"),
        ("--n-negative 15", "n_negative must be a positive multiple of 2 (n_shard), got 15"),
        ("--n-device 3", "n_device must be a divisor of n_shard = 2, got 3"),
        ("--mapping vmap --n-device 2", "n_device must be 1 under mapping vmap, got 2"),
        ("--share-negatives False", "augment_negative=True needs share_negatives=True"),
        ("--n-epoch 0", "n_epoch must be >= 1, got 0"),
        ("--learning-rate nan", "learning_rate must be finite, got nan"),
        ("--margin inf", "margin must be finite, got inf"),
        ("--seed -1", "seed must be >= 0, got -1"),
        ("--seed 4294967296", "seed must be below 2^32"),
        ("--dataset nowhere", "nowhere' is neither a shipped graph nor a folder"),
        ("--resume nowhere", "nowhere: there is no such run folder"),
        ("--save-every 5", "save_every must be a time or a number of steps, as 10min or 5000steps, got '5'"),
        ("--save-every 0min", "save_every must be a time"),
        ("--keep 0", "keep must be >= 1, got 0"),
    ],
)
def test_bad_settings(
    args: str, message: str, tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(nations, tmp_path / "run", *args.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_more_shards_than_entities(tmp_path: Path, nations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--n-shard 15 --n-device 1 --batch-size 225 --n-negative 15"
    assert train(nations, tmp_path / "run", *options.split()) == 2
    assert "n_shard must be at most the number of entities, 14, got 15" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train --lerning-rate 3", "unknown option --lerning-rate; did you mean --learning-rate?"),
        ("train --loss softmx", "loss must be one of 'softmax', 'logsigmoid', "),
        ("train --loss softmx", "got 'softmx'; did you mean 'softmax'?"),
        ("train --n-epoch 1.5", "n_epoch must be of type int, got '1.5'"),
        ("train --augment-negative yes", "augment_negative must be of type bool, got 'yes'"),
        ("train --platform xpu", "platform must be one of 'cpu', 'gpu', 'tpu', 'ipu', None, got 'xpu'"),
        ("train --optimizer-options b1", "optimizer_options must be words like NAME=VALUE, got 'b1'"),
        ("train --optimizer-options eps=1 eps=2", "optimizer_options: eps stands twice"),
        ("train --optimizer adm", "got 'adm'; did you mean 'adam'?"),
        ("train --model Complex", "got 'Complex'; did you mean 'ComplEx'?"),
        ("train --config", "missing value for argument '--config'"),
        ("train here", "unexpected: here"),
        ("trian", "there is no command 'trian'; did you mean 'train'?"),
        ("evaluate", "missing PATH: Run folder"),
        ("", "give a command: data, train, "),
    ],
)
def test_what_is_not_understood_is_told_on_a_line(args: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args.split()) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
