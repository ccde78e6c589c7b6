"""Tiny tasks of reviews and of text, their data in memory and as the files that scripts read."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.shared.configs import CharRNNConfig, TextClassifierConfig
from jaxmodels.shared.data.reviews import (
    ReviewData,
    ReviewDataConfig,
    TokenSplit,
    encode_reviews,
)
from jaxmodels.shared.data.text import TextData, TextDataConfig, encode_split
from jaxmodels.shared.data.vocabulary import build_vocabulary
from jaxmodels.shared.schedules import ScheduleConfig
from jaxmodels.shared.tasks import OptimizerConfig, Task, TrainingConfig
from jaxmodels.shared.text.tokenizers import CharacterTokenizer
from parity_tests.tiny_runs import BATCH, EPOCHS, STEPS

OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.01, clip_norm=1.0)
SCHEDULE = ScheduleConfig(name="cosine", warmup_fraction=0.2)

REVIEW_TASK = Task(
    name="tiny-reviews",
    description="a small classifier of reviews, for the tests",
    model=TextClassifierConfig(
        vocabulary_size=40, embedding_dim=6, hidden_dim=7, bidirectional=True, dropout_rate=0.3
    ),
    data=ReviewDataConfig(max_length=9, min_frequency=1),
    optimizer=replace(OPTIMIZER, learning_rate=0.05),
    schedule=SCHEDULE,
    training=TrainingConfig(epochs=EPOCHS, batch_size=BATCH, evaluation_batch_size=10),
)
ROWS, LENGTH = 4, 6
TEXT_TASK = Task(
    name="tiny-text",
    description="a small model of text, for the tests",
    model=CharRNNConfig(vocabulary_size=30, embedding_dim=5, hidden_dim=8, dropout_rate=0.3),
    data=TextDataConfig(sequence_length=LENGTH),
    optimizer=OPTIMIZER,
    schedule=SCHEDULE,
    training=TrainingConfig(epochs=EPOCHS, batch_size=ROWS, evaluation_batch_size=3),
)

_NOUNS = ("film", "plot", "cast", "score", "end", "night", "king", "sea")
_WORDS = (("dull", "weak", "bad", "grim"), ("fine", "bright", "good", "warm"))


def write_reviews(rows: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Reviews of 1 to 8 words, of which one tells the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows, dtype=np.int32) % 2
    texts = []
    for label in labels:
        words = [str(word) for word in rng.choice(_NOUNS, size=rng.integers(0, 8))]
        texts.append(" ".join([*words, str(rng.choice(_WORDS[label]))]))
    return texts, labels


def write_prose(words: int, seed: int) -> str:
    """Lines of words, seven a line."""
    rng = np.random.default_rng(seed)
    vocabulary = list(itertools.chain(_NOUNS, *_WORDS))
    chosen = [str(word) for word in rng.choice(vocabulary, size=words)]
    return "\n".join(" ".join(chosen[start : start + 7]) for start in range(0, words, 7)) + "\n"


def _review_data() -> ReviewData:
    texts = [write_reviews(rows, seed) for seed, rows in enumerate((STEPS * BATCH + 3, 23, 17))]
    vocabulary = build_vocabulary(
        [text.split() for text in texts[0][0]], min_frequency=1, max_size=40
    )
    assert isinstance(REVIEW_TASK.data, ReviewDataConfig)
    splits = [
        TokenSplit(*encode_reviews(part, vocabulary, REVIEW_TASK.data), labels, tuple(part))
        for part, labels in texts
    ]
    return ReviewData("tiny", ("neg", "pos"), vocabulary, *splits, duplicates=0)


def _text_data() -> TextData:
    text = write_prose(80, 0)
    first, second = STEPS * ROWS * LENGTH + 5, STEPS * ROWS * LENGTH + 68
    tokenizer = CharacterTokenizer.train(text)
    parts = [
        encode_split(tokenizer, part)
        for part in (text[:first], text[first:second], text[second : second + 52])
    ]
    return TextData("tiny", tokenizer, *parts)


REVIEWS, TEXT = _review_data(), _text_data()
FAMILIES: dict[str, tuple[Task, Any]] = {
    "reviews": (REVIEW_TASK, REVIEWS),
    "text": (TEXT_TASK, TEXT),
}


def review_file(path: Path, *, rows: int = 160, seed: int = 0) -> Path:
    """A CSV file of reviews, which --data.split 7:1:2 reads."""
    texts, labels = write_reviews(rows, seed)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        names = ("negative", "positive")
        writer.writerows([text, names[label]] for text, label in zip(texts, labels, strict=True))
    return path


def text_file(path: Path, *, words: int = 300, seed: int = 0) -> Path:
    path.write_text(write_prose(words, seed))
    return path


# How a user makes such tasks of those that there are.
REVIEW_FLAGS = (
    *("imdb-lstm", "--model.vocabulary-size", 40, "--model.embedding-dim", 6),
    *("--model.hidden-dim", 7, "--data.split", "7:1:2", "--data.max-length", 9),
    *("--data.min-frequency", 1, "--epochs", 2, "--batch-size", 12),
)
TEXT_FLAGS = (
    *("shakespeare-gru", "--model.vocabulary-size", 30, "--model.embedding-dim", 5),
    *("--model.hidden-dim", 16, "--model.dropout-rate", 0, "--data.sequence-length", 12),
    *("--epochs", 2, "--batch-size", 4, "--training.evaluation-batch-size", 3),
)
