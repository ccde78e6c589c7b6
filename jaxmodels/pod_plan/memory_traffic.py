"""How many bytes a compiled program moves to and from a chip's HBM in one run.

Each kernel reads its operands and writes its results once; what the compiler keeps in the chip's
own memory (VMEM) between two kernels moves nothing. Of an array that is cut or updated in place,
the part counts.
"""

from jaxmodels.pod_plan.hlo import Array, Instruction, Program, walk

_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "async-start",  # its computation is walked
}
_CUTS = {"dynamic-slice", "slice", "gather"}
Block = dict[str, Instruction]


def hbm_bytes(program: Program) -> int:
    return sum(times * _moved(program, block, i) for block, i, times in walk(program))


def _moved(program: Program, block: Block, instruction: Instruction) -> int:
    operation = instruction.operation
    if operation in _FREE or operation.endswith(("-done", "-update")):
        return 0
    operands = [block[name].result for name in instruction.operands if name in block]
    if operation == "slice-start":  # the result is ((operand), part, ...), and the part is read
        parts = instruction.result[len(operands[0]) :]
        return sum(array.bytes for array in parts) + _in_hbm(parts)
    if operation.endswith("-start"):  # the result is (operand, result, ...): both ends, once
        return _in_hbm(instruction.result)
    if operation == "fusion":
        called = instruction.called("calls")
        assert called
        return _fusion(program.computations[called], operands, instruction)
    if operation in _CUTS:
        return 2 * _in_hbm(instruction.result)
    if operation == "dynamic-update-slice":
        return 2 * _in_hbm(operands[1])
    return _in_hbm(instruction.result) + sum(map(_in_hbm, operands))


def _fusion(inner: Block, operands: list[tuple[Array, ...]], fusion: Instruction) -> int:
    parameters = {int(i.arguments): i for i in inner.values() if i.operation == "parameter"}
    total = 0
    for number, arrays in enumerate(operands):
        parameter = parameters.get(number)
        total += _in_hbm(arrays) if parameter is None else _read(inner, parameter, arrays)
    root = next((i for i in inner.values() if i.is_root), None)
    parts = [root]
    if root is not None and root.operation == "tuple":
        parts = [inner.get(name) for name in root.operands]
    if len(parts) != len(fusion.result):
        return total + _in_hbm(fusion.result)
    for part, array in zip(parts, fusion.result, strict=True):
        while part is not None and part.operation == "bitcast":
            part = inner.get(part.operands[0])
        if part is not None and part.operation == "dynamic-update-slice" and not array.space:
            total += sum(a.bytes for a in inner[part.operands[1]].result)
        else:
            total += _in_hbm((array,))
    return total


def _read(inner: Block, parameter: Instruction, arrays: tuple[Array, ...]) -> int:
    """Of a fusion's operand, what is cut out of it, if that is all that is done with it."""
    whole = _in_hbm(arrays)
    users = _users(inner, parameter.name)
    if not whole or not users:
        return whole
    total = 0
    for user in users:
        if user.operation in _CUTS and user.operands[0] == parameter.name:
            total += sum(array.bytes for array in user.result)
        elif user.operation != "dynamic-update-slice" or user.operands[0] != parameter.name:
            return whole
    return min(whole, total)


def _users(inner: Block, name: str) -> list[Instruction]:
    """Who uses a value, seen through bitcasts."""
    found = []
    for instruction in inner.values():
        if name in instruction.operands:
            found += (
                _users_of_bitcast(inner, instruction)
                if instruction.operation == "bitcast"
                else [instruction]
            )
    return found


def _users_of_bitcast(inner: Block, bitcast: Instruction) -> list[Instruction]:
    users = _users(inner, bitcast.name)
    # A cut of a reshaped array is a cut; which operand it is tells nothing any more.
    return users or [bitcast]


def _in_hbm(arrays: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)
