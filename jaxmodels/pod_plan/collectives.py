"""What the devices of a compiled TPU program send each other: kind, bytes, mesh axes, how often.

>>> find_collectives(parse(compiled.as_text()), mesh)

The devices of a group lie along some of the mesh's axes; a group that lies along none exactly is of
the axis "?". One exchange is often written as several instructions (start, steps, done), which
share their channel. Unlike `jaxmodels.collectives` this counts what a loop does as often as it does
it, and what the TPU's compiler has fused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from jaxmodels.collectives import KINDS, groups_of_devices
from jaxmodels.pod_plan.hlo import Instruction, Program, walk


@dataclass(frozen=True)
class Collective:
    """`bytes` are those of one device's array where it is whole: before a reduction, after a
    gather. `times` is how often a step does it, and `groups` the first group's devices."""

    kind: str
    axes: tuple[str, ...]
    bytes: int
    times: int
    group: tuple[int, ...]


def find_collectives(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
    """In the order of the program; `mesh` is {axis: size}, whose devices are numbered in order."""
    found, channels = [], set()
    for block, instruction, times in walk(program):
        for inside, part, is_scattered in _parts(program, block, instruction):
            kind = part.operation.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", part.attributes)
            if channel and channel[1] in channels:
                continue
            if channel:
                channels.add(channel[1])
            group = tuple(groups_of_devices(part.attributes, prod(mesh.values()))[0])
            if len(group) < 2:
                continue
            found.append(
                Collective(
                    "reduce-scatter" if kind == "all-reduce" and is_scattered else kind,
                    _axes(group, mesh),
                    _payload(kind, inside, part),
                    times,
                    group,
                )
            )
    return found


def _parts(
    program: Program, block: dict[str, Instruction], instruction: Instruction
) -> Iterator[tuple[dict[str, Instruction], Instruction, bool]]:
    """(its computation, a collective, is its result cut) of an instruction or within its fusion."""
    if instruction.operation.removesuffix("-start") in KINDS:
        yield block, instruction, False
    elif instruction.operation == "fusion":
        called = instruction.called("calls")
        assert called
        inner = program.computations[called]
        cut = any(i.operation == "dynamic-slice" for i in inner.values())
        for part in inner.values():
            for inside, found, _ in _parts(program, inner, part):
                yield inside, found, cut


def _payload(kind: str, block: dict[str, Instruction], part: Instruction) -> int:
    operands = sum(
        array.bytes for name in part.operands if name in block for array in block[name].result
    )
    if kind != "all-gather":
        return operands
    # all-gather-start gives (operands, results)
    total = sum(array.bytes for array in part.result)
    return total - operands if part.operation.endswith("-start") else total


def _axes(group: tuple[int, ...], mesh: Mapping[str, int]) -> tuple[str, ...]:
    places = np.array(np.unravel_index(group, tuple(mesh.values())))  # (axes, devices)
    varied = [axis for axis, row in zip(mesh, places, strict=True) if len(set(row)) > 1]
    return tuple(varied) or ("?",)
