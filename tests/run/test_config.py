"""Settings in TOML files: their types, the messages, and a round trip."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bess_jax.data.files import DataError
from bess_jax.run.config import TrainConfig, read_settings
from bess_jax.run.folder import RunFolder


def test_values_have_the_types_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'learning_rate = 1\nmargin = 2.5\nn_epoch = 3\nn_device = 2\nshare_negatives = false\nloss = "margin"\n'
        'scoring_norm = 2\nplatform = "cpu"\ndataset = "--my graph"\nmodel = "my_models:Mine"\n'
    )
    found = read_settings(file)
    assert found == {
        **{"learning_rate": 1.0, "margin": 2.5, "n_epoch": 3, "n_device": 2, "share_negatives": False},
        **{"loss": "margin", "scoring_norm": 2, "platform": "cpu", "dataset": "--my graph", "model": "my_models:Mine"},
    }
    assert type(found["learning_rate"]) is float


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lerning_rate = 1.0", "unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
        ("zzz = 1", "unknown setting 'zzz'"),
        ("n_epoch = 1.5", "n_epoch must be of type int, got 1.5"),
        ("n_epoch = true", "n_epoch must be of type int, got True"),
        ("seed = 1.0", "seed must be of type int, got 1.0"),
        ('n_device = "2"', "n_device must be of type int, got '2'"),
        ('augment_negative = "no"', "augment_negative must be of type bool, got 'no'"),
        ("augment_negative = 1", "augment_negative must be of type bool, got 1"),
        ('margin = "9"', "margin must be of type float, got '9'"),
        ("scoring_norm = 2.0", "scoring_norm must be of type int, got 2.0"),
        ("scoring_norm = 3", "scoring_norm must be one of 1, 2, got 3"),
        ("platform = 1", "platform must be of type str, got 1"),
        ('platform = "ipu"', "platform must be one of 'cpu', 'gpu', 'tpu', None, got 'ipu'"),
        (
            'loss = "hinge"',
            "loss must be one of 'softmax', 'logsigmoid', 'margin', ",
        ),
        ("[train]\nseed = 1", "unknown setting 'train'"),
        ("n_epoch = ", "not a TOML file"),
        (f"seed = 0x1{'0' * 1000}", "seed must be a whole number of at most 64 bits, got one of 4001"),
        (f"margin = 0x1{'0' * 1000}", "margin must be a whole number of at most 64 bits, got one of 4001"),
        (f"seed{'.a' * 2000} = 1", "seed must be of type int, got of type dict"),
        (f"seed = [{'1,' * 2000}]", "seed must be of type int, got of type list"),
        (f"{'a' * 4000} = 1", "a'... (4,000 characters)"),
        ("margin = inf", "margin must be finite, got inf"),
        ("seed = 1\n# \xff", "settings.toml, line 2: not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(line.encode("latin-1"))
    with pytest.raises(ValueError, match=r"settings\.toml") as error:
        read_settings(file)
    assert message in str(error.value)
    assert isinstance(error.value, DataError)
    assert len(error.value.reason) < 300


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.toml: cannot be read: No such file"):
        read_settings(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="expected a file, got a folder"):
        read_settings(tmp_path)


def test_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(n_device=2, learning_rate=1e-12, dataset='a "graph"\\ of mine', model="a.b:C")
    RunFolder(tmp_path).write_config(config)
    assert RunFolder.open(tmp_path).config() == config


def test_settings_of_a_run_that_do_not_fit_together(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("batch_size = 3\n")
    with pytest.raises(ValueError, match=r"config\.toml: batch_size must be a positive multiple of 16"):
        RunFolder.open(tmp_path).config()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss", "hinge", "loss must be one of"),
        ("platform", "ipu", "platform must be one of"),
        ("scoring_norm", 3, "scoring_norm must be one of 1, 2"),
        ("model", "Complex", "did you mean 'ComplEx'"),
        ("keep", 2**63, "keep must be a whole number of at most 64 bits, got one of 64"),
        ("margin", math.inf, "margin must be finite, got inf"),
        ("regularization", math.nan, "regularization must be finite, got nan"),
    ],
)
def test_settings_made_in_python_are_checked(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{name: value})  # type: ignore[arg-type]
