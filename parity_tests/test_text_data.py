"""Text is split by position and batched: every target where it belongs, the same at any restart."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.shared.data.text import (
    TextDataConfig,
    carried_batches,
    carried_steps_per_epoch,
    encode_split,
    evaluation_windows,
    load_text,
    random_windows,
)
from jaxmodels.shared.text.tokenizers import ByteBPETokenizer

pytest.importorskip("tokenizers")

fuzz = settings(max_examples=60, deadline=None, derandomize=True, database=None)
# Pairwise distinct. Token i is i, so that a batch tells where each of its tokens was.
LENGTH, BATCH, TIME = 103, 4, 6
TOKENS = np.arange(LENGTH, dtype=np.int32)
SIZES: dict[str, Any] = {"batch_size": BATCH, "sequence_length": TIME}
STEPS = 4  # 102 targets make 4 batches of 4 x 6, and 6 are left over
MAKERS: dict[str, Callable[..., Any]] = {
    "carried": carried_batches,
    "random": lambda tokens, **options: random_windows(tokens, **({"seed": 7} | options)),
}


def take(count, batches):
    return list(itertools.islice(batches, count))


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


# ---- Splits


def write(folder, text):
    file = folder / "text.txt"
    file.write_bytes(text.encode())
    return str(file)


@pytest.mark.parametrize("tokenizer", ["character", "bpe"])
@pytest.mark.parametrize(
    ("fractions", "lengths"), [((0.1, 0.0), (72, 8, 0)), ((0.2, 0.3), (40, 16, 24))]
)
def test_splits_are_cut_by_position(tmp_path, tokenizer, fractions, lengths):
    text = "".join(chr(ord("a") + index % 26) for index in range(80))
    config = TextDataConfig(
        tokenizer=tokenizer,
        vocabulary_size=256,
        validation_fraction=fractions[0],
        test_fraction=fractions[1],
    )
    data = load_text(write(tmp_path, text), config)
    parts = [data.tokenizer.decode(s.tokens) for s in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == list(lengths)
    assert "".join(parts) == text
    assert data.train.tokens.dtype == np.int32


def test_bpe_learns_from_the_training_part_only(tmp_path):
    text = "ab" * 40 + "cd" * 60  # of the whole, "cd" is the more frequent
    config = TextDataConfig(tokenizer="bpe", vocabulary_size=257, validation_fraction=0.6)
    data = load_text(write(tmp_path, text), config)
    assert data.tokenizer.token_bytes(256) == b"ab"
    assert [len(data.train.tokens), len(data.validation.tokens)] == [40, 120]


def test_characters_are_those_of_the_whole_text(tmp_path):
    data = load_text(write(tmp_path, "ab" * 9 + "zz"), TextDataConfig())
    assert data.tokenizer.vocabulary_size == 3
    assert data.validation.tokens.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "characters"),
    [("abcd", 3), ("🙂bc", 2), ("é🙂", 1), ("", 0)],
)
def test_characters_count_what_the_targets_stand_for(text, characters):
    """A byte a token: the first token is the first byte, and its character is not a target's."""
    split = encode_split(ByteBPETokenizer.train("x", 256), text)
    assert len(split.tokens) == len(text.encode())
    assert split.characters == characters


