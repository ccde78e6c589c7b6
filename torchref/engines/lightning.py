"""A task in PyTorch Lightning: a module and its data for a Trainer of one's own.

>>> task = TASKS["cifar10-cnn"]
>>> data = TaskDataModule(task, family_of(task).load("sample", task))
>>> trainer = Trainer(max_epochs=3, callbacks=[ModelCheckpoint(monitor="validation_loss")])
>>> trainer.fit(LitTask(task), data)

`torchref.engines.lightning_run` is what `--engine lightning` makes of them.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from jaxmodels.shared.families.family import SplitName
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.loop import score_batch
from jaxmodels.shared.processes import Process, check_divides
from jaxmodels.shared.schedules import learning_rate
from jaxmodels.shared.tasks import Task
from torchref.engines.plain import as_numpy, make_model, to_tensors
from torchref.optim import make_optimizer, prepare_gradients, set_learning_rate
from torchref.processes import average_statistics
from torchref.step import Average, Batch, Carry, compute_gradients, predict


class LitTask(lightning.LightningModule):
    """A task's model (None: a fresh one), loss, optimizer and schedule, and its measures.

    It steps the optimizer itself: Lightning's own accumulation would take a mean of the
    micro-batches' means, and its clipping divides by norm + 1e-6. In several processes each trains
    on its own rows of every batch, and evaluates all of the data.

    Logged are train_loss and, once an epoch, validation_loss, the same of the test split, and the
    task's metric by its name: train_accuracy. The rates of LearningRateMonitor are the steps' own.
    """

    def __init__(self, task: Task, *, model: nn.Module | None = None):
        super().__init__()
        self.task = task
        self.model = model or make_model(task)
        self.carry: Carry = None  # not in a checkpoint: those are of epochs' ends, where it resets
        decay = task.training.ema_decay
        self.average = Average(self.model, decay) if decay else None
        self.automatic_optimization = False

    def setup(self, stage: str) -> None:
        """Raises a ValueError for a Trainer that would not train what the task says."""
        trainer, training = self.trainer, self.task.training
        if trainer.precision != "32-true":
            raise ValueError(
                f"the Trainer's precision is {trainer.precision}, and the task says itself what "
                "runs in bfloat16; leave it out, and set training.precision to bfloat16"
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"the Trainer's strategy is a {type(trainer.strategy).__name__}, which splits the "
                'model or its gradients otherwise; take strategy="ddp", or one device'
            )
        process = Process(trainer.global_rank, trainer.world_size)
        check_divides(training.batch_size, training.micro_batches, process)

    def on_train_start(self) -> None:
        self._set_rate()

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, torch.Tensor]:
        left = self.task.training.micro_batches
        wrapper = self.trainer.strategy.model

        def backward(loss: torch.Tensor) -> None:
            nonlocal left
            left -= 1
            if isinstance(wrapper, DistributedDataParallel):
                # The last micro-batch's backward sends what all have added up to.
                wrapper.require_backward_grad_sync = left == 0
            # The processes' gradients are averaged; the batch's is their sum.
            self.manual_backward(loss * self.trainer.world_size)

        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        metrics, self.carry = compute_gradients(
            self.task,
            self.model,
            batch,
            self.carry,
            step=self.global_step,
            seed=self.task.training.seed,
            backward=backward,
            process=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        optimizer.step()
        if self.trainer.world_size > 1:
            metrics = {name: self._reduce(value, "sum") for name, value in metrics.items()}
            average_statistics(self.model, lambda value: self._reduce(value, "mean"))
        for name, value in self._named("train", metrics["loss"], metrics["metric"]).items():
            self.log(name, value, prog_bar=True, on_step=True, on_epoch=True, batch_size=1)
        return metrics

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        prepare_gradients(self.task.optimizer, self.model)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average:
            self.average.update()
        self._set_rate()

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("validation")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def predict(self, batch: Batch, carry: Carry = None) -> tuple[torch.Tensor, Carry]:
        """(outputs, carry) in evaluation mode, of the average where one is kept."""
        with self.average.in_place() if self.average else nullcontext():
            return predict(self.task, self.model, batch, carry)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average:
            checkpoint["average"] = self.average.values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average:
            self.average.values = checkpoint["average"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.task.optimizer, self.model, self.task.layers())

    def rate(self, step: int) -> float:
        """The learning rate of a step, of as many as the Trainer will make."""
        total = int(self.trainer.estimated_stepping_batches)
        return learning_rate(self.task.schedule, self.task.optimizer.learning_rate, step, total)

    def _set_rate(self) -> None:
        """The coming step's, which LearningRateMonitor reads before the step begins."""
        optimizer: Any = self.optimizers()
        set_learning_rate(optimizer, self.rate(self.global_step))

    def _reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
        """Over the processes."""
        return cast(torch.Tensor, self.trainer.strategy.reduce(value, reduce_op=how))

    def _start_evaluation(self) -> None:
        self.evaluated = (0.0, 0.0, 0)  # sums of loss and metric, and of how many targets
        self.evaluation_carry: Carry = None

    def _evaluate(self, batch: Batch) -> None:
        outputs, self.evaluation_carry = self.predict(batch, self.evaluation_carry)
        sums = score_batch(self.task, as_numpy(batch), outputs.cpu().numpy())
        self.evaluated = tuple(map(sum, zip(self.evaluated, sums, strict=True)))

    def _log_evaluation(self, split: str) -> None:
        loss, metric, count = self.evaluated
        # In float64, as the history has them.
        means = (torch.tensor(total / count, dtype=torch.float64) for total in (loss, metric))
        self.log_dict(self._named(split, *means), prog_bar=True)

    def _named(self, split: str, loss: Any, metric: Any) -> dict[str, Any]:
        return {f"{split}_loss": loss, f"{split}_{family_of(self.task).METRIC}": metric}


class TaskDataModule(lightning.LightningDataModule):
    """The shared batches: those of training epoch by epoch, of the others all, in order."""

    def __init__(self, task: Task, data: Any):
        super().__init__()
        self.task = task
        self.data = data

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Epoch(self), batch_size=None)  # the batches are made already

    def val_dataloader(self) -> list[DataLoader]:
        return self._evaluation("validation")

    def test_dataloader(self) -> list[DataLoader]:
        return self._evaluation("test")

    def _evaluation(self, split: SplitName) -> list[DataLoader]:
        """None for an empty split."""
        filled = family_of(self.task).count(self.data, split)
        return [DataLoader(_Split(self, split), batch_size=None)] if filled else []


class _Epoch(IterableDataset):
    """The batches of the Trainer's epoch; sized, so that Lightning knows where the epoch ends."""

    def __init__(self, module: TaskDataModule):
        self.module = module

    def __len__(self) -> int:
        return family_of(self.module.task).steps_per_epoch(self.module.task, self.module.data)

    def __iter__(self) -> Iterator[Batch]:
        task, trainer = self.module.task, self.module.trainer
        assert trainer is not None
        first = trainer.current_epoch * len(self)
        batches = family_of(task).training_batches(task, self.module.data, first)
        for batch in islice(batches, len(self)):
            yield to_tensors(batch)


class _Split(IterableDataset):
    """A split once."""

    def __init__(self, module: TaskDataModule, split: SplitName):
        self.module = module
        self.split: SplitName = split

    def __iter__(self) -> Iterator[Batch]:
        task = self.module.task
        for batch in family_of(task).evaluation_batches(task, self.module.data, self.split):
            yield to_tensors(batch)
