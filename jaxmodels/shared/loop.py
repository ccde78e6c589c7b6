"""The training loop, once: batches, progress, history, checkpoints, early stopping, resume.

An engine brings the framework (`Engine`); Flax's is `jaxmodels.engine`, plain torch's
`torchref.engines.plain`. Lightning brings its own loop and shares the pieces. What a task reads and
compares is its family's.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmodels.shared.checksums import Position
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.guards import Sums, is_guarded
from jaxmodels.shared.interruption import Interrupted, Signals, heeded_signals
from jaxmodels.shared.profiling import Profile
from jaxmodels.shared.progress import Progress
from jaxmodels.shared.roll_call import advance
from jaxmodels.shared.run import (
    Recorder,
    Row,
    changed_fields,
    check_finite,
    listed,
    task_to_json,
)
from jaxmodels.shared.schedules import learning_rate
from jaxmodels.shared.tasks import Task

# From a fresh model's tensors, in torch's names and layout, to those to start from.
Start = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Engine(Protocol):
    """What a framework does for the loop."""

    @property
    def trainable_parameters(self) -> int:
        """How many numbers the optimizer moves."""
        ...

    @property
    def share(self) -> tuple[Host, int]:
        """(host, n): which of n equal runs of each batch's rows `train_step` is given."""
        ...

    def feed(self, batches: Iterator[Batch]) -> AbstractContextManager[Iterator[Batch]]:
        """The batches that `train_step` will be given; an engine may send them ahead."""
        ...

    def train_step(self, batch: Batch, *, step: int, rate: float) -> dict[str, Any]:
        """Updates the model; returns {"loss", "metric"}, which may still be computing.

        Where it is guarded, "skipped" too; where it is counted, "flops", on all devices.

        A model that carries its state from batch to batch starts afresh in the rows where the
        batch's "reset" is true.
        """
        ...

    @property
    def devices(self) -> int:
        """How many devices share a step, of all hosts."""
        ...

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s that its devices could do, as published; None where nobody says."""
        ...

    def traced(self, folder: Path) -> AbstractContextManager[None]:
        """Within, what the devices do is written down; at its end into the folder."""
        ...

    def predict(self, batch: Batch, carry: Any = None) -> tuple[np.ndarray, Any]:
        """Outputs (B, ...) float32 in evaluation mode, and what the next batch is to be given.

        `carry` is None for a first batch, and always where the model carries nothing.
        """
        ...

    def attentions(self, input_ids: np.ndarray) -> list[np.ndarray]:
        """What each layer's heads look at, (B, H, T, T) float32, for ids (B, T); of a BERT."""
        ...

    def alone(self) -> "Engine":
        """An engine of the same model that predicts in this process alone.

        Of several processes all must ask for it.
        """
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """The model's tensors in torch's names and layout."""
        ...

    def load_weights(self, tensors: dict[str, np.ndarray]) -> None:
        """Takes such tensors, strictly."""
        ...

    def merge_adapters(self, folder: Path, *, base: str) -> None:
        """Writes the adapters into `folder` as peft does, then folds them into the model.

        `base` is the path or the Hub's id of the model that they belong to. From here on the engine
        only predicts.
        """
        ...

    def save(self, name: str, position: Position) -> None:
        """Writes the checkpoint `name` ("last" or "best"), whole or not at all.

        It may go on in the background; its failure is then the next save's, or `finish_saving`'s.
        """
        ...

    def finish_saving(self) -> None:
        """Waits until what `save` began is on the disk; an OSError if it could not be."""
        ...

    def restore(self, name: str, step: int | None = None) -> Position:
        """Takes up a checkpoint, the newest unless told which, and returns its position."""
        ...