@given(text=st.text(max_size=60), kind=st.sampled_from(["character", "bpe"]))
@fuzz
def test_any_text_is_loaded_or_refused(tmp_path_factory, text, kind):
    config = TextDataConfig(tokenizer=kind, vocabulary_size=256, test_fraction=0.2)
    source = write(tmp_path_factory.getbasetemp(), text)
    data, refusal = None, ""
    try:
        data = load_text(source, config)
    except ValueError as error:
        refusal = str(error)
    if data is None:
        assert "\n" not in refusal
        assert len(text.removeprefix("\ufeff")) < 20  # a tenth of it is less than 2 characters
        return
    splits = (data.train, data.validation, data.test)
    whole = "".join(data.tokenizer.decode(split.tokens) for split in splits)
    assert whole == text.removeprefix("\ufeff")
    for batch in evaluation_windows(data.validation.tokens, batch_size=2, sequence_length=3):
        assert batch["targets"].max() < data.tokenizer.vocabulary_size


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("abc", {}, r"text\.txt: data\.validation_fraction 0\.1 of 3 characters is 1; .* longer"),
        ("abc", {"validation_fraction": 0.0, "test_fraction": 0.1}, "data.test_fraction 0.1 of 3"),
        ("abc", {"validation_fraction": 0.6}, r"3 characters leave 1 to train on; .* longer text"),
        ("a", {"validation_fraction": 0.0}, "1 characters leave 1 to train on"),
        ("", {}, "is empty"),
    ],
)
def test_text_too_short_to_split_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        load_text(write(tmp_path, text), TextDataConfig(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "word"}, "data.tokenizer 'word' must be character or bpe"),
        ({"vocabulary_size": 255}, "data.vocabulary_size 255 must be at least 256"),
        ({"sequence_length": 0}, "data.sequence_length 0 must be at least 1"),
        ({"validation_fraction": 1.0}, r"data.validation_fraction 1.0 must be in \[0, 1\)"),
        ({"test_fraction": -0.1}, r"data.test_fraction -0.1 must be in \[0, 1\)"),
        ({"test_fraction": float("nan")}, "data.test_fraction nan must be in"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "must leave something to train on"),
    ],
)
def test_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextDataConfig(**options)


# ---- Training batches


@pytest.mark.parametrize("name", MAKERS)
def test_targets_are_one_token_ahead(name):
    for batch in take(9, MAKERS[name](TOKENS, **SIZES)):
        assert batch["tokens"].shape == batch["targets"].shape == (BATCH, TIME)
        assert batch["tokens"].dtype == batch["targets"].dtype == np.int32
        np.testing.assert_array_equal(batch["targets"], batch["tokens"] + 1)
        np.testing.assert_array_equal(np.diff(batch["tokens"], axis=1), 1)


def test_carried_batches_continue_each_stream():
    epoch = take(STEPS, carried_batches(TOKENS, **SIZES))
    streams = np.concatenate([batch["tokens"] for batch in epoch], axis=1)  # (B, steps * T)
    np.testing.assert_array_equal(streams, np.arange(BATCH * STEPS * TIME).reshape(BATCH, -1))
    assert carried_steps_per_epoch(TOKENS, **SIZES) == STEPS


def test_carried_batches_reset_at_an_epochs_start():
    batches = take(2 * STEPS + 1, carried_batches(TOKENS, **SIZES))
    resets = np.array([batch["reset"] for batch in batches])
    assert resets.shape == (2 * STEPS + 1, BATCH)
    assert resets.dtype == bool
    wanted = [step % STEPS == 0 for step in range(len(batches))]
    np.testing.assert_array_equal(resets, np.repeat(np.array(wanted)[:, None], BATCH, axis=1))
    same(batches[:STEPS], batches[STEPS : 2 * STEPS])


def test_random_windows_are_uniform_over_all_places():
    batches = take(500, random_windows(TOKENS, seed=1, **SIZES))
    starts = np.concatenate([batch["tokens"][:, 0] for batch in batches])  # 2,000 draws
    counts = np.bincount(starts, minlength=LENGTH - TIME)
    assert len(counts) == LENGTH - TIME  # the first and the last place included, none beyond
    assert counts[0] > 0
    assert counts[-1] > 0
    expected = len(starts) / len(counts)
    chi_square = float(np.square(counts - expected).sum() / expected)
    degrees = len(counts) - 1
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)


def test_random_windows_follow_seed_step_and_row():
    starts = [
        np.array([batch["tokens"][:, 0] for batch in take(50, random_windows(t, seed=s, **SIZES))])
        for t, s in ((TOKENS, 1), (TOKENS, 2))
    ]
    assert np.mean(starts[0] == starts[1]) < 0.1
    assert np.mean(starts[0][1:] == starts[0][:-1]) < 0.1
    assert np.mean(starts[0][:, 1:] == starts[0][:, :-1]) < 0.1


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("start", [0, 1, STEPS, 3 * STEPS + 2])
def test_batches_resume_at_any_step(name, start):
    whole = take(start + 5, MAKERS[name](TOKENS, **SIZES))
    same(take(5, MAKERS[name](TOKENS, start_step=start, **SIZES)), whole[start:])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_together_have_the_global_batch(name, num_hosts):
    def batches(**options):
        return take(STEPS + 1, MAKERS[name](TOKENS, **SIZES, **options))

    hosts = [batches(host=host, num_hosts=num_hosts) for host in range(num_hosts)]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*hosts, strict=True)
    ]
    same(joined, batches())


