"""Trains a task on an engine: python scripts/train.py TASK --engine flax --out runs/first

usage: train.py TASK [--engine flax|torch|lightning|accelerate|xla] [--source sample|hub|tfds|PATH]
                [--out DIR] [--epochs N] [--batch-size N] [--seed N] [--resume]
                [--pretrained PATH|HUB_ID] [--mesh data=4,fsdp=2] [--optimizer.momentum 0.9 ...]

The source is the embedded sample (no network) unless told otherwise; PATH is a local folder or file
in any layout that the task's data set is found in (README.md lists them).

In several processes, on GPUs or CPUs:
    accelerate launch --multi_gpu --num_processes 2 scripts/train.py TASK --engine accelerate
    torchrun --nproc-per-node 2 scripts/train.py TASK --engine lightning
In one a TPU's chip:
    python -m torchref.engines.xla_launch scripts/train.py TASK --engine xla
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmodels.shared.before import measure_start
from jaxmodels.shared.command_line import (
    EngineName,
    TaskArguments,
    parse,
    run_script,
    settings_of,
    take_task,
    with_arguments,
)
from jaxmodels.shared.data.batches import measure_throughput
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.fine_tuning import checkpoint_of, with_checkpoint
from jaxmodels.shared.loop import Engine, evaluate
from jaxmodels.shared.memory import peak_memory_bytes
from jaxmodels.shared.outputs import describe, final_split, write_results
from jaxmodels.shared.processes import main_process_prints, this_process
from jaxmodels.shared.run import Run
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.training import prepare
from jaxmodels.shared.weights import count_parameters

_TASKS_OWN = tyro.conf.arg(metavar="N", help_behavior_hint="(default: the task's)")


@dataclass(frozen=True)
class Arguments(TaskArguments):
    """Where to train, and the settings that are asked for most.

    Each setting can also be written as optimizer.learning_rate=0.1, model.channels=16,32 or
    optimizer.nesterov=true.
    """

    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/TASK-ENGINE)"),
    ] = None
    """The run's folder."""
    epochs: Annotated[int | None, _TASKS_OWN] = None
    """Short for --training.epochs."""
    batch_size: Annotated[int | None, _TASKS_OWN] = None
    """Short for --training.batch-size."""
    seed: Annotated[int | None, _TASKS_OWN] = None
    """Short for --training.seed."""
    pretrained: Annotated[
        str | None, tyro.conf.arg(metavar="PATH|HUB_ID", help_behavior_hint="(default: none)")
    ] = None
    """A folder or the Hub's id of the model to fine-tune; its config becomes the task's."""
    mesh: Annotated[
        str, tyro.conf.arg(metavar="AXIS=SIZE,...|auto", help_behavior_hint="(default: one device)")
    ] = ""
    """The devices of --engine flax, of the axes data, fsdp, tensor and sequence."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Continue the run in --out from its last checkpoint, exactly."""


def main() -> None:
    task = take_task(sys.argv[1:], (__doc__ or "").partition("\n\n")[2].strip())
    arguments = parse(Arguments(**settings_of(task)), sys.argv[2:], prog=f"train.py {task.name}")
    task = with_arguments(task, arguments, shortcuts=("epochs", "batch_size", "seed"))
    folder = arguments.out or Path("runs") / f"{task.name}-{arguments.engine}"
    pretrained = arguments.pretrained or checkpoint_of(task)
    if pretrained:
        task = with_checkpoint(task, pretrained, folder, resume=arguments.resume)
    with main_process_prints():
        train(
            task,
            arguments.engine,
            arguments.source,
            folder,
            resume=arguments.resume,
            mesh=arguments.mesh,
        )


def train(
    task: Task,
    engine_name: EngineName,
    source: str,
    folder: Path,
    *,
    resume: bool,
    mesh: str,
) -> None:
    """Loads the data, trains, and writes everything a finished run holds."""
    # All that can be refused is refused before the folder is claimed, and before hours of training.
    for package in ("matplotlib", "tensorboardX"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"a run's plots and scalars need {package}, which is not installed; "
                "run: pip install 'jaxmodels[report]'"
            )
    family = family_of(task)
    own = resume and checkpoint_of(task) and (folder / "run.json").exists()
    data = family.load(source, task, folder if own else None)  # the checkpoint may be gone by now
    steps = family.steps_per_epoch(task, data)

    def before(engine: Engine) -> None:
        if checkpoint_of(task) and family.MEASURED_BEFORE:
            print(*measure_start(task, data, folder, engine), sep="\n")

    run = Run(task, engine_name, source)
    training = prepare(run, data, folder, resume=resume, before=before, mesh=mesh)
    print(
        f"{task.name} with {engine_name} on {data.source}\n{describe(task, data)}, {steps:,} steps "
        "an epoch"
    )
    engine, recorder = training()
    if not this_process().is_main:
        return
    peak_memory = peak_memory_bytes()
    split = final_split(task, data)
    evaluation = evaluate(task, data, split, engine.predict)
    last = recorder.rows[-1]
    pipeline = measure_throughput(family.training_batches(task, data))
    seconds = sum(row["seconds"] for row in recorder.rows)
    result, *verdicts = write_results(
        folder,
        task,
        data,
        split,
        evaluation,
        recorder.rows,
        engine.predict,
        engine=engine_name,
        epochs=last["epoch"],
        training_seconds=seconds,
        steps_per_second=last["steps_per_second"],
        pipeline_batches_per_second=pipeline,
        parameters=count_parameters(engine.weights()),
        trainable_parameters=engine.trainable_parameters,
        peak_memory_bytes=peak_memory,
    )
    print(f"{result} after {last['epoch']} epochs in {seconds / 60:.1f} min", *verdicts, sep="\n")
    if source != "sample":  # which the recipe was not made for
        print(f"the recipe's goal: {task.goal}")
    print(
        f"the pipeline alone gives {pipeline:,.0f} batches/s, training takes "
        f"{last['steps_per_second']:,.1f} steps/s"
    )
    print(f"run: {folder}")


if __name__ == "__main__":
    run_script(main)
