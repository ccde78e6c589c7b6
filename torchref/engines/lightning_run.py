"""The PyTorch Lightning engine: a run of a task inside Lightning's Trainer.

The steps are plain torch's, bit for bit; in several processes, each trains on its own rows.
"""

import io
import logging
import signal
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from jaxmodels.shared.checksums import damaged
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import replaced
from jaxmodels.shared.loop import epoch_row, probe_batch, progress_bar
from jaxmodels.shared.processes import check_count, this_process
from jaxmodels.shared.run import Recorder, Row, check_finite
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import check_match
from torchref.engines.lightning import LitTask, TaskDataModule
from torchref.engines.plain import TorchEngine, to_tensors
from torchref.processes import with_the_others


class RunRecorder(Callback):
    """Writes the run's history, shows progress, checks the loss, stops early."""

    def __init__(self, task: Task, data: Any, recorder: Recorder):
        self.task = task
        self.data = data
        self.recorder = recorder
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
        self.seconds = time.perf_counter() - self.started  # without the validation that follows

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        outputs, _ = pl_module.predict(to_tensors(self.probe, pl_module.device))
        check_finite(outputs.cpu().numpy(), trainer.global_step - 1, self.steps, self.rows)
        rate = pl_module.rate(trainer.global_step - 1)
        row: Row = {"epoch": trainer.current_epoch + 1}
        row |= epoch_row(
            self.task,
            self.sums,
            self.steps,
            rate,
            self.steps,
            self.seconds,
            self.bar.units_per_step,
        )
        row |= {"data_wait_fraction": None}  # Lightning does not say
        found = trainer.callback_metrics
        for name in ("validation_loss", f"validation_{family_of(self.task).METRIC}"):
            row[name] = float(found[name]) if name in found else None
        self.recorder.append(row)
        self.bar.end_epoch(row)
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
        checkpoint["processes"] = this_process().count
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
            found, count = checkpoint["state_dict"], checkpoint["processes"]
        except Exception as error:  # zipfile, pickle and torch each have their own
            raise damaged(path, error) from error
        check_count(path, count, this_process())
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
    accelerator: str = "auto",
    devices: int | None = None,
    strategy: str = "auto",
) -> tuple[TorchEngine, Recorder]:
    """Trains in Lightning's Trainer; returns a plain engine with the final weights, and history.

    `engine` holds the model to train; None: a fresh one. `accelerator`, `devices` and `strategy`
    are the Trainer's; by default each of the processes that torchrun started has a device, and one
    is by itself.

    Checkpoints are Lightning's own, `checkpoints/{last,best}.ckpt`, written at each epoch's end.

    Raises:
        ValueError: `resume` is on and there is no checkpoint, or not one of this model; or the task
            asks for checkpoints within an epoch; or `devices` are not as many as the processes of
            this machine.
    """
    check_supported(task)
    training, process = task.training, this_process()
    if devices not in (None, process.local_count):
        raise ValueError(
            f"devices={devices}, and this is one of {process.local_count} processes; start as many "
            f"as devices: torchrun --nproc-per-node {devices}"
        )
    engine = engine or TorchEngine(task, folder)
    # One model: the engine evaluates what Lightning trains.
    module = LitTask(task, model=engine.model)
    engine.average = module.average
    recorder = Recorder(folder, training.early_stopping_patience)
    checkpoints = folder / "checkpoints"
    last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
    if resume and not last.exists():
        raise ValueError(
            f"{last} is missing, so there is nothing to resume from; start again without --resume, "
            "in another --out"
        )
    callbacks: list[Callback] = [RunRecorder(task, data, recorder)]
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
    with as_a_guest(), with_the_others(process):
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=process.local_count,
            num_nodes=process.count // process.local_count,
            strategy=strategy,
            max_epochs=training.epochs,
            callbacks=callbacks,
            plugins=[files],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
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