# ---- Evaluation


@pytest.mark.parametrize("length", [2, 3, 25, 26, LENGTH])
@pytest.mark.parametrize(("batch_size", "sequence_length"), [(1, 1), (4, 6), (5, 40), (200, 3)])
def test_evaluation_has_every_target_once(length, batch_size, sequence_length):
    tokens = 1000 + TOKENS[:length]
    batches = list(
        evaluation_windows(tokens, batch_size=batch_size, sequence_length=sequence_length)
    )
    inside = np.concatenate([batch["mask"] for batch in batches], axis=1)  # (B, steps * T)
    targets = np.concatenate([batch["targets"] for batch in batches], axis=1)
    read = np.concatenate([batch["tokens"] for batch in batches], axis=1)
    # Row by row, in order: each stream is contiguous, so that its state may be carried.
    assert targets[inside == 1].tolist() == tokens[1:].tolist()
    assert read[inside == 1].tolist() == tokens[:-1].tolist()
    assert not targets[inside == 0].any()
    assert not read[inside == 0].any()
    assert {batch["tokens"].shape for batch in batches} == {(batch_size, sequence_length)}
    dtypes = [batches[0][name].dtype for name in ("tokens", "targets", "mask", "reset")]
    assert dtypes == [np.int32, np.int32, np.float32, np.bool_]
    resets = [batch["reset"].tolist() for batch in batches]
    assert resets == [[step == 0] * batch_size for step in range(len(batches))]


# ---- What is refused


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"sequence_length": 0}, "sequence_length 0 must be at least 1"),
        ({"sequence_length": LENGTH}, f"sequence_length {LENGTH} .* try a smaller one"),
        ({"num_hosts": 3}, "batch_size 4 must divide by num_hosts 3; try 3"),
        ({"host": 2, "num_hosts": 2}, "host 2 must be at least 0 and below num_hosts 2"),
        ({"start_step": -1}, "start_step -1 must be at least 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):  # at the call, not at the first batch
        MAKERS[name](TOKENS, **(SIZES | options))


def test_longest_sequence_that_fits_is_taken():
    (batch,) = take(1, random_windows(TOKENS, batch_size=2, sequence_length=LENGTH - 1, seed=0))
    np.testing.assert_array_equal(batch["targets"], np.tile(TOKENS[1:], (2, 1)))
    assert carried_steps_per_epoch(TOKENS, batch_size=1, sequence_length=LENGTH - 1) == 1
    with pytest.raises(ValueError, match="seed -1 must be at least 0"):
        random_windows(TOKENS, seed=-1, **SIZES)


@pytest.mark.parametrize(
    ("length", "sizes", "message"),
    [
        (1, SIZES, "a text of 1 tokens has no target to evaluate"),
        (0, SIZES, "a text of 0 tokens has no target to evaluate"),
        (9, SIZES | {"batch_size": 0}, "batch_size 0 must be at least 1"),
        (9, SIZES | {"sequence_length": 0}, "sequence_length 0 must be at least 1"),
    ],
)
def test_evaluation_of_nothing_is_refused(length, sizes, message):
    with pytest.raises(ValueError, match=message):
        evaluation_windows(TOKENS[:length], **sizes)


@pytest.mark.real
@pytest.mark.parametrize(("tokenizer", "vocabulary_size"), [("character", 65), ("bpe", 1024)])
def test_real_shakespeare_is_split_90_to_10(tokenizer, vocabulary_size):
    if "JAXMODELS_DATA" not in os.environ:
        pytest.skip("JAXMODELS_DATA is not set")
    file = os.environ["JAXMODELS_DATA"] + "/tinyshakespeare/input.txt"
    data = load_text(file, TextDataConfig(tokenizer=tokenizer))
    assert data.tokenizer.vocabulary_size == vocabulary_size
    texts = [data.tokenizer.decode(split.tokens) for split in (data.train, data.validation)]
    assert [len(text) for text in texts] == [1_003_854, 111_540]
    assert [data.train.characters, data.validation.characters] == [
        len(text) - len(data.tokenizer.decode(split.tokens[:1]))
        for text, split in zip(texts, (data.train, data.validation), strict=True)
    ]
    if tokenizer == "bpe":
        assert len(data.train.tokens) < 0.45 * len(texts[0])
