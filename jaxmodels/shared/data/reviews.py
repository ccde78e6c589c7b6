"""Sentiment data as numpy: reviews read, split, cleaned and encoded.

>>> data = load_reviews("sample", ReviewDataConfig(max_length=32))
>>> data.train.tokens.shape, data.train.tokens.dtype
((864, 32), dtype('int32'))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from jaxmodels.shared.data.review_sources import RawReviews, Reviews, read_reviews
from jaxmodels.shared.data.splits import stratified_split
from jaxmodels.shared.data.vocabulary import (
    NUM_SPECIAL_IDS,
    PADDING_ID,
    UNKNOWN_ID,
    Stem,
    Vocabulary,
    build_vocabulary,
    word_splitter,
)

_POOLED_FRACTIONS = (0.7, 0.1, 0.2)
SplitName = Literal["standard", "7:1:2"]
_Truncate = Literal["head", "tail"]


@dataclass(frozen=True)
class ReviewDataConfig:
    """How reviews are split, cleaned and encoded.

    `split` "standard" keeps the source's test split and draws `validation_fraction` of its training
    split; "7:1:2" pools all there is and draws 70% training, 10% validation and 20% test.
    `truncate` says which end of a long review is kept. `max_vocabulary` counts the two ids of
    padding and of unknown words.
    """

    dataset: Literal["imdb"] = "imdb"
    split: SplitName = "standard"
    validation_fraction: float = 0.1
    split_seed: int = 0  # apart from the training seed, so that every seed meets the same test
    max_length: int = 256
    truncate: _Truncate = "head"
    lowercase: bool = True
    remove_stop_words: bool = False
    stem: Stem = "none"
    min_frequency: int = 2
    max_vocabulary: int = 20000

    def __post_init__(self) -> None:
        check_split(self)
        choices = {"truncate": _Truncate, "stem": Stem}
        for name, options in choices.items():
            if getattr(self, name) not in get_args(options):
                raise ValueError(
                    f"data.{name} {getattr(self, name)!r} must be {' or '.join(get_args(options))}"
                )
        least = {"max_length": 1, "min_frequency": 1}
        for name, smallest in (least | {"max_vocabulary": NUM_SPECIAL_IDS + 1}).items():
            if getattr(self, name) < smallest:
                raise ValueError(f"data.{name} {getattr(self, name)} must be at least {smallest}")
        if self.stem != "none" and not self.lowercase:
            raise ValueError(
                f"data.stem {self.stem} needs data.lowercase: its rules are lower-case"
            )


class SplitConfig(Protocol):
    """The fields by which reviews are split."""

    @property
    def split(self) -> SplitName: ...

    @property
    def validation_fraction(self) -> float: ...

    @property
    def split_seed(self) -> int: ...


def check_split(config: SplitConfig) -> None:
    """Raises a ValueError where one of the fields is out of its range."""
    if config.split not in get_args(SplitName):
        raise ValueError(f"data.split {config.split!r} must be {' or '.join(get_args(SplitName))}")
    if not 0 <= config.validation_fraction < 1:
        raise ValueError(f"data.validation_fraction {config.validation_fraction} must be in [0, 1)")
    if config.split_seed < 0:
        raise ValueError(f"data.split_seed {config.split_seed} must be at least 0")


@dataclass(frozen=True)
class TokenSplit:
    """One split. N reviews, of which the model is shown at most T words or subwords.

    tokens: (N, T) int32, padded at the end with 0; lengths: (N,) int32 in 1..T; labels: (N,) int32;
    texts: the N reviews as they were written.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ReviewData:
    """A data set, ready to be batched.

    `source` says for people what was read. `duplicates` is the number of test reviews whose very
    text is in the training or validation split too: the original IMDb has 123. They are kept, as
    every published figure has kept them.
    """

    source: str
    class_names: tuple[str, ...]
    vocabulary: Vocabulary
    train: TokenSplit
    validation: TokenSplit
    test: TokenSplit
    duplicates: int


