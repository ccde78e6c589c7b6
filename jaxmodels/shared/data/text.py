"""Text as numpy: read, split by position, tokenised, and cut into language-model batches.

Each batch is a pure function of its step (and, for `random_windows`, of the seed), so a run resumes
by naming the step.

>>> data = load_text("sample", TextDataConfig(sequence_length=64))
>>> batch = next(carried_batches(data.train.tokens, batch_size=32, sequence_length=64))
>>> batch["tokens"].shape, batch["targets"].shape, batch["reset"].all()
((32, 64), (32, 64), True)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxmodels.shared.data.batches import Batch
from jaxmodels.shared.data.counters import Host, below, draws, host_rows
from jaxmodels.shared.data.text_sources import read_text
from jaxmodels.shared.text.metrics import count_words
from jaxmodels.shared.text.tokenizers import Tokenizer, train_tokenizer


@dataclass(frozen=True)
class TextDataConfig:
    """How a text is split and tokenised.

    The splits are cut by position: the first part trains, the next validates, the last tests.
    `vocabulary_size` is that of "bpe"; "character" has as many tokens as the text has characters.
    """

    dataset: Literal["shakespeare"] = "shakespeare"
    tokenizer: Literal["character", "bpe"] = "character"
    vocabulary_size: int = 1024
    sequence_length: int = 128
    validation_fraction: float = 0.1
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.tokenizer not in ("character", "bpe"):
            raise ValueError(f"data.tokenizer {self.tokenizer!r} must be character or bpe")
        if self.vocabulary_size < 256:
            raise ValueError(
                f"data.vocabulary_size {self.vocabulary_size} must be at least 256, one a byte"
            )
        if self.sequence_length < 1:
            raise ValueError(f"data.sequence_length {self.sequence_length} must be at least 1")
        check_fractions(self.validation_fraction, self.test_fraction)


def check_fractions(validation: float, test: float) -> None:
    """Raises a ValueError unless data.validation_fraction and data.test_fraction are usable."""
    for name, value in (("validation_fraction", validation), ("test_fraction", test)):
        if not 0 <= value < 1:
            raise ValueError(f"data.{name} {value} must be in [0, 1)")
    if validation + test >= 1:
        raise ValueError(
            f"data.validation_fraction {validation} and data.test_fraction {test} must leave "
            "something to train on; try 0.1 and 0.1"
        )


@dataclass(frozen=True)
class TextSplit:
    """tokens: (N,) int32, and how much text the N - 1 targets (all but the first) stand for.

    The latter is what bits per character, perplexity per word and the like divide by; what counts
    as a word, `text_metrics.count_words` says.
    """

    tokens: np.ndarray
    characters: int
    words: int
    num_bytes: int


@dataclass(frozen=True)
class TextData:
    """A corpus, ready to be batched. `source` says for people what was read."""

    source: str
    tokenizer: Tokenizer
    train: TextSplit
    validation: TextSplit
    test: TextSplit


def load_text(
    source: str, config: TextDataConfig, *, tokenizer: Tokenizer | None = None
) -> TextData:
    """Reads "sample", "hub", "hub:OWNER/NAME", "tfds", "tfds:NAME" or a UTF-8 text file.

    BPE learns from the training part only. The characters are those of the whole text: one that is
    only in the validation part then costs many bits there, where it would otherwise be an error.
    A tokenizer that is given is kept.

    Raises:
        ValueError: the source is unknown, unreachable, malformed or too short; one line, with the
            mend.
    """
    raw = read_text(source)
    fractions = (config.validation_fraction, config.test_fraction)
    train, validation, test = split_text(raw.text, raw.source, *fractions)
    if tokenizer is None:
        learned_from = raw.text if config.tokenizer == "character" else train
        tokenizer = train_tokenizer(config.tokenizer, learned_from, config.vocabulary_size)
    return encode_splits(raw.source, tokenizer, train, validation, test)


def encode_splits(
    source: str, tokenizer: Tokenizer, train: str, validation: str, test: str
) -> TextData:
    """The texts as tokens.

    Raises:
        ValueError: one has a character that the tokenizer does not know; the split is named.
    """
    parts = {}
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        try:
            parts[name] = encode_split(tokenizer, part)
        except ValueError as error:  # only a tokenizer that was given can meet the unknown
            raise ValueError(f"{source}, {name} part: {error}") from None
    return TextData(source, tokenizer, **parts)


def encode_split(tokenizer: Tokenizer, text: str) -> TextSplit:
    """Raises a ValueError where the text has a character that the tokenizer does not know."""
    tokens = tokenizer.encode(text)
    targets = text[len(tokenizer.decode(tokens[:1])) :]
    first_bytes = sum(len(tokenizer.token_bytes(int(token))) for token in tokens[:1])
    return TextSplit(
        tokens,
        characters=len(targets),
        words=count_words(targets),
        num_bytes=len(text.encode()) - first_bytes,
    )


def carried_batches(
    tokens: np.ndarray,
    *,
    batch_size: int,
    sequence_length: int,
    start_step: int = 0,
    host: Host = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """Endless batches for truncated backpropagation with carried state, from `start_step` on.

    The text is cut into B equal streams, one a row; a batch continues each stream where the batch
    before it ended, so that the state may be carried over. tokens, targets: (B, T) int32, targets
    one token ahead. reset: (B,) bool, true in an epoch's first batch: the state starts afresh.
    index: (B,) int64, the place of each row's first token.
    `batch_size` is global: of each batch, host h of n yields the h-th of n equal runs of rows.

    What does not fill a whole batch, fewer than B * T tokens at the end, is left out.

    Raises:
        ValueError: the sizes do not fit the text or the hosts.
    """
    rows = host_rows(batch_size, host, num_hosts)
    _check_at_least(0, start_step=start_step)
    steps = carried_steps_per_epoch(tokens, batch_size=batch_size, sequence_length=sequence_length)
    starts = rows[:, None] * (steps * sequence_length)  # (B, 1)

    def batch(step: int) -> Batch:
        step_in_epoch = step % steps
        reset = np.full(len(rows), step_in_epoch == 0)
        first = starts + step_in_epoch * sequence_length
        return _windows(tokens, first + np.arange(sequence_length)) | {"reset": reset}

    return map(batch, itertools.count(start_step))


def carried_steps_per_epoch(tokens: np.ndarray, *, batch_size: int, sequence_length: int) -> int:
    """How many full batches of B * T targets the tokens make.

    Raises:
        ValueError: none, or a size is not positive.
    """
    _check_at_least(1, batch_size=batch_size, sequence_length=sequence_length)
    steps = (len(tokens) - 1) // (batch_size * sequence_length)
    if steps < 1:
        raise ValueError(
            f"batch_size {batch_size} times sequence_length {sequence_length} is more than the "
            f"{max(0, len(tokens) - 1)} targets of the text; try a smaller one or a longer text"
        )
    return steps


def random_windows(
    tokens: np.ndarray,
    *,
    batch_size: int,
    sequence_length: int,
    seed: int,
    start_step: int = 0,
    host: Host = 0,
    num_hosts: int = 1,
) -> Iterator[Batch]:
    """Endless batches of windows at random places, from `start_step` on.

    Where the window of a row begins is a function of (seed, step, row) alone, uniform over all
    places. tokens, targets: (B, T) int32, targets one token ahead; index: (B,) int64, the place of
    each row's first token. `batch_size` is global: of each batch, host h of n yields the h-th of n
    equal runs of rows.

    Raises:
        ValueError: the sizes do not fit the text or the hosts.
    """
    rows = host_rows(batch_size, host, num_hosts)
    _check_at_least(0, seed=seed, start_step=start_step)
    _check_at_least(1, sequence_length=sequence_length)
    if sequence_length >= len(tokens):
        raise ValueError(
            f"sequence_length {sequence_length} must be below the {len(tokens)} tokens of the "
            f"text; try a smaller one or a longer text"
        )

    def batch(step: int) -> Batch:
        (numbers,) = draws(seed, step, rows, count=1)
        first = below(len(tokens) - sequence_length, numbers)[:, None]  # (B, 1)
        return _windows(tokens, first + np.arange(sequence_length))

    return map(batch, itertools.count(start_step))


def evaluation_windows(
    tokens: np.ndarray, *, batch_size: int, sequence_length: int
) -> Iterator[Batch]:
    """Every token but the first as a target exactly once, in streams that may carry their state.

    As `carried_batches`, but nothing is left out: mask (B, T) float32 is 0 where a stream is filled
    up, and there tokens and targets are 0, so that shapes never change.

    Raises:
        ValueError: the sizes are not positive, or there is no target.
    """
    _check_at_least(1, batch_size=batch_size, sequence_length=sequence_length)
    num_targets = count_targets(tokens)
    stream_length = -(-num_targets // batch_size)
    starts = np.arange(batch_size)[:, None] * stream_length  # (B, 1)

    def batch(begin: int) -> Batch:
        places = begin + np.arange(sequence_length)  # (T,), within the stream
        inside = (places < stream_length) & (starts + places < num_targets)  # (B, T)
        windows = _windows(tokens, np.where(inside, starts + places, 0))
        filled = {name: np.where(inside, windows[name], 0) for name in ("tokens", "targets")}
        reset = np.full(batch_size, begin == 0)
        return filled | {"mask": inside.astype(np.float32), "reset": reset}

    return map(batch, range(0, stream_length, sequence_length))


def count_targets(tokens: np.ndarray) -> int:
    """How many tokens an evaluation predicts: all but the first. Raises a ValueError for none."""
    if len(tokens) < 2:
        raise ValueError(
            f"a text of {len(tokens)} tokens has no target to evaluate; expected at least 2 tokens"
        )
    return len(tokens) - 1


def split_text(
    text: str, source: str, validation_fraction: float, test_fraction: float
) -> tuple[str, str, str]:
    """-> the text to train on, to validate on, to test on.

    Raises:
        ValueError: one of them, unless its fraction is 0, has fewer than two characters.
    """
    # Rounded down as everyone does: Tiny Shakespeare's training part is 1,003,854 characters.
    first = int(len(text) * (1 - validation_fraction - test_fraction))
    second = int(len(text) * (1 - test_fraction))
    train, validation, test = text[:first], text[first:second], text[second:]
    for name, part, fraction in (
        ("validation", validation, validation_fraction),
        ("test", test, test_fraction),
    ):
        if fraction > 0 and len(part) < 2:
            raise ValueError(
                f"{source}: data.{name}_fraction {fraction} of {len(text)} characters is "
                f"{len(part)}; expected at least 2; try 0 or a longer text"
            )
    if len(train) < 2:
        raise ValueError(
            f"{source}: {len(text)} characters leave {len(train)} to train on; expected at least "
            f"2; take a longer text"
        )
    return train, validation, test


def _windows(tokens: np.ndarray, places: np.ndarray) -> Batch:
    return {"tokens": tokens[places], "targets": tokens[places + 1], "index": places[:, 0]}


def _check_at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} {value} must be at least {minimum}")
