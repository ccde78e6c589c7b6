"""What the scripts share: engines by name, tasks in `--help`, one line for a user's mistake."""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

from jaxmodels.shared import run as runs
from jaxmodels.shared.configs import ModelConfig
from jaxmodels.shared.hub.folder import config_content, open_checkpoint
from jaxmodels.shared.lora import NO_ADAPTERS, LoRAConfig
from jaxmodels.shared.run import NonFiniteLossError, Run
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.tasks import (
    TASKS,
    DataConfig,
    OptimizerConfig,
    ParityConfig,
    Task,
    TrainingConfig,
)

if TYPE_CHECKING:
    from jaxmodels.shared.loop import Engine, Start

EngineName = Literal["flax", "torch", "lightning", "accelerate", "xla"]
Arguments = TypeVar("Arguments")

MESH_HELP = (
    "the devices of --engine flax, such as data=4,fsdp=2, of the axes data, fsdp, tensor and "
    "sequence; or auto [default: one device]"
)


@dataclass(frozen=True)
class TaskArguments:
    """A task's own settings, and with what and on what to train: what training scripts take."""

    model: ModelConfig
    data: DataConfig
    lora: LoRAConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    engine: EngineName = "flax"
    """The framework that trains."""
    source: str = "sample"
    """sample, hub, hub:OWNER/NAME, tfds, tfds:NAME, or a local folder."""


_GROUPS = ("model", "data", "lora", "optimizer", "schedule", "training")  # of a task's settings


def make_engine(
    name: EngineName,
    task: Task,
    folder: Path,
    start: "Start | None" = None,
    *,
    mesh: str = "",
    trains: bool = True,
) -> "Engine":
    """The engine that holds a task's model; Lightning's model is plain torch's.

    `start` gives the weights to start from, before the model is adapted or its optimizer made;
    `mesh`, as `--mesh` has it, the devices of Flax's. One that never `trains` takes any batch size.

    Raises:
        ValueError: the framework is not installed, and the message names the extra; or the mesh
            does not fit the engine, the devices or the task.
    """
    if mesh and name != "flax":
        raise ValueError(
            f"--mesh {mesh} is for --engine flax, and this is --engine {name}; leave it out, or "
            "take --engine flax"
        )
    try:
        if name == "flax":
            from jaxmodels.engine import FlaxEngine, open_mesh

            return FlaxEngine(
                task, folder, start, mesh=open_mesh(mesh, task, trains=trains) if mesh else None
            )
        if name == "accelerate":
            from torchref.engines.accelerate import AccelerateEngine

            return AccelerateEngine(task, folder, start)
        if name == "xla":
            from torchref.engines.xla import XLAEngine

            return XLAEngine(task, folder, start)
        from torchref.engines.plain import TorchEngine

        return TorchEngine(task, folder, start)
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(name, error)) from None


def load_engine(
    folder: Path, name: EngineName | None = None, *, mesh: str = ""
) -> tuple[Run, "Engine"]:
    """A finished run and an engine (the run's own, if None) that holds its final weights."""
    run = runs.load(folder)
    if not (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder} holds a run that is not finished (model.safetensors is missing); finish it: "
            f"train.py {run.task.name} --engine {run.engine} --out {folder} --resume, with its "
            "other settings"
        )
    # What was trained, and how, is past: the adapters are merged, and nothing is frozen.
    optimizer = dataclasses.replace(run.task.optimizer, freeze=())
    task = dataclasses.replace(run.task, lora=NO_ADAPTERS, optimizer=optimizer)
    own = "flax" if run.engine == "flax" else "torch"  # whose model the others have
    try:
        engine = make_engine(name or own, task, folder, mesh=mesh, trains=False)
    except ValueError as error:
        other = "torch" if (name or own) == "flax" else "flax"
        raise ValueError(f"{error}; or add --engine {other}, which loads any run") from None
    checkpoint = open_checkpoint(folder)
    if config_content(checkpoint.config) != config_content(run.task.model):
        raise ValueError(f"{folder}: config.json and run.json describe different models")
    shapes = {tensor: value.shape for tensor, value in engine.weights().items()}
    engine.load_weights(dict(checkpoint.read(checkpoint.match(shapes)[0])))
    return run, engine


def add_mesh_flag(parser: argparse.ArgumentParser) -> None:
    """--mesh, for `load_engine`."""
    parser.add_argument("--mesh", default="", metavar="AXIS=SIZE,...", help=MESH_HELP)


