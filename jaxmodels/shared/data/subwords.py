"""Reviews as a pretrained encoder reads them: token ids between the ends' tokens.

>>> data = load_subwords("sample", SubwordDataConfig(), context_length=512, padding_id=0)
>>> batch(data.train, np.arange(32))["input_ids"].shape  # the smallest width that holds all 32
(32, 64)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.review_sources import Reviews, read_reviews
from jaxmodels.shared.data.reviews import SplitName, TokenSplit, check_split, split_reviews
from jaxmodels.shared.data.vocabulary import without_markup
from jaxmodels.shared.text.subwords import (
    MIN_LENGTH,
    SubwordTokenizer,
    Truncate,
    open_tokenizer,
    train_subwords,
)

WIDTH_STEP = 64  # batches have widths that are multiples of it: few, since each is compiled


@dataclass(frozen=True)
class SubwordDataConfig:
    """How reviews are split and cut into the tokens of an encoder.

    A run that starts from a checkpoint has its tokenizer; another trains one of at most
    `max_vocabulary` tokens on its training split. `split`, `validation_fraction` and `split_seed`
    are as for `imdb-lstm`; `max_training_reviews` (0: all) trains on the first so many of a shuffle
    by `split_seed`. `max_length` counts the two tokens at the ends.
    """

    dataset: Literal["imdb-subwords"] = "imdb-subwords"
    split: SplitName = "standard"
    validation_fraction: float = 0.1
    split_seed: int = 0
    max_training_reviews: int = 0
    max_length: int = 192
    truncate: Truncate = "head-tail"
    max_vocabulary: int = 8000

    def __post_init__(self) -> None:
        check_split(self)
        if self.truncate not in get_args(Truncate):
            raise ValueError(
                f"data.truncate {self.truncate!r} must be {', '.join(get_args(Truncate))}"
            )
        least = {"max_training_reviews": 0, "max_length": MIN_LENGTH, "max_vocabulary": 300}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"data.{name} {getattr(self, name)} must be at least {smallest}")


@dataclass(frozen=True)
class SubwordData:
    """A data set, ready to be batched; `tokens` of its splits are padded with the model's id.

    `source` says for people what was read. `duplicates` is the number of test reviews whose very
    text is in the training or validation split too.
    """

    source: str
    class_names: tuple[str, ...]
    tokenizer: SubwordTokenizer
    train: TokenSplit
    validation: TokenSplit
    test: TokenSplit
    duplicates: int


def load_subwords(
    source: str,
    config: SubwordDataConfig,
    *,
    context_length: int,
    padding_id: int,
    tokenizer_folder: Path | None = None,
) -> SubwordData:
    """Reads what `imdb-lstm` reads. With a model's folder, its tokenizer is used.

    Raises:
        ValueError: the source is unknown, unreachable or malformed, the tokenizer is missing, or
            `max_length` exceeds the model's context; one line, with the mend.
    """
    if config.max_length > context_length:
        raise ValueError(
            f"data.max_length {config.max_length} is longer than the {context_length} tokens that "
            f"the model reads; add --data.max-length {context_length}"
        )
    tokenizer = None  # found before the reviews, which take longer
    if tokenizer_folder is not None:
        tokenizer = open_tokenizer(tokenizer_folder)
    raw = read_reviews(source, dataset="imdb", split_seed=config.split_seed)
    train, validation, test = split_reviews(raw, config)
    if 0 < config.max_training_reviews < len(train):
        generator = np.random.Generator(np.random.PCG64(config.split_seed))
        chosen = generator.permutation(len(train))[: config.max_training_reviews]
        train = train.take(np.sort(chosen))
    if tokenizer is None:
        texts = [without_markup(text) for text in train.texts]
        tokenizer = train_subwords(texts, config.max_vocabulary)

    def encode_split(reviews: Reviews) -> TokenSplit:
        tokens, lengths = encode_subwords(reviews.texts, tokenizer, config, padding_id=padding_id)
        return TokenSplit(tokens, lengths, reviews.labels, reviews.texts)

    known = {*train.texts, *validation.texts}
    return SubwordData(
        source=raw.source,
        class_names=raw.class_names,
        tokenizer=tokenizer,
        train=encode_split(train),
        validation=encode_split(validation),
        test=encode_split(test),
        duplicates=sum(text in known for text in test.texts),
    )


def encode_subwords(
    texts: Sequence[str],
    tokenizer: SubwordTokenizer,
    config: SubwordDataConfig,
    *,
    padding_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """N texts -> tokens (N, max_length) int32 padded at the end, lengths (N,) int32.

    Tags and entities of HTML are gone; all else is the tokenizer's own affair.
    """
    encoded = tokenizer.encode(
        [without_markup(text) for text in texts],
        max_length=config.max_length,
        truncate=config.truncate,
    )
    tokens = np.full((len(texts), config.max_length), padding_id, np.int32)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = ids
    return tokens, np.array([len(ids) for ids in encoded], np.int32)


def batch(split: TokenSplit, rows: np.ndarray) -> Batch:
    """input_ids, attention_mask: (B, T) int32 of the smallest width that holds the rows; label."""
    return inputs(split.tokens[rows], split.lengths[rows]) | {"label": split.labels[rows]}


def inputs(tokens: np.ndarray, lengths: np.ndarray) -> Batch:
    """tokens (B, T), lengths (B,) -> input_ids, attention_mask (B, W), W a multiple of 64 or T."""
    width = min(tokens.shape[1], -(-int(lengths.max()) // WIDTH_STEP) * WIDTH_STEP)
    mask = np.arange(width) < lengths[:, None]
    return {
        "input_ids": np.ascontiguousarray(tokens[:, :width]),
        "attention_mask": mask.astype(np.int32),
    }
