"""The Accelerate engine: the shared loop in one process or in several, on the devices it finds.

>>> engine = AccelerateEngine(task, folder)
>>> history = fit(task, data, engine, folder, resume=False)

Every process goes through the same batches and takes its own rows; the gradients are summed over
them by DistributedDataParallel, so that all hold the same model. In one process the steps are plain
torch's, bit for bit. Checkpoints are what `Accelerator.save_state` writes.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from jaxmodels.shared.checksums import (
    Position,
    check_record,
    check_tensors,
    choose_step,
    damaged,
    saved_steps,
    seal,
)
from jaxmodels.shared.files import could_not_write
from jaxmodels.shared.loop import Start
from jaxmodels.shared.processes import check_count, this_process
from jaxmodels.shared.tasks import Task
from torchref.engines.plain import TorchEngine, as_numpy, to_tensors
from torchref.optim import prepare_gradients, set_learning_rate
from torchref.processes import average_statistics, rows_of, rows_of_all, with_the_others
from torchref.step import Average, compute_gradients

RECORD, CARRIED = "record.json", "carried.safetensors"


class AccelerateEngine(TorchEngine):
    """Trains a task's model; `folder` receives the checkpoints, `checkpoints/{last,best}/STEP`.

    `cpu` leaves faster devices alone.

    BatchNorm normalises by each process's own rows; its running statistics are the processes' mean.
    Evaluation runs whole in every process, so that all draw the same conclusions from it.

    Raises:
        ValueError: Accelerate counts other processes than the environment tells.
    """

    def __init__(self, task: Task, folder: Path, start: Start | None = None, *, cpu: bool = False):
        super().__init__(task, folder, start)
        self.process = this_process()
        self.accelerator = _make_accelerator(task, cpu=cpu)
        if self.accelerator.num_processes != self.process.count or _should_be_several():
            raise ValueError(
                "`accelerate launch --cpu` starts a single process without mpirun, and mpirun's "
                "are not known here; start several by `accelerate launch --multi_gpu "
                "--num_processes 2` (on CPUs too) or by torchrun --nproc-per-node 2"
            )
        self.device = self.accelerator.device
        with warnings.catch_warnings():  # older torch has no other name for it
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            self.prepared, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if self.average:  # of the parameters where they are now
            self.average = Average(self.model, self.average.decay)
        self.accelerator.register_save_state_pre_hook(self._save_carried)
        self.accelerator.register_load_state_pre_hook(self._load_carried)

    def train_step(self, batch: dict[str, np.ndarray], *, step: int, rate: float) -> dict[str, Any]:
        left = self.task.training.micro_batches
        with with_the_others(self.process), ExitStack() as unsynchronised:

            def backward(loss: torch.Tensor) -> None:
                nonlocal left
                # The processes' gradients are averaged; the batch's is their sum.
                self.accelerator.backward(loss * self.process.count)
                left -= 1
                if left == 1:  # the last micro-batch's backward sends what all have added up to
                    unsynchronised.close()

            if left > 1:
                unsynchronised.enter_context(self.accelerator.no_sync(self.prepared))
            self.optimizer.zero_grad()
            metrics, self.carry = compute_gradients(
                self.task,
                self.prepared,
                to_tensors(batch, self.device),
                self.carry,
                step=step,
                seed=self.task.training.seed,
                backward=backward,
                process=self.process.index,
                processes=self.process.count,
            )
            prepare_gradients(self.task.optimizer, self.model)
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
            if self.process.count > 1:
                metrics = {name: self._reduce(value, "sum") for name, value in metrics.items()}
                average_statistics(self.model, lambda value: self._reduce(value, "mean"))
        if self.average:
            self.average.update()
        return metrics

    def _reduce(self, value: torch.Tensor, how: Literal["sum", "mean"]) -> torch.Tensor:
        """Over the processes."""
        return cast(torch.Tensor, self.accelerator.reduce(value, how))

    def _gather_rows(self, value: torch.Tensor) -> torch.Tensor:
        """(_, B, _) of each process -> (_, processes * B, _)."""
        rows = value.transpose(0, 1).contiguous()
        return cast(torch.Tensor, self.accelerator.gather(rows)).transpose(0, 1)

    def carried(self) -> dict[str, torch.Tensor]:
        """Of all processes."""
        return rows_of_all(super().carried(), self._gather_rows)

    def carry_on(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes this process's rows."""
        super().carry_on(rows_of(self.process, tensors))

    def save(self, name: str, position: Position) -> None:
        folder = self.folder / name / str(position["step"])
        temporary = folder.with_name(f".{folder.name}.tmp")
        if self.process.is_main:
            shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        with with_the_others(self.process):
            self._to_save = self.carried()
            self.accelerator.wait_for_everyone()
            with _whole_or_not_at_all(folder, temporary):
                self.accelerator.save_state(str(temporary))
            self.accelerator.wait_for_everyone()
            if self.process.is_main:
                with _whole_or_not_at_all(folder, temporary):
                    count = {"processes": self.process.count}
                    record = json.dumps(seal(position | count, _content(temporary)))
                    (temporary / RECORD).write_text(record)
                    _take_place(temporary, folder)
                keep = self.task.training.keep_checkpoints if name == "last" else 1
                for older in saved_steps(folder.parent)[:-keep]:
                    shutil.rmtree(folder.with_name(str(older)))
            self.accelerator.wait_for_everyone()

    def restore(self, name: str, step: int | None = None) -> Position:
        folder = self.folder / name
        step, before = choose_step(folder, saved_steps(folder), step)
        path = folder / str(step)
        try:
            record = json.loads((path / RECORD).read_text())
            content = _content(path)
        except Exception as error:  # JSON and safetensors each have their own
            raise damaged(path, error, before) from error
        model = as_numpy({f"model.{key}": v for key, v in self.model.state_dict().items()})
        check_record(record, model, where=str(path), prefix="model.", before=before)
        position = dict(check_tensors(record, content, where=str(path), before=before))
        check_count(path, position.pop("processes"), self.process)
        self.accelerator.load_state(str(path))
        if self.process.is_main:
            for later in (other for other in saved_steps(folder) if other > step):
                shutil.rmtree(folder / str(later))  # the resumed training makes it again
        return position

    # By hooks, for Accelerate reads what is registered for checkpointing with pickle, unguarded.
    def _save_carried(self, models: Any, weights: Any, folder: str) -> None:
        if self.process.is_main:
            tensors = {name: value.cpu().contiguous() for name, value in self._to_save.items()}
            save_file(tensors, Path(folder) / CARRIED)

    def _load_carried(self, models: Any, folder: str) -> None:
        self.carry_on(load_file(Path(folder) / CARRIED))


