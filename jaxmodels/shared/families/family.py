"""What a family must have, and what the loop measures with it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.tasks import Task

BEFORE = "before"  # in a run's folder: what a checkpoint did before its fine-tuning

SplitName = Literal["train", "validation", "test"]

# (batch, what the model carries from the batch before) -> (outputs float32, what it carries on).
# Nothing is carried into an epoch's first batch: None.
Predict = Callable[[Batch, Any], tuple[np.ndarray, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and metric over `count` targets, and the outputs (N, ...) where they are kept."""

    loss: float
    metric: float
    count: int
    outputs: np.ndarray | None


class Family(Protocol):
    """A module of these functions. `data` is what its `load` returned, opaque to everyone else."""

    @property
    def UNIT(self) -> str:  # noqa: N802 (the modules' constants)
        """What is counted, in the plural: "images"."""
        ...

    @property
    def INPUTS(self) -> tuple[str, ...]:  # noqa: N802
        """The entries of a batch that the model is called with, in order."""
        ...

    @property
    def TARGET(self) -> str:  # noqa: N802
        """The entry of a batch that the loss compares with the outputs."""
        ...

    @property
    def LOSS(self) -> str:  # noqa: N802
        """The loss by name; each framework's `losses.py` has it."""
        ...

    @property
    def METRIC(self) -> str:  # noqa: N802
        """The metric beside the loss, as the history's columns call it: "accuracy"."""
        ...

    @property
    def KEEP_OUTPUTS(self) -> bool:  # noqa: N802
        """Whether an evaluation keeps every example's outputs, for the files it leaves."""
        ...

    @property
    def MEASURED_BEFORE(self) -> bool:  # noqa: N802
        """Whether a checkpoint is evaluated before its fine-tuning too: it can do the task."""
        ...

    def load(self, source: str, task: Task, run: Path | None = None) -> Any:
        """Reads and checks the data. With a run's folder, what that run fitted is used again.

        Raises:
            ValueError: the source is unknown or malformed, or does not fit the model's sizes.
        """
        ...

    def fitted_files(self, data: Any) -> dict[str, str]:
        """What was fitted on the training split, as files of a run: name -> content."""
        ...

    def count(self, data: Any, split: SplitName) -> int:
        """How many units a split has."""
        ...

    def steps_per_epoch(self, task: Task, data: Any) -> int: ...

    def units_per_step(self, task: Task, data: Any) -> int: ...

    def training_batches(
        self, task: Task, data: Any, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
    ) -> Iterator[Batch]:
        """Endless batches from `start_step` on; host h of n has the h-th of n runs of each's rows.

        Raises:
            ValueError: the batch does not divide by the hosts.
        """
        ...

    def evaluation_batches(self, task: Task, data: Any, split: SplitName) -> Iterator[Batch]:
        """A split once; `mask` is 0 where a batch is filled up.

        Where outputs are kept, `index` is an example's place in the split, in any order.
        """
        ...

    def explain_divergence(self, task: Task, data: Any) -> str:
        """What the data say of a loss that is no number any more: a sentence, or nothing."""
        ...

    def score(
        self, task: Task, outputs: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """outputs, targets (N, ...) -> loss and metric (N,) of each that the mask lets count."""
        ...

    def in_words(
        self, task: Task, data: Any, split: SplitName, evaluation: Evaluation
    ) -> list[str]:
        """Lines for people that say more of an evaluation than its loss and metric."""
        ...

    def write_outputs(
        self,
        folder: Path,
        task: Task,
        data: Any,
        split: SplitName,
        evaluation: Evaluation,
        history: list[dict[str, Any]],
        predict: Predict,
    ) -> dict[str, Any]:
        """Writes predictions, plots and the like of a split; returns what joins the metrics."""
        ...
