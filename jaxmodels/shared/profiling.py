"""Which steps of a training are profiled: `--profile 10:15` traces from step 10 to before step 15.

>>> with Profile((10, 15), lambda: engine.traced(folder / "profile")) as profile:
...     for step in range(steps):
...         profile.before(step)
...         train_step()
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack


class Profile:
    """Enters `trace` before the first of the steps, and leaves it behind the last or at the end."""

    def __init__(
        self, steps: tuple[int, int] | None, trace: Callable[[], AbstractContextManager[None]]
    ):
        self.first, self.end = steps or (0, 0)
        self.trace = trace
        self.open = ExitStack()
        self.begun = False

    def before(self, step: int) -> None:
        if self.begun and step >= self.end:
            self.open.close()
        elif not self.begun and self.first <= step < self.end:
            self.begun = True
            self.open.enter_context(self.trace())

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        self.open.close()


def parse_steps(text: str) -> tuple[int, int]:
    """From "10:15" to (10, 15).

    Raises:
        ValueError: it is no such pair, or holds no step.
    """
    first, colon, end = text.partition(":")
    if colon and first.isdecimal() and end.isdecimal() and int(first) < int(end):
        return int(first), int(end)
    raise ValueError(f"--profile {text}: expected FIRST:END, steps from 0, such as 10:15")
