"""A pretrained checkpoint as the start of a training: its config, then its weights.

>>> task = with_checkpoint(task, "all-MiniLM-L6-v2", folder, resume=False)  # now of its model
>>> tensors, drawn = starting_weights(task, engine.weights())
>>> engine.load_weights(tensors)
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import run as runs
from jaxmodels.shared.configs import (
    BERTConfig,
    GPT2Config,
    ImageNetResNetConfig,
    ModelConfig,
    architecture,
)
from jaxmodels.shared.data.images import ImageDataConfig
from jaxmodels.shared.data.subwords import SubwordDataConfig
from jaxmodels.shared.data.wikitext import WikiTextDataConfig
from jaxmodels.shared.files import read_json
from jaxmodels.shared.hub.download import find_folder
from jaxmodels.shared.hub.folder import open_checkpoint, read_config
from jaxmodels.shared.tasks import TASKS, DataConfig, Task


@dataclass(frozen=True)
class Start:
    """What a task starts from: a model of which these fields are the task's."""

    model: type[ModelConfig]
    examples: str  # for messages
    kept: tuple[str, ...]
    on_hub: bool = True  # else runs alone


# By kind of data, where the Hub has such models. Any task starts from a run with its own model.
STARTS: dict[type[DataConfig], Start] = {
    SubwordDataConfig: Start(
        BERTConfig,
        "BERT, RoBERTa or DistilBERT, such as distilbert-base-uncased",
        kept=("head", "num_classes"),
    ),
    WikiTextDataConfig: Start(GPT2Config, "GPT-2, such as gpt2", kept=("head",)),
    ImageDataConfig: Start(
        ImageNetResNetConfig,
        "ResNet-18, -34 or -50, such as microsoft/resnet-18",
        kept=("num_classes", "image_size"),
    ),
}

# Fields of a model that may differ from its checkpoint's: they change no tensor.
_FREE = (
    *("dropout_rate", "attention_dropout_rate", "classifier_dropout_rate"),
    *("gradient_checkpointing", "scan_layers"),
)


def with_checkpoint(task: Task, pretrained: str, folder: Path, *, resume: bool) -> Task:
    """The task with the model of the checkpoint `pretrained`, whose head is made the task's.

    Of the task's own model, what differs from the registry's (by flags) and changes no tensor is
    kept. A run in `folder` that is resumed has its model in run.json: the checkpoint is not read.

    Raises:
        ValueError: there is no checkpoint, it is of another kind of model or no run where the task
            needs one, or a flag contradicts its config.
    """
    start = _start_of(task)
    training = dataclasses.replace(task.training, pretrained=pretrained)
    task = dataclasses.replace(task, training=training)
    changed = _changed_fields(task)
    if resume and runs.is_run(folder):
        model = runs.load(folder).task.model
        if isinstance(model, start.model):  # else the run is another task's, as will be said
            return dataclasses.replace(task, model=dataclasses.replace(model, **changed))
    checkpoint = find_folder(pretrained)
    path = checkpoint / "config.json"
    content = read_json(path)
    try:
        config = read_config(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(config, start.model):
        raise ValueError(
            f"{path} is of a {architecture(config)}; --pretrained for {task.name} expects "
            f"{start.examples}"
        )
    if not start.on_hub and not runs.is_run(checkpoint):
        raise ValueError(
            f"{checkpoint} is no run: it has no run.json; {task.name} starts from what train.py "
            "left, since what was fitted with the weights belongs to them"
        )
    for name, value in changed.items():
        if name not in _FREE + start.kept and value != getattr(config, name):
            raise ValueError(
                f"--model.{name.replace('_', '-')} {value} contradicts {path}, which has "
                f"{getattr(config, name)}; leave it out"
            )
    return dataclasses.replace(task, model=dataclasses.replace(config, **_kept(task) | changed))


def starting_weights(
    task: Task, own: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """(the checkpoint's tensors, `own` where a new head lacks them; the names of these).

    `own` are a fresh model's, in torch's names and layout.

    Raises:
        ValueError: the checkpoint's tensors are not the model's.
    """
    return open_checkpoint(find_folder(task.training.pretrained), **_kept(task)).read_over(own)


def fitted_folder(task: Task, run: Path | None) -> Path | None:
    """Where the task finds what it would else fit: `run`, or the run that it starts from."""
    if run is not None or not task.training.pretrained:
        return run
    start = find_folder(task.training.pretrained)
    return start if runs.is_run(start) else None


def tokenizer_folder(task: Task, run: Path | None) -> Path | None:
    """As `fitted_folder`; a tokenizer comes with every checkpoint, a run or not."""
    if run is not None or not task.training.pretrained:
        return run
    return find_folder(task.training.pretrained)


def _start_of(task: Task) -> Start:
    start = STARTS.get(type(task.data))
    if start and isinstance(task.model, start.model):
        return start
    kind = architecture(task.model)
    return Start(type(task.model), f"the run of a {kind}", kept=(), on_hub=False)


def _kept(task: Task) -> dict[str, Any]:
    return {name: getattr(task.model, name) for name in _start_of(task).kept}


def _changed_fields(task: Task) -> dict[str, Any]:
    """The fields of the model that are not as the registry's task has them."""
    registered = TASKS[task.name].model
    return {
        field.name: value
        for field in dataclasses.fields(task.model)
        if (value := getattr(task.model, field.name)) != getattr(registered, field.name)
    }
