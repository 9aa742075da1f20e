"""Settings that do not fit each other: what is impossible together, and what would do nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bess_jax.data.sharding import Sharding
from bess_jax.run.models import BUILT_IN, make_score_fn
from bess_jax.run.recipes import core_settings
from bess_jax.scoring import BaseScoreFunction

if TYPE_CHECKING:
    from bess_jax.run.config import TrainConfig

_ALL = {"negatives": ("all",), "loss": ("cross_entropy", "bce")}
_HALF = {"table_dtype": ("bfloat16", "float16")}

_NEEDS: tuple[tuple[str, Any, Mapping[str, tuple[Any, ...]]], ...] = (
    ("augment_negative", True, {"share_negatives": (True,)}),
    ("negatives", "all", {"loss": _ALL["loss"], "augment_negative": (False,), "local_negatives": (False,)}),
    ("negatives", "given", {"local_negatives": (False,)}),
    ("scheme", "score_moving", {"augment_negative": (False,), "local_negatives": (False,)}),
    ("answers", "all", _ALL),
    ("label_smoothing", ..., _ALL),
    (
        "answers_per_query",
        ...,
        {"corruption": ("t",), "augment_negative": (False,), "negatives": ("random", "all")},
    ),
    ("weight_smoothing", ..., {"frequency_weights": (True,)}),
    ("offset", ..., {"loss": ("bce",)}),
    ("stochastic_rounding", True, _HALF),
    ("loss_scale", ..., _HALF),
)
"""Setting, value (...: any but the default) and what that needs of other settings."""

_IDLE: tuple[tuple[str, Mapping[str, tuple[Any, ...]]], ...] = (
    ("n_negative", {"negatives": ("random", "typed")}),
    ("margin", {"loss": ("logsigmoid", "margin")}),
    ("adversarial_scale", {"loss": ("logsigmoid", "margin")}),
    ("regularization_power", {"regularizer": ("lp",)}),
)
"""Setting, and what it needs of others to do anything."""

_DISTANCES = tuple(
    name for name, kind in BUILT_IN.items() if "scoring_norm" in {f.name for f in dataclasses.fields(kind)}
)


def conflicts(config: TrainConfig) -> Iterator[str]:
    """What cannot work together, each with what to change."""
    for name, value, needs in _NEEDS:
        now = getattr(config, name)
        if now == value or (value is ... and now != _default(config, name)):
            yield from _unmet(config, name, needs)
    if config.accumulate > config.steps_per_call:
        yield (
            f"accumulate must be at most steps_per_call, {config.steps_per_call}, as one call makes whole updates, got "
            f"{config.accumulate}"
        )
    if not 0 <= config.warmup < config.n_epoch:
        yield f"warmup must be at least 0 and shorter than n_epoch, {config.n_epoch}, got {config.warmup}"
    if config.eval_every == 0:
        for name, is_used in (("patience", config.patience > 0), ("schedule", config.schedule == "plateau")):
            if is_used:
                yield f"{name}={getattr(config, name)!r} needs validations: eval_every of at least 1, got 0"
    if config.model in BUILT_IN:
        yield from conflicts_of_model(config, BUILT_IN[config.model])


def conflicts_of_model(config: TrainConfig, kind: type[BaseScoreFunction]) -> Iterator[str]:
    """Those of a score function: what it cannot do, and the options that it has not."""
    needs: dict[str, tuple[Any, ...]] = {}
    if not kind.scores_heads:
        needs |= {"corruption": ("t",), "inverse_relations": (True,)}
    if kind.has_network:
        needs |= {"corruption": ("t",), "scheme": ("embedding_moving",), "relation_weight": (0,)}
    if not kind.is_diagonal:
        needs |= {"regularizer": ("lp",)}
    yield from _unmet(config, "model", needs)


def check_model(config: TrainConfig) -> None:
    """Checks what a score function of this package says to its options.

    Raises:
        ValueError: on an unknown option, and on a value that is refused.
    """
    if config.model in BUILT_IN:
        make_score_fn(config, BUILT_IN[config.model], 1, Sharding.create(1, 1, 0))  # the options know no shards


def idle(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Settings that are not at their default and do nothing: the name, and what to change."""
    for name, needs in _IDLE:
        if getattr(config, name) != _default(config, name) and (unmet := [*_unmet(config, name, needs)]):
            yield name, unmet[0]
    if config.scoring_norm != 1 and config.model in BUILT_IN and config.model not in _DISTANCES:
        yield from ((("scoring_norm"), text) for text in _unmet(config, "scoring_norm", {"model": _DISTANCES}))
    if not (config.regularization or config.relation_regularization):
        for name in ("regularizer", "regularization_power", "relation_regularization"):
            if getattr(config, name) != _default(config, name):
                yield name, f"{name}={getattr(config, name)!r} needs regularization > 0"
    recipe = {name: value for name, value in core_settings(config.recipe).items() if value != _default(config, name)}
    if recipe and all(getattr(config, name) != value for name, value in recipe.items()):
        given = f"TrainConfig.from_recipe({config.recipe!r})"
        yield "recipe", f"recipe={config.recipe!r} needs settings of its, which {given} has"
    if config.patience == 0 and config.min_improvement != 0:
        yield "min_improvement", f"min_improvement={config.min_improvement} needs patience of at least 1"
    if config.eval_every == 0 and config.metric != _default(config, "metric"):
        yield "metric", f"metric={config.metric!r} needs eval_every of at least 1"
    if {config.entity_initializer, config.relation_initializer} <= {"unit", "model"} and config.init_scale not in (
        0,
        _default(config, "init_scale"),
    ):
        needed = {"entity_initializer": ("normal", "uniform", "xavier")}
        yield from (("init_scale", text) for text in _unmet(config, "init_scale", needed))


def _unmet(config: TrainConfig, name: str, needs: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
    """What a setting needs of others that are not so, as in `name=value needs other=value`; or nothing."""
    unmet = {other: values for other, values in needs.items() if getattr(config, other) not in values}
    if unmet:
        wanted = " and ".join(f"{other}={' or '.join(map(repr, values))}" for other, values in unmet.items())
        found = " and ".join(repr(getattr(config, other)) for other in unmet)
        yield f"{name}={getattr(config, name)!r} needs {wanted}, got {found}"


def _default(config: TrainConfig, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(config) if field.name == name)
