"""Every task on every engine: what each reached, its time for a step, its memory, in one table.

>>> rows = [train_apart(task, engine, "sample", Path("runs/engines")) for engine in ENGINES]
>>> place_between(Path("README.md"), MARKS, engine_table(rows))
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jaxmodels.shared import run as runs
from jaxmodels.shared.command_line import EngineName, as_flags
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import read_json
from jaxmodels.shared.run import Run
from jaxmodels.shared.tasks import Task

ENGINES: tuple[str, ...] = get_args(EngineName)
SCRIPT = Path(__file__).parents[3] / "scripts" / "train.py"
MARKS = "<!-- engines: made by scripts/benchmark.py -->", "<!-- /engines -->"


@dataclass(frozen=True)
class Trained:
    """One finished run. `seconds` are those of a step, the last epoch's mean."""

    task: str
    engine: str
    metric: str
    value: float
    seconds: float
    peak_memory_bytes: int | None
    epochs: int


def train_apart(
    task: Task, engine: str, source: str, folder: Path, *, python: str = sys.executable
) -> Trained:
    """Trains in a process of its own, whose peak is its own; a run that is finished is read.

    `folder` receives the run as TASK-ENGINE. `python` is the interpreter, of the environment that
    has the engine.

    Raises:
        ValueError: the training failed; its last words. Or the folder holds a run of another kind.
    """
    out = folder / f"{task.name}-{engine}"
    if (out / "metrics.json").exists():
        if runs.load(out) != Run(task, engine, source):
            raise ValueError(f"{out} holds a run of other settings; choose another --out")
    else:
        command = [python, str(SCRIPT), task.name, "--engine", engine, "--source", source]
        command += ["--out", str(out), *as_flags(task)]
        if runs.is_run(out):
            command.append("--resume")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1].removeprefix("error: ")
            raise ValueError(f"{task.name} on {engine}: {last}")
    return read_run(task, engine, out)


def read_run(task: Task, engine: str, out: Path) -> Trained:
    """The figures of a finished run."""
    metrics: Any = read_json(out / "metrics.json")
    metric = family_of(task).METRIC
    split = "test" if f"test_{metric}" in metrics else "validation"
    return Trained(
        task.name,
        engine,
        f"{split} {metric.replace('_', ' ')}",
        metrics[f"{split}_{metric}"],
        1 / metrics["steps_per_second"],
        metrics["peak_memory_bytes"],
        metrics["epochs"],
    )


def engine_table(rows: Sequence[Trained]) -> str:
    """Markdown: a line a task, a column an engine: metric, milliseconds a step, peak memory."""
    engines = [name for name in ENGINES if any(row.engine == name for row in rows)]
    lines = [
        ["task", "epochs", "metric", *engines],
        ["---", "---:", "---", *["---:"] * len(engines)],
    ]
    for task in dict.fromkeys(row.task for row in rows):
        own = {row.engine: row for row in rows if row.task == task}
        epochs = sorted({row.epochs for row in own.values()})  # early stopping may differ
        metric = next(iter(own.values())).metric
        cells = [_cell(own[name]) if name in own else "-" for name in engines]
        lines.append(
            [
                f"`{task}`",
                " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1])))),
                metric,
                *cells,
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Trained) -> str:
    peak = row.peak_memory_bytes
    memory = f"{peak / 2**20:,.0f} MiB" if peak else "-"
    return f"{row.value:.4f}, {1e3 * row.seconds:,.3g} ms, {memory}"
