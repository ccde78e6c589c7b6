"""What a finished classifier says of images or texts that people hand it.

>>> run, engine = load_engine(folder)
>>> batch, class_names = read_inputs(run.task, folder, ["not bad at all"])
>>> class_probabilities(engine, batch, run.task.training.evaluation_batch_size)
array([[0.12, 0.88]])
"""

import os.path
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.image_batches import normalise
from jaxmodels.shared.data.images import ImageDataConfig, read_image
from jaxmodels.shared.data.reviews import ReviewDataConfig, encode_reviews
from jaxmodels.shared.data.subwords import SubwordDataConfig, encode_subwords
from jaxmodels.shared.data.subwords import inputs as subword_inputs
from jaxmodels.shared.data.wikitext import LanguageDataConfig
from jaxmodels.shared.families.images import read_normalisation
from jaxmodels.shared.families.reviews import read_vocabulary
from jaxmodels.shared.families.subwords import read_tokenizer
from jaxmodels.shared.loop import Engine
from jaxmodels.shared.metrics import log_softmax
from jaxmodels.shared.tasks import Task


def read_inputs(task: Task, folder: Path, inputs: Sequence[str]) -> tuple[Batch, tuple[str, ...]]:
    """All inputs as one batch, prepared as in training, and the names of the classes.

    Raises:
        ValueError: the run classifies nothing, or an input is not what it classifies.
    """
    if isinstance(task.data, ImageDataConfig):
        mean, std, class_names = read_normalisation(folder)
        size, channels = task.model.image_size, task.model.in_channels  # type: ignore[union-attr]
        images = [read_image(path, image_size=size, channels=channels) for path in inputs]
        return {"image": normalise(np.stack(images), mean, std)}, class_names
    if isinstance(task.data, ReviewDataConfig):
        vocabulary, class_names = read_vocabulary(folder)
        for text in inputs:
            _check_text(text)
        tokens, lengths = encode_reviews(inputs, vocabulary, task.data)
        return {"tokens": tokens, "lengths": lengths}, class_names
    if isinstance(task.data, SubwordDataConfig):
        tokenizer, class_names = read_tokenizer(folder)
        for text in inputs:
            _check_text(text)
        padding = task.model.padding_id  # type: ignore[union-attr]
        encoded = encode_subwords(inputs, tokenizer, task.data, padding_id=padding)
        return subword_inputs(*encoded), class_names
    mend = "; generate.py continues texts" if isinstance(task.data, LanguageDataConfig) else ""
    raise ValueError(f"{folder} holds a run of {task.name}, which classifies nothing{mend}")


def class_probabilities(engine: Engine, batch: Batch, size: int) -> np.ndarray:
    """(N, classes) float64 of a batch of any length, predicted `size` rows at a time."""
    count = len(next(iter(batch.values())))
    logits = [
        engine.predict({name: value[start : start + size] for name, value in batch.items()})[0]
        for start in range(0, count, size)
    ]
    return np.exp(log_softmax(np.concatenate(logits)))


def _check_text(text: str) -> None:
    if not text.strip():
        raise ValueError("an INPUT is empty; expected a review")
    if os.path.isfile(text):
        raise ValueError(
            f"INPUT {text} is a file, and this run classifies texts; give what is in it: "
            f'"$(cat {text})"'
        )
