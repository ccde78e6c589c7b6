"""Decoding is what its definition says, by brute force, whatever batch a prompt is in."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from jaxmodels.shared.decoding import (
    GREEDY,
    Sampling,
    _noise,
    beam_search,
    best_indexes,
    choose,
    collect,
    kept_tokens,
    stream,
)
from jaxmodels.shared.metrics import log_softmax

VOCABULARY, NEW = 5, 4
PROMPTS = [[3], [1, 4, 0, 2], [2, 2], [0, 1, 3, 3, 1, 2, 4]]
STATE: list[tuple[int, ...]] = [()] * len(PROMPTS)


class ToyModel:
    """Logits that are a fixed random function of the row's whole text; the state is that text."""

    def __init__(self, seed: int = 0, vocabulary_size: int = VOCABULARY, noise: float = 0.0):
        self.seed, self.vocabulary_size, self.noise = seed, vocabulary_size, noise
        self.received: list[tuple[np.ndarray, list[int]]] = []

    def logits(self, text: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *text])
        logits = 2 * rng.normal(size=self.vocabulary_size)
        return logits + self.noise * rng.choice([-1, 1], size=self.vocabulary_size)

    def step(self, state: Any, tokens: np.ndarray) -> tuple[np.ndarray, Any]:
        assert tokens.dtype == np.int32
        self.received.append((tokens, tokens.tolist()))
        texts = [(*text, int(token)) for text, token in zip(state, tokens, strict=True)]
        return np.stack([self.logits(text) for text in texts]), texts

    def log_probability(self, prompt: list[int], new: tuple[int, ...]) -> float:
        text = (*prompt, *new)
        return sum(
            log_softmax(self.logits(text[:position]))[text[position]]
            for position in range(len(prompt), len(text))
        )


def select(state: Any, rows: np.ndarray) -> Any:
    return [state[row] for row in rows]


def write(model: ToyModel, prompts=PROMPTS, **options) -> list[list[int]]:
    sizes: Any = {"max_new_tokens": NEW, "vocabulary_size": model.vocabulary_size}
    tokens = stream(model.step, [()] * len(prompts), prompts, **(sizes | options))
    return collect(tokens, len(prompts))


def search(model: ToyModel, prompts=PROMPTS, **options):
    sizes: Any = {"max_new_tokens": NEW, "vocabulary_size": model.vocabulary_size, "beams": 3}
    state = [()] * len(prompts)
    return beam_search(model.step, select, state, prompts, **(sizes | options))


# ---- Greedy and the common loop


def test_greedy_takes_the_most_probable_token_each_time():
    model = ToyModel()
    for prompt, new in zip(PROMPTS, write(model), strict=True):
        assert len(new) == NEW
        for length, token in enumerate(new):
            assert token == np.argmax(model.logits((*prompt, *new[:length])))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5), Sampling(0.7, 3, 0.9, 2)])
def test_text_does_not_depend_on_the_batch(sampling):
    together = write(ToyModel(), sampling=sampling)
    for row, prompt in enumerate(PROMPTS):
        assert write(ToyModel(), [prompt], sampling=sampling, row_keys=[row]) == [together[row]]
    order = [2, 0, 3, 1]
    shuffled = write(ToyModel(), [PROMPTS[r] for r in order], sampling=sampling, row_keys=order)
    assert shuffled == [together[row] for row in order]


