"""The mesh of devices that `--mesh data=4,fsdp=2` asks for: read, checked, or chosen.

>>> parse_mesh("data=4,fsdp=2")
{'data': 4, 'fsdp': 2}
>>> sizes, why = choose_mesh(task, num_devices=8, state_bytes=2**20, memory_bytes=2**34)

A mesh is no part of a task or a run: what is trained is the same on all of them. How arrays lie on
one is `jaxmodels.sharding`.
"""

import math
from collections.abc import Iterable, Mapping

from jaxmodels.shared.configs import TransformerConfig, architecture
from jaxmodels.shared.data.series import SeriesDataConfig
from jaxmodels.shared.data.subwords import WIDTH_STEP, SubwordDataConfig
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.tasks import Task

# data      each device has its part of a batch's rows, and all parameters
# fsdp      the same, but each has only a part of every parameter, gathered where it is needed
#           (Zhao et al. 2023)
# tensor    each computes a part of every layer (Shoeybi et al. 2019)
# sequence  each has its part of a batch's tokens, and all parameters (Li et al. 2021); for
#           Transformers
AXES = ("data", "fsdp", "tensor", "sequence")
ROW_AXES = ("data", "fsdp")  # along which a batch's rows are cut, along both together

# Of a device's memory, what its part of the weights, gradients and optimizer may take: the rest is
# for activations.
_STATE_SHARE = 0.25


def parse_mesh(text: str) -> dict[str, int]:
    """The size of each axis, in the order given.

    Raises:
        ValueError: an axis is unknown or named twice, or a size is no positive number.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = (piece.strip() for piece in part.partition("="))
        check_axes([axis], text)
        if not size.isdecimal() or int(size) < 1:
            raise ValueError(f"--mesh {text}: {part!r} is no AXIS=SIZE; try {axis or 'data'}=2")
        if axis in sizes:
            raise ValueError(f"--mesh {text} has the axis {axis} twice; leave one of them out")
        sizes[axis] = int(size)
    return sizes


def check_axes(axes: Iterable[str], text: str) -> None:
    """Raises a ValueError, which quotes the mesh as `text`, where an axis is unknown."""
    strange = [axis for axis in axes if axis not in AXES]
    if strange:
        raise ValueError(
            f"a mesh of {text} has the axis {', '.join(strange)}; expected some of "
            f"{', '.join(AXES)}, as in data=4,fsdp=2"
        )


def shown(sizes: Mapping[str, int]) -> str:
    """As it is written on the command line."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items())


def row_parts(sizes: Mapping[str, int]) -> int:
    """Into how many parts a batch's rows are cut."""
    return math.prod(sizes.get(axis, 1) for axis in ROW_AXES)


def check_devices(sizes: Mapping[str, int], num_devices: int, *, simulated: bool = False) -> None:
    """Raises a ValueError unless the sizes multiply to the number of devices.

    Those of a CPU are `simulated`: there may be as many as one likes.
    """
    count = math.prod(sizes.values())
    if count == num_devices and min(sizes.values(), default=1) >= 1:
        return
    nearest, rest = dict(sizes), num_devices
    for axis, size in reversed(nearest.items()):
        nearest[axis] = math.gcd(size, rest)
        rest //= nearest[axis]
    first = next(iter(nearest), "data")
    nearest[first] = nearest.get(first, 1) * rest
    raise ValueError(
        f"a mesh of {shown(sizes)} needs {count} devices, and there are {num_devices}; the sizes "
        f"must multiply to that, as in {shown(nearest)}"
        + (f"; JAX_NUM_CPU_DEVICES={count} simulates as many" if simulated and count else "")
    )


def check_task(sizes: Mapping[str, int], task: Task, *, trains: bool = True) -> None:
    """Raises a ValueError where a size does not divide what it would cut of the task.

    Of what only predicts, the last rows of a batch are filled up.
    """
    mesh = f"--mesh {shown(sizes)}"
    training, parts = task.training, row_parts(sizes)
    micro = training.batch_size // training.micro_batches
    if trains and micro % parts:
        each = training.micro_batches * parts
        cut = f"training.batch_size {training.batch_size}"
        if training.micro_batches > 1:
            cut = f"the {micro} rows of each of training.micro_batches {training.micro_batches}"
        raise ValueError(
            f"{mesh} cuts a batch's rows into {parts} parts, which does not divide {cut}; try "
            f"--batch-size {-(-training.batch_size // each) * each}, or data and fsdp that "
            f"multiply to {_alternatives(micro)}"
        )
    length, heads = _token_length(task), getattr(task.model, "num_heads", 0)
    if sizes.get("sequence", 1) > 1:
        if not length:
            raise ValueError(
                f"{mesh}: {task.name} trains {architecture(task.model)}, which has no tokens to "
                "cut along sequence; leave it out"
            )
        if length % sizes["sequence"]:
            raise ValueError(
                f"{mesh}: sequence {sizes['sequence']} does not divide the {length} tokens that a "
                f"row of {task.name} has; try sequence {_alternatives(length)}"
            )
    if heads and heads % sizes.get("tensor", 1):
        raise ValueError(
            f"{mesh}: tensor {sizes['tensor']} does not divide model.num_heads {heads}; try "
            f"tensor {_alternatives(heads)}"
        )


def choose_mesh(
    task: Task, *, num_devices: int, state_bytes: int, memory_bytes: int
) -> tuple[dict[str, int], str]:
    """The mesh of `--mesh auto`, and why in words.

    Data alone where the state (weights, gradients, optimizer) fits each device beside the
    activations, else as much fsdp as it takes. What rows are too few for goes to tensor.

    Args:
        state_bytes: of the whole state. memory_bytes: of one device.

    Raises:
        ValueError: the batch's rows (and the heads) are too few for so many devices.
    """
    micro = task.training.batch_size // task.training.micro_batches
    rows = math.gcd(micro, num_devices)
    room = _STATE_SHARE * memory_bytes
    fsdp = next((n for n in _divisors(rows) if state_bytes / n <= room), rows)
    wanted = {"data": rows // fsdp, "fsdp": fsdp, "tensor": num_devices // rows}
    if wanted["tensor"] > 1 and not hasattr(task.model, "num_heads"):
        check_task({"data": num_devices}, task)
    sizes = {axis: size for axis, size in wanted.items() if size > 1} or {"data": 1}
    check_task(sizes, task)
    gigabytes = state_bytes / 2**30
    why = f"{gigabytes:.2f} GiB of state, of {memory_bytes / 2**30:.0f} GiB a device"
    return sizes, why


def _token_length(task: Task) -> int:
    """What a row's tokens, in every batch, are a multiple of; 0 where it has none to cut."""
    if not isinstance(task.model, TransformerConfig):
        return 0
    if isinstance(task.data, SubwordDataConfig):
        return math.gcd(task.data.max_length, WIDTH_STEP)
    if isinstance(task.data, LanguageDataConfig):
        return task.data.sequence_length
    assert isinstance(task.data, SeriesDataConfig)
    return task.model.window  # type: ignore[union-attr]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _alternatives(number: int) -> str:
    """The divisors, the smallest of them where they are many."""
    divisors = _divisors(number)
    words = [*map(str, divisors[:10]), *(["..."] if len(divisors) > 10 else [])]
    return ", ".join(words)
