"""The file that tells what to search."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared.commands import SMALL

from bess_jax import DataError
from bess_jax.run.build import make_sampler, read_graph
from bess_jax.run.config import TrainConfig
from bess_jax.tune.search import NOT_OF_BATCHES
from bess_jax.tune.space import Choices, Range, Space

FIXED = "n_shard = 2\nbatch_size = 64\nn_negative = 16\n"
assert " ".join(SMALL).startswith("--n-shard 2 --batch-size 64 --n-negative 16")


def read(folder: Path, space: str, fixed: str = FIXED, study: str = "") -> Space:
    file = folder / "space.toml"
    file.write_text(f"{fixed}\n[space]\n{space}\n[study]\n{study}\n")
    return Space.read(file)


def test_ranges_and_choices(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        """
        learning_rate = { low = 1e-3, high = 1, log = true }
        embedding_size = { low = 32, high = 256, step = 32 }
        regularization = { low = 0, high = 0.3, step = 0.1 }
        loss = ["softmax", "logsigmoid"]
        "optimizer_options.eps" = { low = 1e-9, high = 1e-3, log = true }
        """,
        FIXED + '[optimizer]\noptimizer = "adam"\noptimizer_options = { b1 = 0.8 }',
        'n_trial = 7\ntimeout = "2h"',
    )
    assert space.searched == {
        "learning_rate": Range(1e-3, 1.0, log=True),
        "embedding_size": Range(32, 256, 32),
        "regularization": Range(0.0, 0.3, 0.1),
        "loss": Choices(("softmax", "logsigmoid")),
        "optimizer_options.eps": Range(1e-9, 1e-3, log=True),
    }
    assert isinstance(space.searched["learning_rate"].ends[1], float)
    assert (space.plan.n_trial, space.plan.timeout_s, space.plan.pruner) == (7, 7200, "median")
    config = space.config({"learning_rate": 0.5, "embedding_size": 64, "optimizer_options.eps": 1e-5})
    assert (config.learning_rate, config.embedding_size, config.n_negative) == (0.5, 64, 16)
    assert config.optimizer_options == {"b1": 0.8, "eps": 1e-5}
    assert space.fixed["optimizer_options"] == {"b1": 0.8}


def test_a_drawn_setting_that_does_nothing_is_at_its_default(tmp_path: Path) -> None:
    """A trial, and the file of the best settings, are as `train` takes them."""
    space = read(tmp_path, 'loss = ["softmax", "margin"]\nmargin = { low = 1.0, high = 9.0 }')
    assert space.config({"loss": "margin", "margin": 2.0}).margin == 2.0
    config = space.config({"loss": "softmax", "margin": 2.0})
    assert config.margin == 6.0
    config.check_new()


def test_options_without_quotes(tmp_path: Path) -> None:
    space = read(tmp_path, "optimizer_options.b1 = { low = 0.5, high = 0.9 }", FIXED + 'optimizer = "adam"')
    assert list(space.searched) == ["optimizer_options.b1"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("", r"\[space\] must be a table with at least one"),
        ("learning_rat = [0.1, 0.2]", "unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ("learning_rate = 0.1", "must be a range { low"),
        ("learning_rate = { low = 0.1 }", "space.learning_rate has no high"),
        ("learning_rate = { low = 0.1, hihg = 1 }", "unknown 'space.learning_rate.hihg'; did you mean 'high'"),
        ("learning_rate = { low = 1, high = 0.1 }", "low must be at most high, got 1.0 and 0.1"),
        ("learning_rate = { low = 0, high = 1, log = true }", "a log range goes from above 0"),
        ("learning_rate = { low = 0, high = 1 }", "no trial could have 0.0: learning_rate must be > 0"),
        ('learning_rate = { low = "a", high = 1 }', "learning_rate must be of type float, got 'a'"),
        ("learning_rate = { low = 0.1, high = 1, log = 1 }", "log must be true or false, got 1"),
        ("learning_rate = [0.1, 0.1]", "a list of different values"),
        ("learning_rate = []", "a list of different values"),
        ("embedding_size = { low = 8, high = 33, step = 8 }", "got 33; the nearest is 32"),
        ("regularization = { low = 0, high = 0.5, step = 0.2 }", "got 0.5; the nearest is 0.4"),
        ("embedding_size = { low = 8, high = 32, step = 0 }", "step must be > 0"),
        ("embedding_size = { low = 8, high = 32.5 }", "embedding_size must be of type int, got 32.5"),
        ("embedding_size = { low = 0, high = 8 }", "space.embedding_size: no trial could have 0: embedding_size must"),
        ('loss = ["softmax", "sigmoid"]', "loss must be one of"),
        ("share_negatives = { low = 0, high = 1 }", "share_negatives must be of type bool, got 0"),
        ("n_negative = [16, 17]", "space.n_negative: no trial could have 17: n_negative must be a positive multiple"),
        ("n_shard = [2, 4]", "n_shard: cannot be searched, as all trials have the same devices"),
        ('dataset = ["umls", "nations"]', "cannot be searched, as all trials have the same graph"),
        ("batch_size = [64, 128]", "batch_size is fixed, and in"),
        ("model_options = [1, 2]", "options"),
        ('model_options.u = [1.0]\n"model_options.u" = [2.0]', "stands twice"),
    ],
)
def test_what_is_wrong_with_a_space(space: str, message: str, tmp_path: Path) -> None:
    fixed = "" if "n_negative" in space else FIXED
    with pytest.raises(DataError, match=message):
        read(tmp_path, space, fixed or "n_shard = 2\nbatch_size = 64\n")


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("n_trials = 3", "unknown 'study.n_trials'; did you mean 'n_trial'"),
        ("n_trial = 0", "study.n_trial must be >= 1"),
        ("n_trial = 2.5", "study.n_trial must be of type int, got 2.5"),
        ('sampler = "grid"', "study.sampler must be one of 'tpe', 'random', got 'grid'"),
        ('pruner = "mean"', "study.pruner must be one of"),
        ('timeout = "5000steps"', "study.timeout must be a time"),
        ("seed = -1", "study.seed must be >= 0"),
    ],
)
def test_what_is_wrong_with_a_study(study: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, "learning_rate = [0.1, 0.2]", study=study)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ("n_shard = 2\nbatch_size = 63\n", "no trial could be run: batch_size must be a positive multiple of 4"),
        (FIXED + "eval_every = 0\n", "eval_every must be at least 1, got 0"),
        (FIXED + 'metric = "mr"\n', "metric must be one of"),
    ],
)
def test_what_no_trial_could_run_with(fixed: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, "learning_rate = [0.1, 0.2]", fixed)


def test_a_combination_that_some_trials_have_is_let_be(tmp_path: Path) -> None:
    """One of four draws does not fit together; each choice fits some."""
    space = read(tmp_path, "share_negatives = [true, false]\naugment_negative = [true, false]")
    with pytest.raises(ValueError, match="augment_negative"):
        space.config({"share_negatives": False, "augment_negative": True})


def test_what_batches_depend_on(nations: Path) -> None:
    """No setting that the sampler reads is among those that leave it as it is."""
    read_names = set()

    class Spy:
        def __init__(self, config: TrainConfig) -> None:
            self.config = config

        def __getattr__(self, name: str) -> object:
            read_names.add(name)
            return getattr(self.config, name)

    config = TrainConfig(dataset=str(nations), n_shard=2, batch_size=64, n_negative=16)
    make_sampler(Spy(config), read_graph(config))  # type: ignore[arg-type]
    assert {"corruption", "seed"} <= read_names
    assert not read_names & NOT_OF_BATCHES