@pytest.mark.parametrize("beams", [1, 3])
def test_best_beam_does_not_depend_on_the_batch(beams):
    together = search(ToyModel(), beams=beams, stop_tokens=[1])
    alone = [search(ToyModel(), [p], beams=beams, stop_tokens=[1])[0] for p in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("decode", [write, search])
def test_shapes_never_change_and_arrays_are_left_alone(decode):
    """A framework may hold on to the array that it was given, and read it later."""
    model = ToyModel()
    decode(model, stop_tokens=[0])
    assert len({tokens.shape for tokens, _ in model.received}) == 1
    for tokens, as_received in model.received:
        assert tokens.tolist() == as_received


def test_stop_token_is_the_last_of_its_row():
    free = write(ToyModel())
    stop = free[0][1]
    stopped = write(ToyModel(), stop_tokens=[stop, 4])
    for with_stop, without in zip(stopped, free, strict=True):
        ends = [place for place, token in enumerate(without) if token in (stop, 4)]
        assert with_stop == (without[: ends[0] + 1] if ends else without)
    assert len(stopped[0]) <= 2


def test_tokens_are_streamed_as_they_are_chosen():
    model = ToyModel()
    tokens = stream(model.step, STATE, PROMPTS, vocabulary_size=VOCABULARY, max_new_tokens=NEW)
    assert not model.received
    assert next(tokens).row == 0
    assert len(model.received) == 1, "prompt 0 has one token, so one step is enough"
    rest = list(tokens)
    assert len(rest) == NEW * len(PROMPTS) - 1
    assert len(model.received) == max(map(len, PROMPTS)) + NEW - 1


def test_no_prompt_is_no_text():
    assert write(ToyModel(), []) == []
    assert search(ToyModel(), []) == []


# ---- Sampling


def test_kept_tokens_by_hand():
    scores = np.log([0.1, 0.4, 0.05, 0.25, 0.2])

    def kept(**options):
        return np.flatnonzero(kept_tokens(scores, Sampling(**options))).tolist()

    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=1) == [1]
    assert kept(top_k=3) == [1, 3, 4]
    assert kept(top_k=9) == [0, 1, 2, 3, 4]
    assert kept(top_p=0.3) == [1]
    assert kept(top_p=0.41) == [1, 3]  # the fewest that hold as much: .4 does not
    assert kept(top_p=0.84) == [1, 3, 4]
    assert kept(top_p=0.86) == [0, 1, 3, 4]
    assert kept(top_p=1e-9) == [1]
    # Of the two that top_k keeps, .4 and .25, the first alone holds .615.
    assert kept(top_k=2, top_p=0.6) == [1]
    assert kept(top_k=2, top_p=0.63) == [1, 3]


def test_equal_scores_go_to_the_lower_id():
    tied = np.array([1.0, 2.0, 2.0, 0.0, 2.0])
    assert choose(tied, GREEDY, key=0, position=1) == (1, 0.0)
    assert best_indexes(tied, 2).tolist() == [1, 2]
    assert best_indexes(tied, 9).tolist() == [1, 2, 4, 0, 3]
    many = np.random.default_rng(0).integers(0, 3, 1000).astype(float)  # sorts change with size
    wanted = sorted(range(1000), key=lambda index: (-many[index], index))
    assert best_indexes(many, 600).tolist() == wanted[:600]
    assert np.flatnonzero(kept_tokens(tied, Sampling(top_k=2))).tolist() == [1, 2]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=3.0),
        Sampling(top_k=3),
        Sampling(top_p=0.7),
        Sampling(temperature=1.5, top_k=4, top_p=0.8, seed=9),
    ],
)
def test_frequencies_are_the_probabilities(sampling):
    logits = np.log([0.1, 0.35, 0.05, 0.3, 0.2])
    scaled = logits / sampling.temperature
    probabilities = np.exp(scaled) * kept_tokens(scaled, sampling)
    probabilities /= probabilities.sum()
    draws, kept = 2000, probabilities > 0
    tokens = [choose(logits, sampling, key=n % 50, position=n // 50)[0] for n in range(draws)]
    counts = np.bincount(tokens, minlength=len(logits))
    assert not counts[~kept].any()

    def chi_square(observed):
        expected = draws * probabilities[kept]
        return float((np.square(observed - expected) / expected).sum())

    degrees = kept.sum() - 1
    bound = degrees + 4 * np.sqrt(2 * degrees)
    assert chi_square(counts[kept]) < bound
    assert chi_square(np.full(kept.sum(), draws / kept.sum())) > bound, "uniform draws would pass"


def test_temperature_to_zero_is_greedy():
    greedy = write(ToyModel(), sampling=GREEDY)
    for temperature in (1e-3, 1e-9, 1e-320):  # the last makes infinities of ordinary logits
        assert write(ToyModel(), sampling=Sampling(temperature)) == greedy
    hot = [write(ToyModel(), sampling=Sampling(5.0, seed=seed)) for seed in range(3)]
    assert greedy not in hot


def test_noise_follows_seed_key_and_position():
    flat = np.zeros(1000)

    def chosen(seed=0, key=0, position=1):
        return choose(flat, Sampling(seed=seed), key, position)[0]

    assert chosen() == chosen()
    others = [
        {"seed": 1},
        {"key": 1},
        {"position": 2},
        {"seed": 2**64 - 1},
        {"key": 2**64 - 1},
        {"seed": 1, "key": 1},
    ]
    assert len({chosen(), *(chosen(**other) for other in others)}) == 7
    # Not one stream of numbers, read from different places.
    numbers = [_noise(0, 0, position, 1000).tolist() for position in (1, 2, 3)]
    assert len(set(itertools.chain(*numbers))) == 3000
    # The same prompt twice in a batch: two texts.
    first, second = write(ToyModel(), [[1], [1]], max_new_tokens=20, sampling=Sampling())
    assert first != second


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=3)])
def test_text_that_is_fed_back_goes_on_as_it_would_have(sampling):
    whole = write(ToyModel(), max_new_tokens=9, sampling=sampling)
    begun = write(ToyModel(), max_new_tokens=4, sampling=sampling)
    prompts = [[*prompt, *new] for prompt, new in zip(PROMPTS, begun, strict=True)]
    rest = write(ToyModel(), prompts, max_new_tokens=5, sampling=sampling)
    assert [a + b for a, b in zip(begun, rest, strict=True)] == whole


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1), Sampling(0.5, seed=1)])
def test_logits_within_half_the_margin_choose_the_same(sampling):
    """The frameworks' claim: rounding changes no token while the margin is wider."""
    scale = sampling.temperature or 1.0
    rng = np.random.default_rng(0)
    for position in range(200):
        logits = 2 * rng.normal(size=VOCABULARY)
        token, margin = choose(logits, sampling, 0, position)
        signs = np.where(np.arange(VOCABULARY) == token, -1, 1)
        nearly = choose(logits + 0.49 * margin * scale * signs, sampling, 0, position)[0]
        beyond = choose(logits + 0.51 * margin * scale * signs, sampling, 0, position)[0]
        assert nearly == token
        assert beyond != token


