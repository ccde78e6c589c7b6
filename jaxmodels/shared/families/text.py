"""Language modelling: a text in, the next token at every place out."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared import metrics
from jaxmodels.shared.configs import CharRNNConfig, GPT2Config
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host
from jaxmodels.shared.data.text import (
    TextData,
    carried_batches,
    carried_steps_per_epoch,
    evaluation_windows,
    load_text,
    random_windows,
)
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.family import Evaluation, Predict, SplitName
from jaxmodels.shared.families.sizes import check_vocabulary
from jaxmodels.shared.fine_tuning import tokenizer_folder
from jaxmodels.shared.plots import runs as plots
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.text.generation import write_samples
from jaxmodels.shared.text.metrics import bits_per_character, perplexity
from jaxmodels.shared.text.tokenizers import load_tokenizer

UNIT = "tokens"
INPUTS = ("tokens",)
TARGET = "targets"
LOSS = "cross-entropy"
METRIC = "accuracy"
KEEP_OUTPUTS = False  # a vocabulary's worth of numbers a token
MEASURED_BEFORE = False

FINGERPRINT_FILE = "text.json"


def load(source: str, task: Task, run: Path | None = None) -> TextData:
    return load_with(load_text, source, task, run)


def load_with(read: Callable[..., TextData], source: str, task: Task, run: Path | None) -> TextData:
    """What `read` makes of the source, with the tokenizer of a run or a checkpoint.

    Raises:
        ValueError: as `read`; or the model's context or its vocabulary is too small.
    """
    config = _config(task)
    _check_context(task, config)
    folder = tokenizer_folder(task, run)  # read before the text, which takes longer
    tokenizer = load_tokenizer(folder) if folder else None
    data = read(source, config, tokenizer=tokenizer)
    check_vocabulary(task, data.source, data.tokenizer.vocabulary_size)
    return data


def _check_context(task: Task, config: LanguageDataConfig) -> None:
    length = config.sequence_length
    if isinstance(task.model, GPT2Config) and length > task.model.context_length:
        raise ValueError(
            f"data.sequence_length {length} is longer than the model's context; add "
            f"--data.sequence-length {task.model.context_length}"
            + ("" if task.training.pretrained else f" or --model.context-length {length}")
        )


def fitted_files(data: TextData) -> dict[str, str]:
    """The tokenizer, and what tells the text from others: many are written in its characters."""
    tokens = data.train.tokens
    digest = hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()
    content = {"training_tokens": len(tokens), "sha256": digest}
    return dict([data.tokenizer.file(), (FINGERPRINT_FILE, json.dumps(content, indent=2) + "\n")])


def count(data: TextData, split: SplitName) -> int:
    return max(0, len(getattr(data, split).tokens) - 1)  # the first is no target


def steps_per_epoch(task: Task, data: TextData) -> int:
    return carried_steps_per_epoch(
        data.train.tokens,
        batch_size=task.training.batch_size,
        sequence_length=_config(task).sequence_length,
    )


def units_per_step(task: Task, data: TextData) -> int:
    return task.training.batch_size * _config(task).sequence_length


def training_batches(
    task: Task, data: TextData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """Streams that go on from batch to batch for a recurrent model, random windows for others."""
    size, length = task.training.batch_size, _config(task).sequence_length
    tokens = data.train.tokens
    if isinstance(task.model, CharRNNConfig):
        return carried_batches(
            tokens,
            batch_size=size,
            sequence_length=length,
            start_step=start_step,
            host=host,
            num_hosts=num_hosts,
        )
    return random_windows(
        tokens,
        batch_size=size,
        sequence_length=length,
        seed=task.training.seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )


def evaluation_batches(task: Task, data: TextData, split: SplitName) -> Iterator[Batch]:
    """Streams again; a model that carries no state sees each window by itself."""
    return evaluation_windows(
        getattr(data, split).tokens,
        batch_size=task.training.evaluation_batch_size,
        sequence_length=_config(task).sequence_length,
    )


def score(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return metrics.cross_entropy_and_hits(outputs, targets)


def write_outputs(
    folder: Path,
    task: Task,
    data: TextData,
    split: SplitName,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    predict: Predict,
) -> dict[str, Any]:
    """samples.txt and plots/."""
    draw_curves(folder, task, data, history)
    part = getattr(data, split)
    bits = bits_per_character(
        evaluation.loss, num_tokens=evaluation.count, num_characters=part.characters
    )
    path = folder / "samples.txt"
    samples = write_samples(path, task, data.tokenizer, part.tokens, predict)
    return {
        "bits_per_character": bits,
        "loss_per_character": bits * math.log(2),
        "perplexity": perplexity(evaluation.loss),
        **samples,
    }


in_words = row_family.in_words
explain_divergence = row_family.explain_divergence


def draw_curves(folder: Path, task: Task, data: TextData, history: list[dict[str, Any]]) -> None:
    """plots/curves.png, where there is a history."""
    if history:
        drawn = folder / "plots"
        drawn.mkdir(exist_ok=True)
        plots.plot_curves(history, drawn / "curves.png", title=f"{task.name} on {data.source}")


def _config(task: Task) -> LanguageDataConfig:
    assert isinstance(task.data, LanguageDataConfig)
    return task.data
