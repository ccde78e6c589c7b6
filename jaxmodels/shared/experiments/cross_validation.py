"""Cross-validation of house prices: each fold a training of its own, beside scikit-learn's.

>>> folds = cross_validate(TASKS["houses-ridge"], "flax", "sample", Path("runs/cv"), folds=5)
>>> write_folds(Path("runs/cv"), folds, task="houses-ridge")
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.data.houses import HouseData, HouseDataConfig
from jaxmodels.shared.experiments.closed_form import closed_form
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import replaced, write_json
from jaxmodels.shared.run import Run
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.training import train_and_judge


@dataclass(frozen=True)
class Fold:
    """RMSE of the log price of one fold. `distance` is the largest between two predictions.

    `solution` names scikit-learn's estimator; without one, what belongs to it is None.
    """

    fold: int
    rows: int
    rmse: float
    solution: str | None
    solution_rmse: float | None
    distance: float | None


def cross_validate(
    task: Task, engine_name: str, source: str, folder: Path, *, folds: int
) -> list[Fold]:
    """Trains on all folds but one, in turn; the runs are `folder`/fold-0 and so on.

    Raises:
        ValueError: the task is not of house prices, or the data have too few rows.
    """
    if not isinstance(task.data, HouseDataConfig):
        raise ValueError(f"{task.name} has no folds; expected one of house prices: houses-ridge")
    if folds < 2:
        raise ValueError(f"--folds {folds} must be at least 2")
    found = []
    for fold in range(folds):
        own = replace(task, data=replace(task.data, folds=folds, fold=fold))
        data: HouseData = family_of(own).load(source, own)
        metrics, outputs = train_and_judge(
            Run(own, engine_name, source), data, folder / f"fold-{fold}"
        )
        rmse = metrics["rmse_log_price"]
        solution = closed_form(own, len(data.train))
        if solution is None:
            found.append(Fold(fold, len(data.test), rmse, None, None, None))
            continue
        solution.fit(data.train.inputs, data.train.targets)
        theirs = solution.predict(data.test.inputs)
        their_rmse = float(np.sqrt(((theirs - data.test.targets) ** 2).mean()))
        distance = float(np.abs(theirs - outputs).max())
        found.append(Fold(fold, len(data.test), rmse, solution.name, their_rmse, distance))
    return found


def write_folds(folder: Path, folds: Sequence[Fold], *, task: str, **facts: Any) -> str:
    """Writes table.md and metrics.json; returns the table. `facts` join the metrics."""
    values = {name: [getattr(fold, name) for fold in folds] for name in ("rmse", "solution_rmse")}
    known = folds[0].solution is not None
    means = {
        name: float(np.mean(column)) for name, column in values.items() if known or name == "rmse"
    }
    spread = float(np.std(values["rmse"], ddof=1))
    lines = [
        f"RMSE of the log price, {task}, {len(folds)} folds",
        "",
        "| fold | houses | ours | scikit-learn | largest difference of two predictions |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fold in folds:
        theirs = f"{fold.solution_rmse:.5f} by {fold.solution}" if known else "-"
        distance = f"{fold.distance:.1e}" if known else "-"
        lines.append(f"| {fold.fold} | {fold.rows} | {fold.rmse:.5f} | {theirs} | {distance} |")
    theirs = f"**{means['solution_rmse']:.5f}**" if known else "-"
    lines.append(f"| **mean** | | **{means['rmse']:.5f}** (+- {spread:.5f}) | {theirs} | |")
    table = "\n".join(lines) + "\n"
    with replaced(folder / "table.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    content = {"task": task, **facts, "mean": means, "deviation": spread}
    write_json(folder / "metrics.json", content | {"folds": [asdict(fold) for fold in folds]})
    return table
