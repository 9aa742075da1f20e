"""Bytes that a training step takes on one IPU, told before anything is compiled, and whether they fit.

An IPU computes out of its own memory: tables, optimizer state and all else that a step needs have to fit there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bess_jax import _checks
from bess_jax._compat import dataclass, new_key
from bess_jax.audit.traffic import How
from bess_jax.step.bess import BessKGE, Params
from bess_jax.step.collectives import AXIS_NAME
from bess_jax.step.score_moving import ScoreMovingBessKGE
from bess_jax.update.optim import UpdateRule
from bess_jax.update.train import TrainState, init_train_state

BYTES_PER_IPU = 1472 * 638_976
"""Tiles of an IPU of the second generation, and bytes of each: 897 MiB."""

_MOST_IPUS = 64


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes that a training step takes on one shard.

    Attributes:
        n_entity: entities of the graph.
        n_shard: shards.
        width: components of an entity row, E.
        number: bytes of one component.
        row: bytes that each row of the entity table takes, by what they are.
        rest: bytes of all else, by what it is.
    """

    n_entity: int
    n_shard: int
    width: int
    number: int
    row: Mapping[str, int]
    rest: Mapping[str, int]

    @property
    def per_row(self) -> int:
        """Bytes that each row of the entity table takes."""
        return sum(self.row.values())

    @property
    def fixed(self) -> int:
        """Bytes that do not grow with the entity table."""
        return sum(self.rest.values())

    @property
    def total(self) -> int:
        """All bytes on one shard."""
        return self.rows_of(self.n_shard) * self.per_row + self.fixed

    def rows_of(self, n_shard: int) -> int:
        """Rows of a shard's entity table for so many shards, M."""
        return -(-self.n_entity // n_shard)


def step_memory(
    model: BessKGE, rule: UpdateRule, batches: Mapping[str, Any], *, dtype: Any = "float32", how: How = "ring"
) -> StepMemory:
    """What a training step takes on one shard, from the shapes of its state and its batches.

    Counted are the state, gradients, the batches of a call, rows and scores with their gradients, and what the exchange
    holds beside its operand. `dense` has a gradient of the table's size, and XLA writes table and state anew, beside
    the old. Not counted: the program itself, and what a score function computes between rows and scores.

    Args:
        model: a model.
        rule: how it is updated.
        batches: arrays, or `jax.ShapeDtypeStruct`, of one shard, as the function of `make_train_step` takes them.
        dtype: type of the parameters.
        how: how shards exchange, see `exchange_bytes`.

    Raises:
        ValueError: if the batches are not those that the rule takes.
    """
    if rule.sparse != ("entity_rows" in batches):
        got, want = ("no", "merged") if rule.sparse else ("them", "unmerged")
        raise ValueError(f'batches must have {want} ids for this rule, got {got} "entity_rows"; see bess_jax.merge_ids')
    begin = jax.eval_shape(lambda: init_train_state(model, rule, new_key(0), jnp.int32(0), dtype))
    params: Params = begin.params
    (n_row, width), number = params.entity.shape, params.entity.dtype.itemsize
    state, one_more = (_state_bytes(rule, params, n) for n in (n_row, n_row + 1))
    row = {"entity table": width * number, "its optimizer state": one_more - state}
    if not rule.sparse:
        row["its gradient"] = width * number
        row["table and state written anew"] = width * number + row["its optimizer state"]
    network = _nbytes(params.score_fn)
    other_state = state - n_row * row["its optimizer state"] + _nbytes(begin.score_state)
    rest = {
        "relations and networks, their gradients": 2 * network,
        "their optimizer state and statistics": other_state,
        "batches": _nbytes(dict(batches)),
    }
    if rule.sparse:
        touched = 3 * width * number + row["its optimizer state"]  # the rows, their gradients, the updates
        rest["touched rows, their state and gradients"] = batches["entity_rows"].shape[-1] * touched
    rest.update(_activations(model, begin, batches, how))
    sharding = model.score_fn.sharding
    return StepMemory(
        n_entity=sharding.n_entity, n_shard=sharding.n_shard, width=width, number=number, row=row, rest=rest
    )


def _activations(model: BessKGE, state: TrainState, batches: Mapping[str, Any], how: How) -> dict[str, int]:
    """Bytes of rows, scores and exchanges of one micro-batch."""
    n_shard, size = batches["head"].shape[-2:]
    n_list, n_negative = batches["negative"].shape[-2:]
    per_row = state.params.entity.shape[1] * state.params.entity.dtype.itemsize
    n_gathered = n_shard * (2 * size + n_list * n_negative)
    moves_scores = isinstance(model, ScoreMovingBessKGE)
    n_sent = n_shard * size
    if not (moves_scores or model.negative_sampler.local_sampling):
        n_sent += n_shard * n_list * n_negative
    ids = [jax.ShapeDtypeStruct((n_shard, 1, n_shard, size), jnp.int32)] * 3
    negative = jax.ShapeDtypeStruct((n_shard, 1, n_shard, n_list, n_negative), jnp.int32)
    on_shard = dataclasses.replace(model, axis_name=AXIS_NAME).score_batch
    mapped = jax.vmap(on_shard, in_axes=(None, 0, 0, 0, 0), axis_name=AXIS_NAME)
    scores = _nbytes(jax.eval_shape(mapped, state.inference_params, *ids, negative)) // n_shard
    sent = max(n_sent * per_row, scores if moves_scores else 0)
    found = {
        "gathered rows, their gradients": 2 * n_gathered * per_row,
        "exchanged rows, their gradients": 2 * n_sent * per_row,
        "scores, their gradients": 2 * scores * (2 if moves_scores else 1),
        "held by the exchange": sent * {"ring": 2, "all_to_all": 1, "emulated": n_shard}[how],
    }
    if moves_scores:
        found["queries of all shards, their gradients"] = 2 * n_shard * n_shard * size * per_row
    return found


def _state_bytes(rule: UpdateRule, params: Params, n_row: int) -> int:
    """Bytes of the optimizer's state for a table of so many rows."""
    table = jax.ShapeDtypeStruct((n_row, *params.entity.shape[1:]), params.entity.dtype)
    return _nbytes(jax.eval_shape(rule.init, params._replace(entity=table)))


def _nbytes(tree: Any) -> int:
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree_util.tree_leaves(tree))


