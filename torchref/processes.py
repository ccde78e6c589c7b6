"""What the engines that train in several processes share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from jaxmodels.shared.processes import Process


@contextmanager
def with_the_others(process: Process) -> Iterator[None]:
    """One line where another process has ended: its own message tells why.

    Raises:
        ConnectionError: the others are lost.
    """
    try:
        yield
    except RuntimeError as error:
        of_the_others = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if process.count == 1 or not of_the_others:
            raise
        raise ConnectionError(
            f"process {process.index} of {process.count} has lost the others and ends; the first "
            "that ended tells why"
        ) from error


def rows_of_all(
    carried: dict[str, torch.Tensor], gather: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What an engine carries, of all; `gather` maps (_, B, _) to (_, processes * B, _)."""
    return {
        name: gather(value) if name.startswith("carry.") else value
        for name, value in carried.items()
    }


def rows_of(process: Process, carried: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One process's part of that."""
    return {
        name: value.tensor_split(process.count, dim=1)[process.index].contiguous()
        if name.startswith("carry.")
        else value
        for name, value in carried.items()
    }


@torch.no_grad()
def average_statistics(model: nn.Module, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Makes a BatchNorm's running statistics those that `mean` finds over the processes."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(mean(buffer))
