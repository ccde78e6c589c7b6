"""Batches made and sent to the device by a thread, while earlier ones train.

>>> with sent_ahead(batches, jax.device_put) as pairs:
...     for batch, sent in pairs:
...         state = step(state, sent)
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_AHEAD = 2  # batches that wait on the device


@contextmanager
def sent_ahead(
    batches: Iterator[Any], send: Callable[[Any], Any]
) -> Iterator[Iterator[tuple[Any, Any]]]:
    """(batch, what `send` made of it) in order; an error of either is raised where it is due."""
    arrivals: queue.Queue[Callable[[], tuple[Any, Any]]] = queue.Queue(_AHEAD)
    closed = threading.Event()

    def deliver() -> None:
        while not closed.is_set():
            try:
                batch = next(batches)
                pair = (batch, send(batch))
            except BaseException as error:  # StopIteration too
                arrivals.put(lambda error=error: _raise(error))
                return
            arrivals.put(lambda pair=pair: pair)

    def pairs() -> Iterator[tuple[Any, Any]]:
        while True:
            try:
                pair = arrivals.get()()
            except StopIteration:
                return
            yield pair

    thread = threading.Thread(target=deliver, name="batches", daemon=True)
    thread.start()
    try:
        yield pairs()
    finally:
        closed.set()
        while thread.is_alive():  # it may be about to put one more
            while not arrivals.empty():
                arrivals.get()
            thread.join(0.01)


def _raise(error: BaseException) -> Any:
    raise error
