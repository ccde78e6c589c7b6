"""What families whose splits are rows share: images, reviews, windows of prices."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxmodels.shared.data import batches
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.families.family import Evaluation, SplitName
from jaxmodels.shared.tasks import Task


def count(data: Any, split: SplitName) -> int:
    return len(getattr(data, split))


def steps_per_epoch(task: Task, data: Any) -> int:
    return batches.steps_per_epoch(len(data.train), task.training.batch_size)


def units_per_step(task: Task, data: Any) -> int:
    return task.training.batch_size


def explain_divergence(task: Task, data: Any) -> str:
    """Nothing: such data do not tell a rate that diverges from one that does not."""
    return ""


def in_words(task: Task, data: Any, split: SplitName, evaluation: Evaluation) -> list[str]:
    """Loss and metric say it all."""
    return []


def shuffled(
    make: Callable[[Any, np.ndarray], Batch],
    task: Task,
    data: Any,
    start_step: int,
    *,
    host: Host,
    num_hosts: int,
) -> Iterator[Batch]:
    """Training batches of the rows that `make` (split, rows) cuts out."""
    return batches.shuffled_batches(
        lambda rows, epoch: make(data.train, rows),
        len(data.train),
        batch_size=task.training.batch_size,
        seed=task.training.seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )


def in_order(make: Callable[[Any, np.ndarray], Batch], task: Task, split: Any) -> Iterator[Batch]:
    """Evaluation batches of a split, each of one shape."""
    size = evaluation_size(task, split)
    return batches.ordered_batches(lambda rows: make(split, rows), len(split), batch_size=size)


def evaluation_size(task: Task, split: Any) -> int:
    """A small split makes one batch of its own size."""
    return max(1, min(task.training.evaluation_batch_size, len(split)))
