"""Which of how many processes this is, as torchrun and `accelerate launch` tell their children.

All processes read the same data and train on their own rows of each batch; the main one alone
claims the run's folder, writes and prints.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """`index` of `count`, of all machines; `local_index` of `local_count`, of its own machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @property
    def is_main(self) -> bool:
        return self.index == 0


def this_process() -> Process:
    """From RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; without them, the only one.

    Without the last, all are of one machine.

    Raises:
        ValueError: they are no numbers, or an index is not below its count.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    defaults = ("0", "1", "0", values[1] or "1")
    numbers = [value or default for value, default in zip(values, defaults, strict=True)]
    if all(number.isdecimal() for number in numbers):
        process = Process(*map(int, numbers))
        if process.index < process.count and process.local_index < process.local_count:
            return process
    raise ValueError(
        "the environment has RANK={!r}, WORLD_SIZE={!r}, LOCAL_RANK={!r}, LOCAL_WORLD_SIZE={!r}; "
        "expected numbers as torchrun sets them, each rank below its size, or none of the "
        "four".format(*values)
    )


def check_divides(batch_size: int, micro_batches: int, process: Process) -> None:
    """Raises a ValueError unless each process has as many rows of a batch in each of its parts."""
    parts = micro_batches * process.count
    if batch_size % parts:
        raise ValueError(
            f"training.batch_size {batch_size} must divide by {process.count} processes times "
            f"training.micro_batches {micro_batches}; try {max(batch_size // parts, 1) * parts}"
        )


def check_count(path: Path, count: int, process: Process) -> None:
    """Raises a ValueError unless a checkpoint is of as many processes as this one is of."""
    if count != process.count:
        raise ValueError(
            f"checkpoint {path} is of {count} processes, and this is one of {process.count}; "
            f"start {count}, or start again without --resume, in another --out"
        )


@contextlib.contextmanager
def main_process_prints() -> Iterator[None]:
    """Where this is not the main process, what is printed goes nowhere; errors are shown."""
    if this_process().is_main:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
