"""SIGTERM and Ctrl-C end a training with a checkpoint, within a grace time, wherever it stands.

>>> with heeded_signals(folder) as signals:
...     while not signals.asked:
...         train_step()

Python runs a signal's handler once the main thread is back from XLA, and a compilation may take
longer than a preempted machine has. A thread of our own, which the signal wakes at once, therefore
ends the process when the grace time is over; the run resumes from what was committed before.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxmodels.shared.roll_call import stop_together

_GRACE_SECONDS = 25.0  # Kubernetes, Google's preemption notice and Slurm give 30


class Interrupted(KeyboardInterrupt):
    """A signal has ended the training; the message says what was saved and how to go on."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


@dataclass
class Signals:
    """The number of the signal that has come to this process, or None."""

    noted: int | None = None

    @property
    def asked(self) -> int | None:
        """The number of the signal at which to stop here, or None.

        Of several processes all get the same answers: they must ask as often, in the same places.
        """
        return stop_together(self.noted)

    @property
    def name(self) -> str:
        return signal.Signals(number).name if (number := self.asked) else ""


@contextlib.contextmanager
def heeded_signals(folder: Path) -> Iterator[Signals]:
    """Within, SIGTERM and SIGINT are noted, and end the process only when the grace time is over.

    That is $JAXMODELS_GRACE_SECONDS. A second Ctrl-C interrupts at once. Outside of the main thread
    signals are left alone. `folder` is the run's, for the message.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, frame: object) -> None:
        if signals.noted == number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.noted = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _watched(folder, grace_seconds()):
            yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def grace_seconds() -> float:
    """How long a training may take to save and end, from $JAXMODELS_GRACE_SECONDS.

    Raises:
        ValueError: it is no positive number.
    """
    given = os.environ.get("JAXMODELS_GRACE_SECONDS", "")
    try:
        seconds = float(given or _GRACE_SECONDS)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"JAXMODELS_GRACE_SECONDS={given!r}; expected seconds above 0, such as 25")
    return seconds


@contextlib.contextmanager
def _watched(folder: Path, grace: float) -> Iterator[None]:
    """Within, a signal starts the grace time."""
    ended = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while numbers := reader.recv(1):  # nothing: the other end is closed
            number = numbers[0]
            if number in (signal.SIGTERM, signal.SIGINT) and not ended.wait(grace):
                _end_now(number, folder, grace)

    watcher = threading.Thread(target=watch, name="grace time", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        writer.close()
        watcher.join()
        reader.close()


def _end_now(number: int, folder: Path, grace: float) -> None:
    print(
        f"{signal.Signals(number).name}: the training was not back from a compilation or a save "
        f"after {grace:g} s and was ended as it stood; continue {folder} from its last checkpoint "
        "with --resume",
        file=sys.stderr,
        flush=True,
    )
    os._exit(128 + number)
