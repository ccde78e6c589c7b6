"""The progress bar: loss, metric, images/s and time left; one line an epoch stays."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_BAR_WIDTH = 24
_TEXT_WIDTH = 68  # of everything else, with its spaces


class Progress:
    """`with Progress(...) as bar: bar.advance(loss, metric); bar.end_epoch(row)`.

    Without a terminal only the epochs' lines are printed.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        units_per_step: int,
        *,
        unit: str,
        metric: str,
        done: int = 0,
    ):
        console = Console(highlight=False)
        columns: list[ProgressColumn] = [
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=max(0, min(_BAR_WIDTH, console.width - _TEXT_WIDTH))),
            TextColumn("loss {task.fields[loss]:.4f} " + metric + " {task.fields[metric]}"),
            TextColumn("{task.fields[speed]:,.0f} " + unit + "/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
        ]
        if console.width < _TEXT_WIDTH + 4:  # rich would cut the text short in favour of the bar
            del columns[1]
        self.bar = Bar(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task(
            "", total=epochs * steps_per_epoch, completed=done, epoch=1, loss=0, metric="", speed=0
        )
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.units_per_step = units_per_step
        self.unit, self.metric = unit, metric
        self.step = done

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, loss: float, metric: float) -> None:
        """Shows a finished step and its loss and metric."""
        self.step += 1
        steps_per_second = self.bar.tasks[0].speed or 0.0  # of the last half minute
        self.bar.update(
            self.task,
            completed=self.step,
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            loss=loss,
            metric=format_metric(self.metric, metric),
            speed=steps_per_second * self.units_per_step,
        )

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Prints the epoch's line: losses, metrics, speed."""
        text = f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  "
        for part in ("train", "validation"):
            if row[f"{part}_loss"] is not None:
                name = "train loss" if part == "train" else part
                metric = format_metric(self.metric, row[f"{part}_{self.metric}"])
                text += f"{name} {row[f'{part}_loss']:.4f} {metric}  "
        speed = f"{row[f'{self.unit}_per_second']:,.0f} {self.unit}/s"
        if (each := f"{self.unit}_per_device_per_second") in row:
            speed += f", {row[each]:,.0f} a device"
        if "teraflops_per_second" in row:
            tera = row["teraflops_per_second"]
            speed += f"  {tera:.3g} TFLOP/s" if tera >= 1 else f"  {tera * 1000:.3g} GFLOP/s"
        if "mfu" in row:
            speed += f"  MFU {row['mfu']:.0%}"
        if row.get("train_skipped_steps"):
            text += f"{row['train_skipped_steps']} steps skipped  "
        self.bar.console.print(text + speed, soft_wrap=True)


def format_metric(name: str, value: float) -> str:
    """An accuracy in percent, an error as it is."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4f}"
