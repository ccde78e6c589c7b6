"""A compiled program's text (HLO) as instructions, and how often each is run.

>>> program = parse(compiled.as_text())
>>> for instruction, times in walk(program): ...

https://openxla.org/xla/operation_semantics names the operations.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result; memory space 0 is HBM, 1 the chip's own (VMEM)."""

    dtype: str
    dimensions: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        return prod(self.dimensions) * _bits(self.dtype) // 8


@dataclass(frozen=True)
class Instruction:
    """`%name = result operation(operands), attributes`; operands by name."""

    name: str
    result: tuple[Array, ...]
    operation: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    is_root: bool

    def called(self, role: str) -> str | None:
        """The computation in this role: "calls", "body", "condition", "to_apply"."""
        match = re.search(rf"\b{role}=%([\w.\-]+)", self.attributes)
        return match[1] if match else None

    @property
    def cycles(self) -> int:
        """What the compiler thinks it takes; 0 where it says nothing."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match else 0


@dataclass
class Program:
    """Computations by name, each its instructions by name, in order."""

    entry: str = ""
    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)


def parse(text: str) -> Program:
    program, current = Program(), {}
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY ")) and line.endswith("{"):
            match = _NAME.search(line)
            assert match
            current = program.computations.setdefault(match[1], {})
            if line.startswith("ENTRY "):
                program.entry = match[1]
        elif line.startswith("  ") and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return program


def walk(
    program: Program, computation: str | None = None, times: int = 1
) -> Iterator[tuple[dict[str, Instruction], Instruction, int]]:
    """(its computation, instruction, how often a step runs it), loops' bodies included.

    What is within a fusion is not run by itself, and is left out; of a conditional every branch
    counts.
    """
    block = program.computations[computation or program.entry]
    for instruction in block.values():
        yield block, instruction, times
        if instruction.operation == "while":
            turns = times * trip_count(program, instruction)
            body = instruction.called("body")
            assert body
            yield from walk(program, body, turns)
        elif instruction.operation in ("call", "async-start", "conditional"):
            for inner in _called_computations(instruction):
                yield from walk(program, inner, times)


def trip_count(program: Program, loop: Instruction) -> int:
    """How often a loop turns: the bound that its condition compares with, for it counts from 0."""
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if match:
        return int(match[1])
    condition = loop.called("condition")
    assert condition
    bounds = [
        int(found)
        for found in _integers(program, condition)
        if re.fullmatch(r"-?\d+", found) and int(found) > 0
    ]
    return max(bounds, default=1)


def _integers(program: Program, computation: str) -> Iterator[str]:
    for instruction in program.computations[computation].values():
        if instruction.operation == "constant" and instruction.result[0].dtype in ("s32", "u32"):
            yield instruction.arguments
        inner = instruction.called("calls")
        if inner:
            yield from _integers(program, inner)


def _called_computations(instruction: Instruction) -> list[str]:
    if instruction.operation == "conditional":
        match = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
        if match:
            return _NAME.findall(match[1])
        roles = ("true_computation", "false_computation")
        return [name for role in roles if (name := instruction.called(role))]
    name = instruction.called("calls") or instruction.called("to_apply")
    return [name] if name else []


def _instruction(line: str) -> Instruction:
    left, right = line.split(" = ", 1)
    is_root = left.lstrip().startswith("ROOT")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    result, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing]
    operands = tuple(_NAME.findall(arguments))
    return Instruction(
        left.split("%", 1)[-1].strip(),
        tuple(_arrays(result)),
        rest[:opening].strip(),
        operands,
        arguments,
        rest[closing + 1 :],
        is_root,
    )


def _arrays(text: str) -> Iterator[Array]:
    for dtype, dimensions, layout in _ARRAY.findall(text):
        sizes = tuple(int(size.lstrip("<=")) for size in dimensions.split(",") if size)
        space = re.search(r"S\((\d+)\)", layout)
        yield Array(dtype, sizes, int(space[1]) if space else 0)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if depth == 0:
                return place
    raise ValueError(f"no closing bracket in {text[:80]}")


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.match(r"[a-z]+?(\d+)", dtype)
    return int(match[1]) if match else 0