def fit(
    task: Task,
    data: Any,
    engine: Engine,
    folder: Path,
    *,
    resume: bool,
    from_step: int | None = None,
    profiled: tuple[int, int] | None = None,
) -> Recorder:
    """Trains to the end of the budget (or of patience) and returns the history.

    It resumes from the newest checkpoint, or from that of `from_step`. With early stopping the
    engine ends with the best epoch's weights, else with the last's. The steps from the first to
    before the second that are `profiled` are traced into the folder's profile/.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; checkpoints before it are kept.
        Interrupted: SIGTERM or Ctrl-C came; where the training stood is saved.
    """
    family, training = family_of(task), task.training
    steps = family.steps_per_epoch(task, data)
    position = restored(task, engine, from_step) if resume else {"step": 0, "epoch": 0}
    recorder = Recorder(folder, training.early_stopping_patience)
    recorder.rewind(position["epoch"])
    host, num_hosts = engine.share
    batches = family.training_batches(task, data, position["step"], host=host, num_hosts=num_hosts)
    probe = probe_batch(task, data)
    with (
        heeded_signals(folder) as signals,
        finished_saves(engine),
        closing(recorder),
        progress_bar(task, data, steps, done=position["step"]) as bar,
        engine.feed(batches) as batches,
        Profile(profiled, lambda: engine.traced(folder / "profile")) as profile,
    ):
        while position["epoch"] < training.epochs and not recorder.should_stop:
            row, position = train_epoch(
                task, engine, batches, bar, position, steps, probe, signals, profile
            )
            predict = interruptible(engine, task, position, signals)
            row = {"epoch": position["epoch"] + 1} | row | validate(task, data, predict)
            in_a_row = {"skipped_in_a_row": position["sums"]["skipped_in_a_row"]}
            position = {"step": position["step"], "epoch": row["epoch"], "sums": in_a_row}
            recorder.append(row)
            bar.end_epoch(row)
            if recorder.improved:
                save(engine, "best", task, position)
            save(engine, "last", task, position)
            leave_if_asked(engine, task, position, signals)
    if training.early_stopping_patience and recorder.best:
        engine.restore("best")
    return recorder


def save(engine: Engine, name: str, task: Task, position: Position) -> None:
    """Saves the position, with the task, of which a checkpoint is only to be taken up by itself."""
    engine.save(name, position | {"task": task_to_json(task)})


def restored(task: Task, engine: Engine, step: int | None) -> Position:
    """Takes up the newest checkpoint, or that of a step, and returns its position.

    Raises:
        ValueError: it is of another task; the fields that differ are listed.
    """
    position = dict(engine.restore("last", step))
    changed = changed_fields(position.pop("task"), task_to_json(task))
    if changed:
        raise ValueError(
            f"the checkpoint of step {position['step']} is of a training with other settings; "
            "restore the run's own, or start again without --resume, in another --out. "
            "Changed:\n  " + listed(changed)
        )
    return position


@contextmanager
def finished_saves(engine: Engine) -> Iterator[None]:
    """At its end, and after an error too, what the engine began to save is on the disk."""
    try:
        yield
    finally:
        engine.finish_saving()


def leave_if_asked(engine: Engine, task: Task, position: Position, signals: Signals) -> None:
    """Raises Interrupted if a signal has come, once the position is saved."""
    if signals.asked is None:
        return
    save(engine, "last", task, position)
    engine.finish_saving()
    raise Interrupted(
        signals.asked,
        f"{signals.name}: saved step {position['step']:,}, in epoch {position['epoch'] + 1}; "
        "continue with --resume",
    )


def interruptible(engine: Engine, task: Task, position: Position, signals: Signals) -> Predict:
    """The engine's predictions; between two of them a signal is heeded."""

    def predict(batch: Batch, carry: Any = None) -> tuple[np.ndarray, Any]:
        leave_if_asked(engine, task, position, signals)
        return engine.predict(batch, carry)

    return predict


def probe_batch(task: Task, data: Any) -> Batch:
    """A batch on which to check a model before it is saved.

    The loss of a step is of the model before its update, so the last one does not tell whether the
    model that would be saved still computes; its outputs for this batch do.
    """
    family = family_of(task)
    split: SplitName = "validation" if family.count(data, "validation") else "train"
    return next(family.evaluation_batches(task, data, split))


def progress_bar(task: Task, data: Any, steps: int, *, done: int) -> Progress:
    family = family_of(task)
    return Progress(
        task.training.epochs,
        steps,
        family.units_per_step(task, data),
        unit=family.UNIT,
        metric=family.METRIC,
        done=done,
    )


