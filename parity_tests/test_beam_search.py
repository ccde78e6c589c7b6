"""Beam search is what its definition says, against every text that a toy model can write."""

import itertools
from collections import Counter

import numpy as np
import pytest

from jaxmodels.shared.text.decoding import (
    beam_search,
)
from parity_tests.toy_text import NEW, PROMPTS, VOCABULARY, ToyModel, search, write


@pytest.mark.parametrize("beams", [1, 3])
def test_best_beam_does_not_depend_on_the_batch(beams):
    together = search(ToyModel(), beams=beams, stop_tokens=[1])
    alone = [search(ToyModel(), [p], beams=beams, stop_tokens=[1])[0] for p in PROMPTS]
    assert together == alone


def finished_texts(model: ToyModel, stop_tokens, length: int):
    """Every text that ends with its first stop token, or is as long as may be."""
    for count in range(1, length + 1):
        for text in itertools.product(range(model.vocabulary_size), repeat=count):
            stops = [token in stop_tokens for token in text]
            if not any(stops[:-1]) and (stops[-1] or count == length):
                yield text


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("stop_tokens", [(), (1,), (0, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_wide_beam_finds_the_best_of_all_texts(length_penalty, stop_tokens, seed):
    model = ToyModel(seed, vocabulary_size=3)
    prompts = [[2], [0, 1, 1]]
    options = {"length_penalty": length_penalty, "stop_tokens": stop_tokens}
    with np.errstate(invalid="raise"):  # most beams are dead at first, with infinite scores
        found = search(model, prompts, beams=81, **options)
    for prompt, best in zip(prompts, found, strict=True):
        scores = {
            text: model.log_probability(prompt, text) / ((5 + len(text)) / 6) ** length_penalty
            for text in finished_texts(model, stop_tokens, NEW)
        }
        assert best.tokens == max(scores, key=lambda text: scores[text])
        assert best.score == pytest.approx(scores[best.tokens], rel=1e-12)
        assert best.log_probability == pytest.approx(
            model.log_probability(prompt, best.tokens), rel=1e-12
        )


def test_wider_beams_find_better_texts():
    """And narrow ones miss the best: the test above is not met by luck."""

    def score(seed, beams):
        return search(ToyModel(seed), [[1]], beams=beams, max_new_tokens=3)[0].score

    scores = {beams: [score(seed, beams) for seed in range(40)] for beams in (1, 3, 125)}
    assert np.mean(scores[1]) < np.mean(scores[3]) <= np.mean(scores[125])
    assert (np.array(scores[1]) <= np.array(scores[125])).all()
    assert sum(a < b for a, b in zip(scores[1], scores[125], strict=True)) > 3


@pytest.mark.parametrize("stop_tokens", [(), (0,), (1, 3)])
def test_one_beam_without_penalty_is_greedy(stop_tokens):
    for seed in range(5):
        found = search(ToyModel(seed), beams=1, length_penalty=0.0, stop_tokens=stop_tokens)
        assert [list(best.tokens) for best in found] == write(
            ToyModel(seed), stop_tokens=stop_tokens
        )


def test_search_never_takes_a_forbidden_token():
    class Forbidding(ToyModel):
        def logits(self, text):
            return np.where(np.arange(VOCABULARY) < 2, -np.inf, super().logits(text))

    with np.errstate(invalid="raise"):
        for best in search(Forbidding(), beams=9, stop_tokens=[0]):
            assert len(best.tokens) == NEW
            assert min(best.tokens) >= 2
            assert np.isfinite([best.score, best.margin]).all()


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_length_penalty_is_that_of_gnmt(beams):
    """Seven certain tokens of probability a half each: 7 log(1/2) / ((5 + 7) / 6) ** alpha."""

    def step(state, tokens):
        return np.zeros((len(tokens), 2)), state

    (best,) = beam_search(
        step,
        lambda state, _: state,
        None,
        [[0]],
        vocabulary_size=2,
        beams=beams,
        max_new_tokens=7,
        length_penalty=0.5,
    )
    assert best.log_probability == pytest.approx(7 * np.log(0.5))
    assert best.score == pytest.approx(7 * np.log(0.5) / np.sqrt(2))
    assert best.tokens == (0,) * 7  # ties: the lower id
    assert best.margin == 0.0


def test_penalty_decides_between_short_and_long():
    """Stop at once with probability .5, or write three tokens of .9 after one of .5 * .9."""

    def step(state, tokens):
        first = np.log([0.5, 0.45, 0.05])
        later = np.log([0.05, 0.9, 0.05])
        return np.stack([first if place == 0 else later for place in state]), state + 1

    def best(length_penalty):
        (found,) = beam_search(
            step,
            lambda state, rows: state[rows],
            np.zeros(1, int),
            [[1]],
            vocabulary_size=3,
            beams=2,
            max_new_tokens=4,
            length_penalty=length_penalty,
            stop_tokens=[0],
        )
        return found.tokens

    assert best(0.0) == (0,)
    assert best(2.0) == (1, 1, 1, 1)


def test_search_ends_once_nothing_can_win():
    """A stop token of probability 1 - 1e-4 after the first token."""
    steps = Counter()

    def step(state, tokens):
        steps["taken"] += 1
        return np.tile([10.0, 0.0, 0.0], (len(tokens), 1)), state

    (best,) = beam_search(
        step,
        lambda state, _: state,
        None,
        [[1]],
        vocabulary_size=3,
        beams=2,
        max_new_tokens=50,
        stop_tokens=[0],
    )
    assert best.tokens == (0,)
    assert steps["taken"] < 5


def test_beams_that_rounding_cannot_swap_are_not_swapped():
    """The margin bounds what noise in the logits may change; beyond it, texts do change."""
    noise, changed = 1e-3, 0
    per_text = 2 * NEW * 2 * noise  # a log probability sums NEW logits minus NEW normalisers
    for seed in range(60):
        clean = search(ToyModel(seed), [[1]])[0]
        noisy = search(ToyModel(seed, noise=noise), [[1]])[0]
        assert clean.margin >= 0
        if clean.margin > per_text:
            assert noisy.tokens == clean.tokens
        loud = search(ToyModel(seed, noise=0.3), [[1]])[0]
        changed += loud.tokens != clean.tokens
    assert changed > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams 0 must be at least 1"),
        ({"length_penalty": -0.1}, "length_penalty -0.1 must be finite and not negative"),
        ({"length_penalty": float("nan")}, "length_penalty nan must be finite"),
    ],
)
def test_bad_beams_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(ToyModel(), **options)