def missing_extra(engine: str, error: ModuleNotFoundError) -> str:
    """What to install for an engine whose framework is missing."""
    extra = {"flax": "jax"}.get(engine, engine)
    where = ", in an environment of its own" if engine == "xla" else ""  # another torch
    return (
        f"--engine {engine} needs {error.name}, which is not installed; "
        f"run: pip install 'jaxmodels[{extra}]'{where}"
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
        raise ValueError(
            f"task {name!r} is unknown; expected one of {', '.join(TASKS)} (it comes first)"
        )
    return TASKS[name]


def parse(default: Arguments, arguments: list[str], *, prog: str) -> Arguments:
    """`default`, a dataclass, with the settings that the arguments change.

    `optimizer.learning_rate=0.1` is taken as well as `--optimizer.learning-rate 0.1`.

    Raises:
        ValueError: a flag is unknown or its value is refused; one line that names it.
    """
    boxed = io.StringIO()
    given = [part for argument in arguments for part in _as_written_out(argument)]
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(
                type(default),
                args=given,
                default=default,
                prog=prog,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise ValueError(f"{_unboxed(boxed.getvalue())}; `{prog} --help` lists them all") from None


def settings_of(task: Task) -> dict[str, Any]:
    """The groups of a task's settings, as the arguments of a script hold them."""
    return {name: getattr(task, name) for name in _GROUPS}


def with_arguments(task: Task, arguments: Any, *, shortcuts: tuple[str, ...]) -> Task:
    """The task with the arguments' settings; a shortcut that is given is a field of training."""
    given = {name: getattr(arguments, name) for name in shortcuts}
    given = {name: value for name, value in given.items() if value is not None}
    settings = {name: getattr(arguments, name) for name in _GROUPS}
    settings["training"] = dataclasses.replace(arguments.training, **given)
    if arguments.lora != task.lora and not arguments.lora.rank:
        raise ValueError("--lora settings are without effect at --lora.rank 0; add --lora.rank 8")
    return dataclasses.replace(task, **settings)


@dataclass(frozen=True)
class _Settings:
    """All that a `--set` may change."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    parity: ParityConfig


def add_settings_flag(parser: argparse.ArgumentParser, described: str) -> None:
    """--set GROUP.NAME=VALUE, as often as wanted: `arguments.settings`, for `with_settings`."""
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="GROUP.NAME=VALUE",
        help=described,
    )


def with_settings(task: Task, settings: list[str], *, flag: str) -> Task:
    """The task with settings such as "data.max-length=64", each given to `flag`.

    Raises:
        ValueError: one names no setting of the task, or its value is refused.
    """
    for setting in settings:
        group, dot, rest = setting.partition(".")
        name, equals, _ = rest.partition("=")
        known = [field.name for field in dataclasses.fields(_Settings)]
        if not (dot and equals) or group not in known:
            raise ValueError(
                f"{flag} {setting}: expected GROUP.NAME=VALUE, of the groups {', '.join(known)}; "
                "try training.batch-size=32"
            )
        names = [field.name for field in dataclasses.fields(getattr(task, group))]
        if name.replace("-", "_") not in names:
            written = ", ".join(name.replace("_", "-") for name in names)
            raise ValueError(
                f"{flag} {setting}: {group}.{name} is unknown to {task.name}; expected, after "
                f"{group}., one of {written}"
            )
    default = _Settings(*(getattr(task, field.name) for field in dataclasses.fields(_Settings)))
    changed = parse(default, settings, prog=f"train.py {task.name}")
    groups = {field.name: getattr(changed, field.name) for field in dataclasses.fields(changed)}
    return dataclasses.replace(task, **groups)


def as_flags(task: Task) -> list[str]:
    """What train.py must be given, after the task's name, to train exactly this task."""
    return [
        part
        for group in _GROUPS
        for field in dataclasses.fields(getattr(task, group))
        if (value := getattr(getattr(task, group), field.name))
        != getattr(getattr(TASKS[task.name], group), field.name)
        for part in _as_flag(group, field.name, value)
    ]


def _as_flag(group: str, name: str, value: Any) -> list[str]:
    flag = f"--{group}.{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace(".", ".no-", 1)]
    return [flag, *map(str, value if isinstance(value, tuple) else (value,))]


def _as_written_out(argument: str) -> list[str]:
    """`model.batch_norm=true` -> `--model.batch-norm`, `model.channels=4,6` -> `--model... 4 6`."""
    match = re.fullmatch(r"(?:--)?([a-z]+\.\w[\w-]*)=(.*)", argument)
    if not match:
        return [argument]
    flag, value = "--" + match[1].replace("_", "-"), match[2]
    if value.lower() in ("true", "false"):
        return [flag if value.lower() == "true" else flag.replace(".", ".no-", 1)]
    return [flag, *value.split(",")]


def _unboxed(text: str) -> str:
    """tyro's framed error as one line: what is wrong, and the flag that it thinks was meant."""
    lines = [line.strip("│ ") for line in text.splitlines()]
    # Framed, the title is part of the frame; where the output is not UTF-8, it has a rule under it.
    start = 0 if "╭" in text else 1 + next(i for i, line in enumerate(lines) if "----" in line)
    lines = [line for line in lines[start:] if line and not line.startswith(("╭", "╰"))]
    rule = next((i for i, line in enumerate(lines) if not line.strip("─-")), len(lines))
    message = " ".join(lines[:rule])
    # A config's own check: "Error parsing optimizer: optimizer.learning_rate -1.0 must be ..."
    if match := re.fullmatch(r"Error parsing (\w+): (?:\1\.)?(\w+)( .*)", message):
        return f"--{match[1]}.{match[2].replace('_', '-')}{match[3]}"
    meant = next((line for line in lines[rule:] if re.match(r"--\w", line)), None)
    message = message.removeprefix("Error parsing ").rstrip(".")
    return message + (f"; expected {meant}" if meant else "")


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's main; a user's mistake or a failing disk is one line and exit code 2.

    With JAXMODELS_TRACEBACK=1 the traceback is shown as well.
    """
    try:
        code = main()
    except BrokenPipeError:  # `| head` has seen enough; say nothing more, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (ValueError, OSError, NonFiniteLossError) as error:
        if os.environ.get("JAXMODELS_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; continue with --resume", file=sys.stderr)
        code = 130
    sys.exit(code)
