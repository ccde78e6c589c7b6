"""What a study leaves: curves and histograms of its trainings side by side, and a table.

>>> print(write_study(Path("runs/lms-rates"), STUDIES["lms-rates"], results, source="sample"))
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.experiments.studies import Result, Study
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import replaced, write_json
from jaxmodels.shared.hub.tensor_files import open_tensors, read_all
from jaxmodels.shared.plots.figures import INK, RULE, SERIES, dress, new_figure, save
from jaxmodels.shared.tasks import TASKS

_CEILING = 1e3  # times the highest start of the curves that stay: where a diverging one is cut


def write_study(folder: Path, study: Study, results: Sequence[Result], **facts: Any) -> str:
    """Writes curves.png, table.md, metrics.json and, if wanted, kernels.png; returns the table."""
    table = make_table(study, results)
    with replaced(folder / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    plot_curves(study, results, folder / "curves.png")
    if study.histograms:
        plot_kernels(study, results, folder)
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
        f"| variant | {shown} | {f'{level} | ' if level else ''}verdict |",
        f"| --- | --- | {'--- | ' if level else ''}--- |",
    ]
    for result in results:
        metrics = result.metrics or {}
        figures = [f"{_of_split(metrics, metric):.4f}" if metrics else "-"]
        if level:
            figures.append(f"{metrics[study.reference]:.4f}" if metrics else "-")
        verdict = "; ".join(metrics.get("verdicts", []))
        if result.diverged:
            verdict = result.diverged.partition(". ")[0]
        lines.append(" | ".join([f"| {result.label}", *figures, f"{verdict} |"]))
    return "\n".join(lines) + "\n"


def plot_curves(study: Study, results: Sequence[Result], path: Path) -> None:
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
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def plot_kernels(study: Study, results: Sequence[Result], folder: Path) -> None:
    """How the weights of every trained model's kernels are spread, in one figure."""
    figure = new_figure(9.0, 5.0, f"{study.name}: the kernels' weights after training")
    axes = figure.subplots()
    kernels = {
        result.label: _kernels(folder / str(number))
        for number, result in enumerate(results)
        if result.metrics is not None
    }
    reach = max((np.quantile(np.abs(values), 0.999) for values in kernels.values()), default=1.0)
    bins = np.linspace(-reach, reach, 101).tolist()
    for (colour, _), (label, values) in zip(itertools.cycle(SERIES), kernels.items(), strict=False):
        near_zero = (np.abs(values) < 1e-4).mean()
        axes.hist(
            values,
            bins=bins,
            histtype="step",
            linewidth=1.6,
            color=colour,
            label=f"{label}: {near_zero:.1%} within 1e-4 of 0",
        )
    axes.set_yscale("log")
    dress(axes, x_label="weight", y_label="weights in a bin")
    axes.legend(frameon=False, fontsize=9)
    save(figure, folder / "kernels.png")


def _kernels(run: Path) -> np.ndarray:
    """All weights of a run's model that have more than one axis, in a row."""
    tensors = read_all(open_tensors(run))
    return np.concatenate([value.ravel() for value in tensors.values() if value.ndim > 1])


def _of_split(metrics: Mapping[str, Any], metric: str) -> float:
    return metrics[f"{metrics['split']}_{metric}"]
