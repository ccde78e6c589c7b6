"""The progress bar: loss, accuracy, images/s and time left; one line an epoch stays."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """`with Progress(...) as bar: bar.advance(loss, accuracy); bar.end_epoch(row)`.

    Without a terminal only the epochs' lines are printed.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int, *, done: int = 0):
        console = Console(highlight=False)
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=24),
            TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.2%}"),
            TextColumn("{task.fields[speed]:,.0f} images/s  left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(
            "", total=epochs * steps_per_epoch, completed=done, epoch=1, loss=0, accuracy=0, speed=0
        )
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.start_step = self.step = done
        self.start = time.perf_counter()

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, loss: float, accuracy: float) -> None:
        """Shows a finished step and its metrics."""
        self.step += 1
        images = (self.step - self.start_step) * self.batch_size
        self.bar.update(
            self.task,
            completed=self.step,
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            loss=loss,
            accuracy=accuracy,
            speed=images / (time.perf_counter() - self.start),
        )

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Prints the epoch's line of the history."""
        text = (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  "
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
        )
        if row["validation_loss"] is not None:
            text += (
                f"validation loss {row['validation_loss']:.4f} "
                f"accuracy {row['validation_accuracy']:.2%}  "
            )
        text += f"{row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s"
        self.bar.console.print(text, soft_wrap=True)