def _make_accelerator(task: Task, *, cpu: bool) -> Accelerator:
    # Accelerate keeps one state a process, which a task of another precision must not inherit.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision="bf16" if task.training.precision == "bfloat16" else "no",
        # Where there is nothing else, or several processes would not see each other.
        cpu=cpu or not torch.accelerator.is_available(),
        # Not from the environment: the micro-batches are weighted already.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # One process's running statistics would replace all others'; they are averaged instead.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _should_be_several() -> bool:
    """Whether `accelerate launch --cpu` was asked for several: it sets where they would meet."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return asked and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ


def _content(folder: Path) -> dict[str, np.ndarray]:
    """The model's tensors, and the bytes of the other files, by name."""
    model = load_file(folder / "model.safetensors")
    files = [file for file in folder.iterdir() if file.name not in (RECORD, "model.safetensors")]
    return {
        f"model.{name.removeprefix('module.')}": value.numpy() for name, value in model.items()
    } | {file.name: np.frombuffer(file.read_bytes(), np.uint8) for file in files}


@contextmanager
def _whole_or_not_at_all(folder: Path, temporary: Path) -> Iterator[None]:
    """A failed write is an OSError that names the folder, and leaves nothing behind."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError is torch.save's
        shutil.rmtree(temporary, ignore_errors=True)
        raise could_not_write(folder, error) from error


def _take_place(temporary: Path, folder: Path) -> None:
    """Renames a folder whose files are on the disk."""
    for path in temporary.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # a crash after the rename must not leave an empty file
    shutil.rmtree(folder, ignore_errors=True)  # of an epoch that is trained again
    os.replace(temporary, folder)
