"""Settings in TOML files: their types, the messages, and a round trip."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared.settings import settings_table

from bess_jax.data.files import DataError
from bess_jax.run.config import SettingsError, TrainConfig, read_settings
from bess_jax.run.folder import RunFolder
from bess_jax.run.settings import GROUPS


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


def test_numbers_that_are_floats_in_python() -> None:
    assert TrainConfig(learning_rate=np.float64(0.5), warmup=1).learning_rate == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_epoch": "3"}, "n_epoch must be of type int, got '3'"),
        (
            {"n_epoch": 2.5, "patience": True},
            "n_epoch must be of type int, got 2.5; patience must be of type int, got ",
        ),
        ({"n_epoch": np.int64(3)}, "n_epoch must be of type int, got np.int64(3)"),
        ({"dataset": Path("mine")}, "dataset must be of type str, got PosixPath('mine')"),
        ({"learning_rate": None}, "learning_rate must be of type float, got None"),
        ({"model": dict}, "model must be of type str, got <class 'dict'>"),
        ({"model_options": ["u"]}, "model_options must be of type dict, got of type list"),
        ({"model_options": {"u": None}}, "model_options.'u' must be a number, a text, true or false, got None"),
    ],
)
def test_values_of_other_types_from_python(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        TrainConfig(**settings)


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
        ('platform = "xpu"', "platform must be one of 'cpu', 'gpu', 'tpu', 'ipu', None, got 'xpu'"),
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


def test_the_tables_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    for group in GROUPS:
        section = text.partition(f"\n### {group}\n")[2].partition("\n#")[0]
        table = [line for line in section.splitlines() if line.startswith("|")]
        assert table == settings_table(group), f"put these lines under {group} in docs/settings.md"


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
        ("platform", "xpu", "platform must be one of"),
        ("scoring_norm", 3, "scoring_norm must be one of 1, 2"),
        ("model", "Complex", "did you mean 'ComplEx'"),
        ("negatives", "al", "negatives must be one of 'random', 'typed', 'given', 'all', got 'al'; did you mean 'all'"),
        ("label_smoothing", 1.0, "label_smoothing must be below 1, got 1.0"),
        ("warmup", 25.0, "warmup must be at least 0 and shorter than n_epoch, 25, got 25.0"),
        ("accumulate", 17, "accumulate must be at most steps_per_call, 16"),
        ("metric", "mr", "metric must be one of mrr"),
        ("loss_scale", 0.0, "loss_scale must be > 0"),
        ("keep", 2**63, "keep must be a whole number of at most 64 bits, got one of 64"),
        ("margin", math.inf, "margin must be finite, got inf"),
        ("regularization", math.nan, "regularization must be finite, got nan"),
    ],
)
def test_settings_made_in_python_are_checked(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{name: value})  # type: ignore[arg-type]


OF_ALL = {"negatives": "all", "loss": "bce", "augment_negative": False}
TYPED = {"negatives": "typed", "share_negatives": False, "augment_negative": False}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share_negatives": False}, "augment_negative=True needs share_negatives=True, got False"),
        (
            {"negatives": "all"},
            "negatives='all' needs loss='cross_entropy' or 'bce' and augment_negative=False, got 'softmax' and True",
        ),
        ({**OF_ALL, "local_negatives": True}, "negatives='all' needs local_negatives=False, got True"),
        ({"negatives": "given", "local_negatives": True}, "negatives='given' needs local_negatives=False"),
        ({"scheme": "score_moving"}, "scheme='score_moving' needs augment_negative=False, got True"),
        (
            {"scheme": "score_moving", "local_negatives": True},
            "scheme='score_moving' needs augment_negative=False and local_negatives=False, got True and True",
        ),
        ({"answers": "all"}, "answers='all' needs negatives='all' and loss='cross_entropy' or 'bce'"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 needs negatives='all'"),
        ({"weight_smoothing": 1.0}, "weight_smoothing=1.0 needs frequency_weights=True, got False"),
        ({"offset": 1.0}, "offset=1.0 needs loss='bce', got 'softmax'"),
        ({"stochastic_rounding": True}, "needs table_dtype='bfloat16' or 'float16', got 'float32'"),
        ({"loss_scale": 2.0}, "loss_scale=2.0 needs table_dtype='bfloat16' or 'float16'"),
        ({"eval_every": 0, "patience": 2}, "patience=2 needs validations: eval_every of at least 1, got 0"),
        ({"eval_every": 0, "schedule": "plateau"}, "schedule='plateau' needs validations"),
        (
            {"model": "ConvE", "corruption": "ht", "relation_weight": 0.1, "inverse_relations": False},
            "model='ConvE' needs corruption='t' and inverse_relations=True and relation_weight=0, got 'ht' and False "
            "and 0.1",
        ),
        ({"duplicate_batch": True, "batch_size": 16}, "batch_size must be a positive multiple of 32 (2 n_shard^2)"),
        ({"model_options": {"u": 1.0}}, "model_options: ComplEx has no option 'u'; it has none"),
        ({"model": "TripleRE", "model_options": {"U": 1}}, "TripleRE has no option 'U'; did you mean 'u'?"),
        ({"model": "TripleRE", "model_options": {"u": "x"}}, "model_options: u of TripleRE must be a number, got 'x'"),
        ({"model": "TripleRE", "model_options": {"u": -1.0}}, "u must be >= 0 and finite, got -1.0"),
        ({"model": "BoxE", "model_options": {"apply_tanh": 1}}, "apply_tanh of BoxE must be true or false, got 1"),
        ({"model": "ConvE", "model_options": {"embedding_height": 1.5}}, "must be a whole number, got 1.5"),
        ({"model": "TransE", "regularizer": "dura"}, "model='TransE' needs regularizer='lp', got 'dura'"),
        ({"relation_regularization": -1.0}, "relation_regularization must be >= 0, got -1.0"),
        ({"entity_dropout": 1.0}, "entity_dropout must be below 1, got 1.0"),
        ({"model_options": {"embedding_size": 3}}, "embedding_size is a setting of its own: give embedding_size"),
        ({"model": "ConvE", "model_options": {"training_axis": "x"}}, "ConvE has no option 'training_axis'"),
    ],
)
def test_what_cannot_work_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        TrainConfig(**settings)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_very_many_shards_are_refused_without_making_them() -> None:
    with pytest.raises(SettingsError, match="batch_size must be a positive multiple"):
        TrainConfig(n_shard=2**62)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        TrainConfig(n_epoch=0, learning_rate=-1.0, loss="hinge", model="Complex")  # type: ignore[arg-type]
    assert [text.split()[0] for text in error.value.problems] == ["loss", "n_epoch", "learning_rate", "model"]
    with pytest.raises(SettingsError) as error:
        TrainConfig(batch_size=3, optimizer="adm", model_options={"u": 1})
    assert [text.split()[0] for text in error.value.problems] == ["batch_size", "optimizer", "model_options:"]
    with pytest.raises(SettingsError) as error:  # what a wrong setting has no part in is checked, too
        TrainConfig(n_shard=0, batch_size=3, learning_rate=-1.0, optimizer="adm", schedule="cosine", model="A")
    assert [text.split()[0] for text in error.value.problems] == ["n_shard", "learning_rate", "model", "optimizer"]
    with pytest.raises(SettingsError) as error:
        TrainConfig(optimizer="adm", schedule="cosine", metric="mrrr")
    assert [text.split()[0] for text in error.value.problems] == ["metric", "optimizer", "schedule"]
    with pytest.raises(SettingsError) as error:
        TrainConfig(negatives="all", scheme="score_moving", offset=1.0)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        ({"margin": 2.0}, "margin", "margin=2.0 needs loss='logsigmoid' or 'margin', got 'softmax', or to be left out"),
        ({"adversarial_scale": 0.0}, "adversarial_scale", "adversarial_scale=0.0 needs loss="),
        ({"scoring_norm": 2}, "scoring_norm", "scoring_norm=2 needs model='BoxE' or 'InterHT'"),
        ({"regularization": 0.0, "regularization_power": 2}, "regularization_power", "needs regularization > 0"),
        ({"regularization": 0.0, "regularizer": "dura"}, "regularizer", "regularizer='dura' needs regularization > 0"),
        (
            {"regularizer": "dura", "regularization_power": 2},
            "regularization_power",
            "regularization_power=2 needs regularizer='lp', got 'dura'",
        ),
        ({**OF_ALL, "n_negative": 8}, "n_negative", "n_negative=8 needs negatives='random' or 'typed', got 'all'"),
        ({"min_improvement": 0.1}, "min_improvement", "min_improvement=0.1 needs patience"),
        ({"eval_every": 0, "metric": "hits@10"}, "metric", "metric='hits@10' needs eval_every"),
        (
            {"entity_initializer": "unit", "relation_initializer": "model", "init_scale": 1.0},
            "init_scale",
            "init_scale=1.0 needs entity_initializer='normal' or 'uniform' or 'xavier', got 'unit'",
        ),
    ],
)
def test_what_would_do_nothing(settings: dict[str, object], name: str, message: str) -> None:
    """It is refused in a new run; old ones may have it, and a search drops it."""
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as error:
        config.check_new()
    assert message in str(error.value)
    default = TrainConfig()
    quiet = config.without_idle()
    assert getattr(quiet, name) == getattr(default, name)
    quiet.check_new()


def test_settings_that_do_something_are_not_idle() -> None:
    for settings in (
        {"loss": "margin", "margin": 2.0, "adversarial_scale": 0.0},
        {"model": "TransE", "scoring_norm": 2},
        {"model": "a.b:C", "scoring_norm": 2},
        {**TYPED, "n_negative": 8},
        {"entity_initializer": "unit", "init_scale": 1.0},
        {"patience": 1, "min_improvement": 0.1, "metric": "tail.mrr"},
    ):
        TrainConfig(**settings).check_new()  # type: ignore[arg-type]


def test_a_flat_file_is_read_as_before(tmp_path: Path) -> None:
    """As runs wrote them before settings had groups; some of it did nothing then, too."""
    (tmp_path / "config.toml").write_text(
        'dataset = "nations"\nmodel = "DistMult"\nscoring_norm = 2\nmargin = 9.0\nloss = "softmax"\nn_shard = 2\n'
        'optimizer = "adam"\nlearning_rate = 0.1\n'
    )
    config = RunFolder.open(tmp_path).config()
    assert (config.scoring_norm, config.margin, config.optimizer, config.order) == (2, 9.0, "adam", "shuffled")


def test_options_in_files(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[model]\nmodel = "ConvE"\n[model.model_options]\nhidden_dropout = 0\n')
    config = TrainConfig(**read_settings(file))
    assert config.model_options == {"hidden_dropout": 0}
    RunFolder(tmp_path).write_config(config)
    assert RunFolder.open(tmp_path).config() == config
    file.write_text("[model]\nmodel_options = {u = [1]}\nmodel = 3\n")
    with pytest.raises(DataError, match=r"model_options\.'u' must be a number.*; model must be of type str, got 3"):
        read_settings(file)