def load_reviews(
    source: str, config: ReviewDataConfig, *, vocabulary: Vocabulary | None = None
) -> ReviewData:
    """Reads "sample", "hub", "hub:OWNER/NAME", "tfds", "tfds:NAME", a local folder or a CSV file.

    Splits are stratified and drawn by `config.split_seed`; rows keep the source's order. The
    vocabulary is of the training split alone, of the words that are left after truncation: a word
    that only stands beyond would get a vector that is never trained. One that is given is kept.

    Raises:
        ValueError: the source is unknown, unreachable or malformed, is too small for the split, or
            a library is missing; one line, with the mend.
    """
    words_of = _shown_words(config)
    raw = read_reviews(source, dataset=config.dataset, split_seed=config.split_seed)
    train, validation, test = split_reviews(raw, config)
    train_words = [words_of(text) for text in train.texts]
    if vocabulary is None:
        vocabulary = build_vocabulary(
            train_words, min_frequency=config.min_frequency, max_size=config.max_vocabulary
        )
    if not vocabulary.words:
        raise ValueError(
            f"{raw.source}: no word occurs {config.min_frequency} times in the {len(train)} "
            f"training reviews; expected a vocabulary; try --data.min-frequency 1"
        )

    def encode_split(reviews: Reviews, words: Sequence[Sequence[str]]) -> TokenSplit:
        tokens, lengths = _encode(words, vocabulary, config.max_length)
        return TokenSplit(tokens, lengths, reviews.labels, reviews.texts)

    known = {*train.texts, *validation.texts}
    return ReviewData(
        source=raw.source,
        class_names=raw.class_names,
        vocabulary=vocabulary,
        train=encode_split(train, train_words),
        validation=encode_split(validation, [words_of(text) for text in validation.texts]),
        test=encode_split(test, [words_of(text) for text in test.texts]),
        duplicates=sum(text in known for text in test.texts),
    )


def encode_reviews(
    texts: Sequence[str], vocabulary: Vocabulary, config: ReviewDataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """N texts -> tokens (N, max_length) int32 padded at the end with 0, lengths (N,) int32.

    For reviews that nobody has labelled, the way `load_reviews` encodes its splits. A review of
    which cleaning leaves nothing is one unknown word: a model need not know the length 0.
    """
    words_of = _shown_words(config)
    return _encode([words_of(text) for text in texts], vocabulary, config.max_length)


def _shown_words(config: ReviewDataConfig) -> Callable[[str], Sequence[str]]:
    """-> a function from a text to the at most `max_length` words that the model is shown."""
    split = word_splitter(
        lowercase=config.lowercase, remove_stop_words=config.remove_stop_words, stem=config.stem
    )
    head, length = config.truncate == "head", config.max_length
    return lambda text: split(text)[:length] if head else split(text)[-length:]


def _encode(
    word_lists: Sequence[Sequence[str]], vocabulary: Vocabulary, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """N lists of at most `max_length` words -> tokens (N, max_length) int32, lengths (N,) int32."""
    tokens = np.full((len(word_lists), max_length), PADDING_ID, np.int32)
    tokens[:, 0] = UNKNOWN_ID  # what an empty review keeps
    lengths = np.ones(len(word_lists), np.int32)
    for row, words in enumerate(word_lists):
        if words:
            tokens[row, : len(words)] = vocabulary.encode(words)
            lengths[row] = len(words)
    return tokens, lengths


def split_reviews(raw: RawReviews, config: SplitConfig) -> tuple[Reviews, Reviews, Reviews]:
    """-> (train, validation, test): disjoint, and together the source."""
    if config.split == "7:1:2":
        parts = [raw.train] if raw.test is None else [raw.train, raw.test]
        pool = Reviews(
            tuple(text for part in parts for text in part.texts),
            np.concatenate([part.labels for part in parts]),
        )
        rows = stratified_split(pool.labels, _POOLED_FRACTIONS, seed=config.split_seed)
        if not all(map(len, rows)):
            sizes = ", ".join(str(len(part)) for part in rows)
            raise ValueError(
                f"{raw.source}: 7:1:2 of {len(pool)} reviews is {sizes}; expected at least one "
                f"review in each; try 10 or more reviews"
            )
        train, validation, test = map(pool.take, rows)
        return train, validation, test
    if raw.test is None:
        raise ValueError(
            f"{raw.source} has no test split, and data.split standard needs one; use "
            f"--data.split 7:1:2"
        )
    fraction, size = config.validation_fraction, len(raw.train)
    rows = stratified_split(raw.train.labels, (1 - fraction, fraction), seed=config.split_seed)
    train, validation = map(raw.train.take, rows)
    if not len(train) or (fraction > 0 and not len(validation)):
        raise ValueError(
            f"{raw.source}: data.validation_fraction {fraction} of {size} rows is "
            f"{len(validation)}; expected at least one row on each side; try 0.5 or more rows"
        )
    return train, validation, raw.test