@pytest.mark.parametrize("options", [{}, {"sampling": Sampling(seed=4, top_k=4, top_p=0.95)}])
def test_rounding_changes_no_text(options):
    assert write(ToyModel(), max_new_tokens=50, **options) == write(
        ToyModel(noise=1e-6), max_new_tokens=50, **options
    )
    assert write(ToyModel(noise=1.0), max_new_tokens=50, **options) != write(
        ToyModel(), max_new_tokens=50, **options
    )


def test_forbidden_tokens_are_never_chosen():
    logits = np.array([5.0, -np.inf, 4.0, -np.inf])
    for sampling in (GREEDY, Sampling(9.0), Sampling(9.0, top_k=3), Sampling(9.0, top_p=0.999)):
        assert {choose(logits, sampling, 0, n)[0] for n in range(200)} <= {0, 2}


# ---- Beam search


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


@pytest.mark.parametrize("decode", [write, search])
def test_logits_past_the_vocabulary_are_ignored(decode):
    class Padded(ToyModel):
        def logits(self, text):
            return np.append(super().logits(text), [99.0, np.nan])

    assert decode(Padded()) == decode(ToyModel())
    with pytest.raises(
        ValueError, match=r"logits of shape \(\d+, 5\); expected \(\d+, 6 or more\)"
    ):
        decode(ToyModel(), vocabulary_size=6)


# ---- What is refused

BAD_OPTIONS = [
    ({"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
    ({"prompts": [[1], []]}, "prompt row 1 is empty; expected at least one token"),
    ({"prompts": [[1], [2, 5]]}, "prompt row 1: token 5 is out of range; expected 0 to 4"),
    ({"prompts": [[-1]]}, "prompt row 0: token -1 is out of range"),
    ({"stop_tokens": [7]}, "stop_tokens: token 7 is out of range"),
    ({"stop_tokens": [-1]}, "stop_tokens: token -1 is out of range"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
@pytest.mark.parametrize("decode", [write, search])
def test_bad_prompts_and_sizes_are_refused(decode, options, message):
    with pytest.raises(ValueError, match=message):
        decode(ToyModel(), **options)


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


@pytest.mark.parametrize("keys", [[0, 1], [0, 1, 2, -1], [0, 1, 2, 2**64]])
def test_bad_row_keys_are_refused(keys):
    with pytest.raises(ValueError, match=r"row_keys .* must be 4 numbers in \[0, 2\^64\)"):
        write(ToyModel(), row_keys=keys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 must be finite and not negative"),
        ({"temperature": float("inf")}, "temperature inf must be finite"),
        ({"temperature": float("nan")}, "temperature nan must be finite"),
        ({"top_k": -1}, "top_k -1 must not be negative; 0 keeps every token"),
        ({"top_p": 0.0}, r"top_p 0.0 must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p 1.1 must be in \(0, 1\]"),
        ({"seed": -1}, "seed -1 must be in"),
        ({"seed": 2**64}, "seed .* must be in"),
    ],
)
def test_bad_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("decode", [write, search])
def test_logits_that_are_not_finite_are_refused(decode, value):
    class Diverged(ToyModel):
        def logits(self, text):
            logits = super().logits(text)
            if len(text) == len(PROMPTS[2]) + 1 and text[:2] == tuple(PROMPTS[2]):
                logits[:] = np.where(np.isnan(value) | (np.arange(5) == 1), value, logits)
                logits[:] = value if value == -np.inf else logits
            return logits

    with pytest.raises(ValueError, match="prompt row 2: the logits of token 3 are not finite"):
        decode(Diverged())
