"""Searches for better settings of a task: python scripts/tune.py TASK --trials 20 --out DIR

usage: tune.py TASK [--engine flax|torch|lightning|accelerate|xla] [--source sample|hub|tfds|PATH]
               [--out DIR] [--trials N] [--epochs N] [--seed N] [--data.window 30 ...]

Trial 0 is the task's own recipe, with the settings that are given; the others vary its learning
rate, weight decay, batch size, dropout and sizes. They are judged by the lowest validation loss;
the test split is not looked at. The same command goes on with a search that was interrupted, or
that was to have fewer trials.
"""

import math
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from rich.console import Console
from rich.table import Table

from jaxmodels.shared.command_line import (
    EngineName,
    TaskArguments,
    as_flags,
    parse,
    run_script,
    settings_of,
    take_task,
    with_arguments,
)
from jaxmodels.shared.experiments.tuning import (
    feasible,
    finished,
    open_study,
    ranked,
    search,
    space_of,
    with_values,
    write_trials,
)
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import write_json
from jaxmodels.shared.fine_tuning import checkpoint_of, with_checkpoint
from jaxmodels.shared.outputs import describe
from jaxmodels.shared.processes import this_process
from jaxmodels.shared.run import NonFiniteLossError, Run
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.training import choose_trainer, prepare

_SHOWN = 5  # of the best trials


@dataclass(frozen=True)
class Arguments(TaskArguments):
    """How long to search, from the settings that trial 0 has.

    Each setting can also be written as optimizer.learning_rate=0.1, model.channels=16,32 or
    optimizer.nesterov=true.
    """

    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/TASK-ENGINE-tuning)"),
    ] = None
    """The study's folder; each trial is a run in its trials/."""
    trials: int = 20
    """How many trials there are in the end, those of earlier calls among them."""
    epochs: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the task's)")
    ] = None
    """Short for --training.epochs, of each trial."""
    seed: int = 0
    """Of the search; that of each training is --training.seed."""


def main() -> int | None:
    task = take_task(sys.argv[1:], (__doc__ or "").partition("\n\n")[2].strip())
    arguments = parse(Arguments(**settings_of(task)), sys.argv[2:], prog=f"tune.py {task.name}")
    for name, least in (("trials", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least {least}")
    task = with_arguments(task, arguments, shortcuts=("epochs",))
    folder = arguments.out or Path("runs") / f"{task.name}-{arguments.engine}-tuning"
    if checkpoint_of(task):
        task = with_checkpoint(task, checkpoint_of(task), folder, resume=False)
    run = Run(task, arguments.engine, arguments.source)
    try:
        tune(run, folder, trials=arguments.trials, seed=arguments.seed)
    except KeyboardInterrupt as interrupt:
        print("interrupted; the same command goes on with the search", file=sys.stderr)
        return getattr(interrupt, "exit_code", 130)
    return None


def tune(run: Run, folder: Path, *, trials: int, seed: int) -> None:
    """Searches, and leaves trials.csv and best.json after each trial."""
    task, family = run.task, family_of(run.task)
    count = this_process().count
    if count > 1:
        raise ValueError(f"a search runs in one process, and this is one of {count} (WORLD_SIZE)")
    data = family.load(run.source, task)
    if not family.count(data, "validation"):
        raise ValueError(
            f"trials are judged by the validation split, and {task.name} on {data.source} has "
            "none; add --data.validation-fraction 0.1"
        )
    # Refuses what it cannot train before the folder is claimed.
    choose_trainer(cast(EngineName, run.engine), task, folder)
    sizes = f"{data.source}: {describe(task, data)}"
    study = open_study(folder, run, seed=seed, data=sizes)
    space = feasible(space_of(task), task, lambda new: family.steps_per_epoch(new, data))

    def train(number: int, tried: Task) -> dict[str, Any]:
        settings = study.trials[number].params.items()
        print(f"\ntrial {number}: " + ", ".join(f"{name} {_short(v)}" for name, v in settings))
        own = folder / "trials" / str(number)
        shutil.rmtree(own, ignore_errors=True)  # of a trial that was interrupted
        _, recorder = prepare(Run(tried, run.engine, run.source), data, own)()
        best = recorder.best
        if best is None or not math.isfinite(best["validation_loss"]):
            raise NonFiniteLossError("the validation loss is not a number")
        return {
            "validation_loss": best["validation_loss"],
            "epoch": best["epoch"],
            "last_validation_loss": recorder.rows[-1]["validation_loss"],
        }

    def report() -> list[dict[str, Any]]:
        rows = finished(study)
        write_trials(folder / "trials.csv", rows, list(space))
        if best := ranked(rows)[:1]:
            write_json(folder / "best.json", _best(run, best[0], rows[0]))
        return rows

    print(f"{task.name} with {run.engine} on {sizes}")
    for count in range(len(finished(study)) + 1, trials + 1):
        search(study, task, space, train, trials=count, seed=seed)
        report()
    _print_report(run, folder, report())


def _best(run: Run, best: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    tuned = with_values(run.task, best["settings"])
    command = ["python", "scripts/train.py", run.task.name, "--engine", run.engine]
    command += ["--source", run.source, *as_flags(tuned)]
    command += ["--out", f"runs/{run.task.name}-{run.engine}-tuned"]
    return {
        **{name: value for name, value in best.items() if name != "error"},
        "own_recipe_validation_loss": own["validation_loss"],
        "command": shlex.join(command),
    }


def _print_report(run: Run, folder: Path, rows: list[dict[str, Any]]) -> None:
    """The best trials, what they are worth, and how to train the best again."""
    scored = ranked(rows)
    failed = [str(row["trial"]) for row in rows if row["validation_loss"] is None]
    if not scored:
        raise ValueError(f"all {len(rows)} trials diverged; try a lower --optimizer.learning-rate")
    best, own = scored[0], rows[0]
    names = list(best["settings"])
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "loss", "epoch", *(name.partition(".")[2] for name in names)):
        table.add_column(heading.replace("_", " "), justify="right")
    for row in scored[:_SHOWN]:
        cells = (row["trial"], f"{row['validation_loss']:.5f}", row["epoch"])
        table.add_row(*map(str, cells), *(_short(row["settings"][name]) for name in names))
    print("\nThe lowest validation losses, and the epochs that had them:")
    Console(highlight=False, width=80).print(table)
    if failed:
        print(f"diverged: trial {', '.join(failed)}")
    print(_judge(best, own, len(scored)))
    patient = run.task.training.early_stopping_patience
    if not patient and best["last_validation_loss"] > best["validation_loss"]:
        print(
            f"Trial {best['trial']}'s loss rose to {best['last_validation_loss']:.5f} by its last "
            "epoch, whose weights a run keeps\nunless it stops early: "
            "--training.early-stopping-patience N"
        )
    print(f"\n{_best(run, best, own)['command']}\n\nstudy: {folder}")


def _judge(best: dict[str, Any], own: dict[str, Any], count: int) -> str:
    if best["trial"] == 0:
        return f"None of {count} trials is better than the recipe they began with (trial 0)."
    if own["validation_loss"] is None:
        return "The recipe that they began with (trial 0) diverged."
    gain = 1 - best["validation_loss"] / own["validation_loss"]
    return (
        f"Trial {best['trial']}'s loss is {gain:.2%} below that of the recipe they began with\n"
        f"(trial 0, {own['validation_loss']:.5f}): one seed each, and the lowest of {count} "
        "flatters. Compare both\nwith other --training.seed before you believe it."
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_script(main)
