"""The PyTorch Lightning engine: the same steps inside Lightning's Trainer.

`LitTask` and `TaskDataModule` are an ordinary LightningModule and LightningDataModule, free
to be put into a Trainer of one's own; `fit_lightning` is what `--engine lightning` runs.
"""

import io
import logging
import signal
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from jaxmodels.shared.checksums import damaged
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import replaced
from jaxmodels.shared.loop import epoch_row, probe_batch, progress_bar, validate
from jaxmodels.shared.run import Recorder, check_finite
from jaxmodels.shared.schedules import learning_rate
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import check_match
from torchref.engines.plain import TorchEngine, make_model, missing, to_tensors
from torchref.optim import make_optimizer, prepare_gradients, set_learning_rate
from torchref.step import Average, Batch, Carry, compute_gradients, training_loss


class LitTask(lightning.LightningModule):
    """A task's model (None: a fresh one), loss, optimizer and schedule."""

    def __init__(self, task: Task, *, total_steps: int, model: nn.Module | None = None):
        super().__init__()
        self.task = task
        self.total_steps = total_steps
        self.model = model or make_model(task)
        self.carry: Carry = None  # not in a checkpoint: those are of epochs' ends, where it resets
        decay = task.training.ema_decay
        self.average = Average(self.model, decay) if decay else None
        # Lightning's own accumulation would take a mean of the micro-batches' means.
        self.automatic_optimization = task.training.micro_batches == 1

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, torch.Tensor]:
        options: dict[str, Any] = {"step": self.global_step, "seed": self.task.training.seed}
        if self.automatic_optimization:
            metrics, self.carry = training_loss(self.task, self.model, batch, self.carry, **options)
            return metrics
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        metrics, self.carry = compute_gradients(
            self.task, self.model, batch, self.carry, backward=self.manual_backward, **options
        )
        optimizer.step()
        return metrics

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average:
            self.average.update()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average:
            checkpoint["average"] = self.average.values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average:
            self.average.values = checkpoint["average"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        prepare_gradients(self.task.optimizer, self.model)
        set_learning_rate(optimizer, self.rate(self.global_step))

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        peak = self.task.optimizer.learning_rate
        return learning_rate(self.task.schedule, peak, step, self.total_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.task.optimizer, self.model, self.task.layers())


class TaskDataModule(lightning.LightningDataModule):
    """The shared training batches, epoch by epoch."""

    def __init__(self, task: Task, data: Any):
        super().__init__()
        self.task = task
        self.data = data

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        dataset = _Epoch(self.task, self.data, self.trainer.current_epoch)
        return DataLoader(dataset, batch_size=None)  # the batches are made already


class _Epoch(IterableDataset):
    """One epoch's batches; a sized iterable, so that Lightning knows where the epoch ends."""

    def __init__(self, task: Task, data: Any, epoch: int):
        self.task = task
        self.data = data
        self.epoch = epoch

    def __len__(self) -> int:
        return family_of(self.task).steps_per_epoch(self.task, self.data)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        family = family_of(self.task)
        batches = family.training_batches(self.task, self.data, self.epoch * len(self))
        for batch in islice(batches, len(self)):
            yield to_tensors(batch)


class RunRecorder(Callback):
    """Writes the run's history, shows progress, checks the loss, stops early."""

    def __init__(self, task: Task, data: Any, recorder: Recorder, engine: TorchEngine):
        self.task = task
        self.data = data
        self.recorder = recorder
        self.engine = engine
        self.steps = family_of(task).steps_per_epoch(task, data)
        self.open = ExitStack()  # the progress bar and TensorBoard's file
        self.probe = probe_batch(task, data)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.recorder.rewind(trainer.current_epoch)
        bar = progress_bar(self.task, self.data, self.steps, done=trainer.global_step)
        self.open.callback(self.recorder.close)
        self.bar = self.open.enter_context(bar)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.started = time.perf_counter()
        self.sums = {"loss": 0.0, "metric": 0.0}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss, metric = float(outputs["loss"]), float(outputs["metric"])
        check_finite(loss, trainer.global_step - 1, self.steps, batch["index"].tolist())
        self.sums["loss"] += loss
        self.sums["metric"] += metric
        self.bar.advance(loss, metric)
        self.rows = batch["index"].tolist()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        seconds = time.perf_counter() - self.started
        outputs, _ = self.engine.predict(self.probe)
        check_finite(outputs, trainer.global_step - 1, self.steps, self.rows)
        rate = pl_module.rate(trainer.global_step - 1)
        row = {"epoch": trainer.current_epoch + 1}
        row |= epoch_row(
            self.task, self.sums, self.steps, rate, self.steps, seconds, self.bar.units_per_step
        )
        row |= {"data_wait_fraction": None}  # Lightning does not say
        row |= validate(self.task, self.data, self.engine.predict)
        self.recorder.append(row)
        self.bar.end_epoch(row)
        monitored = row["validation_loss"]
        if monitored is not None:  # what the "best" ModelCheckpoint watches
            trainer.callback_metrics["validation_loss"] = torch.tensor(monitored)
        trainer.should_stop = trainer.should_stop or self.recorder.should_stop

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self.open.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        self.open.close()


class CheckedFiles(TorchCheckpointIO):
    """Checkpoints of a module: written whole or not at all, and read without running a pickle."""

    def __init__(self, module: LitTask):
        super().__init__()
        self.module = module

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        # Lightning's own goes through the temporary folder, from where a move may be torn.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replaced(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(path) as file:  # torch does not look at the checksums within
                broken = file.testzip()
            if broken:
                raise ValueError(f"{broken} differs from its checksum")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            found = checkpoint["state_dict"]
        except Exception as error:  # zipfile, pickle and torch each have their own
            raise damaged(path, error) from error
        expected = self.module.state_dict()
        try:
            check_match(
                {name: tuple(value.shape) for name, value in found.items()},
                {name: tuple(value.shape) for name, value in expected.items()},
            )
        except ValueError as error:
            raise ValueError(f"checkpoint {path}: {error}") from None
        wrong = [name for name in found if found[name].dtype != expected[name].dtype]
        if wrong:
            raise ValueError(
                f"checkpoint {path}: {wrong[0]} is {found[wrong[0]].dtype}, expected "
                f"{expected[wrong[0]].dtype} (so are {len(wrong) - 1} more tensors)"
            )
        return checkpoint


@contextmanager
def as_a_guest() -> Iterator[None]:
    """Lightning without its banner and advice, and with Ctrl-C left to its caller."""
    logger, handler = logging.getLogger("lightning.pytorch"), signal.getsignal(signal.SIGINT)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # on workers and loggers
            yield
    except SystemExit:  # what Lightning makes of a KeyboardInterrupt, after ignoring the signal
        raise KeyboardInterrupt from None
    finally:
        logger.setLevel(level)
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def fit_lightning(
    task: Task,
    data: Any,
    folder: Path,
    *,
    resume: bool,
    engine: TorchEngine | None = None,
) -> tuple[TorchEngine, Recorder]:
    """Trains in Lightning's Trainer; returns a plain engine with the final weights, and history.

    `engine` holds the model to train; None: a fresh one.

    Checkpoints are Lightning's own, `checkpoints/{last,best}.ckpt`, written at each epoch's end.

    Raises:
        ValueError: `resume` is on and there is no checkpoint, or not one of this model; or the task
            asks for checkpoints within an epoch.
    """
    check_supported(task)
    training = task.training
    steps = family_of(task).steps_per_epoch(task, data)
    engine = engine or TorchEngine(task, folder)
    # One model: the engine evaluates what Lightning trains.
    module = LitTask(task, total_steps=training.epochs * steps, model=engine.model)
    engine.average = module.average
    recorder = Recorder(folder, training.early_stopping_patience)
    checkpoints = folder / "checkpoints"
    last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
    if resume and not last.exists():
        raise missing(last)
    callbacks: list[Callback] = [RunRecorder(task, data, recorder, engine)]
    callbacks.append(
        ModelCheckpoint(
            checkpoints, "last", save_on_train_epoch_end=True, enable_version_counter=False
        )
    )
    if family_of(task).count(data, "validation"):
        callbacks.append(
            ModelCheckpoint(
                checkpoints,
                "best",
                monitor="validation_loss",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    files = CheckedFiles(module)
    with as_a_guest():
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=training.epochs,
            callbacks=callbacks,
            plugins=[files],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
        )
        resumed = str(last) if resume else None
        trainer.fit(module, TaskDataModule(task, data), ckpt_path=resumed, weights_only=True)
    if training.early_stopping_patience and recorder.best:
        checkpoint = files.load_checkpoint(best)
        module.load_state_dict(checkpoint["state_dict"])
        module.on_load_checkpoint(checkpoint)
    engine.model = module.model.cpu()
    return engine, recorder


def check_supported(task: Task) -> None:
    """Raises a ValueError for what Lightning does not do exactly."""
    every = task.training.checkpoint_every_steps
    if every:
        raise ValueError(
            f"--training.checkpoint-every-steps {every}: with --engine lightning, checkpoints are "
            "written at the ends of epochs; leave it at 0, or take --engine torch"
        )
