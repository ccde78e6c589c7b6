"""What a finished run leaves for people: metrics.json, and what its family adds."""

from pathlib import Path
from typing import Any

from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.registry import family_of
from jaxmodels.shared.files import write_json
from jaxmodels.shared.progress import format_metric
from jaxmodels.shared.run import Row
from jaxmodels.shared.tasks import Task


def final_split(task: Task, data: Any) -> SplitName:
    """What a finished model is judged on: the test split, or else the validation split."""
    family = family_of(task)
    for split in ("test", "validation"):
        if family.count(data, split):
            return split
    return "train"


def describe(task: Task, data: Any) -> str:
    """The sizes of the splits: "49,000 training, 1,000 validation, 10,000 test images"."""
    family = family_of(task)
    names: dict[SplitName, str] = {
        "train": "training",
        "validation": "validation",
        "test": "test",
    }
    counts = [f"{family.count(data, split):,} {name}" for split, name in names.items()]
    return f"{', '.join(counts)} {family.UNIT}"


def write_results(
    folder: Path,
    task: Task,
    data: Any,
    split: SplitName,
    evaluation: Evaluation,
    history: list[Row],
    predict: Predict,
    **facts: Any,
) -> list[str]:
    """Writes metrics.json and the family's files; returns the result in words.

    That is `in_words` and the family's verdicts. `facts` join the metrics as they are.
    """
    family = family_of(task)
    content = {
        "task": task.name,
        "source": data.source,
        "split": split,
        f"{split}_examples": family.count(data, split),
        f"{split}_loss": evaluation.loss,
        f"{split}_{family.METRIC}": evaluation.metric,
        **family.write_outputs(folder, task, data, split, evaluation, history, predict),
        **facts,
    }
    write_json(folder / "metrics.json", content)
    return [*in_words(task, data, split, evaluation), *content.get("verdicts", [])]


def in_words(task: Task, data: Any, split: SplitName, evaluation: Evaluation) -> list[str]:
    """A line of loss and metric, and what the family has to say of them."""
    family = family_of(task)
    metric = f"{family.METRIC.replace('_', ' ')} {format_metric(family.METRIC, evaluation.metric)}"
    units = f"{family.count(data, split):,} {family.UNIT}"
    return [
        f"{split} {metric}, loss {evaluation.loss:.4f} on {units}",
        *family.in_words(task, data, split, evaluation),
    ]
