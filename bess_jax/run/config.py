"""The settings of a training run: one frozen dataclass, on the command line and in TOML files."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, Union, get_args, get_origin, get_type_hints

from bess_jax import _checks
from bess_jax._typing import CorruptionScheme, Mapping_
from bess_jax.data.files import DataError
from bess_jax.data.names import near_spellings
from bess_jax.data.options import parse_columns, parse_split
from bess_jax.data.text import read_toml, shorten
from bess_jax.run.models import check_model_name

LossName: TypeAlias = Literal["softmax", "logsigmoid", "margin"]

FREE = (
    "dataset",
    "columns",
    "split",
    "n_shard",
    "n_device",
    "platform",
    "mapping",
    "n_epoch",
    "eval_every",
    "save_every",
    "keep",
)
"""Settings that may change when a run goes on: they touch neither the model nor, but for `n_shard`, its batches."""


def free_settings(n_shard_before: int, n_shard_now: int) -> tuple[str, ...]:
    """`FREE`; on another number of shards, where the batches are others, also what has to be a multiple of it."""
    return FREE if n_shard_before == n_shard_now else (*FREE, "batch_size", "n_negative")


class Cadence(NamedTuple):
    """How often something is done: by time or by steps, the other one being infinite."""

    seconds: float = math.inf
    steps: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `TrainConfig.save_every` may be.

        Raises:
            ValueError: if it is something else.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|steps)", text, re.ASCII)
        if found is None or float(found[1]) <= 0:
            raise ValueError(f"save_every must be a time or a number of steps, as 10min or 5000steps, got {text!r}")
        number, unit = float(found[1]), found[2]
        return cls(steps=number) if unit == "steps" else cls(seconds=number * {"s": 1, "min": 60, "h": 3600}[unit])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run; the defaults train ComplEx on WN18RR."""

    dataset: str = "wn18rr"
    """Name of a graph, a file of triples, or a folder with train, valid and test; see docs/data.md."""
    columns: str | None = None
    """Columns of a file that hold head, relation and tail, by name or by number from 0, as in source,type,target."""
    split: str = "0.7,0.15,0.15"
    """Parts of train, valid and test, drawn where the data have none."""
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
    """Epochs between rankings of the validation split, the last one included (0: never). The best state is kept."""
    save_every: str = "10min"
    """Time or steps between checkpoints, as in 90s, 10min, 2h or 5000steps; the end of the run is saved anyway."""
    keep: int = 2
    """How many of the latest checkpoints to keep, besides the best by validation."""
    start_from: str | None = None
    """Run folder, or .npz of tables, to take initial embeddings from: those of the entities and relations it has."""
    seed: int = 0
    """Seed of sharding, initial values and batches."""

    def __post_init__(self) -> None:
        check_model_name(self.model)
        for name, members in _members().items():
            _check_option(name, getattr(self, name), members)
            _check_number(name, getattr(self, name))
        for name in ("embedding_size", "n_shard", "n_negative", "n_epoch", "steps_per_call", "keep"):
            _checks.at_least(name, getattr(self, name), 1)
        for name in ("regularization", "adversarial_scale", "eval_every", "seed", "margin", "init_scale"):
            _checks.at_least(name, getattr(self, name), 0)
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, as JAX's keys are of 32 bits, got {self.seed}")
        _checks.positive("learning_rate", self.learning_rate)
        Cadence.parse(self.save_every)
        parse_columns(self.columns)
        if 0 in parse_split(self.split):
            raise ValueError(f"split must leave none of train, valid and test empty, got {self.split!r}")
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
        DataError: if the file cannot be read or is not TOML, on an unknown name, and on a value of the wrong type or
            none of those that a setting may have.
    """
    settings = read_toml(file)
    try:
        return {name: _typed(name, value) for name, value in settings.items()}
    except ValueError as error:
        raise DataError(str(error), file) from None


def _typed(name: str, value: Any) -> Any:
    """The value of a setting as TOML gives it, whole numbers as floats where those are meant."""
    if name not in _members():
        near = near_spellings(name, _members(), n=1)
        raise ValueError(f"unknown setting {shorten(name)}" + (f"; did you mean {near[0]!r}?" if near else ""))
    members = _members()[name]
    kinds = {member if isinstance(member, type) else type(member) for member in members} - {NoneType}
    _check_number(name, value)
    if kinds == {float} and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))
        shown = f"of type {type(value).__name__}" if isinstance(value, dict | list) else shorten(value)
        raise ValueError(f"{name} must be of type {expected}, got {shown}")
    _check_option(name, value, members)
    return value


def _check_number(name: str, value: Any) -> None:
    """Raises ValueError on a number that TOML cannot hold, or no setting may be."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{name} must be a whole number of at most 64 bits, got one of {value.bit_length()}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


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
