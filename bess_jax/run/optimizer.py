"""The update rule of a run: an optimizer and a schedule by their names, with the arguments that settings give."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import optax

from bess_jax.run.arguments import checked_arguments, kinds_of, suggestion
from bess_jax.update.accumulation import accumulate
from bess_jax.update.optim import UpdateRule, dense, row_adagrad, row_sparse
from bess_jax.update.precision import low_precision

if TYPE_CHECKING:
    from bess_jax.run.config import TrainConfig

# Adagrad as in PyTorch, which published settings are for; optax starts its accumulator at 0.1, far above the squared
# gradients of small initial embeddings.
_OWN: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adagrad": partial(optax.adagrad, initial_accumulator_value=0.0, eps=1e-20),
    "row_adagrad": row_adagrad,
}
_OF_OPTAX = (
    *("adabelief", "adadelta", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lion", "optimistic_adam_v2"),
    *("optimistic_gradient_descent", "radam", "rmsprop", "sgd", "sign_sgd", "signum", "yogi"),
)

OPTIMIZERS = (*_OWN, *_OF_OPTAX)
"""Names that `optimizer` may have: those that update each row as if it were alone, and take a schedule."""

_OF_RUN = ("constant", "plateau")
_SCHEDULES = (
    *("cosine_decay_schedule", "cosine_onecycle_schedule", "exponential_decay", "linear_onecycle_schedule"),
    *("linear_schedule", "polynomial_schedule"),
)

SCHEDULES = (*_OF_RUN, *_SCHEDULES)
"""Names that `schedule` may have."""

_VALUES, _STEPS = ("init_value", "peak_value"), ("decay_steps", "transition_steps")
"""Arguments of schedules that are the learning rate, and those that are the updates of the run unless given."""

Rate = Callable[[Any], Any]
"""Number of an update, from 0 -> step size."""


class Plateau(NamedTuple):
    """How the step size falls where the validation metric stays.

    Attributes:
        factor: what the step size is multiplied by.
        patience: validations without a better metric before that.
        min_scale: the product of those factors falls no lower.
    """

    factor: float = 0.5
    patience: int = 1
    min_scale: float = 0.0


def plateau_of(config: TrainConfig) -> Plateau:
    """What `schedule_options` make of the schedule plateau.

    Raises:
        ValueError: on an option that it has not, or a value out of range.
    """
    found = Plateau(**checked_arguments("schedule_options", config.schedule_options, kinds_of(Plateau), "plateau"))
    for name, is_right, expected in (
        ("factor", 0 < found.factor < 1, "between 0 and 1"),
        ("patience", found.patience >= 1, "at least 1"),
        ("min_scale", 0 <= found.min_scale < 1, "at least 0 and below 1"),
    ):
        if not is_right:
            raise ValueError(f"schedule_options: {name} of plateau must be {expected}, got {getattr(found, name)}")
    return found


def check_optimizer(config: TrainConfig) -> None:
    """Raises ValueError if there is no such optimizer, or it has not the options that are given."""
    _optimizer(config)


def check_schedule(config: TrainConfig) -> None:
    """Raises ValueError if there is no such schedule, or it has not the options that are given, or lacks one."""
    _schedule(config, 1000)


def make_rule(config: TrainConfig, steps_in_run: int, steps_per_epoch: int) -> UpdateRule:
    """The update rule of the settings.

    Args:
        config: the settings.
        steps_in_run: updates in the whole run.
        steps_per_epoch: updates in an epoch.

    Raises:
        ValueError: as `check_optimizer` and `check_schedule`, and if the optimizer refuses its options.
    """
    tx = _optimizer(config)(_rate(config, steps_in_run, steps_per_epoch))
    if config.schedule == "plateau":
        from bess_jax.update.scale import adjustable

        tx = adjustable(tx)
    if config.table_dtype != "float32":
        tx = low_precision(tx, config.loss_scale, config.stochastic_rounding, config.seed)
    rule = (row_sparse if config.update == "row_sparse" else dense)(tx, config.unit_entities)
    return accumulate(rule) if config.accumulate > 1 else rule


def learning_rate_at(config: TrainConfig, steps_in_run: int, steps_per_epoch: int) -> Callable[[int], float]:
    """The step size of each update, by its number from 0, as `make_rule` has it; without what a plateau does to it."""
    rate = _rate(config, steps_in_run, steps_per_epoch)
    return lambda step: float(rate(step)) if callable(rate) else rate


def _optimizer(config: TrainConfig) -> Callable[[float | Rate], optax.GradientTransformation]:
    name = config.optimizer
    if name not in OPTIMIZERS:
        why = "; that one does not update each row as if it were alone" if hasattr(optax, name) else ""
        hint = why or suggestion(name, OPTIMIZERS)
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}{hint}")
    make = _OWN.get(name) or getattr(optax, name)
    kinds = kinds_of(make)
    del kinds["learning_rate"]
    return partial(make, **checked_arguments("optimizer_options", config.optimizer_options, kinds, name))


def _rate(config: TrainConfig, steps_in_run: int, steps_per_epoch: int) -> float | Rate:
    """The step size, or a schedule of it."""
    n_warm = round(config.warmup * steps_per_epoch)
    rate = _schedule(config, max(steps_in_run - n_warm, 1))
    if n_warm == 0:
        return rate
    after = rate if callable(rate) else optax.constant_schedule(rate)
    joined: Rate = optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, n_warm), after], [n_warm])
    return joined


def _schedule(config: TrainConfig, n_step: int) -> float | Rate:
    """The step size in `n_step` updates, those of warm-up left out."""
    name, options = config.schedule, config.schedule_options
    if name == "plateau":
        plateau_of(config)
        return config.learning_rate
    if name == "constant":
        checked_arguments("schedule_options", options, {}, name)
        return config.learning_rate
    if name not in SCHEDULES:
        other = "; that one takes lists, or has a warm-up of its own, for which there is `warmup`"
        hint = other if hasattr(optax, name) else suggestion(name, SCHEDULES)
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}{hint}")
    make = getattr(optax, name)
    kinds, parameters = kinds_of(make), inspect.signature(make).parameters
    value = next(argument for argument in _VALUES if argument in kinds)
    steps = next(argument for argument in _STEPS if argument in kinds)
    del kinds[value]
    given = {steps: n_step, **checked_arguments("schedule_options", options, kinds, name)}
    missing = [key for key in kinds if key not in given and parameters[key].default is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"schedule_options: {name} needs {' and '.join(missing)}")
    rate: Rate = make(**{value: config.learning_rate}, **given)
    return rate
