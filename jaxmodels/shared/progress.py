"""The progress bar: loss, accuracy, images/s and time left; one line an epoch stays."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_BAR_WIDTH = 24
_TEXT_WIDTH = 68  # of everything else, with its spaces


class Progress:
    """`with Progress(...) as bar: bar.advance(loss, accuracy); bar.end_epoch(row)`.

    Without a terminal only the epochs' lines are printed.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int, *, done: int = 0):
        console = Console(highlight=False)
        columns: list[ProgressColumn] = [
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=max(0, min(_BAR_WIDTH, console.width - _TEXT_WIDTH))),
            TextColumn("loss {task.fields[loss]:.4f} accuracy {task.fields[accuracy]:.2%}"),
            TextColumn("{task.fields[speed]:,.0f} images/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
        ]
        if console.width < _TEXT_WIDTH + 4:  # rich would cut the text short in favour of the bar
            del columns[1]
        self.bar = Bar(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task(
            "", total=epochs * steps_per_epoch, completed=done, epoch=1, loss=0, accuracy=0, speed=0
        )
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.step = done

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, loss: float, accuracy: float) -> None:
        """Shows a finished step and its metrics."""
        self.step += 1
        steps_per_second = self.bar.tasks[0].speed or 0.0  # of the last half minute
        self.bar.update(
            self.task,
            completed=self.step,
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            loss=loss,
            accuracy=accuracy,
            speed=steps_per_second * self.batch_size,
        )

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Prints the epoch's line: losses, accuracies, speed; it fits 80 columns."""
        text = (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  "
            f"train loss {row['train_loss']:.4f} {row['train_accuracy']:.2%}  "
        )
        if row["validation_loss"] is not None:
            text += f"validation {row['validation_loss']:.4f} {row['validation_accuracy']:.2%}  "
        self.bar.console.print(text + f"{row['images_per_second']:,.0f} images/s", soft_wrap=True)
