"""Cross-validates house prices: python scripts/cross_validate.py houses-ridge --folds 5

usage: cross_validate.py TASK [--folds N] [--engine flax|torch|lightning] [--source sample|PATH]
                         [--out DIR] [--optimizer.weight-decay 0.05 ...]

Each fold is a run of its own, trained as train.py trains, and what is fitted is fitted on its own
training rows. Beside it stands scikit-learn's solution of the same rows, where the task has one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxmodels.shared.command_line import (
    TaskArguments,
    parse,
    run_script,
    settings_of,
    take_task,
    with_arguments,
)
from jaxmodels.shared.experiments.cross_validation import cross_validate, write_folds


@dataclass(frozen=True)
class Arguments(TaskArguments):
    """The task's settings, and into how many folds its rows are cut."""

    folds: int = 5
    """How many trainings; --data.folds and --data.fold follow from it."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/TASK-ENGINE-folds)"),
    ] = None
    """Where the runs and the table go."""


def main() -> None:
    task = take_task(sys.argv[1:], (__doc__ or "").partition("\n\n")[2].strip())
    prog = f"cross_validate.py {task.name}"
    arguments = parse(Arguments(**settings_of(task)), sys.argv[2:], prog=prog)
    task = with_arguments(task, arguments, shortcuts=())
    engine, source = arguments.engine, arguments.source
    folder = arguments.out or Path("runs") / f"{task.name}-{engine}-folds"
    folds = cross_validate(task, engine, source, folder, folds=arguments.folds)
    print(write_folds(folder, folds, task=task.name, engine=engine, source=source))
    print(f"written: {folder}")


if __name__ == "__main__":
    run_script(main)
