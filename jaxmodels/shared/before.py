"""What a checkpoint does before its fine-tuning, measured as the finished run will be.

>>> measure_start(task, data, folder, engine)  # writes folder/before/
['test accuracy 21.20%, loss 4.6190 on 24,611 tokens', ...]
"""

from pathlib import Path
from typing import Any

from jaxmodels.shared.families.family import BEFORE
from jaxmodels.shared.loop import Engine, evaluate
from jaxmodels.shared.outputs import final_split, write_results
from jaxmodels.shared.processes import this_process
from jaxmodels.shared.tasks import Task


def measure_start(task: Task, data: Any, folder: Path, engine: Engine) -> list[str]:
    """Evaluates the model that a training starts from; writes what `write_results` writes.

    Adapters change nothing yet. Of several processes all evaluate it, as they do in training, and
    the main one alone writes.

    Returns:
        The result in words; of the main process alone.
    """
    split = final_split(task, data)
    evaluation = evaluate(task, data, split, engine.predict)
    alone = engine.alone()
    if not this_process().is_main:
        return []
    below = folder / BEFORE
    below.mkdir(exist_ok=True)
    lines = write_results(below, task, data, split, evaluation, [], alone.predict)
    return [f"{task.training.pretrained} before training:", *lines]