@dataclass(frozen=True)
class Budget:
    """What a system of IPUs holds, and how much of it a step may take.

    The rest is for what the compiler adds: code, copies that it makes for another layout, and tiles that are not evenly
    filled, as the limit is that of each tile.

    Attributes:
        n_ipu: number of IPUs, a power of two: 4 of a POD4, 16 of a POD16.
        bytes_per_ipu: memory of one.
        usable: fraction of it that can be counted on. 0.5 is for JAX; 0.65 is what BESS-KGE reaches, in PyTorch.

    Raises:
        ValueError: if one of them is out of range.
    """

    n_ipu: int
    bytes_per_ipu: int = BYTES_PER_IPU
    usable: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.n_ipu <= _MOST_IPUS or self.n_ipu & (self.n_ipu - 1):
            raise ValueError(f"n_ipu must be a power of two up to {_MOST_IPUS}, got {self.n_ipu}")
        _checks.at_least("bytes_per_ipu", self.bytes_per_ipu, 1)
        if not 0 < self.usable <= 1:
            raise ValueError(f"usable must be a fraction in (0, 1], got {self.usable}")

    @property
    def usable_bytes(self) -> int:
        """Bytes that a step may take on one IPU."""
        return int(self.bytes_per_ipu * self.usable)

    def fraction(self, memory: StepMemory) -> float:
        """The part of an IPU's memory that a step takes."""
        return memory.total / self.bytes_per_ipu

    def max_entities(self, memory: StepMemory) -> int:
        """The largest number of entities with which the step fits."""
        return max(self.usable_bytes - memory.fixed, 0) // memory.per_row * self.n_ipu

    def check(self, memory: StepMemory) -> None:
        """Checks that a step fits.

        Raises:
            ValueError: if it does not, with what would help; or if there is not one shard for each IPU.
        """
        if memory.n_shard != self.n_ipu:
            raise ValueError(
                f"n_ipu must be the number of shards, {memory.n_shard}, got {self.n_ipu}: each IPU holds one shard"
            )
        if memory.total <= self.usable_bytes:
            return
        helps = "; ".join(self._what_helps(memory)) or "nothing alone: fewer entities, or several of these at once"
        raise ValueError(
            f"the training step must fit into {self.usable:.0%} of an IPU, {self.usable_bytes / 2**20:,.0f} MiB, but "
            f"takes {memory.total / 2**20:,.0f} MiB ({self.fraction(memory):.0%}) on each of {self.n_ipu}: "
            f"{memory.per_row:,} bytes for each of {memory.rows_of(self.n_ipu):,} rows, {memory.fixed:,} for the rest. "
            f"{self.max_entities(memory):,} of the {memory.n_entity:,} entities would fit. What would help: {helps}"
        )

    def _what_helps(self, memory: StepMemory) -> Iterator[str]:
        """Single changes with which the step fits, as far as that can be told without the changed model."""
        free = self.usable_bytes - memory.fixed
        n_ipu = self.n_ipu
        while (n_ipu := 2 * n_ipu) <= _MOST_IPUS:
            if memory.rows_of(n_ipu) * memory.per_row <= free:
                yield f"{n_ipu} IPUs"
                break
        n_row, row = memory.rows_of(self.n_ipu), memory.row
        table, state = row["entity table"], row["its optimizer state"]
        if memory.fixed > self.usable_bytes // 2:
            yield "fewer negatives, smaller batches, or fewer steps in a call"
        narrower = free * memory.width // (n_row * memory.per_row) // 2 * 2
        if narrower > 0:
            yield f"rows of {narrower} components, in place of {memory.width}"
        gradient = row.get("its gradient", 0)
        copies = 2 if gradient else 1
        changes = {
            "row_sparse in place of dense": table + state if gradient else None,
            "row_adagrad": copies * (table + memory.number) + gradient if state > memory.number else None,
            "sgd without momentum": copies * table + gradient if state else None,
            "float16 parameters": copies * (table // 2 + state) + gradient // 2 if memory.number > 2 else None,
        }
        yield from (name for name, per_row in changes.items() if per_row is not None and n_row * per_row <= free)


def describe(budget: Budget, memory: StepMemory) -> list[tuple[str, int]]:
    """What a step takes on one shard, a line and its bytes each, then the sum, and what there is."""
    n_row = memory.rows_of(memory.n_shard)
    lines = [(what, n_row * nbytes) for what, nbytes in memory.row.items()]
    lines += [(what, nbytes) for what, nbytes in memory.rest.items() if nbytes]
    return [*lines, ("in all", memory.total), (f"{budget.usable:.0%} of an IPU", budget.usable_bytes)]


class Limit(NamedTuple):
    """A line of BESS-KGE's table of limits: the most entities that its PyTorch program trained, approximately.

    Weights and first moments are float16, second moments and accumulated gradients float32. That momentum and the first
    moment are float16 is not said there; it is what goes with the numbers.
    """

    width: int
    optimizer: str  # "sgdm" or "adam"
    accumulates: bool  # gradients, over several micro-batches
    n_ipu: int
    n_entity: int

    @property
    def bytes_per_number(self) -> int:
        """Bytes for each number of the entity table."""
        return 2 + {"sgdm": 2, "adam": 2 + 4}[self.optimizer] + (4 if self.accumulates else 0)

    @property
    def bytes_per_ipu(self) -> int:
        """Bytes of the table and its state on one IPU."""
        return -(-self.n_entity // self.n_ipu) * self.width * self.bytes_per_number

    @property
    def fraction(self) -> float:
        """The part of an IPU's memory that this is."""
        return self.bytes_per_ipu / BYTES_PER_IPU

    def max_entities(self, budget: Budget) -> int:
        """How many entities the same state would have in a budget."""
        return budget.usable_bytes // (self.width * self.bytes_per_number) * budget.n_ipu


def limits() -> tuple[Limit, ...]:
    """The table of limits in the README of graphcore-research/bess-kge, a line for each system."""
    table = {
        (100, "sgdm", False): {4: 3_200_000, 16: 13_000_000},
        (128, "adam", False): {4: 2_400_000, 16: 9_900_000},
        (256, "sgdm", True): {4: 900_000, 16: 3_500_000},
        (256, "adam", False): {4: 1_200_000, 16: 4_800_000},
        (512, "adam", True): {4: 375_000, 16: 1_500_000},
    }
    return tuple(Limit(*of, n_ipu, n_entity) for of, most in table.items() for n_ipu, n_entity in most.items())
