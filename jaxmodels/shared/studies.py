"""Named studies: one task under several settings, a curve each in one figure, and a table.

A training that diverges is a result like any other.

>>> results = run_study(STUDIES["lms-rates"], "flax", "sample", Path("runs/lms-rates"))
>>> write_study(Path("runs/lms-rates"), STUDIES["lms-rates"], results, source="sample")
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.figures import INK, RULE, SERIES, dress, new_figure, save
from jaxmodels.shared.files import replaced, write_json
from jaxmodels.shared.run import NonFiniteLossError, Run
from jaxmodels.shared.tasks import TASKS, Task
from jaxmodels.shared.training import train_and_judge

_CEILING = 1e3


@dataclass(frozen=True)
class Study:
    """A grid over a task's settings: every combination is a training.

    grid: "optimizer.learning_rate" -> its values. `curve` is the column of the history to draw,
    `reference` the entry of a run's metrics that is drawn as a level, "" for none. `unit` says what
    an epoch is. With `log_axis` a diverging curve is cut at `_CEILING` times the highest start of
    the others.
    """

    name: str
    description: str
    task: str
    grid: Mapping[str, tuple[Any, ...]]
    curve: str
    reference: str = ""
    log_axis: bool = False
    unit: str = "epoch"


STUDIES: dict[str, Study] = {
    "lms-rates": Study(
        name="lms-rates",
        description="the LMS filter at six rates, two of them above 2/lambda_max",
        task="lms",
        grid={"optimizer.learning_rate": (0.005, 0.01, 0.05, 0.1, 0.5, 1.0)},
        curve="validation_squared_error",
        reference="wiener_squared_error",
        log_axis=True,
        unit="epoch of 10 samples",
    ),
}


@dataclass(frozen=True)
class Result:
    """One training: its settings in words, its history, and its metrics or why it has none."""

    label: str
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any] | None
    diverged: str = ""


def combinations(study: Study) -> list[tuple[str, Task]]:
    """(label, task) of every combination of the grid, the last setting changing fastest."""
    found = []
    for values in itertools.product(*study.grid.values()):
        task = TASKS[study.task]
        for name, value in zip(study.grid, values, strict=True):
            group, _, field = name.partition(".")
            changed = dataclasses.replace(getattr(task, group), **{field: value})
            task = dataclasses.replace(task, **{group: changed})
        names = [name.rpartition(".")[2].replace("_", " ") for name in study.grid]
        label = ", ".join(f"{n} {v}" for n, v in zip(names, values, strict=True))
        found.append((label, task))
    return found


def run_study(study: Study, engine_name: str, source: str, folder: Path) -> list[Result]:
    """Trains every combination; the runs are `folder`/0 and so on."""
    results = []
    for number, (label, task) in enumerate(combinations(study)):
        data = family_of(task).load(source, task)
        own = folder / str(number)
        print(f"{study.name} {number}: {label}")
        try:
            metrics, _ = train_and_judge(Run(task, engine_name, source), data, own)
        except NonFiniteLossError as error:
            print(error)
            results.append(Result(label, read_history(own), None, str(error)))
        else:
            note = metrics["verdicts"][0] if metrics.get("diverges") else ""
            results.append(Result(label, read_history(own), metrics, note))
    return results


def write_study(folder: Path, study: Study, results: Sequence[Result], **facts: Any) -> str:
    """Writes curves.png, table.md and metrics.json; returns the table."""
    table = make_table(study, results)
    with replaced(folder / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    plot_study(study, results, folder / "curves.png")
    rows = [
        {"settings": result.label, "diverged": result.diverged, "metrics": result.metrics}
        for result in results
    ]
    write_json(folder / "metrics.json", {"study": study.name, **facts, "results": rows})
    return table


def make_table(study: Study, results: Sequence[Result]) -> str:
    metric = family_of(TASKS[study.task]).METRIC
    shown, level = metric.replace("_", " "), study.reference.replace("_", " ")
    lines = [
        f"{study.name}: {study.description}",
        "",
        f"| settings | {shown} | {level or 'reference'} | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for result in results:
        found = "-" if result.metrics is None else f"{_of_split(result.metrics, metric):.4f}"
        known = result.metrics is not None and study.reference in result.metrics
        reference = f"{result.metrics[study.reference]:.4f}" if known and result.metrics else "-"
        verdict = "; ".join(result.metrics.get("verdicts", [])) if result.metrics else ""
        if result.diverged:
            verdict = result.diverged.partition(". ")[0]
        lines.append(f"| {result.label} | {found} | {reference} | {verdict} |")
    return "\n".join(lines) + "\n"


def plot_study(study: Study, results: Sequence[Result], path: Path) -> None:
    """A curve a result, in one figure."""
    figure = new_figure(9.0, 5.0, f"{study.name}: {study.description}")
    axes = figure.subplots()
    drawn = [[row for row in r.history if row[study.curve] is not None] for r in results]
    starts = [
        rows[0][study.curve]
        for rows, r in zip(drawn, results, strict=True)
        if rows and not r.diverged
    ]
    top = _CEILING * max(starts) if study.log_axis and starts else np.inf
    for (colour, marker), rows, result in zip(
        itertools.cycle(SERIES), drawn, results, strict=False
    ):
        axes.plot(
            [row["epoch"] for row in rows],
            np.minimum([row[study.curve] for row in rows], top),
            color=colour,
            linewidth=1.6,
            marker=marker if result.diverged else None,
            markersize=6,
            clip_on=False,
            label=result.label + (", diverges" if result.diverged else ""),
        )
    levels = [r.metrics[study.reference] for r in results if r.metrics and study.reference]
    if levels:
        shown = study.reference.replace("_", " ")
        axes.axhline(levels[0], color=INK, linewidth=1.2, linestyle="--", label=shown)
    if study.log_axis:
        axes.set_yscale("log")
        axes.set_ylim(top=top if np.isfinite(top) else None)
    dress(axes, x_label=study.unit, y_label=study.curve.replace("_", " "))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The finished epochs of a run, however it ended."""
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _of_split(metrics: Mapping[str, Any], metric: str) -> float:
    return metrics[f"{metrics['split']}_{metric}"]
