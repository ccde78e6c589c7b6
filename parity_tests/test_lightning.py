"""The module and its data in a Trainer of one's own: its callbacks see a plain torch run."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning")
pytest.importorskip("tensorboardX")

from lightning.pytorch.callbacks import (  # noqa: E402
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from lightning.pytorch.strategies import (  # noqa: E402
    DDPStrategy,
    FSDPStrategy,
    SingleDeviceStrategy,
)

from jaxmodels.shared.families.registry import family_of  # noqa: E402
from jaxmodels.shared.loop import evaluate  # noqa: E402
from jaxmodels.shared.schedules import learning_rate  # noqa: E402
from jaxmodels.shared.tasks import Task  # noqa: E402
from parity_tests.tiny_runs import (  # noqa: E402
    DATA,
    SGD,
    STEPS,
    TASK,
    assert_same_weights,
    history,
    train_tiny,
    with_settings,
)
from parity_tests.tiny_texts import TEXT, TEXT_TASK  # noqa: E402
from torchref.engines.lightning import LitTask, TaskDataModule  # noqa: E402
from torchref.weights import read_tensors  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")  # on loggers, folders and workers

EPOCHS = 2
TASKS: dict[str, tuple[Task, Any]] = {
    "average": (
        with_settings(training={"epochs": EPOCHS, "ema_decay": 0.8, "micro_batches": 3}),
        DATA,
    ),
    "carry": (with_settings(TEXT_TASK, training={"epochs": EPOCHS}), TEXT),
}
# After a quarter of the budget the rate rises a hundredfold and spoils what was learnt.
SPOILED = with_settings(
    dataclasses.replace(TASK, optimizer=SGD),
    optimizer={"clip_norm": 1.0},
    schedule={"name": "step", "milestones": (0.25,), "decay_factor": 100.0},
    training={"epochs": 8, "early_stopping_patience": 2},
)


class Kept(Callback):
    """The figures that the Trainer's callbacks are shown at each epoch's end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        found = trainer.callback_metrics.items()
        self.rows.append({name: float(value) for name, value in found})


def train(task: Task, data: Any, folder: Path, **options: Any) -> tuple[Any, LitTask, Kept]:
    """In a user's own Trainer, with all that it brings: (Trainer, module, figures)."""
    kept = Kept()
    callbacks = [
        ModelCheckpoint(folder, "best", monitor="validation_loss", save_last=True),
        EarlyStopping("validation_loss", patience=task.training.early_stopping_patience or 99),
        LearningRateMonitor("step"),
        kept,
    ]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=task.training.epochs,
        callbacks=[*callbacks, options.pop("bar", TQDMProgressBar())],
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        **options,
    )
    module = LitTask(task)
    trainer.fit(module, TaskDataModule(task, data))
    return trainer, module, kept


@pytest.mark.parametrize("name", TASKS)
def test_a_trainer_of_ones_own_trains_and_measures_the_same(name: str, tmp_path: Path) -> None:
    task, data = TASKS[name]
    bar = {"bar": RichProgressBar()} if name == "carry" else {}
    trainer, module, kept = train(task, data, tmp_path / "own", **bar)
    engine, _ = train_tiny("torch", tmp_path / "ours", task, data=data)
    expected = history(tmp_path / "ours")
    metric = family_of(task).METRIC
    for row, right in zip(kept.rows, expected, strict=True):
        for column in ("validation_loss", f"validation_{metric}"):
            assert row[column] == right[column]
        for column in ("train_loss", f"train_{metric}"):
            assert row[column] == pytest.approx(right[column], rel=1e-5)
    with module.average.in_place() if module.average else torch.no_grad():
        assert_same_weights(read_tensors(module.model), engine.weights())
    (found,) = trainer.test(module, TaskDataModule(task, data), verbose=False)
    right = evaluate(task, data, "test", engine.predict)
    assert found["test_loss"] == right.loss
    assert found[f"test_{metric}"] == right.metric
    assert {"best.ckpt", "last.ckpt"} <= {file.name for file in (tmp_path / "own").iterdir()}


