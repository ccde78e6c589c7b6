"""What the engines that train in several processes share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
