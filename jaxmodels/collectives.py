"""What a compiled program sends between devices, read from its text (XLA's HLO).

>>> compiled = step.lower(state, batch, rate, key).compile()
>>> count(collectives(compiled.as_text(), mesh))
{('all-reduce', ('data',)): 1}
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np
from jax.sharding import Mesh

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
    "collective-permute",
)
# What leaves the device for the host within a program.
_HOST = re.compile(
    r"= [^=]*? (?:infeed|outfeed|send|recv|send-done|recv-done)\(|is_host_transfer=true"
    r'|custom_call_target="[^"]*(?:callback|MoveToHost|MoveToDevice)[^"]*"|S\(5\)'
)

_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_BITS = {"pred": 8, "token": 0}


@dataclass(frozen=True)
class Collective:
    """One collective of a program, as every device takes part in it."""

    kind: str  # one of KINDS
    name: str  # the instruction's
    arrays: tuple[tuple[str, tuple[int, ...]], ...]  # dtypes and shapes of a device's result
    axes: tuple[str, ...]  # of the mesh, over which it goes; ("?",) where no axes do
    group_size: int  # devices that take part together
    channel: int | None
    computation: str  # in which it stands, such as a loop's body
    op_name: str  # of the operation it was made for, by JAX

    @property
    def bytes(self) -> int:
        """Of the whole array, as one device has it before a scatter or after a gather."""
        size = sum(_bits(dtype) * prod(shape) for dtype, shape in self.arrays) // 8
        return size * self.group_size if self.kind == "reduce-scatter" else size


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """The collectives of a program's text, `compiled.as_text()`; each channel once.

    Of one in a loop the text tells once too.
    """
    groups_of = _groups_by_axes(mesh)
    found: list[Collective] = []
    channels, computation = set(), ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, result, kind, start, rest = match.groups()
        channel = int(m[1]) if (m := re.search(r"channel_id=(\d+)", rest)) else None
        if channel is not None and channel in channels:
            continue
        channels.add(channel)
        arrays = [
            (dtype, tuple(int(size) for size in shape.split(",") if size))
            for dtype, shape in _ARRAY.findall(result)
        ]
        if start and kind in ("all-gather", "collective-permute"):  # operands, results, contexts
            arrays = [array for array in arrays if array[0] not in ("u32", "s32") or array[1]]
            arrays = arrays[len(arrays) // 2 :]
        groups = groups_of_devices(rest, prod(mesh.devices.shape))
        axes = _axes(groups, groups_of, kind)
        op_name = m[1] if (m := re.search(r'op_name="([^"]*)"', rest)) else ""
        size = max(map(len, groups))
        found.append(
            Collective(kind, name, tuple(arrays), axes, size, channel, computation, op_name)
        )
    return found


def count(found: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], int]:
    """How many there are of each kind along each axes of the mesh."""
    return dict(Counter((one.kind, one.axes) for one in found))


def host_transfers(text: str) -> list[str]:
    """The lines of a program's text that send to the host, receive from it or call it."""
    return [line.strip() for line in text.splitlines() if _HOST.search(line)]


def _groups_by_axes(mesh: Mesh) -> dict[frozenset[frozenset[int]], tuple[str, ...]]:
    """Which devices differ along some axes of the mesh alone, for each choice of axes."""
    places = np.arange(mesh.size).reshape(mesh.devices.shape)
    names = mesh.axis_names
    found = {}
    for number in range(len(names) + 1):
        for axes in combinations(range(len(names)), number):
            rest = [n for n in range(len(names)) if n not in axes]
            size = prod(places.shape[n] for n in axes)
            rows = places.transpose(*rest, *axes).reshape(-1, size)
            groups = frozenset(frozenset(row.tolist()) for row in rows)
            found.setdefault(groups, tuple(names[n] for n in axes))  # an axis of 1 is none
    return found


def groups_of_devices(rest: str, count: int) -> list[list[int]]:
    """The groups, or the pairs of source and target, of a collective's attributes."""
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", rest):
        return [
            [int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", match[1])
        ]
    if match := re.search(rf"replica_groups=\[([\d,]+)\]<={_IOTA}", rest):
        return _iota(match[2], match[3]).reshape(_numbers(match[1])).tolist()
    if match := re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? \{{([^}}]*)\}}", rest
    ):
        axes = dict(part.split("=") for part in match[1].split(","))  # of a mesh of XLA's own
        sizes, names = [int(size) for size in axes.values()], list(axes)
        ids = _iota(match[2], match[3]) if match[2] else np.arange(prod(sizes))
        along = [names.index(name) for name in match[4].split(",")]
        others = [n for n in range(len(names)) if n not in along]
        size = prod(sizes[n] for n in along)
        return ids.reshape(sizes).transpose(*others, *along).reshape(-1, size).tolist()
    if "replica_groups={}" in rest:
        return [list(range(count))]
    raise ValueError(f"a collective's groups cannot be read: {rest[:300]}")


def _iota(dimensions: str, permutation: str | None) -> np.ndarray:
    """0, 1, ... in an array of these dimensions, transposed."""
    sizes = _numbers(dimensions)
    ids = np.arange(prod(sizes)).reshape(sizes)
    return ids.transpose(_numbers(permutation)) if permutation else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _axes(
    groups: list[list[int]],
    groups_of: dict[frozenset[frozenset[int]], tuple[str, ...]],
    kind: str,
) -> tuple[str, ...]:
    if kind != "collective-permute":
        return groups_of.get(frozenset(map(frozenset, groups)), ("?",))
    # Of a permutation: the fewest axes within which every source and its target lie.
    for candidate, axes in sorted(groups_of.items(), key=lambda item: len(item[1])):
        if all(any(set(pair) <= group for group in candidate) for pair in groups):
            return axes
    return ("?",)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.match(r"[a-z]+(\d+)", dtype)
    return int(match[1]) if match else 8
