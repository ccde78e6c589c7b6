"""What a script does before an engine touches a device: its processes come together."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxmodels.shared.command_line import missing_extra
from jaxmodels.shared.run import Run, flattened, to_json


@contextlib.contextmanager
def started(run: Run, asked: Mapping[str, Any]) -> Iterator[None]:
    """Within, the processes of the run's engine know each other, and were all asked for the same.

    torch's engines see to that themselves.

    Raises:
        ValueError: they were not: the first field that differs is named; or the framework is not
            installed.
        ConnectionError: one did not come.
    """
    if run.engine != "flax":
        yield
        return
    try:
        from jaxmodels.distributed import together
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra("flax", error)) from None
    with together({**flattened(to_json(run)), **asked}):
        yield