def train_epoch(
    task: Task,
    engine: Engine,
    batches: Iterator[Batch],
    bar: Progress,
    position: Position,
    steps: int,
    probe: Batch,
    signals: Signals,
    profile: Profile,
) -> tuple[Row, Position]:
    """Trains to the end of the epoch of `position`; its row of the history, and where it then is.

    Before a checkpoint is written, the outputs of `probe` are checked as well as the loss.
    """
    sums = Sums(**position.get("sums", {}))
    every, end = task.training.checkpoint_every_steps, (position["epoch"] + 1) * steps
    started, waited, flops = time.perf_counter(), 0.0, 0
    pending: tuple[int, Batch, dict[str, Any]] | None = None

    def settle() -> None:
        # A step's metrics are read after the next one is dispatched, so the device never waits.
        if pending is None:
            return
        step, batch, metrics = pending
        bar.advance(*sums.add(task.training, step, steps, batch["index"].tolist(), metrics))

    for step in range(position["step"], end):
        profile.before(step)
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        metrics = engine.train_step(batch, step=step, rate=rate_of(task, step, steps))
        advance()
        settle()
        pending = (step, batch, metrics)
        flops += metrics.get("flops", 0)
        if step + 1 < end and (signals.asked or (every and (step + 1) % every == 0)):
            settle()
            pending = None
            check_finite(engine.predict(probe)[0], step, steps, batch["index"].tolist())
            here = {"step": step + 1, "epoch": position["epoch"], "sums": vars(sums).copy()}
            save(engine, "last", task, here)
            leave_if_asked(engine, task, here, signals)
    settle()
    seconds = time.perf_counter() - started
    if pending:  # else the checkpoint was of the epoch's end, which is checked
        step, batch, _ = pending
        check_finite(engine.predict(probe)[0], step, steps, batch["index"].tolist())
    count, rate = end - position["step"], rate_of(task, end - 1, steps)
    row = epoch_row(task, sums, steps, rate, count, seconds, bar.units_per_step)
    reached = {"step": end, "epoch": position["epoch"], "sums": vars(sums)}
    if engine.devices > 1:
        unit = family_of(task).UNIT
        row[f"{unit}_per_device_per_second"] = row[f"{unit}_per_second"] / engine.devices
    row |= {"data_wait_fraction": waited / seconds} | speeds(flops, seconds, engine.peak_flops)
    return row, reached


def rate_of(task: Task, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step."""
    peak, total = task.optimizer.learning_rate, task.training.epochs * steps_per_epoch
    return learning_rate(task.schedule, peak, step, total)


def speeds(flops: int, seconds: float, peak: float | None) -> Row:
    """What is counted of a row's speed: nothing where no FLOPs are, and of the peak where known."""
    if not flops:
        return {}
    row: Row = {"teraflops_per_second": flops / seconds / 1e12}
    return row | ({"mfu": flops / seconds / peak} if peak else {})


def epoch_row(
    task: Task,
    sums: Sums,
    steps: int,
    rate: float,
    count: int,
    seconds: float,
    units_per_step: int,
) -> Row:
    """The training part of an epoch's row; `count` of its `steps` took `seconds`."""
    family, (loss, metric) = family_of(task), sums.means(steps)
    skipped = {"train_skipped_steps": sums.skipped} if is_guarded(task.training) else {}
    return {
        "train_loss": loss,
        f"train_{family.METRIC}": metric,
        **skipped,
        "learning_rate": rate,
        "seconds": seconds,
        f"{family.UNIT}_per_second": count * units_per_step / seconds,
        "steps_per_second": count / seconds,
    }


def validate(task: Task, data: Any, predict: Predict) -> Row:
    """The validation part of an epoch's row; None where the split is empty."""
    family = family_of(task)
    if not family.count(data, "validation"):
        return {"validation_loss": None, f"validation_{family.METRIC}": None}
    found = evaluate(task, data, "validation", predict)
    return {"validation_loss": found.loss, f"validation_{family.METRIC}": found.metric}


def evaluate(task: Task, data: Any, split: SplitName, predict: Predict) -> Evaluation:
    """Loss and metric of a split, and the outputs of its examples in their order."""
    family = family_of(task)
    loss = metric = count = 0.0
    carry: Any = None
    kept, rows = [], []
    for batch in family.evaluation_batches(task, data, split):
        outputs, carry = predict(batch, carry)
        advance()
        sums = score_batch(task, batch, outputs)
        loss, metric, count = loss + sums[0], metric + sums[1], count + sums[2]
        if family.KEEP_OUTPUTS:
            valid = batch["mask"] > 0
            kept.append(outputs[valid])
            rows.append(batch["index"][valid])
    # A family may batch its examples in another order, such as that of their lengths.
    outputs = np.concatenate(kept)[np.argsort(np.concatenate(rows))] if kept else None
    return Evaluation(loss / count, metric / count, int(count), outputs)


def score_batch(task: Task, batch: Batch, outputs: np.ndarray) -> tuple[float, float, int]:
    """Sums of loss and metric over the targets of a batch that count, and how many do."""
    family = family_of(task)
    valid = batch["mask"] > 0
    losses, metrics = family.score(task, outputs[valid], batch[family.TARGET][valid])
    return float(losses.sum()), float(metrics.sum()), int(valid.sum())
