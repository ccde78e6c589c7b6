"""What a checkpoint does before its fine-tuning, measured as the finished run will be.

>>> measure_start(Run(task, "flax", "sample"), data, folder)  # writes folder/before/
['test accuracy 21.20%, loss 4.6190 on 24,611 tokens', ...]
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from jaxmodels.shared.command_line import EngineName, make_engine
from jaxmodels.shared.families.family import BEFORE
from jaxmodels.shared.fine_tuning import checkpoint_of, starting_weights
from jaxmodels.shared.loop import evaluate
from jaxmodels.shared.lora import NO_ADAPTERS
from jaxmodels.shared.outputs import final_split, write_results
from jaxmodels.shared.processes import this_process
from jaxmodels.shared.run import Run


def measure_start(run: Run, data: Any, folder: Path) -> list[str]:
    """Evaluates the model that the run starts from; writes what `write_results` writes.

    Of several processes all evaluate it, as they do in training, and the main one alone writes.

    Returns:
        The result in words; of the main process alone.

    Raises:
        ValueError: the checkpoint's tensors are not the model's.
    """
    task, below = replace(run.task, lora=NO_ADAPTERS), folder / BEFORE
    engine = make_engine(
        cast(EngineName, run.engine), task, below, lambda fresh: starting_weights(task, fresh)[0]
    )
    split = final_split(task, data)
    evaluation = evaluate(task, data, split, engine.predict)
    if not this_process().is_main:
        return []
    below.mkdir(exist_ok=True)
    lines = write_results(below, task, data, split, evaluation, [], engine.predict)
    return [f"{checkpoint_of(task)} before training:", *lines]
