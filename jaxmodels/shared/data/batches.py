"""Batches: seeded, the same for every engine and number of hosts, resumable at any step.

A batch is a pure function of (seed, step): the order of an epoch comes from (seed, epoch), and what
is random in an example from (seed, epoch, its row). Nothing is carried from batch to batch, so a
run resumes by naming the step. Grain reads ahead in background threads.

>>> def make(rows, epoch):
...     return {"image": images[rows], "label": labels[rows]}
>>> batches = shuffled_batches(make, len(labels), batch_size=128, seed=0, start_step=1000)
>>> sorted(next(batches))
['image', 'index', 'label']
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from jaxmodels.shared.data.counters import Host, host_rows

# Arrays whose first axis is the batch. Every training batch has index (B,) int64, the rows in the
# split. Evaluation adds mask float32, 0 where a batch is filled up.
Batch = dict[str, np.ndarray]
MakeBatch = Callable[[np.ndarray, int], Batch]  # (rows (B,), epoch) -> the batch but for its index

_READ_THREADS = 2
_READ_AHEAD = 8  # batches
_WINDOW = 50  # batches among which rows are put together by length


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """How many full batches an epoch has. Training drops the last partial one.

    Raises:
        ValueError: the batch is larger than the split.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size {batch_size} is larger than the split of {num_examples} examples, so an "
            f"epoch would have no step; try {max(1, num_examples)} or less"
        )
    return num_examples // batch_size


def shuffled_batches(
    make: MakeBatch,
    num_examples: int,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    host: Host = 0,
    num_hosts: int = 1,
    lengths: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Endless batches of `num_examples` rows in a new order each epoch, from `start_step` on.

    With `lengths` (N,), rows of similar length share a batch, so that little of it is padding.
    `batch_size` is global: of each batch, host h of n yields the h-th of n equal runs of rows.

    Raises:
        ValueError: the sizes do not fit the split or the hosts.
    """
    # Imported late: grain brings jax along where that is installed, which torchref never needs.
    import grain

    for name, value in (("seed", seed), ("start_step", start_step)):
        if value < 0:
            raise ValueError(f"{name} {value} must not be negative")
    local = host_rows(batch_size, host, num_hosts)
    source = _ShuffledBatches(make, num_examples, batch_size, seed, local, lengths)
    read_ahead = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(grain.MapDataset.source(source)[start_step:].to_iter_dataset(read_ahead))


def ordered_batches(
    make: Callable[[np.ndarray], Batch], num_examples: int, *, batch_size: int
) -> Iterator[Batch]:
    """Every row once, in order, in batches of one shape: a compiled step is compiled once.

    The last batch is filled up with its first row again, index -1 and mask 0.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")

    def batch(start: int) -> Batch:
        rows = np.arange(start, min(start + batch_size, num_examples))
        fill = batch_size - len(rows)
        return make(np.append(rows, np.full(fill, start))) | {
            "index": np.pad(rows, (0, fill), constant_values=-1),
            "mask": np.pad(np.ones(len(rows), np.float32), (0, fill)),
        }

    return map(batch, range(0, num_examples, batch_size))


def measure_throughput(batches: Iterator[Batch], *, seconds: float = 2.0) -> float:
    """Batches a second of a pipeline alone, with nothing else to do."""
    for _ in range(_READ_AHEAD + 1):  # what was read ahead while nobody counted
        next(batches)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count == 0:
        next(batches)
        count += 1
    return count / elapsed


class _ShuffledBatches:
    """A grain RandomAccessDataSource whose item s is the whole batch of step s."""

    def __init__(
        self,
        make: MakeBatch,
        num_examples: int,
        batch_size: int,
        seed: int,
        local: np.ndarray,
        lengths: np.ndarray | None = None,
    ) -> None:
        self._make, self._batch_size, self._local = make, batch_size, local
        self._steps = steps_per_epoch(num_examples, batch_size)

        def order(epoch: int) -> np.ndarray:
            rows = _order(num_examples, seed, epoch)
            if lengths is None:
                return rows
            return _bucketed(rows[: self._steps * batch_size], lengths, batch_size, seed, epoch)

        # Threads reading ahead meet at most two epochs at once.
        self._order = lru_cache(maxsize=2)(order)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Batch:
        epoch, step_in_epoch = divmod(index, self._steps)
        start = step_in_epoch * self._batch_size
        rows = self._order(epoch)[start : start + self._batch_size][self._local]
        return self._make(rows, epoch) | {"index": rows}


def _order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """-> (N,) int64, the rows in the order of this epoch."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(num_examples).astype(np.int64)


def _bucketed(
    rows: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int, epoch: int
) -> np.ndarray:
    """The shuffled rows of an epoch, whole batches of them, so that similar lengths meet.

    Each window of batches is sorted by length, ties as they were shuffled, and cut into batches.
    The epoch's batches are then shuffled, or every window would go from short rows to long ones.
    """
    size = _WINDOW * batch_size
    windows = [rows[start : start + size] for start in range(0, len(rows), size)]
    ordered = [window[np.argsort(lengths[window], kind="stable")] for window in windows]
    whole = np.concatenate(ordered).reshape(-1, batch_size)
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]).jumped())
    return whole[generator.permutation(len(whole))].reshape(-1)
