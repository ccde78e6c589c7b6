"""Text metrics against values worked out by hand, and against what the papers say of them."""

import math
import sys

import pytest

from jaxmodels.shared.text.metrics import bits_per_character, bleu, distinct_n, repetition


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


# ---- Bits per character


@pytest.mark.parametrize(
    ("loss", "tokens", "characters", "bits"),
    [
        (math.log(2), 10, 10, 1.0),
        (math.log(65), 7, 7, math.log2(65)),  # a guess among 65 characters
        (math.log(16), 10, 40, 1.0),  # four characters a token: four bits for four
        (0.0, 3, 9, 0.0),
    ],
)
def test_bits_per_character_of_known_losses(loss, tokens, characters, bits):
    got = bits_per_character(loss, num_tokens=tokens, num_characters=characters)
    assert got == pytest.approx(bits)


def test_bits_per_character_do_not_depend_on_the_tokenizer():
    """Characters a, b at 1 bit each; or the pair ab as one token at 2 bits."""
    alone = bits_per_character(math.log(2), num_tokens=20, num_characters=20)
    paired = bits_per_character(2 * math.log(2), num_tokens=10, num_characters=20)
    assert alone == pytest.approx(paired)


def test_bits_of_no_characters_are_refused():
    with pytest.raises(ValueError, match="num_characters 0 must be at least 1"):
        bits_per_character(1.0, num_tokens=0, num_characters=0)


# ---- Distinct-n and repetition


@pytest.mark.parametrize(
    ("texts", "n", "distinct", "repeated"),
    [
        (words("to be or not to be"), 1, 4 / 6, 2 / 6),
        (words("to be or not to be"), 2, 4 / 5, 1 / 5),
        (words("to be or not to be"), 3, 1.0, 0.0),
        (words("a a a a"), 2, 1 / 3, 2 / 3),
        # Across texts: not distinct, but no text repeats itself.
        (words("a b", "a b", "a b c"), 2, 2 / 4, 0.0),
        (words("a a", "b"), 1, 2 / 3, 1 / 3),
        (words("a", "b c"), 2, 1.0, 0.0),  # the short text has no pair
        ([[5, 6, 5, 6]], 2, 2 / 3, 1 / 3),
        (["abab"], 2, 2 / 3, 1 / 3),  # characters
        (words("a b"), 3, None, None),
        ([], 1, None, None),
    ],
)
def test_distinct_and_repeated_ngrams(texts, n, distinct, repeated):
    assert distinct_n(texts, n) == (None if distinct is None else pytest.approx(distinct))
    assert repetition(texts, n) == (None if repeated is None else pytest.approx(repeated))


@pytest.mark.parametrize("metric", [distinct_n, repetition])
def test_ngrams_have_a_length(metric):
    with pytest.raises(ValueError, match="n 0 must be at least 1"):
        metric(words("a b"), 0)
    assert metric(iter(words("a b")), 1) is not None, "any iterable will do"


# ---- BLEU


def test_bleu_of_a_sentence_by_hand():
    """7 of 8 words, 5 of 7 pairs, 3 of 6 triples, 1 of 5 quadruples; equal lengths."""
    pytest.importorskip("sacrebleu")
    reference = "the king did ride to London at dawn"
    hypothesis = "the king did run to London at dawn"
    precisions = (7 / 8, 5 / 7, 3 / 6, 1 / 5)
    assert bleu([hypothesis], [reference]) == pytest.approx(100 * math.prod(precisions) ** 0.25)


def test_bleu_orders_texts_and_punishes_brevity():
    pytest.importorskip("sacrebleu")
    reference = "Before we proceed any further, hear me speak."
    whole = bleu([reference], [reference])
    short = bleu(["Before we proceed any further"], [reference])
    assert whole == pytest.approx(100)
    # Every n-gram is right: 5 tokens of 10 (13a splits off the comma and the full stop).
    assert short == pytest.approx(100 * math.exp(1 - 10 / 5))
    assert bleu(["speak me hear"], [reference]) < short


def test_bleu_is_of_the_corpus_not_a_mean():
    pytest.importorskip("sacrebleu")
    references = ["one two three four five", "a b c d"]
    hypotheses = ["one two three four five", "x y z w"]
    mean = sum(bleu([h], [r]) for h, r in zip(hypotheses, references, strict=True)) / 2
    assert abs(bleu(hypotheses, references) - mean) > 1


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], ["a", "b"], "bleu got 1 texts and 2 references; expected one reference each"),
        ([], [], "bleu got 0 texts and 0 references; .* at least one"),
    ],
)
def test_texts_without_references_are_refused(hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        bleu(hypotheses, references)


def test_missing_sacrebleu_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxmodels\[text\]'"):
        bleu(["a"], ["a"])
