"""The settings of a training run: one frozen dataclass, on the command line and in TOML files."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from bess_jax import _checks
from bess_jax._typing import CorruptionScheme, Mapping_
from bess_jax.data.dataset import near_spellings
from bess_jax.run.models import check_model_name

LossName: TypeAlias = Literal["softmax", "logsigmoid", "margin"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run; the defaults train ComplEx on WN18RR."""

    dataset: str = "wn18rr"
    """Name of a shipped graph (wn18rr), or a folder with train, valid and test as TSV (.txt or .tsv, plain or .gz)."""
    model: str = "ComplEx"
    """Score function: one of `bess_jax.scoring` by its name, or one of your own as package.module:Class."""
    embedding_size: int = 128
    """Components of an entity; complex ones for ComplEx and RotatE."""
    scoring_norm: Literal[1, 2] = 1
    """Norm of the models that measure a distance."""
    init_scale: float = 1e-3
    """Standard deviation of the initial embeddings (0: the law that is usual for the model)."""
    inverse_relations: bool = True
    """Train on inverse triples too, with relations of their own; heads are then ranked as tails of the inverse."""

    n_shard: int = 4
    """Shards the entity table is cut into."""
    n_device: int | None = None
    """Devices to use, a divisor of n_shard. Default: as many accelerators as fit, else n_shard virtual CPU devices."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Kind of device. Default: JAX's choice."""
    mapping: Mapping_ = "pmap"
    """How devices run the same program."""

    batch_size: int = 1024
    """Positives of a step, over all shards; a multiple of n_shard squared (twice that for corruption ht)."""
    n_negative: int = 1024
    """Sampled negatives each positive is scored against; a multiple of n_shard."""
    share_negatives: bool = True
    """Let the positives of a shard share their negatives (scores become a matrix product)."""
    augment_negative: bool = True
    """Also use the entities of the other positives of the shard as negatives; needs share_negatives."""
    corruption: CorruptionScheme = "t"
    """Side that negatives replace: heads, tails, or half of the batch each."""

    loss: LossName = "softmax"
    """Loss of positive and negative scores."""
    margin: float = 6.0
    """Margin of the losses logsigmoid and margin."""
    adversarial_scale: float = 1.0
    """Weigh negatives by the softmax of this times their scores (0: all the same), in logsigmoid and margin."""
    regularization: float = 0.1
    """Weight of the p-th power of the components of the rows in the batch (N3 for ComplEx at power 3)."""
    regularization_power: Literal[2, 3] = 3
    """That power."""

    optimizer: Literal["adagrad", "row_adagrad", "adam", "sgd"] = "adagrad"
    """Optimizer; row_adagrad keeps one number per row, adagrad and adam one or two per component."""
    learning_rate: float = 0.2
    """Step size."""
    update: Literal["row_sparse", "dense"] = "row_sparse"
    """Update the rows that a batch touches, or all rows."""
    n_epoch: int = 25
    """Passes over the training triples."""
    steps_per_call: int = 16
    """Most steps in one call of the compiled program."""
    eval_every: int = 5
    """Epochs between rankings of the validation split, each with a checkpoint (0: only at the end)."""
    seed: int = 0
    """Seed of sharding, initial values and batches."""

    def __post_init__(self) -> None:
        check_model_name(self.model)
        for name, members in _members().items():
            _check_option(name, getattr(self, name), members)
        for name in ("embedding_size", "n_shard", "n_negative", "n_epoch", "steps_per_call"):
            _checks.at_least(name, getattr(self, name), 1)
        for name in ("regularization", "adversarial_scale", "eval_every", "seed", "margin", "init_scale"):
            _checks.at_least(name, getattr(self, name), 0)
        _checks.positive("learning_rate", self.learning_rate)
        pairs = self.n_shard**2
        factor, why = (2 * pairs, "2 n_shard^2") if self.corruption == "ht" else (pairs, "n_shard^2, the shard pairs")
        _checks.multiple_of("batch_size", self.batch_size, factor, why)
        _checks.multiple_of("n_negative", self.n_negative, self.n_shard, "n_shard")
        if self.augment_negative and not self.share_negatives:
            raise ValueError("augment_negative=True needs share_negatives=True, got False; switch one of them")
        if self.n_device is not None:
            most = 1 if self.mapping == "vmap" else self.n_shard
            if not 1 <= self.n_device <= most or self.n_shard % self.n_device:
                rule = "1 under mapping vmap" if self.mapping == "vmap" else f"a divisor of n_shard = {self.n_shard}"
                raise ValueError(f"n_device must be {rule}, got {self.n_device}")

    @property
    def positive_per_partition(self) -> int:
        """P."""
        return self.batch_size // self.n_shard**2

    def to_dict(self) -> dict[str, Any]:
        """The settings that are not None, as TOML holds them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, each of the type that `TrainConfig` gives it; not yet whether they fit together.

    Raises:
        ValueError: if the file does not exist or is not TOML, on an unknown name, and on a value of the wrong type or
            none of those that a setting may have.
    """
    try:
        with file.open("rb") as stream:
            settings = tomllib.load(stream)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a TOML file ({error})") from None
    try:
        return {name: _typed(name, value) for name, value in settings.items()}
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _typed(name: str, value: Any) -> Any:
    """The value of a setting as TOML gives it, whole numbers as floats where those are meant."""
    if name not in _members():
        near = near_spellings(name, _members(), n=1)
        raise ValueError(f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    members = _members()[name]
    kinds = {member if isinstance(member, type) else type(member) for member in members} - {NoneType}
    if kinds == {float} and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{name} must be of type {expected}, got {value!r}")
    _check_option(name, value, members)
    return value


def _check_option(name: str, value: Any, members: tuple[Any, ...]) -> None:
    options = tuple(member for member in members if not isinstance(member, type))
    if options:
        _checks.one_of(name, value, (*options, None) if NoneType in members else options)


@functools.cache
def _members() -> dict[str, tuple[Any, ...]]:
    """Name of each setting -> the types and values that it may be, as (int, NoneType) or ("h", "t", "ht")."""

    def of(hint: Any) -> tuple[Any, ...]:
        if get_origin(hint) in (Union, UnionType):
            return tuple(member for part in get_args(hint) for member in of(part))
        return get_args(hint) or (hint,)

    return {name: of(hint) for name, hint in get_type_hints(TrainConfig).items()}
