"""Which devices a collective of an HLO program joins, and what each of them sends."""

from __future__ import annotations

import re

import numpy as np

from bess_jax._compat import zip
from bess_jax.audit.hlo import Instruction, Program

SENT = {
    "all-reduce": lambda nbytes, n: 2 * (n - 1) * nbytes / n,
    "all-gather": lambda nbytes, n: (n - 1) * nbytes,
    "reduce-scatter": lambda nbytes, n: (n - 1) * nbytes / n,
    "all-to-all": lambda nbytes, n: (n - 1) * nbytes / n,
    "ragged-all-to-all": lambda nbytes, n: (n - 1) * nbytes / n,
    "collective-broadcast": lambda nbytes, n: nbytes,
    "collective-permute": lambda nbytes, n: nbytes,
}
"""Collective -> bytes that a device sends of its operand's, in a group of n; reductions as a ring does them."""


def replica_groups(one: Instruction, n_shard: int) -> tuple[tuple[int, ...], ...]:
    """Groups of devices that a collective joins; all in one where none are named."""
    text = one.attributes.get("replica_groups", "{}")
    iota = re.fullmatch(r"\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", text)
    if iota:
        shape, of, order = ([*map(int, part.split(","))] if part else [] for part in iota.groups())
        numbers = np.arange(np.prod(of)).reshape(of).transpose(order or None).reshape(shape)
        return tuple(tuple(int(member) for member in group) for group in numbers)
    groups = [tuple(map(int, group.split(","))) for group in re.findall(r"\{([0-9, ]+)\}", text)]
    return tuple(groups) or (tuple(range(n_shard)),)


def sent_bytes(program: Program, one: Instruction, n_shard: int) -> float:
    """Bytes that a device sends in a collective, each time it runs; 0 for all other operations."""
    opcode = re.sub("-start$", "", one.opcode)
    if opcode not in SENT:
        return 0.0
    operands = [shape for operand in program.operands(one) for shape in operand.shapes]
    nbytes = sum(shape.nbytes for shape in operands)
    if opcode == "collective-permute":
        numbers = one.numbers("source_target_pairs")
        moving = [pair for pair in zip(numbers[::2], numbers[1::2], strict=True) if pair[0] != pair[1]]
        return float(nbytes) if moving else 0.0
    n = max(map(len, replica_groups(one, n_shard)))
    return float(SENT[opcode](nbytes, n))
