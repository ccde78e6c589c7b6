"""Trains a task on an engine: python scripts/train.py TASK --engine flax --out runs/first

usage: train.py TASK [--engine flax|torch|lightning] [--source sample|hub|tfds|PATH] [--out DIR]
                [--epochs N] [--batch-size N] [--seed N] [--resume] [--optimizer.learning-rate 0.1 ...]

The source is the embedded sample (handwritten digits, no network) unless told otherwise; PATH is a
local folder in the Hub's parquet layout or the original CIFAR-10 python batches.
"""

import dataclasses
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmodels.shared import run as runs
from jaxmodels.shared.command_line import (
    EngineName,
    check_fits,
    make_engine,
    missing_extra,
    run_script,
    take_task,
)
from jaxmodels.shared.data.batches import measure_throughput
from jaxmodels.shared.data.images import load_images
from jaxmodels.shared.loop import fit, predict_split
from jaxmodels.shared.outputs import write_outputs
from jaxmodels.shared.run import Run
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.weights import save_checkpoint


@dataclass(frozen=True)
class Arguments:
    """Where and with what to train; the rest are the task's own settings."""

    task: Annotated[Task, tyro.conf.arg(name="")]
    engine: EngineName = "flax"
    """The framework that trains."""
    source: str = "sample"
    """sample, hub, hub:OWNER/NAME, tfds, tfds:NAME, or a local folder."""
    out: Path | None = None
    """The run's folder [default: runs/TASK-ENGINE]."""
    epochs: int | None = None
    """Short for --training.epochs."""
    batch_size: int | None = None
    """Short for --training.batch-size."""
    seed: int | None = None
    """Short for --training.seed."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, exactly."""


def main() -> None:
    task = take_task(sys.argv[1:], (__doc__ or "").partition("\n\n")[2].strip())
    # `optimizer.learning_rate=0.1` is taken as well as `--optimizer.learning-rate 0.1`.
    rest = [re.sub(r"^(\w+\.\w+=)", r"--\1", argument) for argument in sys.argv[2:]]
    arguments = tyro.cli(Arguments, args=rest, default=Arguments(task), prog=f"train.py {task.name}")
    shortcuts = {
        name: value
        for name in ("epochs", "batch_size", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    task = arguments.task
    task = dataclasses.replace(task, training=dataclasses.replace(task.training, **shortcuts))
    folder = arguments.out or Path("runs") / f"{task.name}-{arguments.engine}"
    train(task, arguments.engine, arguments.source, folder, resume=arguments.resume)


def train(task: Task, engine_name: EngineName, source: str, folder: Path, *, resume: bool) -> None:
    """Loads the data, trains, and writes everything a finished run holds."""
    data = load_images(source, task.data)
    check_fits(task, data)
    print(
        f"{task.name} with {engine_name} on {data.source}: {len(data.train.labels):,} training, "
        f"{len(data.validation.labels):,} validation, {len(data.test.labels):,} test images"
    )
    mean, std = (tuple(float(v) for v in values) for values in (data.mean, data.std))
    runs.start(
        folder,
        Run(task, engine_name, source, data.class_names, mean, std),
        resume=resume,
    )
    if engine_name == "lightning":
        try:
            from torchref.engines.lightning import fit_lightning
        except ModuleNotFoundError as error:
            raise ValueError(missing_extra(engine_name, error)) from None
        engine, recorder = fit_lightning(task, data, folder, resume=resume)
    else:
        engine = make_engine(engine_name, task, folder)
        recorder = fit(task, data, engine, folder, resume=resume)
    save_checkpoint(folder, task.model, engine.weights())
    logits = predict_split(task, data, data.test, engine.logits)
    last = recorder.rows[-1]
    pipeline = measure_throughput(
        data, task.data, batch_size=task.training.batch_size, seed=task.training.seed
    )
    results = write_outputs(
        folder,
        task,
        data,
        logits,
        recorder.rows,
        engine=engine_name,
        epochs=last["epoch"],
        training_seconds=sum(row["seconds"] for row in recorder.rows),
        steps_per_second=last["steps_per_second"],
        pipeline_batches_per_second=pipeline,
    )
    print(
        f"test accuracy {results['test_accuracy']:.2%}, loss {results['test_loss']:.4f} on "
        f"{results['test_examples']:,} images after {last['epoch']} epochs in "
        f"{results['training_seconds'] / 60:.1f} min"
    )
    print(
        f"the pipeline alone gives {pipeline:,.0f} batches/s, training takes "
        f"{last['steps_per_second']:,.1f} steps/s"
    )
    print(f"run: {folder}")


if __name__ == "__main__":
    run_script(main)
