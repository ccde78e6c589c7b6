"""What the scripts share: engines by name, tasks in `--help`, one line for a user's mistake."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxmodels.shared import run as runs
from jaxmodels.shared.data.images import ImageData
from jaxmodels.shared.run import NonFiniteLossError, Run
from jaxmodels.shared.tasks import TASKS, Task
from jaxmodels.shared.weights import load_checkpoint

if TYPE_CHECKING:
    from jaxmodels.shared.loop import Engine

EngineName = Literal["flax", "torch", "lightning"]


def make_engine(name: EngineName, task: Task, folder: Path) -> "Engine":
    """The engine that holds a task's model; Lightning's model is plain torch's.

    Raises:
        ValueError: the framework is not installed; the message names the extra.
    """
    try:
        if name == "flax":
            from jaxmodels.engine import FlaxEngine

            return FlaxEngine(task, folder)
        from torchref.engines.plain import TorchEngine

        return TorchEngine(task, folder)
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(name, error)) from None


def load_engine(folder: Path, name: EngineName | None = None) -> tuple[Run, "Engine"]:
    """A finished run and an engine (the run's own, if None) that holds its final weights."""
    run = runs.load(folder)
    config, tensors = load_checkpoint(folder)
    if config != run.task.model:
        raise ValueError(f"{folder}: config.json and run.json describe different models")
    # Lightning's model is plain torch's.
    engine = make_engine(name or ("flax" if run.engine == "flax" else "torch"), run.task, folder)
    try:
        engine.load_weights(tensors)
    except ValueError as error:
        raise ValueError(f"{folder / 'model.safetensors'}: {error}") from None
    return run, engine


def check_fits(task: Task, data: ImageData) -> None:
    """Raises a ValueError where the model's sizes are not the data's."""
    height, width, channels = data.train.images.shape[1:]
    found = {
        "image_size": height if height == width else f"{height}x{width}",
        "in_channels": channels,
        "num_classes": len(data.class_names),
    }
    for name, value in found.items():
        if getattr(task.model, name) != value:
            raise ValueError(
                f"{data.source} has {name} {value}, the model {getattr(task.model, name)}; "
                f"add --model.{name.replace('_', '-')} {value}"
            )


def missing_extra(engine: str, error: ModuleNotFoundError) -> str:
    """What to install for an engine whose framework is missing."""
    extra = {"flax": "jax"}.get(engine, engine)
    return (
        f"--engine {engine} needs {error.name}, which is not installed; "
        f"run: pip install 'jaxmodels[{extra}]'"
    )


def take_task(arguments: list[str], usage: str) -> Task:
    """The task that the first argument names; with --help or none, the list of tasks."""
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, TASKS))
        print(usage + "\n\ntasks:")
        for name, task in TASKS.items():
            print(f"  {name:<{width}}  {task.description}")
        print("\n`TASK --help` lists every setting of a task.")
        sys.exit(0 if arguments else 2)
    return find_task(arguments[0])


def find_task(name: str) -> Task:
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; expected one of {', '.join(TASKS)}")
    return TASKS[name]


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's main; a user's mistake or a failing disk is one line and exit code 2.

    With JAXMODELS_TRACEBACK=1 the traceback is shown as well.
    """
    try:
        code = main()
    except (ValueError, OSError, NonFiniteLossError) as error:
        if os.environ.get("JAXMODELS_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; continue with --resume", file=sys.stderr)
        code = 130
    sys.exit(code)
