"""The training loop, once: batches, progress, history, checkpoints, early stopping, resume.

An engine brings the framework (`Engine`); Flax's is `jaxmodels.engine`, plain torch's
`torchref.engines.plain`. Lightning brings its own loop and shares the pieces.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmodels.shared.checksums import Position
from jaxmodels.shared.data.batches import (
    Batch,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from jaxmodels.shared.data.images import ImageData, Split
from jaxmodels.shared.metrics import loss_and_accuracy
from jaxmodels.shared.progress import Progress
from jaxmodels.shared.run import Recorder, Row, check_finite
from jaxmodels.shared.schedules import learning_rate
from jaxmodels.shared.tasks import Task


class Engine(Protocol):
    """What a framework does for the loop."""

    def train_step(self, batch: Batch, *, step: int, rate: float) -> dict[str, Any]:
        """Updates the model; returns {"loss", "accuracy"}, which may still be computing."""
        ...

    def logits(self, images: np.ndarray) -> np.ndarray:
        """images (B, H, W, C) -> logits (B, K) float32, in evaluation mode."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """The model's tensors in torch's names and layout."""
        ...

    def load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        """Takes such tensors, strictly."""
        ...

    def save(self, name: str, position: Position) -> None:
        """Writes the checkpoint `name` ("last" or "best"), whole or not at all."""
        ...

    def restore(self, name: str) -> Position:
        """Takes up a checkpoint and returns its position."""
        ...


def fit(task: Task, data: ImageData, engine: Engine, folder: Path, *, resume: bool) -> Recorder:
    """Trains to the end of the budget (or of patience) and returns the history.

    With early stopping the engine ends with the best epoch's weights, else with the last's.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; checkpoints before it are kept.
    """
    training = task.training
    steps = steps_per_epoch(len(data.train.labels), training.batch_size)
    position = engine.restore("last") if resume else {"step": 0, "epoch": 0}
    recorder = Recorder(folder, training.early_stopping_patience)
    recorder.rewind(position["epoch"])
    batches = training_batches(
        data,
        task.data,
        batch_size=training.batch_size,
        seed=training.seed,
        start_step=position["step"],
    )
    probe = probe_images(task, data)
    bar = Progress(training.epochs, steps, training.batch_size, done=position["step"])
    with closing(recorder), bar:
        while position["epoch"] < training.epochs and not recorder.should_stop:
            row = train_epoch(task, engine, batches, bar, position, steps, probe)
            position = {"step": (position["epoch"] + 1) * steps, "epoch": position["epoch"] + 1}
            row = {"epoch": position["epoch"]} | row | validate(task, data, engine.logits)
            recorder.append(row)
            bar.end_epoch(row)
            if recorder.improved:
                engine.save("best", position)
            engine.save("last", position)
    if training.early_stopping_patience and recorder.best:
        engine.restore("best")
    return recorder


def probe_images(task: Task, data: ImageData) -> np.ndarray:
    """Images (B, H, W, C) on which to check a model before it is saved.

    The loss of a step is of the model before its update, so the last one does not tell whether the
    model that would be saved still computes; its logits of these images do.
    """
    split = data.validation if len(data.validation) else data.train
    return next(split_batches(task, data, split))["image"]


def train_epoch(
    task: Task,
    engine: Engine,
    batches: Iterator[Batch],
    bar: Progress,
    position: Position,
    steps: int,
    probe: np.ndarray,
) -> Row:
    """Trains to the end of the epoch that `position` is in; returns its row of the history.

    Before a checkpoint is written, the logits of `probe` are checked as well as the loss.
    """
    sums = {"loss": position.get("loss", 0.0), "accuracy": position.get("accuracy", 0.0)}
    every = task.training.checkpoint_every_steps
    started, waited, rate = time.perf_counter(), 0.0, 0.0
    pending: tuple[int, Batch, dict[str, Any]] | None = None

    def settle() -> None:
        # A step's metrics are read after the next one is dispatched, so the device never waits.
        if pending is None:
            return
        step, batch, metrics = pending
        loss, accuracy = float(metrics["loss"]), float(metrics["accuracy"])
        check_finite(loss, step, steps, batch["index"].tolist())
        sums["loss"] += loss
        sums["accuracy"] += accuracy
        bar.advance(loss, accuracy)

    for step in range(position["step"], (position["epoch"] + 1) * steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        rate = learning_rate(
            task.schedule, task.optimizer.learning_rate, step, task.training.epochs * steps
        )
        metrics = engine.train_step(batch, step=step, rate=rate)
        settle()
        pending = (step, batch, metrics)
        if every and (step + 1) % every == 0 and (step + 1) % steps:
            settle()
            pending = None
            check_finite(engine.logits(probe), step, steps, batch["index"].tolist())
            engine.save("last", {"step": step + 1, "epoch": position["epoch"]} | sums)
    settle()
    seconds = time.perf_counter() - started
    assert pending is not None  # an epoch's last step is not saved within the epoch
    check_finite(engine.logits(probe), pending[0], steps, pending[1]["index"].tolist())
    count = (position["epoch"] + 1) * steps - position["step"]
    return {
        "train_loss": sums["loss"] / steps,
        "train_accuracy": sums["accuracy"] / steps,
        "learning_rate": rate,
        "seconds": seconds,
        "images_per_second": count * task.training.batch_size / seconds,
        "steps_per_second": count / seconds,
        "data_wait_fraction": waited / seconds,
    }


def validate(task: Task, data: ImageData, logits_of: Callable[[np.ndarray], np.ndarray]) -> Row:
    """The validation part of an epoch's row; None where the split is empty."""
    if not len(data.validation.labels):
        return {"validation_loss": None, "validation_accuracy": None}
    logits = predict_split(task, data, data.validation, logits_of)
    loss, accuracy = loss_and_accuracy(logits, data.validation.labels)
    return {"validation_loss": loss, "validation_accuracy": accuracy}


def predict_split(
    task: Task, data: ImageData, split: Split, logits_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Logits of every example of a split, in its order: (N, K)."""
    batches = split_batches(task, data, split)
    return np.concatenate([logits_of(b["image"])[b["mask"] > 0] for b in batches])


def split_batches(task: Task, data: ImageData, split: Split) -> Iterator[Batch]:
    """A split in the batches in which it is evaluated, all of one shape."""
    size = min(task.training.evaluation_batch_size, len(split))
    return evaluation_batches(split, data, batch_size=size)
