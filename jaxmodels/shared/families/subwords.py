"""Sentiment by a pretrained encoder: reviews in subwords in, one of two classes out."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.data import batches
from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host, host_rows
from jaxmodels.shared.data.subwords import SubwordData, SubwordDataConfig, batch, load_subwords
from jaxmodels.shared.families import reviews
from jaxmodels.shared.families import rows as row_family
from jaxmodels.shared.families.family import SplitName
from jaxmodels.shared.families.sizes import check_sizes
from jaxmodels.shared.files import read_json
from jaxmodels.shared.fine_tuning import tokenizer_folder
from jaxmodels.shared.tasks import Task
from jaxmodels.shared.text.subwords import TOKENIZER_FILE, SubwordTokenizer, open_tokenizer

UNIT = reviews.UNIT
INPUTS = ("input_ids", "attention_mask")
TARGET = reviews.TARGET
LOSS = reviews.LOSS
METRIC = reviews.METRIC
KEEP_OUTPUTS = reviews.KEEP_OUTPUTS
MEASURED_BEFORE = False

FINGERPRINT_FILE = "reviews.json"


def load(source: str, task: Task, run: Path | None = None) -> SubwordData:
    config, model = task.data, task.model
    assert isinstance(config, SubwordDataConfig)
    assert isinstance(model, BERTConfig)
    if model.head != "sequence-classification":
        raise ValueError(
            f"model.head {model.head} does not classify texts; add --model.head "
            "sequence-classification"
        )
    data = load_subwords(
        source,
        config,
        context_length=model.context_length - model.first_position,
        padding_id=model.padding_id,
        tokenizer_folder=tokenizer_folder(task, run),
    )
    check_sizes(task, data.source, num_classes=len(data.class_names))
    _check_vocabulary(data.tokenizer, model, task.training.pretrained)
    return data


def _check_vocabulary(tokenizer: SubwordTokenizer, model: BERTConfig, pretrained: str) -> None:
    size = tokenizer.vocabulary_size
    if size > model.vocabulary_size:
        mend = (
            f"it is another model's than {pretrained}; put the model's own there"
            if pretrained
            else f"add --model.vocabulary-size {size}"
        )
        raise ValueError(
            f"{tokenizer.file} has {size} tokens, the model {model.vocabulary_size}; {mend}"
        )


def fitted_files(data: SubwordData) -> dict[str, str]:
    """The tokenizer, and what tells the training reviews from others: it may fit many."""
    digest = hashlib.sha256(data.train.tokens.astype("<i4").tobytes())
    digest.update(data.train.labels.astype("<i4").tobytes())
    content = {
        "class_names": data.class_names,
        "training_reviews": len(data.train),
        "sha256": digest.hexdigest(),
    }
    return {
        TOKENIZER_FILE: data.tokenizer.content(),
        FINGERPRINT_FILE: json.dumps(content, indent=2) + "\n",
    }


def read_tokenizer(run: Path) -> tuple[SubwordTokenizer, tuple[str, ...]]:
    """A run's tokenizer and class names.

    Raises:
        ValueError: a file is missing or malformed.
    """
    path = run / FINGERPRINT_FILE
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("class_names"), list):
        raise ValueError(f"{path} is malformed; expected class_names; restore it from a copy")
    return open_tokenizer(run), tuple(content["class_names"])


count = row_family.count
steps_per_epoch = row_family.steps_per_epoch
units_per_step = row_family.units_per_step
score = reviews.score
write_outputs = reviews.write_outputs
in_words = reviews.in_words
explain_divergence = reviews.explain_divergence


def training_batches(
    task: Task, data: SubwordData, start_step: int = 0, *, host: Host = 0, num_hosts: int = 1
) -> Iterator[Batch]:
    """Reviews of similar length share a batch, which is as wide as the longest of them needs.

    Every host makes the whole batch: the longest may be another's.
    """
    own = host_rows(task.training.batch_size, host, num_hosts)
    whole = batches.shuffled_batches(
        lambda rows, epoch: batch(data.train, rows),
        len(data.train),
        batch_size=task.training.batch_size,
        seed=task.training.seed,
        start_step=start_step,
        lengths=data.train.lengths,
    )
    return ({name: value[own] for name, value in found.items()} for found in whole)


def evaluation_batches(task: Task, data: SubwordData, split: SplitName) -> Iterator[Batch]:
    """A split once, the short reviews first; `index` tells which they are."""
    part = getattr(data, split)
    by_length = np.argsort(part.lengths, kind="stable")
    size = row_family.evaluation_size(task, part)
    ordered = batches.ordered_batches(
        lambda rows: batch(part, by_length[rows]), len(part), batch_size=size
    )
    for found in ordered:
        rows = found["index"]
        yield found | {"index": np.where(rows < 0, -1, by_length[rows])}
