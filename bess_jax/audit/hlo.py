"""Programs of XLA, read from their text: before its passes and compiled, of JAX 0.3.16 and of today's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from bess_jax._compat import dataclass
from bess_jax.audit.loops import trip_count

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_COMMENT = re.compile(r"/\*.*?\*/")
_SHAPE = re.compile(r"([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z0-9]*)?)\[([0-9,<= ]*)\]")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"(ROOT )?%?([\w.\-]+) = (.*)$")
_MARK = re.compile(r'"(?:\\.|[^"\\])*"|[(){}\[\],]')

CALLS = {
    "call": ("to_apply",),
    "fusion": ("calls",),
    "async-start": ("calls",),
    "while": ("body", "condition"),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
}
"""Operations that run other computations, and the attributes that name those. All others apply theirs to numbers."""

PLUMBING = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"})
"""Operations that compute nothing."""


class Shape(NamedTuple):
    """Type and dimensions of an array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for dim in self.dims:
            n *= dim
        return n

    @property
    def nbytes(self) -> int:
        """Bytes, without padding of a device's own."""
        digits = re.search(r"[0-9]+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits.group()) if digits else 0)
        return -(-self.size * bits // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Instruction:
    """One line of a program.

    Attributes:
        name: what other lines of its computation call it.
        opcode: the operation.
        shapes: of the result; several for a tuple, whose nesting is left out.
        operands: names of the operands, in the same computation.
        literal: the text between the parentheses: the value of a constant, the number of a parameter.
        attributes: name -> text of what follows.
        is_root: whether it is the result of its computation.
        computation: name of the computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: Mapping[str, str]
    is_root: bool
    computation: str

    @property
    def shape(self) -> Shape:
        """Of the result, or its first part."""
        return self.shapes[0] if self.shapes else Shape("token", ())

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.nbytes for shape in self.shapes)

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """The whole numbers in an attribute, as in `dimensions={0,1}`; () without it."""
        return tuple(map(int, re.findall(r"-?[0-9]+", self.attributes.get(attribute, ""))))

    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs; not of those that it applies to numbers."""
        keys = CALLS.get(self.opcode, ())
        return tuple(name for key in keys for name in re.findall(r"[\w.\-]+", self.attributes.get(key, "")))


class Computation(NamedTuple):
    """Instructions in their order, by name."""

    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The result."""
        return next(one for one in self.instructions.values() if one.is_root)

    @property
    def parameters(self) -> tuple[Instruction, ...]:
        """The parameters, by number."""
        found = [one for one in self.instructions.values() if one.opcode == "parameter"]
        return tuple(sorted(found, key=lambda one: int(one.literal)))


class Run(NamedTuple):
    """An instruction, and how often a step runs it.

    Attributes:
        instruction: the line.
        times: product of the trip counts of the loops around it.
        is_exact: False where a loop's count is not known, or a branch may be left out: a loop counts as one then.
        is_fused: whether it is part of a kernel, so that its result needs no memory.
    """

    instruction: Instruction
    times: int
    is_exact: bool
    is_fused: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A program of one device.

    Attributes:
        header: the first line.
        computations: by name.
        entry: name of the computation that is run.
    """

    header: str
    computations: Mapping[str, Computation]
    entry: str

    @property
    def is_compiled(self) -> bool:
        """Whether XLA's passes have been over it."""
        return "is_scheduled=true" in self.header

    @property
    def parameters(self) -> tuple[Instruction, ...]:
        """What the program is given."""
        return self.computations[self.entry].parameters

    @property
    def outputs(self) -> tuple[Shape, ...]:
        """What it returns, flat."""
        return self.computations[self.entry].root.shapes

    @cached_property
    def aliases(self) -> Mapping[int, int]:
        """Number of an output -> number of the donated parameter whose memory it takes, by the header."""
        _, found, rest = self.header.partition("input_output_alias={")
        pairs = re.findall(r"\{([0-9]*)\}: \(([0-9]+), \{[0-9]*\}", rest) if found else []
        return {int(output or 0): int(parameter) for output, parameter in pairs}

    @cached_property
    def callers(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Name of a computation -> the instructions that run it."""
        found: dict[str, tuple[Instruction, ...]] = {}
        for one in self.every():
            for name in one.called():
                found[name] = (*found.get(name, ()), one)
        return found

    def every(self) -> Iterator[Instruction]:
        """All instructions, also those that are applied to numbers."""
        for computation in self.computations.values():
            yield from computation.instructions.values()

    def operand(self, one: Instruction, number: int) -> Instruction:
        """An operand of an instruction."""
        return self.computations[one.computation].instructions[one.operands[number]]

    def operands(self, one: Instruction) -> tuple[Instruction, ...]:
        """All operands of an instruction."""
        return tuple(self.operand(one, number) for number in range(len(one.operands)))

    def applied(self, one: Instruction) -> Computation | None:
        """The computation that a reduction, scatter or sort applies to numbers."""
        return self.computations.get(one.attributes.get("to_apply", "").strip("%"))

    def source(self, one: Instruction) -> Instruction:
        """Where a value comes from: through tuples, and into a computation that is called in one place."""
        while True:
            before = self._step_back(one)
            if before is None:
                return one
            one = before

    def _step_back(self, one: Instruction) -> Instruction | None:
        if one.opcode in ("bitcast", "opt-barrier") and len(one.operands) == 1:
            return self.operand(one, 0)
        if one.opcode == "get-tuple-element":
            whole, number = self.source(self.operand(one, 0)), int(one.attributes["index"])
            if whole.opcode == "tuple":
                return self.operand(whole, number)
            if whole.opcode == "call":
                root = self.computations[whole.called()[0]].root
                return self.operand(root, number) if root.opcode == "tuple" else None
        if one.opcode == "call":
            root = self.computations[one.called()[0]].root
            return root if root.opcode != "tuple" else None
        if one.opcode == "parameter":
            callers = self.callers.get(one.computation, ())
            if len(callers) == 1 and callers[0].opcode in ("call", "fusion"):
                return self.operand(callers[0], int(one.literal))
        return None

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All instructions that a step runs, once for each place that calls their computation."""
        found: list[Run] = []
        self._run(self.entry, 1, True, False, found)
        return tuple(found)

    def _run(self, name: str, times: int, is_exact: bool, is_fused: bool, found: list[Run]) -> None:
        for one in self.computations[name].instructions.values():
            found.append(Run(one, times, is_exact, is_fused))
            n = trip_count(self, one) if one.opcode == "while" else 1
            for called in one.called():
                exact = is_exact and n is not None and one.opcode != "conditional"
                more = (
                    1 if n is None else n + (one.opcode == "while" and called == one.attributes["condition"].strip("%"))
                )
                self._run(called, times * more, exact, is_fused or one.opcode == "fusion", found)

    @property
    def unknown_loops(self) -> tuple[str, ...]:
        """Names of the loops whose trip count cannot be told."""
        return tuple(one.name for one in self.every() if one.opcode == "while" and trip_count(self, one) is None)


def hlo_text(program: Any) -> str:
    """The HLO of what `lower` or `compile` returned, or of text that is HLO already.

    Args:
        program: text; a lowered program, which gives HLO before XLA's passes; or a compiled one.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(program, str):
        return program
    if hasattr(program, "compiler_ir"):
        return str(program.compiler_ir("hlo").as_hlo_text())
    if hasattr(program, "as_text"):
        return str(program.as_text())
    raise TypeError(f"program must be HLO text or what `lower` or `compile` returned, got a {type(program).__name__}")


def read_program(text: str) -> Program:
    """Reads HLO text.

    Raises:
        ValueError: if it is not the text of an HLO module.
    """
    lines = _COMMENT.sub("", text).splitlines()
    header = next((line for line in lines if line.startswith("HloModule")), "")
    computations: dict[str, Computation] = {}
    current, entry = "", ""
    for line in lines:
        if line.startswith("  ") and current:
            one = _read_instruction(line.strip(), current)
            if one is not None:
                computations[current].instructions[one.name] = one  # type: ignore[index]
        elif head := _HEAD.match(line):
            current = head.group(2)
            computations[current] = Computation(current, {})
            entry = current if head.group(1) else entry
        elif line.startswith("}"):
            current = ""
    if not header or not entry:
        raise ValueError(f"text must be an HLO module with an ENTRY computation, got {text[:60]!r}")
    return Program(header=header, computations=computations, entry=entry)


def _read_instruction(line: str, computation: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    root, name, rest = match.groups()
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest)
    inside, rest = rest[len(opcode) + 1 : end - 1], rest[end:].strip(", ")
    has_operands = opcode not in ("constant", "parameter")
    pairs = (part.partition("=") for part in _split(rest))
    return Instruction(
        name=name,
        opcode=opcode,
        shapes=_read_shapes(shape),
        operands=tuple(part.split(" ")[-1].strip("%") for part in _split(inside)) if has_operands else (),
        literal=inside,
        attributes={key: value for key, _, value in pairs},
        is_root=bool(root),
        computation=computation,
    )


def _read_shapes(text: str) -> tuple[Shape, ...]:
    found = _SHAPE.findall(text)
    return tuple(Shape(dtype, tuple(int(dim.strip("<= ")) for dim in dims.split(",") if dim)) for dtype, dims in found)


def _closing(text: str) -> int:
    """Position behind the parenthesis that closes the first one."""
    depth = 0
    for mark in _MARK.finditer(text):
        depth += (mark.group() == "(") - (mark.group() == ")")
        if mark.group() == ")" and not depth:
            return mark.end()
    raise ValueError(f"text must be an HLO module, got a line without its closing parenthesis: {text[:60]!r}")


def _split(text: str) -> list[str]:
    """Parts of a text between commas that are in no parentheses and no string."""
    parts, depth, start = [], 0, 0
    for mark in _MARK.finditer(text):
        depth += (mark.group() in "({[") - (mark.group() in ")}]")
        if mark.group() == "," and not depth:
            parts.append(text[start : mark.start()].strip())
            start = mark.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]