def test_a_checkpoint_of_ones_own_is_the_best_epochs_and_resumes(tmp_path: Path) -> None:
    task, data = TASKS["average"]
    trainer, whole, _ = train(task, data, tmp_path / "whole")
    best = LitTask.load_from_checkpoint(trainer.checkpoint_callback.best_model_path, task=task)
    (found,) = trainer.validate(best, TaskDataModule(task, data), verbose=False)
    assert found["validation_loss"] == float(trainer.checkpoint_callback.best_model_score)
    half = lightning.Trainer(
        accelerator="cpu",
        max_epochs=task.training.epochs,
        logger=False,
        callbacks=[ModelCheckpoint(tmp_path, "first"), _StopAfter(1)],
    )
    half.fit(LitTask(task), TaskDataModule(task, data))
    rest = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, logger=False, enable_checkpointing=False
    )
    resumed = LitTask(task)
    rest.fit(resumed, TaskDataModule(task, data), ckpt_path=tmp_path / "first.ckpt")
    assert_same_weights(read_tensors(resumed.model), read_tensors(whole.model))


class _StopAfter(Callback):
    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_lightnings_early_stopping_stops_where_ours_does(tmp_path: Path) -> None:
    _, _, kept = train(SPOILED, DATA, tmp_path / "own")
    _, recorder = train_tiny("torch", tmp_path / "ours", SPOILED)
    losses = [row["validation_loss"] for row in kept.rows]
    assert losses == [row["validation_loss"] for row in recorder.rows]
    assert len(losses) < SPOILED.training.epochs
    assert losses.index(min(losses)) == len(losses) - 1 - SPOILED.training.early_stopping_patience


def test_the_learning_rate_monitor_sees_each_steps_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self: Any, metrics: Any, step: int) -> None:
        logged.append((step, dict(metrics)))

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", log_metrics)
    task, data = TASKS["average"]
    train(task, data, tmp_path)
    rates = {step: row["lr-AdamW/pg1"] for step, row in logged if "lr-AdamW/pg1" in row}
    peak, total = task.optimizer.learning_rate, EPOCHS * STEPS
    assert rates == {s: learning_rate(task.schedule, peak, s, total) for s in range(total)}
    assert len(set(rates.values())) > total / 2  # they do differ
    names = {name for _, row in logged for name in row}
    assert {"train_loss_step", "train_loss_epoch", "validation_loss"} <= names


def test_an_empty_split_is_not_validated(tmp_path: Path) -> None:
    empty = dataclasses.replace(
        DATA,
        validation=dataclasses.replace(
            DATA.validation, images=DATA.validation.images[:0], labels=DATA.validation.labels[:0]
        ),
    )
    assert TaskDataModule(TASK, empty).val_dataloader() == []
    task = with_settings(training={"epochs": 1})
    _, recorder = train_tiny("lightning", tmp_path, task, data=empty)
    assert recorder.rows[0]["validation_loss"] is None


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"precision": "bf16-mixed"}, "precision is bf16-mixed.* set training.precision"),
        ({"strategy": FSDPStrategy()}, "strategy is a FSDPStrategy.* take strategy=.ddp"),
        ({"world_size": 5}, "batch_size 12 must divide by 5 processes"),
    ],
)
def test_a_trainer_that_would_train_something_else_is_refused(
    trainer: dict[str, Any], message: str
) -> None:
    usual = {"precision": "32-true", "strategy": DDPStrategy(), "global_rank": 0, "world_size": 2}
    module: Any = LitTask(TASK)
    module._trainer = SimpleNamespace(**usual)
    module.setup("fit")
    module._trainer = SimpleNamespace(**usual | {"strategy": SingleDeviceStrategy()})
    module.setup("fit")
    module._trainer = SimpleNamespace(**usual | trainer)
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


@pytest.mark.parametrize("option", ["gradient_clip_val", "accumulate_grad_batches"])
def test_lightning_refuses_what_the_task_says_itself(option: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"manual optimization. Remove .*{option}=2"):
        train(TASK, DATA, tmp_path, **{option: 2})
