"""A text in splits and subwords for a GPT-2, and the windows that its perplexity is taken over.

>>> config = WikiTextDataConfig(training_split="validation")
>>> data = load_wikitext("wikitext-2", config)  # valid.txt and test.txt
>>> data.test.words  # of 245,569, as published: the first token, " \\n", is not predicted
245568
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.text import (
    TextData,
    TextDataConfig,
    check_fractions,
    count_targets,
    encode_splits,
    split_text,
)
from jaxmodels.shared.data.text_sources import RawSplits
from jaxmodels.shared.data.wikitext_sources import read_wikitext
from jaxmodels.shared.hub.download import find_folder
from jaxmodels.shared.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer


@dataclass(frozen=True)
class WikiTextDataConfig:
    """How a text is split, tokenised and evaluated.

    A run that starts from a checkpoint has its tokenizer; another that of `tokenizer_folder`, or
    else byte-level BPE of `vocabulary_size` tokens, trained on the training text.

    `training_split` "validation" trains on that split, as where the training text is not at hand.
    A validation or test split that is then lacking is cut from the end of the training text, these
    fractions of it. `training_fraction` trains on the first part of what is left.

    The model reads windows of `sequence_length` tokens. In evaluation they are `evaluation_stride`
    apart (0: half a window), and only what no window before has seen is predicted.
    """

    dataset: Literal["wikitext"] = "wikitext"
    tokenizer_folder: str = ""
    vocabulary_size: int = 2048
    sequence_length: int = 128
    evaluation_stride: int = 0
    training_split: Literal["train", "validation"] = "train"
    training_fraction: float = 1.0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        least = {"vocabulary_size": 256, "sequence_length": 2, "evaluation_stride": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"data.{name} {getattr(self, name)} must be at least {smallest}")
        if self.evaluation_stride > self.sequence_length:
            raise ValueError(
                f"data.evaluation_stride {self.evaluation_stride} leaves tokens out between "
                f"windows of {self.sequence_length}; take {self.sequence_length} at most"
            )
        if self.training_split not in ("train", "validation"):
            raise ValueError(
                f"data.training_split {self.training_split!r} must be train or validation"
            )
        if not 0 < self.training_fraction <= 1:
            raise ValueError(f"data.training_fraction {self.training_fraction} must be in (0, 1]")
        check_fractions(self.validation_fraction, self.test_fraction)

    @property
    def stride(self) -> int:
        """How many tokens each window but the first predicts."""
        return self.evaluation_stride or self.sequence_length // 2


LanguageDataConfig = TextDataConfig | WikiTextDataConfig


def load_wikitext(
    source: str, config: WikiTextDataConfig, *, tokenizer: Tokenizer | None = None
) -> TextData:
    """Reads what `read_wikitext` reads. A tokenizer that is given is kept.

    Raises:
        ValueError: the source is unknown, unreachable, malformed, too short or has no training
            split, or there is no tokenizer; one line, with the mend.
    """
    if tokenizer is None and config.tokenizer_folder:  # before the text, which takes longer
        tokenizer = load_tokenizer(find_folder(config.tokenizer_folder))
    raw = read_wikitext(source)
    train, validation, test = split_texts(raw, config)
    if tokenizer is None:
        tokenizer = train_tokenizer("bpe", train, config.vocabulary_size)
    name = raw.source
    if config.training_split == "validation":
        name += "; trained on validation"
    if config.training_fraction < 1:
        name += f"; on the first {config.training_fraction:.0%} of the training text"
    return encode_splits(name, tokenizer, train, validation, test)


def split_texts(raw: RawSplits, config: WikiTextDataConfig) -> tuple[str, str, str]:
    """-> the text to train on, to validate on, to test on.

    Raises:
        ValueError: the split to train on is lacking, or a text is too short.
    """
    texts = dict(raw.texts)
    if config.training_split not in texts:
        other = "validation" if config.training_split == "train" else "train"
        raise ValueError(
            f"{raw.source} has no {config.training_split} split; add --data.training-split {other} "
            "to train on that, or take another --source"
        )
    whole = texts.pop(config.training_split)
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    cut = {name: 0.0 if name in texts else fraction for name, fraction in fractions.items()}
    train, *parts = split_text(whole, raw.source, cut["validation"], cut["test"])
    found = dict(zip(cut, parts, strict=True)) | texts
    if config.training_fraction < 1:
        end = int(len(train) * config.training_fraction)
        train = train[: train.find("\n", end) + 1 or len(train)]  # whole lines
    return train, found["validation"], found["test"]


def strided_windows(
    tokens: np.ndarray, *, batch_size: int, sequence_length: int, stride: int
) -> Iterator[Batch]:
    """Every token but the first as a target exactly once, each with a long text before it.

    tokens (N,) -> tokens, targets: (B, T) int32, windows `stride` apart, targets one token ahead;
    mask (B, T) float32, 0 where a window before has had the target, and past the end. In every
    window but the first a target has more than T - stride tokens before it in its window.

    Raises:
        ValueError: the stride is not in 1 .. T, or there is no target.
    """
    if not 1 <= stride <= sequence_length:
        raise ValueError(f"stride {stride} must be in 1 .. {sequence_length}, the window")
    num_targets = count_targets(tokens)
    count = 1 + max(0, -(-(num_targets - sequence_length) // stride))
    size = min(batch_size, count)
    within = np.arange(sequence_length)  # (T,)

    def batch(first: int) -> Batch:
        windows = np.arange(first, first + size)[:, None]  # (B, 1)
        places = windows * stride + within  # (B, T)
        inside = (places < num_targets) & (windows < count)
        places = np.where(inside, places, 0)
        fresh = (windows == 0) | (within >= sequence_length - stride)
        return {
            "tokens": np.where(inside, tokens[places], 0).astype(np.int32),
            "targets": np.where(inside, tokens[places + 1], 0).astype(np.int32),
            "mask": (inside & fresh).astype(np.float32),
        }

    return map(batch, range(0, count, size))
